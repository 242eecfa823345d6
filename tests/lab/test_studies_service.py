"""Distance, enormous tables, others' large tables, cold starts, layers: declared whole, measured so, and read right."""

import asyncio
import os
import warnings
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import arms, figures, findings_service, load, memory, report, rerun, stats, studies
from pred_server.lab.claims import CLAIMS
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.native import LOADGEN
from pred_server.lab.study_figures import figures_of
from pred_server.lab.ways import WAYS, Arm, Target, messages_of, ray, start_own
from pred_server.lab.ways.way import chunks_of
from pred_server.limits import MIB

SERVICE = ("distance", "enormous", "beside", "start", "layers")
STAMP = dict.fromkeys(["python", "grpcio", "cpu", "cores", "pinning", "scikit-learn", "revision", "seed"], "1")
TABLE = pd.DataFrame(np.arange(20.0).reshape(10, 2), columns=["x", "y"])


@pytest.fixture(autouse=True)
def no_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms, "with_onnx", lambda model: model)  # it takes long, and is not the point here


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("varies", [*SERVICE, "capacity"])
def test_each_is_declared_whole(varies: str, quick: bool) -> None:
    experiment = studies.declared(varies, "flights", quick=quick)
    names = [arm.name for arm in experiment.arms]
    assert len(set(names)) == len(names)
    assert {name for pair in (*experiment.compare, experiment.control or ()) for name in pair} <= set(names)
    assert {arm.beside for arm in experiment.arms if arm.beside} <= set(names)
    assert rerun.comparisons(experiment)
    assert experiment.repetitions * min(map(experiment.blocks_of, experiment.rows)) >= stats.MIN_BLOCKS
    assert rerun.only(experiment) == experiment, "what is called beside is kept, although it is not compared"
    described = {**asdict(experiment), "arms": [asdict(arm) for arm in experiment.arms]}
    assert rerun.experiment_of(described) == (experiment, [])


def test_they_are_what_they_are_named_after() -> None:
    far = studies.declared("distance", "flights")
    assert {arm.rtt_ms for arm in far.arms} == {0, 1, 20, 100}
    assert all(arm.frame for arm in far.arms)
    assert {arm.server for arm in far.arms if not arm.rows} >= {"serve", "flight"}, "a million rows"
    (in_chunks, *_) = [arm for arm in studies.declared("enormous", "flights").arms if arm.chunk_rows]
    assert in_chunks.chunk_rows * 80 == pytest.approx(MIB, rel=0.01)
    busy = [arm for arm in studies.declared("beside", "flights").arms if arm.beside]
    assert {(arm.server, arm.rate_per_s, arm.generator) for arm in busy} == {
        ("serve", 100, "go"), ("rest", 100, "go"), ("article", 100, "go"),
    }  # fmt: skip
    assert all(arm.cold for arm in studies.declared("start", "flights").arms)


def test_each_layer_is_asked_with_the_bytes_of_a_direct_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(WAYS["ray"]), "missing", lambda self: "")
    experiment = studies.declared("layers", "flights")
    assert experiment.rows == (1, 1_000, 100_000)
    layers = {arm.server: arm for arm in experiment.arms if arm.server in ("tls", "tls_token", "ray")}
    direct, *_ = experiment.arms
    for layer in layers.values():
        assert replace(layer, name="", server="serve") == replace(direct, name="")
        assert (layer.name, direct.name) in experiment.compare
    assert len(layers) == 3
    one, two = (arm for arm in experiment.arms if arm.callers == 32)
    assert replace(two, name="", flags=one.flags) == replace(one, name="")
    assert "--workers" in two.flags and (one.name, two.name) in experiment.compare
    counted = next(arm for arm in experiment.arms if arm.name == "metrics")
    assert counted == replace(direct, name="metrics", flags=(*direct.flags, "--metrics", "127.0.0.1:0"))


def test_layers_that_are_not_installed_are_left_out_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "PYTHON", tmp_path / "python")
    monkeypatch.setenv("PATH", str(tmp_path))
    experiment = studies.declared("layers", "flights")
    assert not {"ray", "tls", "tls_token"} & {arm.server for arm in experiment.arms}
    assert ("gateway, text", "direct") in experiment.compare
    printed = capsys.readouterr().out
    assert "left out: Ray Serve is not installed: run `make ray`" in printed
    assert "left out: tls needs a certificate, and openssl to make it" in printed


