import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pred_server.checkout import ROOT
from pred_server.client.client import CHUNK_BYTES
from pred_server.errors import InvalidInput
from pred_server.lab import bench, experiments, floor, ladder, load, plots, stats
from pred_server.lab.calls import Arm, Reply, Target
from pred_server.limits import MIB

RESULTS = sorted((ROOT / "data/results").glob("*.parquet"))


def calls_of(**latencies_ms: float) -> pd.DataFrame:
    """30 blocks of 10 calls for each arm, with noise that the arms of one block share."""
    rng = np.random.default_rng(0)
    frames = []
    for block in range(30):
        moment = rng.lognormal(0, 0.5)
        for arm, latency_ms in latencies_ms.items():
            values = latency_ms * moment * rng.lognormal(0, 0.05, size=10)
            frames.append(
                pd.DataFrame({"arm": arm, "rows": 1, "block": block, "call": range(10), "latency_ms": values})
            )
    return pd.concat(frames).assign(ok=True)


def test_a_ratio_is_found_through_noise_that_both_arms_share() -> None:
    found = stats.ratio(calls_of(slow=2.0, fast=1.0), "slow", "fast").iloc[0]
    assert found["low"] < 2 < found["high"]
    assert found["high"] - found["low"] < 0.1
    assert found["verdict"] == "slower"
    assert stats.ratio(calls_of(slow=2.0, fast=1.0), "fast", "slow").iloc[0]["verdict"] == "faster"


def test_the_same_thing_against_itself_shows_no_difference() -> None:
    assert stats.ratio(calls_of(one=1.0, again=1.0), "again", "one").iloc[0]["verdict"] == "no difference found"


def test_failures_are_counted_and_a_p99_needs_a_thousand_calls() -> None:
    calls = calls_of(a=1.0)
    calls.loc[calls["block"] == 0, "ok"] = False
    found = stats.summary(calls).iloc[0]
    assert (found["calls"], found["failed"]) == (300, 10)
    assert found["p50_ms"] < found["p90_ms"]
    assert found["mark"] == "p99 of few calls"
    assert np.isnan(found["p999_ms"]), "no p99.9 under 100,000 calls"
    many = pd.concat([calls] * 4)
    found = stats.summary(many).iloc[0]
    assert (found["p99_ms"], found["mark"]) == (np.quantile(many["latency_ms"], 0.99), "")


def test_the_plot_shows_every_arm_and_its_stamp() -> None:
    summary = stats.summary(calls_of(floor=1.0, served=2.0))
    figure = plots.latency_by_rows(summary, "floor", "title", experiments.stamp(seed=0))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["floor", "served"]
    assert axes.get_ylabel() == "latency, p50 to p99 (ms)"
    assert any("grpcio" in text.get_text() for text in figure.texts)


@pytest.mark.parametrize("result", RESULTS, ids=lambda path: path.stem)
def test_the_readme_shows_what_the_result_files_give(result: Path) -> None:
    calls = experiments.read(result)
    assert {"python", "grpcio", "cpu", "cores", "pinning", "revision", "seed", "command"} <= set(calls.attrs["stamp"])
    assert str(Path.home()) not in calls.attrs["stamp"]["command"]
    assert result.stat().st_size < 4 * MIB
    readme, begin = (ROOT / "README.md").read_text(), f"<!-- {result.stem} -->\n"
    assert bench.with_block(readme, begin, bench.markdown(calls)) == readme, (
        "README's numbers are stale: run `make plots`"
    )


def test_the_published_figures_are_those_of_the_result_files() -> None:
    figures = {f"{path.stem}_{name}.png" for path in RESULTS for name in plots.of(experiments.read(path))}
    assert {path.name for path in (ROOT / "data/figures").iterdir()} == figures, "run `make plots`"


def test_experiments_are_declared_for_what_can_carry_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    for varies in bench.VARIES:
        experiment = bench.declared(varies, "flights", quick=True)
        assert "left out: tensor cannot carry this model's table" in capsys.readouterr().out
        assert not [arm for arm in experiment.arms if arm.encoding == "tensor"]
        names = [arm.name for arm in experiment.arms]
        assert len(set(names)) == len(names)
        assert {name for pair in (*experiment.compare, experiment.control or ()) for name in pair} <= set(names)
    cases = bench.declared("floor", "flights")
    sides = [side for pair in cases.compare for side in pair]
    assert {name for side in sides for name in side.split(stats.SUM)} <= {arm.name for arm in cases.arms}
    with pytest.raises(InvalidInput, match="models and sizes of its own"):
        bench.declared("floor", "linear")
    (stream,) = [arm for arm in bench.declared("rows", "linear").arms if arm.name == "streamed tensor"]
    assert stream.chunk_rows == pytest.approx(CHUNK_BYTES / 80, rel=0.01), "ten doubles a row"


def test_what_is_compared_takes_turns_close_in_time() -> None:
    arms = [Arm(name) for name in "abcdef"]
    experiment = experiments.Experiment(tuple(arms), compare=(("a", "c + d"), ("f", "b")), control=("e", "a"))
    groups = [{arm.name for arm in group} for group in experiment.groups(arms)]
    assert sorted(groups, key=len) == [{"b", "f"}, {"a", "c", "d", "e"}]
    assert [[arm.name for arm in group] for group in experiment.groups(arms[:2])] == [["a", "b"]], "the rest, together"


