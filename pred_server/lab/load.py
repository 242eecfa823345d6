"""The load generator: calls servers from a process of its own, and keeps what happened to every single call.

Its orders come over a pipe: targets, whose messages are ready bytes, and segments, each a stretch of calls to one
target. Segments run one after the other. So nothing but the call itself is in the measured time.

The calls of an arm whose `generator` is "go" are made by a program of its own, `native`, on this process's cores.
"""

import asyncio
import gc
import itertools
import os
import pickle
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pred_server.checkout import ROOT
from pred_server.lab.cpu import cpu_ms, with_workers
from pred_server.lab.memory import growth_mib, resident_mib
from pred_server.lab.native import Native
from pred_server.lab.ways import WAYS, Call, Reply, Target
from pred_server.wire.timing import SERVER_PHASES, parse_header

LATE_NS = 1_000_000  # a call that is sent this long after its schedule is late
MOST_LATE = 0.01
MOST_BUSY = 0.8
SPIN_S = 0.002  # asyncio's own timer may be up to a millisecond late
SERVER_TIMES = [f"{phase}_ms" for phase in SERVER_PHASES]
Plan = tuple[Sequence[Target], Sequence["Segment"]]


@dataclass(frozen=True)
class Segment:
    """A stretch of calls to one target: a closed loop of `callers`, or an open loop if `rate_per_s` is given.

    `target` is the name of the target's arm. `labels` become columns of the result. A warm-up leaves no rows.
    """

    target: str
    calls: int
    callers: int = 1
    rate_per_s: float = 0.0
    arrivals: str = "poisson"
    seed: int = 0
    warmup: bool = False
    labels: dict[str, Any] = field(default_factory=dict)

    def order(self) -> dict[str, Any]:
        """Return what the native generator is asked to do."""
        names = ("target", "calls", "callers", "rate_per_s", "arrivals", "seed")
        return {name: getattr(self, name) for name in names}