def test_layers_are_measured(go: Callable[..., str]) -> None:
    go("build", "-o", str(LOADGEN), "./gateway/loadgen")
    declared = studies.declared("layers", "flights", quick=True)
    arms = tuple(replace(arm, calls=4, callers=min(arm.callers, 4)) for arm in declared.arms if arm.server != "ray")
    with running(replace(declared, arms=arms, blocks=1)) as bench:
        calls = bench.measure(1, repetition=0)
    assert set(calls["code"]) == {"OK"}
    assert set(calls["arm"]) == {arm.name for arm in arms}
    replies = calls[calls["callers"] == 1].groupby("encoding")["reply_bytes"].nunique()
    assert replies["tensor"] == 1, "the same answer through each layer"
    assert (calls["server_cpu_ms"] > 0).all() and (calls["caller_cpu_ms"] > 0).all()


def test_a_quick_repetition_of_cold_starts_keeps_enough_blocks() -> None:
    experiment = studies.declared("start", "flights", quick=True)
    experiment = replace(experiment, repetitions=10)
    calls = pd.DataFrame({"arm": ["ours"], "rows": [1], "latency_ms": [900.0]})
    fits = rerun.fitted(experiment, calls, True, own_model=False, notes=[])
    assert fits.repetitions * fits.blocks >= stats.MIN_BLOCKS


def test_a_distance_a_cold_start_and_a_table_in_chunks_are_measured() -> None:
    near = Arm("near", encoding="auto", frame=True)
    chunks = [Arm(f"{way} in chunks", way, "auto", chunk_rows=4, frame=True) for way in ("serve", "flight")]
    cold = replace(near, name="cold", cold=True, process=1)
    rest = Arm("rest, far", "rest", frame=True, rtt_ms=30)
    them = (near, replace(near, name="far", rtt_ms=30), rest, *chunks, cold)
    experiment = Experiment(them, model="sum", blocks=1, calls=1, warmup=0, pin=False)
    with running(experiment) as bench:
        calls = bench.measure(10, repetition=0).set_index("arm")
        assert bench.addresses["rest, far"].startswith("http://127.0.0.1:")
        assert bench.pids["far"] == bench.pids["near"], "one server, the forwarder is not counted"
    assert set(calls["code"]) == {"OK"}
    assert (calls.loc[["far", "rest, far"], "latency_ms"] >= 30).all()
    assert calls.index.value_counts().to_dict() == {arm.name: 1 if arm.cold else 2 for arm in them}
    first = calls.loc["cold"]
    assert first["latency_ms"] == pytest.approx(first["start_ms"] + first["service_ms"])
    assert first["start_ms"] > 50, "a Python process with NumPy and gRPC"
    assert calls.loc["near", "latency_ms"].equals(calls.loc["near", "service_ms"])


@pytest.mark.parametrize("way", ["serve", "flight"])
def test_a_client_is_given_one_table_after_the_other(way: str) -> None:
    arm = Arm(way, way, "auto", chunk_rows=4, frame=True)
    sizes = [len(chunk) for chunk in chunks_of(TABLE.head(4), 10)]
    assert sizes == [4, 4, 2]
    with running(Experiment((arm,), model="sum", pin=False)) as bench:
        target = Target(arm, bench.addresses[way], (), rows=10)

        async def answered() -> int:
            async with AsyncExitStack() as stack:
                with warnings.catch_warnings(action="ignore"):  # it blocks the event loop
                    return WAYS[way].stream_client(target, stack)(chunks_of(TABLE.head(4), 10))

        assert asyncio.run(answered()) == 10


def test_a_new_process_makes_each_call_and_memory_is_counted_at_both_ends() -> None:
    arm = Arm("ours", encoding="tensor", frame=True)
    in_process = Arm("in process", "predict", frame=True)
    experiment = Experiment((arm, in_process), model="sum", blocks=2, calls=1, pin=False, fresh=True)
    with running(experiment) as bench:
        calls = bench.measure(1_000_000, repetition=0)
    assert calls.groupby("arm").size().to_dict() == {"ours": 2, "in process": 2}, "no halves"
    assert set(calls["code"]) == {"OK"}
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell how much memory a process needs")
    ours = calls[calls["arm"] == "ours"]
    assert (ours["client_peak_mib"] > 4).all(), "8 MB of predictions"
    assert ours["server_peak_mib"].max() > 0
    assert calls.loc[calls["arm"] == "in process", "server_peak_mib"].isna().all()


def test_peaks_are_counted_anew() -> None:
    before = memory.resident_mib([os.getpid()])
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell how much memory a process needs")
    grown = bytearray(64 * MIB)
    grown[::4096] = bytes(len(grown[::4096]))
    del grown
    assert memory.growth_mib(before) > 50
    assert memory.growth_mib(memory.resident_mib([os.getpid()])) < 50
    assert np.isnan(memory.growth_mib({}))


