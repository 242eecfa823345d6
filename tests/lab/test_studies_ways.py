"""Which way: declared whole, measured from Go and from Python, and read right."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.lab import (
    arms,
    experiments,
    figures,
    findings_ways,
    report,
    rerun,
    stats,
    studies,
    studies_ways,
)
from pred_server.lab.claims import CLAIMS
from pred_server.lab.experiments import Experiment
from pred_server.lab.study_figures import figures_of
from pred_server.lab.ways import WAYS, Arm, inprocess
from pred_server.lab.ways.inprocess import HOLDER
from tests.lab.test_ways_by_hand import build

STAMP = dict.fromkeys(["python", "grpcio", "cpu", "cores", "pinning", "scikit-learn", "revision", "seed"], "1")


@pytest.fixture(scope="module")
def built(go: Callable[..., str]) -> bool:
    return build(go)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Experiment]:
    monkeypatch.setattr(arms, "with_onnx", lambda model: model)  # it takes long, and is not the point here
    monkeypatch.setattr(inprocess, "HOLDER", ROOT / "Makefile")  # be it built or not
    return lambda quick: studies.declared("ways", "flights", quick=quick)


@pytest.mark.parametrize("quick", [False, True])
def test_it_is_declared_whole(declared: Callable[[bool], Experiment], quick: bool) -> None:
    experiment = declared(quick)
    names = [arm.name for arm in experiment.arms]
    assert len(set(names)) == len(names)
    assert {name for pair in (*experiment.compare, experiment.control or ()) for name in pair} <= set(names)
    assert rerun.comparisons(experiment)
    assert experiment.repetitions * min(map(experiment.blocks_of, experiment.rows)) >= stats.MIN_BLOCKS
    described = {**asdict(experiment), "arms": [asdict(arm) for arm in experiment.arms]}
    assert rerun.experiment_of(described) == (experiment, [])
    assert all(arm.frame for arm in experiment.arms), "at the caller's hand"
    ways = {arm.server for arm in experiment.arms if arm.generator == "go"}
    assert ways == {"serve", "unix", "rest", "pipe", "inprocess"}
    assert {arm.callers for arm in experiment.arms} == {1, 16}
    assert {arm.model for arm in experiment.arms} == set(findings_ways.MODELS[: 2 if quick else 4])
    assert ("linear, from Go: in process", "linear, from Go: gRPC, ONNX Runtime") in experiment.compare
    encodings = {arm.encoding for arm in experiment.arms if arm.model == "flights" and arm.generator == "python"}
    assert encodings == {"auto", "csv", "columns", "arrow"}, "no tensor holds text"


def test_where_cgo_is_missing_one_line_says_so(
    declared: Callable[[bool], Experiment], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "HOLDER", ROOT / "bin" / "loadgen-nowhere")
    experiment = declared(True)
    assert "inprocess" not in {arm.server for arm in experiment.arms}
    assert (
        "left out: inprocess needs bin/loadgen-nowhere: run `make gateway` (it needs Go, and a C compiler for cgo)"
        in (capsys.readouterr().out)
    )
    with ExitStack() as stack, pytest.raises(ServerStartError, match="run `make gateway`"):
        WAYS["inprocess"].start(Arm("a", "inprocess"), "linear", stack)


@pytest.fixture
def calls(declared: Callable[[bool], Experiment], monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Calls whose truth is known."""
    monkeypatch.setattr(studies_ways, "MODELS", ("linear", "flights", "forest"))
    experiment = replace(declared(False), rows=(1, 10_000, 100_000))
    way_ms = {"gRPC": 0.5, "Unix socket": 0.4, "REST": 1.0, "pipe": 0.1, "in process": 0.01}
    lines = []
    for rows in experiment.rows:
        for arm in experiment.arms_at(rows):
            way = arm.name.partition(": ")[2].split(", ")[0]
            ms = way_ms[way] * (1 + rows / 1e4)
            columns: dict[str, Any] = asdict(arm) | {"arm": arm.name, "rows": rows, "ok": True, "valid": True}
            in_python = arm.server == "predict"
            columns |= {"server_ready_mib": np.nan if in_python else 100.0, "server_peak_mib": 7.0, "start_ms": 900.0}
            columns |= {"server_cpu_ms": np.nan if in_python else ms / 2, "caller_cpu_ms": ms / 4}
            for block in range(10):
                for half in range(2):
                    place = {"block": block, "half": half, "call": 0, "late_share": 0.0, "busy_share": 0.1}
                    place |= {"sent_ns": 0, "done_ns": 1e6 * ms, "latency_ms": ms, "service_ms": ms}
                    lines.append(columns | place)
    found = pd.DataFrame(lines)
    described = asdict(experiment) | {"arms": [asdict(arm) for arm in experiment.arms]}
    found.attrs = {"experiment": described, "stamp": STAMP}
    return found