def test_the_ladders_are_told_apart_by_rows_and_callers() -> None:
    experiment = bench.declared("ladder", "linear")
    ms = {arm.name: 100.0 / (1 + place) for place, arm in enumerate(experiment.arms)}
    some = []
    for rows in experiment.rows:
        for arm in experiment.arms_at(rows):
            for block in range(6):
                some.append({"arm": arm.name, "rows": rows, "callers": arm.callers, "block": block, "half": 0})
                some[-1] |= {"latency_ms": ms[arm.name], "ok": True, "valid": True, "encoding": arm.encoding}
    calls = pd.DataFrame(some)
    calls.attrs["experiment"] = {"arms": [asdict(arm) for arm in experiment.arms], "control": experiment.control}
    assert ladder.ladders(calls) == [(1, 1), (1, 32), (100_000, 1)]
    steps = {at: ladder.steps_at(calls, *at)["step"].tolist()[:-2] for at in ladder.ladders(calls)}
    assert steps[1, 1] == [
        "the article's server",
        "ours, CSV as well",
        "tensor in place of CSV",
        "ONNX Runtime, tensor",
    ]
    assert steps[1, 32][1:3] == ["ours, each call by itself", "what waits, as one"]
    assert steps[100_000, 1][-2:] == ["as a stream", "ONNX Runtime, as a stream"]
    found = ladder.steps_at(calls, 1, 32)
    assert found["factor"].iloc[-2] == pytest.approx(
        ms["the article's server, 32 callers"] / ms["ONNX Runtime, tensor, 32 callers"]
    )
    with pytest.raises(InvalidInput, match="name it among --encodings"):
        bench.declared("ladder", "linear", encodings=["tensor"])


def test_the_server_s_own_times_are_read_and_others_left_out() -> None:
    timing = 'decode;dur=0.12, queue;dur=0.01, predict;dur=1.5, encode;dur=0.02, batch;desc="1", other;dur=9'
    log = [(0, 0, 1_000_000, 3_000_000, Reply("OK", 10, timing)), (1, 0, 0, 2_000_000, Reply("UNAVAILABLE"))]
    target = Target("a", "unary", "", (b"12", b"3"))
    frame = load._frame(load.Segment("a", 2, labels={"rows": 5}), target, log, busy_share=0.5)
    assert frame[[*stats.PHASES]].iloc[0].tolist() == [0.12, 0.01, 1.5, 0.02]
    assert frame[[*stats.PHASES]].iloc[1].isna().all()
    assert frame["latency_ms"].tolist() == [3.0, 2.0]
    assert frame["service_ms"].tolist() == [2.0, 2.0]
    assert frame["ok"].tolist() == [True, False]
    assert frame["request_bytes"].tolist() == [3, 3]


def test_pinned_is_what_is_started_inside() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system pins no processes")
    before = os.sched_getaffinity(0)
    with load.on_cores([min(before)]):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_each_case_is_read_against_its_target() -> None:
    ms = {"linear": 1.1, "echo": 0.4, "linear in process": 0.6, "tensor": 100.0, "echo, 32 callers": 8.0}
    ms |= {"forest, 32 callers": 10.0, "Flight": 110.0}
    some = []
    for arm, each_ms in ms.items():
        rows, callers = 10**6 if arm in ("tensor", "Flight") else 1, 32 if "32" in arm else 1
        for block in range(6):
            for half in (0, 1):
                sent_ns = np.arange(32) // callers * int(each_ms * 1e6)
                some.append(pd.DataFrame({"arm": arm, "rows": rows, "block": block, "half": half, "sent_ns": sent_ns}))
                some[-1] = some[-1].assign(call=range(32), done_ns=sent_ns + int(each_ms * 1e6), first_ms=each_ms / 20)
                some[-1] = some[-1].assign(latency_ms=each_ms, ok=True, valid=True)
    found = floor.cases(pd.concat(some, ignore_index=True)).set_index("case")
    expected = {
        "linear, 1 row: ours to echo + predict": (1.1, 1.2 / 1.1),
        "forest, 1 row, 32 callers: our rate, ONNX, to the echo's": (0.8, 0.8 / 0.85),
        "linear, 1,000,000 rows: Arrow Flight to ours": (1.1, 1.1 / 1.2),
        "linear, 1,000,000 rows: first predictions to the whole": (0.05, 2.0),
    }
    assert set(found.index) == set(expected), "cases whose arms are not there are left out"
    for case, (ratio, margin) in expected.items():
        assert found.loc[case, "ratio"] == pytest.approx(ratio, rel=1e-6)
        assert found.loc[case, "margin"] == pytest.approx(margin, rel=1e-6)
    lines = floor.table(found.reset_index())
    assert "| forest, 1 row, 32 callers: our rate, ONNX, to the echo's | ≥ 0.85 | 0.8 [0.8, 0.8] | missed |" in lines
    figure = floor.margins(found.reset_index())
    assert plots.alt(figure).startswith("2 of 4 targets are met")
