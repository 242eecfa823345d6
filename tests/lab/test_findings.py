"""What a study found, from calls whose truth is known."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import figures, findings, report, studies
from pred_server.lab.study_figures import margins


def test_the_ladders_are_told_apart_by_rows_and_callers() -> None:
    experiment = studies.declared("ladder", "linear")
    ms = {arm.name: 100.0 / (1 + place) for place, arm in enumerate(experiment.arms)}
    some = []
    for rows in experiment.rows:
        for arm in experiment.arms_at(rows):
            for block in range(6):
                some.append({"arm": arm.name, "rows": rows, "callers": arm.callers, "block": block, "half": 0})
                some[-1] |= {"latency_ms": ms[arm.name], "ok": True, "valid": True, "encoding": arm.encoding}
    calls = pd.DataFrame(some)
    calls.attrs["experiment"] = {"arms": [asdict(arm) for arm in experiment.arms], "control": experiment.control}
    assert findings.ladders(calls) == [(1, 1), (1, 32), (100_000, 1)]
    steps = {at: findings.steps_at(calls, *at)["step"].tolist()[:-2] for at in findings.ladders(calls)}
    assert steps[1, 1] == [
        "the article's server",
        "ours, CSV as well",
        "tensor in place of CSV",
        "ONNX Runtime, tensor",
    ]
    assert steps[1, 32][1:3] == ["ours, no batching", "batching"]
    assert steps[100_000, 1][-2:] == ["as a stream", "ONNX Runtime, as a stream"]
    steps_of_many = findings.steps_at(calls, 1, 32)
    assert steps_of_many["factor"].iloc[-2] == pytest.approx(
        ms["the article's server, 32 callers"] / ms["ONNX Runtime, tensor, 32 callers"]
    )


def many_callers(kserve_ms: float) -> pd.DataFrame:
    """Calls of a few arms of the study of many callers, each of which takes as long as all of its arm."""
    ms = {"ours, linear": 1.0, "FastAPI, linear": 2.0, "KServe, linear": kserve_ms, "echo, 32 callers": 0.5}
    ms["ours, linear, 32 callers"] = 0.7
    some = []
    for arm, call_ms in ms.items():
        for block in range(6):
            for half in (0, 1):
                sent_ns = np.arange(32) * int(call_ms * 1e6)
                some.append(pd.DataFrame({"arm": arm, "rows": 1, "block": block, "half": half, "sent_ns": sent_ns}))
                some[-1] = some[-1].assign(call=range(32), done_ns=sent_ns + int(call_ms * 1e6), latency_ms=9.0)
                some[-1] = some[-1].assign(server_cpu_ms=call_ms / 2, ok=True, valid=True)
    calls = pd.concat(some, ignore_index=True)
    arms = [{"name": name, "server": "serve" if "ours" in name else "theirs", "frame": False} for name in ms]
    compare = [("FastAPI, linear", "ours, linear"), ("KServe, linear", "ours, linear"), tuple(reversed(list(ms)[3:]))]
    experiment = {"arms": arms, "compare": compare, "control": None, "varies": "callers", "model": "linear"}
    calls.attrs["experiment"] = experiment
    return calls


def test_each_case_is_read_against_its_target() -> None:
    calls = many_callers(1.5)
    outcomes = findings.cases(calls).set_index("case")
    expected = {
        "linear, 1 row, 16 callers: rate of ours ÷ rate of the best rival (KServe)": (1.5, 1.5 / 1.6),
        "linear, 1 row, 32 callers: server CPU for a call, ours ÷ echo": (1.4, 1.0),
    }
    assert set(outcomes.index) == set(expected), "cases whose arms are not there are left out"
    for case, (ratio, margin) in expected.items():
        assert outcomes.loc[case, "ratio"] == pytest.approx(ratio, rel=1e-6)
        assert outcomes.loc[case, "margin"] == pytest.approx(margin, rel=1e-6)
    (missed, _) = report.cases_table(outcomes.reset_index())[2:]
    assert missed.endswith("rate of the best rival (KServe) | ≥ 1.6 | 1.5 [1.5, 1.5] | missed |")
    assert figures.alt(margins(outcomes.reset_index())).startswith("1 of 2 targets are met")
    calls.attrs["experiment"] |= {"varies": "parts"}
    assert findings.cases(calls).empty, "of another study"


@pytest.mark.parametrize(("ratio", "written"), [(1.5984, "1.598"), (1.59972, "1.5997")])
def test_a_miss_does_not_look_like_its_target(ratio: float, written: str) -> None:
    calls = many_callers(ratio)
    outcomes = findings.cases(calls)
    (missed, _) = report.cases_table(outcomes)[2:]
    assert missed.endswith(f"| ≥ 1.6 | {written} [1.6, 1.6] | missed |")
    assert f"({written}, target ≥ 1.6)" in report.short(calls)[-1]
    assert f"{written}, target ≥ 1.6" in figures.alt(margins(outcomes))