def test_costs_are_read_by_model_caller_and_way(calls: pd.DataFrame) -> None:
    costs = findings_ways.costs(calls)
    grpc, inside = costs.loc["flights, from Go: gRPC"], costs.loc["flights, from Go: in process"]
    assert (grpc["case"], grpc["way"]) == ("flights, from Go", "gRPC")
    assert grpc[1] == pytest.approx(0.5, rel=1e-3)
    assert grpc[10_000] == pytest.approx(1.0)
    assert grpc["calls_per_s"] == pytest.approx(2_000, rel=0.01), "of the arms with 16 callers"
    assert grpc["cpu_s"] == pytest.approx(375, rel=0.01), "0.25 and 0.125 ms, a million times"
    assert grpc["cpu_s_in_tables"] == pytest.approx(0.075), "a hundred tables of 10,000 rows, 0.75 ms each"
    assert (grpc["memory_mib"], grpc["start_ms"]) == (107, 900)
    assert inside["calls_per_s"] == pytest.approx(100_000, rel=0.01)
    in_python = costs.loc["flights, from Python: in process"]
    assert in_python[["memory_mib", "start_ms"]].isna().all()
    assert np.isnan(costs.loc["forest, from Go: gRPC", 100_000]), "not measured"
    assert "again" not in "".join(costs.index)


def test_it_has_blocks_figures_and_claims(calls: pd.DataFrame) -> None:
    full, short = report.full(calls), report.short(calls)
    assert full[0] == (
        "| linear, from Go | 1, ms | 10,000, ms | 100,000, ms | calls/s of many callers | "
        "CPU-s for a million, one by one | in tables of 10,000 | memory, MiB | start, ms |"
    )
    assert any(line.startswith("| REST | 1.00 (2.00) | 2.00 (2.00) |") for line in full)
    assert "- The control, linear, from Go: gRPC against itself, reads" in "\n".join(full).replace("`", "")
    assert full[-1].startswith("<sub>")
    assert "- At 1 row flights, from Go: in process is 50× [50, 50] faster than flights, from Go: gRPC." in short
    assert 4 <= len(short) <= 12
    compare = {tuple(pair) for pair in calls.attrs["experiment"]["compare"]}
    claims = CLAIMS["ways"](calls)
    assert ("flights, from Go: in process", "flights, from Go: gRPC", 1) in claims
    assert {(arm, base) for arm, base, _ in claims} <= compare
    drawn = figures_of(calls)
    assert set(drawn) == {"latency", "cpu"}
    for figure in drawn.values():
        assert figures.alt(figure)
        figures.png(figure)
    assert "gRPC ÷ in process is linear 50, flights 50, forest 50" in figures.alt(drawn["latency"])
    assert "doubt" not in report.text(calls)


def test_figures_do_without_what_was_not_built(calls: pd.DataFrame) -> None:
    without = calls[calls["server"] != "inprocess"]
    kept = [arm for arm in calls.attrs["experiment"]["arms"] if arm["server"] != "inprocess"]
    compare = [pair for pair in calls.attrs["experiment"]["compare"] if not any("in process" in side for side in pair)]
    without.attrs = calls.attrs | {"experiment": calls.attrs["experiment"] | {"arms": kept, "compare": compare}}
    assert set(figures_of(without)) == {"latency", "cpu"}
    assert report.full(without)


def test_a_tiny_run_is_measured_written_read_and_drawn(
    declared: Callable[[bool], Experiment], built: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "HOLDER", HOLDER)
    monkeypatch.setattr(studies_ways, "MODELS", ("linear",))
    experiment = declared(True)
    kept = tuple(arm for arm in experiment.arms if not arm.flags[2:] and (built or arm.server != "inprocess"))
    names = {arm.name for arm in kept}
    compare = tuple(pair for pair in experiment.compare if set(pair) <= names)
    tiny = replace(experiment, arms=kept, compare=compare, repetitions=1, blocks=3, calls=1, rows=(1, 2))
    calls = experiments.run(tiny, tmp_path / "ways.parquet", progress=False)
    assert calls["ok"].all(), calls.loc[~calls["ok"], ["arm", "code"]].drop_duplicates()
    assert report.full(calls)[0].startswith("| linear, from Go | 1, ms | 2, ms |")
    costs = findings_ways.costs(calls)
    assert (costs.loc["linear, from Go: gRPC", ["cpu_s", "memory_mib", "start_ms", "calls_per_s"]] > 0).all()
    for figure in figures_of(calls).values():
        figures.png(figure)
