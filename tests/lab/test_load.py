"""The load generator and what it calls: real processes, real sockets."""

import asyncio
import gc
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import grpc
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.flight
import pytest

from pred_server.checkout import ROOT
from pred_server.lab import baselines, plots
from pred_server.lab.calls import KINDS, OPTIONS, Arm, Target
from pred_server.lab.experiments import Bench, Experiment
from pred_server.lab.load import Generator, Segment, drive
from pred_server.tutorial.background import Server, serve

MESSAGE = b"x" * 200
METHOD = "/prediction.Prediction/Predict"


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    with serve("sum", "--kind", "echo", module=baselines.__name__) as server:
        yield server


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as started:
        yield started


def target(echo: Server, **options: object) -> Target:
    return replace(Target("echo", "unary", echo.address, (MESSAGE,)), **options)  # type: ignore[arg-type]


def test_every_way_to_call_answers_and_rest_and_flight_answer_right() -> None:
    arms = [Arm("csv"), Arm("echo", "echo"), Arm("tcp", "tcp"), Arm("rest", "rest"), Arm("flight", "flight")]
    arms += [Arm("article", "article"), Arm("in process", "predict"), Arm("open", rate_per_s=200, connections=2)]
    arms += [Arm("stream", encoding="tensor", chunk_rows=5), Arm("echoed stream", "echo", "tensor", 5)]
    arms += [Arm("stream of one chunk", chunk_rows=10)]  # which is none
    experiment = Experiment(tuple(arms), model="sum", blocks=1, calls=2, seconds=0.1)
    table = pd.DataFrame({"x": [1.0, 2.5], "y": [10.0, 20.0]})
    with Bench(experiment) as bench:
        calls = bench.measure(10, repetition=0)
        addresses = bench._addresses
        rest = urllib.request.Request(f"{addresses['rest']}/predict", json.dumps(table.to_dict("list")).encode())
        with urllib.request.urlopen(rest, timeout=30) as answer:
            assert json.load(answer) == {"0": [11.0, 22.5]}
        client = pa.flight.connect(f"grpc://{addresses['flight']}")
        writer, reader = client.do_exchange(pa.flight.FlightDescriptor.for_command(b"predict"))
        with client, writer:
            arrow = pa.Table.from_pandas(table)
            writer.begin(arrow.schema)
            writer.write_table(arrow)
            writer.done_writing()
            assert reader.read_all().to_pydict() == {"0": [11.0, 22.5]}
    assert set(calls["code"]) == {"OK"}
    assert calls.groupby("arm").size().to_dict() == {arm.name: 40 if arm.name == "open" else 4 for arm in arms[:-1]}
    order = calls.drop_duplicates(["half", "arm"])["arm"].tolist()
    assert order == order[::-1], "a block runs its arms forth and back"
    replies = calls.groupby("arm")["reply_bytes"].first()
    assert replies["csv"] == replies["echo"] == replies["tcp"] > 0, "the floors carry as many bytes back"
    assert replies["stream"] == replies["echoed stream"] > 0
    assert (calls.loc[calls["arm"].isin(["csv", "stream"]), ["decode_ms", "predict_ms", "encode_ms"]] > 0).all(
        axis=None
    )
    assert (calls["latency_ms"] >= calls["service_ms"]).all()
    assert calls.loc[calls["arm"] != "open", "latency_ms"].equals(calls.loc[calls["arm"] != "open", "service_ms"])