def test_what_is_called_beside_is_called_all_the_while_and_not_longer() -> None:
    with start_own("echo", "sum") as echo:
        large = Arm("large", "echo", "tensor", rows=(1_000,))
        alone = Arm("alone", "echo", rate_per_s=100)
        beside = Target(large, echo.address, messages_of(large, TABLE))
        targets = [Target(alone, echo.address, (b"x",))]
        targets += [Target(replace(alone, name="busy"), echo.address, (b"x",), beside=beside)]
        with load.Generator() as generator:
            calls = generator.run(targets, [load.Segment(name, 50, rate_per_s=100) for name in ("alone", "busy")])
            assert calls.groupby("arm")["beside_calls"].first()["alone"] == 0
            assert calls.groupby("arm")["beside_calls"].first()["busy"] > 10
            gone = replace(targets[1], beside=replace(beside, address="127.0.0.1:1"))
            with pytest.raises(RuntimeError, match="large, which is called beside, was not answered"):
                generator.run([gone], [load.Segment("busy", 5)])


def calls_of(experiment: Experiment, **latency_ms: float) -> pd.DataFrame:
    """Calls whose truth is known: an arm's latency is that of the longest beginning of its name."""
    lines = []
    for rows in experiment.rows:
        for arm in experiment.arms_at(rows):
            likely = {name: ms for name, ms in latency_ms.items() if arm.name.startswith(name)}
            ms = likely[max(likely, key=len)] if likely else 50.0
            ms *= (5 if arm.beside else 1) * (1 + rows / 1e5)
            columns: dict[str, Any] = asdict(arm) | {"arm": arm.name, "rows": rows, "ok": True, "valid": True}
            columns |= {"client_peak_mib": 2 * ms, "server_peak_mib": np.nan if arm.server == "predict" else ms}
            columns |= {"server_cpu_ms": ms / 2, "start_ms": ms - 1, "beside_calls": 3 if arm.beside else 0}
            columns |= {"caller_cpu_ms": 0.1}
            for block in range(6):
                for half in range(experiment.halves_of(arm)):
                    place = {"block": block, "half": half, "call": 0, "late_share": 0.0, "busy_share": 0.1}
                    done_ns = 1e9 if arm.callers == 1 else 1e6 * ms / arm.callers
                    place |= {"sent_ns": 0, "done_ns": done_ns, "latency_ms": ms + arm.rtt_ms, "service_ms": 1.0}
                    lines.append(columns | place)
    calls = pd.DataFrame(lines)
    described = asdict(experiment) | {"arms": [asdict(arm) for arm in experiment.arms]}
    calls.attrs = {"experiment": described, "stamp": STAMP}
    return calls


@pytest.fixture
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    for way in ("tls", "ray"):
        monkeypatch.setattr(type(WAYS[way]), "missing", lambda self: "")
    times = {"ours": 2.0, "FastAPI": 3.0, "Arrow Flight": 4.0, "the article's server": 9.0, "in process": 1.0}
    times |= {"direct": 2.0, "direct, text": 4.0, "TLS": 3.0, "gateway": 8.0, "Ray": 6.0}
    times |= {"metrics": 2.5, "two workers": 2.5, "two workers, 32": 25.0, "echo": 1.0}
    return calls_of(studies.declared(request.param, "flights", quick=True), **times)


@pytest.mark.parametrize("calls", SERVICE, indirect=True)
def test_each_has_blocks_figures_and_claims(calls: pd.DataFrame) -> None:
    full, short = report.full(calls), report.short(calls)
    _, base = calls.attrs["experiment"]["control"]
    assert f"- The control, {base} against itself, reads" in "\n".join(full).replace("`", "")
    assert short
    assert full[-1].startswith("<sub>")
    compare = {tuple(pair) for pair in calls.attrs["experiment"]["compare"]}
    claims = CLAIMS[calls.attrs["experiment"]["varies"]](calls)
    assert claims
    assert {(arm, base) for arm, base, _ in claims} <= compare
    for figure in figures_of(calls).values():
        assert figures.alt(figure)
        figures.png(figure)
    assert "doubt" not in report.text(calls)


@pytest.mark.parametrize("calls", ["distance"], indirect=True)
def test_distances_stand_side_by_side(calls: pd.DataFrame) -> None:
    full = report.full(calls)
    assert full[:3] == ["| 1 row | direct | 20 ms |", "| --- | --- | --- |", "| ours | 2.00 | 22.0 |"]
    assert "| FastAPI | 3.00 (1.50) | 23.0 (1.05) |" in full
    assert any("imitates no slow start, windows or losses of TCP" in line for line in full)
    assert report.short(calls)[0] == (
        "- 20 ms away, at 1 row, ours takes 22.0 ms, and the quickest of the others, FastAPI, 23.0 ms."
    )
    assert ("FastAPI, 20 ms away", "ours, 20 ms away", 1) in CLAIMS["distance"](calls)