class Generator(AbstractContextManager["Generator"]):
    """The process that makes calls; use it in a `with` statement. It ends when the process that started it ends.

    Parameters
    ----------
    cores : the cores that it may run on; None for all
    """

    def __init__(self, cores: Iterable[int] | None = None):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        with on_cores(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from pred_server.lab.load import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=ROOT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._orders: Any = self._process.stdin
        self._results: Any = self._process.stdout

    def run(self, targets: Sequence[Target], segments: Sequence[Segment]) -> pd.DataFrame:
        """Make the calls, and return one row for each.

        Returns
        -------
        DataFrame with the columns arm (its name), the segment's labels, call, code, ok, latency_ms (from the scheduled
        send in an open loop), service_ms (from the actual send), first_ms (to a stream's first reply), scheduled_ns,
        sent_ns and done_ns (monotonic), request_bytes, reply_bytes, decode_ms, queue_ms, predict_ms, encode_ms and
        batch_rows (NaN if the server does not say), busy_share of the segment, late_share of all calls to the target,
        valid: False if the generator itself was the bottleneck, server_cpu_ms: what the target's processes computed in
        the segment, divided by its calls (NaN if there are none), redials: connections that the server had closed
        and that the segment's calls made anew (NaN from Python, whose libraries do not say), client_peak_mib: by how
        much this process grew in the segment at most, and beside_calls: how many calls another process made meanwhile.

        Raises
        ------
        RuntimeError
            The generator failed; the message ends with the last lines of its log.
        """
        try:
            pickle.dump((targets, segments), self._orders)  # a message that several targets share is sent once
            self._orders.flush()
            return pickle.load(self._results)
        except (EOFError, BrokenPipeError) as error:
            self._process.wait()
            log = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")
            raise RuntimeError(f"the load generator failed; its last words:\n{log[-2000:].strip()}") from error

    def close(self) -> None:
        self._process.kill()  # it holds nothing that a gentler end would save
        self._process.wait()
        self._log.close()
        with suppress(BrokenPipeError):  # orders that it did not read
            self._orders.close()
        self._results.close()

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def on_cores(cores: Iterable[int] | None) -> Iterator[None]:
    """Pin every process that is started inside to these cores: a child inherits them from the thread that starts it."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    """Be the generator: read orders from standard input, write results to standard output."""
    gc.freeze()  # what is imported stays: the collection before each segment need not look at it again
    plans: queue.Queue[Plan] = queue.Queue()
    threading.Thread(target=_read_plans, args=(plans,), daemon=True).start()
    while True:
        calls = asyncio.run(_run(*plans.get()))
        pickle.dump(calls, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def _read_plans(plans: "queue.Queue[Plan]") -> None:
    try:
        while True:
            plans.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)  # the process that gave the orders is gone


async def _run(targets: Sequence[Target], segments: Sequence[Segment]) -> pd.DataFrame:
    idle_turn_ns = await _idle_turn_ns()
    frames = []
    async with AsyncExitStack() as stack:
        in_go = [target for target in targets if target.arm.generator == "go"]
        native = stack.enter_context(Native(in_go)) if in_go else None
        connected = {
            target.arm.name: (
                target,
                WAYS[target.arm.server].connect(target, stack) if target not in in_go else None,
                with_workers(target.pids),
            )
            for target in targets
        }
        for segment in segments:
            target, call, pids = connected[segment.target]
            with Beside(target.beside) if target.beside and not segment.warmup else nullcontext() as beside:
                before_ms, before_mib, redials = cpu_ms(pids), resident_mib([os.getpid()]), np.nan
                if call:
                    log, busy_share = await drive(segment, call, idle_turn_ns)
                else:
                    assert native
                    log, busy_share, redials = native.drive(segment.order())
                server_cpu_ms = (cpu_ms(pids) - before_ms) / segment.calls
                client_peak_mib = growth_mib(before_mib) if call else np.nan
            if not segment.warmup:
                frame = _frame(segment, target, log, busy_share)
                frame = frame.assign(server_cpu_ms=server_cpu_ms, redials=redials, client_peak_mib=client_peak_mib)
                frames.append(frame.assign(beside_calls=beside.calls if beside else 0))
    calls = pd.concat(frames, ignore_index=True)
    late = calls["sent_ns"] - calls["scheduled_ns"] > LATE_NS
    calls["late_share"] = late.groupby(calls["arm"]).transform("mean")  # of all segments: 50 calls say too little
    calls["valid"] &= calls["late_share"] <= MOST_LATE
    return calls


class Beside(AbstractContextManager["Beside"]):
    """A process that calls a target again and again while a `with` block runs: from its first answer on.

    At the end it makes its last call whole, so that the server is left with nothing to do. It is nice to others: where
    it shares a core with a generator, that comes first.

    Raises
    ------
    RuntimeError
        A call failed.

    Attributes
    ----------
    calls : how many calls were answered after the first, known after the block
    """

    calls = 0

    def __init__(self, target: Target):
        self._name = target.arm.name
        code = "from pred_server.lab.load import call_until_told; call_until_told()"
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin and self._process.stdout
        self._order, self._answer = self._process.stdin, self._process.stdout
        with suppress(BrokenPipeError):
            pickle.dump(target, self._order)
            self._order.flush()
        self._answer.readline()

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self._order.close()
        count = self._answer.readline()
        self._answer.close()
        if self._process.wait() or not count:
            raise RuntimeError(f"{self._name}, which is called beside, was not answered")
        self.calls = int(count)


def call_until_told() -> None:
    """Be the process of `Beside`: read a target from standard input, and call it until that ends."""
    if hasattr(os, "nice"):
        os.nice(10)
    target, over = pickle.load(sys.stdin.buffer), threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    asyncio.run(_call_until(over, target))


async def _call_until(over: threading.Event, target: Target) -> None:
    async with AsyncExitStack() as stack:
        call, calls = WAYS[target.arm.server].connect(target, stack), -1
        while not over.is_set():
            reply = await call()
            assert reply.code == "OK", reply.code
            calls += 1
            if calls == 0:
                print("begun", flush=True)
    print(calls, flush=True)


async def drive(
    segment: Segment, call: Call, idle_turn_ns: float = 0.0
) -> tuple[list[tuple[int, int, int, int, Reply]], float]:
    """Make a segment's calls.

    Returns
    -------
    A list of (number, scheduled_ns, sent_ns, done_ns, reply), one for each call, and the share of the time for which
    this thread was busy.
    """
    log: list[tuple[int, int, int, int, Reply]] = []
    spins = 0

    async def one(number: int, scheduled_ns: int | None = None) -> None:
        sent_ns = time.monotonic_ns()
        try:
            reply = await call()
        except Exception as error:  # a failed call; its code is the error's status, or else the error's name
            code = getattr(error, "code", type(error).__name__)
            reply = Reply(code().name if callable(code) else str(code))
        log.append((number, sent_ns if scheduled_ns is None else scheduled_ns, sent_ns, time.monotonic_ns(), reply))

    gc.collect()
    gc.disable()
    start_ns, start_busy_ns = time.monotonic_ns(), _busy_ns()
    if segment.rate_per_s:
        async with asyncio.TaskGroup() as group:
            for number, offset_ns in enumerate(_schedule_ns(segment)):
                spins += await _until(start_ns + offset_ns)
                group.create_task(one(number, start_ns + offset_ns))
                await asyncio.sleep(0)  # a generator that is late must still send, and see replies
    else:
        numbers = iter(range(segment.calls))

        async def caller() -> None:
            for number in numbers:  # shared: a caller takes the next one
                await one(number)

        await asyncio.gather(*(caller() for _ in range(segment.callers)))
    busy_ns = _busy_ns() - start_busy_ns - spins * idle_turn_ns
    busy_share = busy_ns / (time.monotonic_ns() - start_ns)
    gc.enable()
    return log, busy_share


def _busy_ns() -> int:
    """Return how long the thread that makes the calls has computed, or waited for a core to compute on."""
    try:
        computed, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
        return int(computed) + int(waited)
    except OSError:  # not Linux: without the waiting
        return time.thread_time_ns()


def _schedule_ns(segment: Segment) -> list[int]:
    """Return when to send, in nanoseconds from the start. The first call comes after one gap, so it can be on time."""
    mean_ns = 1e9 / segment.rate_per_s
    rng = random.Random(segment.seed)
    poisson = segment.arrivals == "poisson"
    gaps = (rng.expovariate(1 / mean_ns) if poisson else mean_ns for _ in range(segment.calls))
    return [round(offset) for offset in itertools.accumulate(gaps)]


async def _until(due_ns: int) -> int:
    """Sleep, then spin, until it is time. Return the number of turns of the event loop that were spun."""
    spins = 0
    while (left_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
        if left_s > SPIN_S:
            await asyncio.sleep(left_s - SPIN_S)
        else:
            await asyncio.sleep(0)  # not a bare loop: a reply that arrives meanwhile must be seen at once
            spins += 1
    return spins


async def _idle_turn_ns(turns: int = 500) -> float:
    """Return the cost of an empty turn of the event loop. Spinning is no work, and must not look like saturation."""
    start_ns = time.thread_time_ns()
    for _ in range(turns):
        await asyncio.sleep(0)
    return (time.thread_time_ns() - start_ns) / turns


def _frame(segment: Segment, target: Target, log: list[Any], busy_share: float) -> pd.DataFrame:
    numbers, scheduled_ns, sent_ns, done_ns, replies = zip(*sorted(log), strict=True)
    times = pd.DataFrame([_server_times(reply.timing) for reply in replies], columns=[*SERVER_TIMES, "batch_rows"])
    return pd.DataFrame(
        {
            "arm": segment.target,
            **segment.labels,
            "call": numbers,
            "code": [reply.code for reply in replies],
            "ok": [reply.code == "OK" for reply in replies],
            "latency_ms": (np.array(done_ns) - scheduled_ns) / 1e6,
            "service_ms": (np.array(done_ns) - sent_ns) / 1e6,
            "first_ms": [
                (reply.first_ns - sent) / 1e6 if reply.first_ns else np.nan
                for sent, reply in zip(sent_ns, replies, strict=True)
            ],
            "scheduled_ns": scheduled_ns,
            "sent_ns": sent_ns,
            "done_ns": done_ns,
            "request_bytes": sum(map(len, target.messages)),
            "reply_bytes": [reply.reply_bytes for reply in replies],
            **times.astype("float64"),
            "busy_share": busy_share,
            # A lone caller waits for nobody but its server, and all that it does belongs to its call.
            "valid": busy_share <= MOST_BUSY or not (segment.rate_per_s or segment.callers > 1),
        }
    )


def _server_times(timing: str) -> dict[str, float]:
    phases_ms, batch_rows = parse_header(timing)
    return {f"{phase}_ms": ms for phase, ms in phases_ms.items()} | {"batch_rows": batch_rows or np.nan}