def test_it_calls_as_fast_as_the_plainest_loop(echo: Server) -> None:
    """As fast on a core of its own, that is: on a shared machine the time by the clock tells what others do."""
    calls, callers = 500, 4

    async def ratios() -> list[float]:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(echo.address, OPTIONS))
            method = channel.unary_unary(METHOD)
            call = await KINDS["unary"](target(echo), stack)

            async def caller() -> None:
                for _ in range(calls // callers):
                    await method(MESSAGE)

            async def plainest_s() -> float:
                start_s = time.process_time()
                await asyncio.gather(*(caller() for _ in range(callers)))
                return time.process_time() - start_s

            async def ours_s() -> float:
                start_s = time.process_time()
                log, _ = await drive(Segment("echo", calls, callers=callers), target(echo), call)
                used_s = time.process_time() - start_s
                assert len(log) == calls
                return used_s

            await plainest_s()
            await ours_s()
            return [await plainest_s() / await ours_s() for _ in range(11)]

    gc.freeze()  # as the generator's process does
    try:
        found = asyncio.run(ratios())
    finally:
        gc.unfreeze()
    assert statistics.median(found) >= 0.8, found


def test_it_says_when_it_is_the_bottleneck(echo: Server, generator: Generator) -> None:
    too_fast = Segment("echo", 2_000, rate_per_s=100_000, arrivals="constant")
    found = generator.run([target(echo)], [too_fast])
    assert found["late_share"].iloc[0] > 0.01
    assert not found["valid"].any()
    assert len(found) == 2_000, "all the same, every call is kept"


def test_failures_are_kept_with_their_code(echo: Server, generator: Generator) -> None:
    late = target(echo, name="late", messages=(bytes(20_000_000),), timeout_s=1e-6)
    nobody = target(echo, name="nobody", address="127.0.0.1:1")
    stream = target(echo, name="stream", kind="stream", method=METHOD + "Stream", messages=(MESSAGE,) * 3)
    found = generator.run([late, nobody, stream], [Segment(name, 2) for name in ("late", "nobody", "stream")])
    codes = found.groupby("arm")["code"].unique().map(list).to_dict()
    assert codes == {"late": ["DEADLINE_EXCEEDED"], "nobody": ["UNAVAILABLE"], "stream": ["OK"]}
    assert found.groupby("arm")["reply_bytes"].first().to_dict() == {"late": 0, "nobody": 0, "stream": 3 * len(MESSAGE)}


def test_schedules_are_kept(echo: Server, generator: Generator) -> None:
    segments = [
        Segment("echo", 300, rate_per_s=1_000, arrivals=way, labels={"way": way}) for way in ("constant", "poisson")
    ]
    found = generator.run([target(echo)], segments)
    gaps_ms = found.groupby("way")["scheduled_ns"].diff().dropna() / 1e6
    constant, poisson = (gaps_ms[found["way"] == way] for way in ("constant", "poisson"))
    assert np.allclose(constant, 1, atol=1e-3)
    assert poisson.mean() == pytest.approx(1, rel=0.3)
    assert poisson.std() == pytest.approx(1, rel=0.3)
    assert (found["sent_ns"] >= found["scheduled_ns"]).all()


def test_a_stopped_server_shows_in_an_open_loop_and_hides_in_a_closed_one(echo: Server, generator: Generator) -> None:
    rate, calls, stop_s = 200, 600, 0.2
    process = psutil.Process(echo.pid)

    def busy_s() -> float:
        times = process.cpu_times()
        return times.user + times.system

    def interrupted(segment: Segment) -> tuple[pd.DataFrame, float]:
        found: list[pd.DataFrame] = []
        before_s = busy_s()
        running = threading.Thread(target=lambda: found.append(generator.run([target(echo)], [segment])))
        running.start()
        while busy_s() < before_s + 0.05:  # until the load has been on for a while
            assert running.is_alive()
            time.sleep(0.001)
        stopped_s = time.monotonic()
        os.kill(echo.pid, signal.SIGSTOP)
        try:
            time.sleep(stop_s)
        finally:
            os.kill(echo.pid, signal.SIGCONT)
            lasted_s = time.monotonic() - stopped_s
        running.join()
        assert found[0]["ok"].all()
        return found[0], lasted_s

    opened, lasted_s = interrupted(Segment("echo", calls, rate_per_s=rate, arrivals="constant"))
    closed, _ = interrupted(Segment("echo", 4_000))
    for share in (0.98, 0.99):
        # (1 - share) * calls were sent before the one at this percentile, one every 1 / rate, when the stop began
        expected_ms = 1e3 * (lasted_s - (1 - share) * calls / rate)
        assert opened["latency_ms"].quantile(share) == pytest.approx(expected_ms, rel=0.1)
    assert closed["service_ms"].max() > 1e3 * stop_s * 0.9, "one call was caught"
    assert closed["service_ms"].quantile(0.99) < 0.1 * opened["latency_ms"].quantile(0.99), "its 99 % do not show it"

    both = pd.concat([opened.assign(arm="open loop"), closed.assign(arm="closed loop")])
    figure = plots.spectrum(both, plots.p99_title(both))
    assert "p99: open loop" in plots.alt(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["open loop: response time", "open loop: service time", "closed loop: service time"]


def test_a_generator_that_fails_says_why() -> None:
    with Generator() as generator, pytest.raises(RuntimeError, match="no model directory 'nowhere'"):
        generator.run([Target("in process", "predict", "nowhere", (b"",))], [Segment("in process", 1)])


def test_a_generator_ends_with_the_process_that_started_it() -> None:
    code = "from pred_server.lab.load import Generator\nprint(Generator().pid, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        generator = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([generator], timeout=30)[1] == []