@pytest.mark.parametrize("calls", ["beside"], indirect=True)
def test_large_tables_of_others_are_read_against_none(calls: pd.DataFrame) -> None:
    found = findings_service.beside(calls).set_index("arm")
    assert found.loc["ours", ["p99_ms", "beside_p99_ms", "ratio"]].tolist() == pytest.approx([2, 10, 5], rel=0.01)
    assert found.loc["ours", "rows_per_s"] == 3_000_000
    assert found.loc["FastAPI", "rows_per_s"] == 300_000
    assert "within 2.00 ms alone, and within 10.0 ms beside large tables" in report.short(calls)[0]


@pytest.mark.parametrize("calls", ["start"], indirect=True)
def test_a_cold_start_is_told_in_two_parts(calls: pd.DataFrame) -> None:
    assert report.short(calls)[2] == "| ours | 1.00 | 1.00 | 2.00 |"
    assert "until ready" in figures.alt(figures_of(calls)["start"])


@pytest.mark.parametrize("calls", ["layers"], indirect=True)
def test_layers_are_told_in_milliseconds_and_as_factors_and_workers_as_rates(calls: pd.DataFrame) -> None:
    full = report.full(calls)
    assert full[0] == "| one caller | 1 row, ms | 1,000 rows, ms | 100,000 rows, ms | server's CPU, 1 row, ms |"
    assert full[2] == "| direct | 2.00 | 2.02 | 4.00 | 1.00 |"
    assert "| TLS | 3.00 (1.50 [1.50, 1.50]) | 3.03 (1.50 [1.50, 1.50]) | 6.00 (1.50 [1.50, 1.50]) | 1.50 |" in full
    assert "| gateway, text | 8.00 (4.00 [4.00, 4.00])" in "\n".join(full)
    layers, gateway, cpu, workers = report.short(calls)
    assert "gateway, text 4.00 [4.00, 4.00]" in layers
    assert "Divided by a direct call with text, it takes 2.00 [2.00, 2.00] at 1 row" in gateway
    assert cpu.endswith("divided by that of a direct call: metrics 1.25 [1.25, 1.25], two workers 1.25 [1.25, 1.25].")
    assert "640 calls a second (one process, 32 callers) and 1,280 calls a second (two workers, 32 callers)" in workers
    assert ": 2.00 [2.00, 2.00] times as many; servers compute 25.0 ms and 12.5 ms for a call" in workers
    found = findings_service.workers(calls)
    assert found["calls_per_s"].tolist() == pytest.approx([640, 1_280], rel=0.01)
    drawn = figures_of(calls)
    assert "1 row: 2.00 ms direct, 8.00 ms through gateway, text; 1,000 rows:" in figures.alt(drawn["rows"])
    alt = figures.alt(drawn["layers"])
    assert "At 1 row gateway, text costs most: 4.00 [4.00, 4.00] times as long as a direct call" in alt
    assert "direct 1.00×, 2.00 ms; metrics 1.25×, 2.50 ms; TLS 1.50×, 3.00 ms" in alt


@pytest.mark.parametrize("calls", ["enormous"], indirect=True)
def test_both_ends_show_their_memory(calls: pd.DataFrame) -> None:
    lines = report.short(calls)
    assert lines[0].startswith("| 1,000,000 rows | seconds | rows a second | caller grows by, MiB |")
    (in_process,) = [line for line in lines if line.startswith("| in process |")]
    assert in_process.endswith(" none |")


def test_a_million_predictions_cost_cpu_time() -> None:
    frames = []
    for server, cpu_ms in (("columns", 0.5), ("JSON, gateway", 1.0)):
        for block in range(6):
            frame = pd.DataFrame({"arm": f"{server}, 20%", "rows": 1, "block": block, "half": 0, "call": range(10)})
            frames.append(frame.assign(server_cpu_ms=cpu_ms * (1 + block % 2 / 10)))
    calls = pd.concat(frames).assign(process=0, rate_per_s=100.0, share=0.2, ok=True, valid=True, late_share=0.0)
    calls = calls.assign(latency_ms=1.0, sent_ns=calls["call"] * 1e7, done_ns=calls["call"] * 1e7 + 1e6)
    found = findings_service.cpu_per_million(calls).set_index("server")
    assert found.loc["columns", "cpu_s"] == pytest.approx(524, rel=0.01), "0.5 ms each, and half of them 10 % more"
    assert found.loc["columns", "low"] < 524 < found.loc["columns", "high"]
    assert found.loc["JSON, gateway", "cpu_s"] == pytest.approx(2 * found.loc["columns", "cpu_s"])
    assert findings_service.cpu_per_million(calls.drop(columns="server_cpu_ms")).empty
