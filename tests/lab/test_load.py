"""The load generator and what it calls: real processes, real sockets."""

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace

import grpc
import pandas as pd
import psutil
import pytest

from pred_server.checkout import ROOT
from pred_server.lab import figures, load, stats
from pred_server.lab.load import Generator, Segment, drive
from pred_server.lab.ways import WAYS, Arm, Reply, Target, start_own
from pred_server.lab.ways.transports import OPTIONS, PREDICT
from pred_server.tutorial.background import Server
from tests.lab.loads import check_schedules, stopped_meanwhile

MESSAGE = b"x" * 200


@pytest.fixture(scope="module")
def echo() -> Iterator[Server]:
    with start_own("echo", "sum") as server:
        yield server


@pytest.fixture(scope="module")
def generator() -> Iterator[Generator]:
    with Generator() as started:
        yield started


def target(echo: Server, name: str = "echo", **options: object) -> Target:
    return replace(Target(Arm(name, "echo"), echo.address, (MESSAGE,)), **options)  # type: ignore[arg-type]


def test_it_calls_as_fast_as_the_plainest_loop(echo: Server) -> None:
    """As fast on a core of its own, that is: on a shared machine the time by the clock tells what others do."""
    calls, callers = 500, 4

    async def ratios() -> list[float]:
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(echo.address, OPTIONS))
            method = channel.unary_unary(PREDICT.method)
            call = WAYS["echo"].connect(target(echo), stack)

            async def caller() -> None:
                for _ in range(calls // callers):
                    await method(MESSAGE)

            async def plainest_s() -> float:
                start_s = time.process_time()
                await asyncio.gather(*(caller() for _ in range(callers)))
                return time.process_time() - start_s

            async def ours_s() -> float:
                start_s = time.process_time()
                log, _ = await drive(Segment("echo", calls, callers=callers), call)
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
    late = target(echo, "late", messages=(bytes(20_000_000),), timeout_s=1e-6)
    nobody = target(echo, "nobody", address="127.0.0.1:1")
    stream = target(echo, arm=Arm("stream", "echo", chunk_rows=1), messages=(MESSAGE,) * 3)
    found = generator.run([late, nobody, stream], [Segment(name, 2) for name in ("late", "nobody", "stream")])
    codes = found.groupby("arm")["code"].unique().map(list).to_dict()
    assert codes == {"late": ["DEADLINE_EXCEEDED"], "nobody": ["UNAVAILABLE"], "stream": ["OK"]}
    assert found.groupby("arm")["reply_bytes"].first().to_dict() == {"late": 0, "nobody": 0, "stream": 3 * len(MESSAGE)}


def test_schedules_are_kept(echo: Server, generator: Generator) -> None:
    check_schedules(generator, target(echo))


def test_a_stopped_server_shows_in_an_open_loop_and_hides_in_a_closed_one(echo: Server, generator: Generator) -> None:
    rate, calls, stop_s = 200, 600, 0.2

    def interrupted(segment: Segment) -> tuple[pd.DataFrame, float]:
        return stopped_meanwhile(echo.pid, lambda: generator.run([target(echo)], [segment]), stop_s, busy_s=0.05)

    shares = (0.98, 0.99)
    for _ in range(15):  # a busy machine may delay what comes after the stop, but not each time
        opened, lasted_s = interrupted(Segment("echo", calls, rate_per_s=rate, arrivals="constant"))
        # (1 - share) * calls were sent before the one at this percentile, one every 1 / rate, when the stop began
        expected_ms = [1e3 * (lasted_s - (1 - share) * calls / rate) for share in shares]
        if opened["latency_ms"].quantile(list(shares)).tolist() == pytest.approx(expected_ms, rel=0.1):
            break
    assert opened["latency_ms"].quantile(list(shares)).tolist() == pytest.approx(expected_ms, rel=0.1)
    closed, _ = interrupted(Segment("echo", 4_000))
    assert closed["service_ms"].max() > 1e3 * stop_s * 0.9, "one call was caught"
    assert closed["service_ms"].quantile(0.99) < 0.1 * opened["latency_ms"].quantile(0.99), "its 99 % do not show it"

    both = pd.concat([opened.assign(arm="open loop"), closed.assign(arm="closed loop")])
    figure = figures.spectrum(both, figures.p99_title(both))
    assert "p99: open loop" in figures.alt(figure)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["open loop: response time", "open loop: service time", "closed loop: service time"]


def test_a_generator_that_fails_says_why() -> None:
    with Generator() as generator, pytest.raises(RuntimeError, match="no model directory 'nowhere'"):
        generator.run([Target(Arm("in process", "predict"), "nowhere", (b"",))], [Segment("in process", 1)])


def test_a_generator_ends_with_the_process_that_started_it() -> None:
    code = "from pred_server.lab.load import Generator\nprint(Generator().pid, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        generator = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([generator], timeout=30)[1] == []


def test_the_server_s_own_times_are_read_and_others_left_out() -> None:
    timing = 'decode;dur=0.12, queue;dur=0.01, predict;dur=1.5, encode;dur=0.02, batch;desc="1", other;dur=9'
    log = [(0, 0, 1_000_000, 3_000_000, Reply("OK", 10, timing)), (1, 0, 0, 2_000_000, Reply("UNAVAILABLE"))]
    target = Target(Arm("a"), "", (b"12", b"3"))
    frame = load._frame(Segment("a", 2, labels={"rows": 5}), target, log, busy_share=0.5)
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
