"""The study of rows at the caller's hand, from calls whose truth is known: its table, its sentences, its figures."""

from dataclasses import asdict

import pandas as pd
import pytest

from pred_server.lab import findings, report, studies
from pred_server.lab.study_figures import figures_of

MS = {
    "the article's server": 30.0, "FastAPI": 0.5, "FastAPI, pydantic": 4.0, "Arrow Flight": 2.0, "KServe": 3.0,
    "MLServer": 5.0, "ours": 1.0, "ours, again": 1.0, "in process": 0.2, "raw TCP": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def calls() -> pd.DataFrame:
    """FastAPI is twice as fast as ours at one row, and half as fast at 100,000."""
    experiment = studies.declared("rows", "linear", rows=[1, 1_000, 100_000])
    some = []
    for rows in experiment.rows:
        for place, arm in enumerate(experiment.arms_at(rows)):
            slope = 0.3 + (0.12 if arm.name == "FastAPI" else place / 1_000)
            ms = MS.get(arm.name, 0.3 if arm.server == "echo" else 0.8) * rows**slope
            call = asdict(arm) | {"arm": arm.name, "rows": rows, "half": 0, "call": 0, "ok": True, "valid": True}
            some += [call | {"block": block, "latency_ms": ms, "service_ms": ms} for block in range(6)]
    result = pd.DataFrame(some)
    described = asdict(experiment) | {"arms": [asdict(arm) for arm in experiment.arms]}
    stamp = dict.fromkeys(
        ["python", "grpcio", "cpu", "cores", "pinning", "scikit-learn", "revision", "seed", "command"], "1"
    )
    result.attrs = {"experiment": described, "stamp": stamp}
    return result


def test_a_rival_is_read_against_ours(calls: pd.DataFrame) -> None:
    ratios = findings.rivals(calls).set_index(["arm", "rows"])["ratio"]
    assert ratios["FastAPI", 1] == pytest.approx(0.5)
    assert ratios["Arrow Flight", 100_000] == pytest.approx(2, rel=0.1)
    assert "tensor" not in ratios, "ours from ready bytes is no rival"


def test_the_table_has_ours_rivals_and_floors_and_marks_ratios(calls: pd.DataFrame) -> None:
    lines = report.full(calls)
    first = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert {"ours", "ours, ready bytes", "FastAPI", "the article's server"} <= set(first)
    assert [name for name in first if name.endswith(" (floor)")] == [
        "in process (floor)", "echo (floor)", "raw TCP (floor)",
    ]  # fmt: skip
    assert first.count("echo (floor)") == 1, "whatever our client sends, unary or in chunks"
    (fast_api,) = [line for line in lines if line.startswith("| FastAPI |")]
    assert fast_api.startswith("| FastAPI | 0.50 (0.50) |")
    said = "\n".join(lines)
    assert "At 1 row FastAPI is 2.00× [2.00, 2.00] faster than ours." in said
    assert "so many times as long as an echo of its bytes and `predict`: 2.00 [2.00, 2.00] at 1 row" in said
    assert "| linear, 1 row: ours ÷ (echo + in process) | ≤ 1.45 | 2 [2, 2] | missed |" in lines
    assert "| linear, 1 row: ours ÷ FastAPI | ≤ 1.2 | 2 [2, 2] | missed |" in lines
    if "KServe" in set(calls["arm"]):  # only where `make rivals` has built its environment
        assert "| linear, 1 row: KServe ÷ ours | ≥ 1.3 | 3 [3, 3] | met |" in lines
    short = report.short(calls)[-1]
    assert short.startswith("At 1 row the best rival, FastAPI, takes 0.50 [0.50, 0.50] times as long")
    assert " targets are met. Missed: linear, 1 row: ours ÷ (echo + in process) (2, target ≤ 1.45); " in short


def test_figures_say_where_a_rival_is_ahead(calls: pd.DataFrame) -> None:
    drawn = figures_of(calls)
    title = drawn["latency"].get_suptitle().replace("\n", " ")
    assert title.startswith("At 1 row the best rival, FastAPI, takes 0.50 ")
    assert "at 100,000 rows the best rival, " in title
    assert {"crossover_FastAPI_ours", "targets"} <= set(drawn)
    assert "crossover_KServe_ours" not in drawn
