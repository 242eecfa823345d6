"""The load generator: calls servers from a process of its own, and keeps what happened to every single call.

It is told what to do over a pipe: targets, whose messages are bytes already, and segments, each a stretch of calls to
one target, run one after the other. So nothing but the call itself is in the time that it takes.
"""

import asyncio
import gc
import io
import itertools
import json
import os
import queue
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pandas as pd

from pred_server.checkout import ROOT
from pred_server.lab.calls import KINDS, Call, Reply, Target
from pred_server.wire.timing import SERVER_PHASES, parse_header

LATE_NS = 1_000_000  # a send this long after its schedule is late
MOST_LATE = 0.01
MOST_BUSY = 0.8
SPIN_S = 0.002  # asyncio's own timer may be up to a millisecond late
TOLD = (*(f"{phase}_ms" for phase in SERVER_PHASES), "batch_rows")  # by the server


@dataclass(frozen=True)
class Segment:
    """A stretch of calls to one target: a closed loop of `callers`, or an open loop where `rate_per_s` is given.

    `labels` go into each row of the result as they are. A warm-up leaves no rows.
    """

    target: str
    calls: int
    callers: int = 1
    rate_per_s: float = 0.0
    arrivals: str = "poisson"
    seed: int = 0
    warmup: bool = False
    labels: dict[str, Any] = field(default_factory=dict)


class Generator:
    """The process that makes calls; use it in a `with` statement. It ends with the process that started it.

    Parameters
    ----------
    cores : the cores that it may run on; None for all
    """

    def __init__(self, cores: Iterable[int] | None = None):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        with on_cores(cores):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pred_server.lab.load"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=ROOT,
                start_new_session=True,
            )

    def run(self, targets: Sequence[Target], segments: Sequence[Segment]) -> pd.DataFrame:
        """Make the calls, and return one row for each.

        Returns
        -------
        DataFrame with the columns arm (the target's name), the segment's labels, call, code, ok, latency_ms (from the
        scheduled send in an open loop), service_ms (from the send), first_ms (to a stream's first answer),
        scheduled_ns, sent_ns and done_ns (monotonic), request_bytes, reply_bytes, decode_ms, queue_ms, predict_ms,
        encode_ms and batch_rows (NaN where the server tells none), busy_share of the segment, late_share of all calls
        to the target, and valid: False where the generator itself was the bottleneck.

        Raises
        ------
        RuntimeError
            The generator failed; the message ends with the last lines of its log.
        """
        messages = {id(message): message for target in targets for message in target.messages}  # each is sent once
        places = {key: place for place, key in enumerate(messages)}
        heads = [
            {**asdict(replace(target, messages=())), "messages": [places[id(message)] for message in target.messages]}
            for target in targets
        ]
        plan = {"targets": heads, "segments": [asdict(segment) for segment in segments], "messages": len(messages)}
        pipe, answers = self._process.stdin, self._process.stdout
        assert pipe is not None
        assert answers is not None
        try:
            _write_frame(pipe, json.dumps(plan).encode())
            for message in messages.values():
                _write_frame(pipe, message)
            pipe.flush()
            return pd.read_parquet(io.BytesIO(_read_frame(answers)))
        except (EOFError, BrokenPipeError) as error:
            self._process.wait()
            words = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")
            raise RuntimeError(f"the load generator failed; its last words:\n{words[-2000:].strip()}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()  # it holds nothing that a gentler end would save
        self._process.wait()
        self._log.close()
        with suppress(BrokenPipeError):  # a plan that it did not read
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.stdout.close()  # type: ignore[union-attr]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def on_cores(cores: Iterable[int] | None) -> Iterator[None]:
    """Processes that are started inside run on these cores: a child inherits them from the thread that starts it."""
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
    gc.freeze()  # what is imported stays: the collection before each segment need not look at it again
    plans: queue.Queue[tuple[list[Target], list[Segment]]] = queue.Queue()
    threading.Thread(target=_read_plans, args=(sys.stdin.buffer, plans), daemon=True).start()
    while True:
        calls = asyncio.run(_run(*plans.get()))
        parquet = io.BytesIO()
        calls.to_parquet(parquet)
        _write_frame(sys.stdout.buffer, parquet.getvalue())
        sys.stdout.buffer.flush()


def _read_plans(pipe: BinaryIO, plans: "queue.Queue[tuple[list[Target], list[Segment]]]") -> None:
    try:
        while True:
            plan = json.loads(_read_frame(pipe))
            messages = [_read_frame(pipe) for _ in range(plan["messages"])]
            targets = []
            for head in plan["targets"]:
                head["messages"] = tuple(messages[place] for place in head["messages"])
                head["metadata"] = tuple((key, value) for key, value in head["metadata"])
                targets.append(Target(**head))
            plans.put((targets, [Segment(**segment) for segment in plan["segments"]]))
    except EOFError:
        os._exit(0)  # whoever asked is gone


def _write_frame(pipe: Any, data: bytes) -> None:
    pipe.write(struct.pack("<Q", len(data)))
    pipe.write(data)


def _read_frame(pipe: Any) -> bytes:
    head = pipe.read(8)
    if len(head) < 8:
        raise EOFError
    return bytes(pipe.read(struct.unpack("<Q", head)[0]))


async def _run(targets: Sequence[Target], segments: Sequence[Segment]) -> pd.DataFrame:
    idle_turn_ns = await _idle_turn_ns()
    frames = []
    async with AsyncExitStack() as stack:
        calls = {target.name: (target, await KINDS[target.kind](target, stack)) for target in targets}
        for segment in segments:
            target, call = calls[segment.target]
            log, busy_share = await drive(segment, target, call, idle_turn_ns)
            if not segment.warmup:
                frames.append(_frame(segment, target, log, busy_share))
    made = pd.concat(frames, ignore_index=True)
    late = made["sent_ns"] - made["scheduled_ns"] > LATE_NS
    made["late_share"] = late.groupby(made["arm"]).transform("mean")  # of all segments: one of 50 calls says little
    made["valid"] &= made["late_share"] <= MOST_LATE
    return made


async def drive(
    segment: Segment, target: Target, call: Call, idle_turn_ns: float = 0.0
) -> tuple[list[tuple[int, int, int, int, Reply]], float]:
    """Make a segment's calls. Returns number, scheduled_ns, sent_ns, done_ns and reply of each, and the busy share."""
    log: list[tuple[int, int, int, int, Reply]] = []
    spins = 0

    async def one(number: int, connection: int, scheduled_ns: int | None = None) -> None:
        sent_ns = time.monotonic_ns()
        reply = await call(connection % target.connections)
        log.append((number, sent_ns if scheduled_ns is None else scheduled_ns, sent_ns, time.monotonic_ns(), reply))

    gc.collect()
    gc.disable()
    start_ns, start_busy_ns = time.monotonic_ns(), _busy_ns()
    if segment.rate_per_s:
        async with asyncio.TaskGroup() as group:
            for number, offset_ns in enumerate(_schedule_ns(segment)):
                spins += await _until(start_ns + offset_ns)
                group.create_task(one(number, number, start_ns + offset_ns))
                await asyncio.sleep(0)  # a generator that is late must all the same send, and see answers
    else:
        numbers = iter(range(segment.calls))

        async def caller(connection: int) -> None:
            for number in numbers:  # shared: each caller takes the next one
                await one(number, connection)

        await asyncio.gather(*(caller(connection) for connection in range(segment.callers)))
    busy_ns = _busy_ns() - start_busy_ns - spins * idle_turn_ns
    busy_share = busy_ns / (time.monotonic_ns() - start_ns)
    gc.enable()
    return log, busy_share


def _busy_ns() -> int:
    """How long the thread that makes the calls has computed, or waited for a core to compute on."""
    try:
        computed, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
        return int(computed) + int(waited)
    except OSError:  # not Linux: without the waiting
        return time.thread_time_ns()


def _schedule_ns(segment: Segment) -> list[int]:
    """When to send, in nanoseconds from the start; the first call comes after one gap, so that it can be on time."""
    mean_ns = 1e9 / segment.rate_per_s
    if segment.arrivals == "constant":
        gaps = itertools.repeat(mean_ns, segment.calls)
    else:
        rng = random.Random(segment.seed)
        gaps = (rng.expovariate(1 / mean_ns) for _ in range(segment.calls))  # type: ignore[assignment]
    return [round(offset) for offset in itertools.accumulate(gaps)]


async def _until(due_ns: int) -> int:
    """Sleep, then spin, until it is time. Returns the turns of the event loop that were spun."""
    spins = 0
    while (left_s := (due_ns - time.monotonic_ns()) / 1e9) > 0:
        if left_s > SPIN_S:
            await asyncio.sleep(left_s - SPIN_S)
        else:
            await asyncio.sleep(0)  # not a bare loop: answers that come meanwhile are to be seen when they come
            spins += 1
    return spins


async def _idle_turn_ns(turns: int = 500) -> float:
    """What an empty turn of the event loop costs: spinning is not work, and must not look like saturation."""
    start_ns = time.thread_time_ns()
    for _ in range(turns):
        await asyncio.sleep(0)
    return (time.thread_time_ns() - start_ns) / turns


def _frame(segment: Segment, target: Target, log: list[Any], busy_share: float) -> pd.DataFrame:
    frame = pd.DataFrame(log, columns=["call", "scheduled_ns", "sent_ns", "done_ns", "reply"]).sort_values("call")
    replies = frame.pop("reply").tolist()
    codes, first_ns = [reply.code for reply in replies], np.array([reply.first_ns for reply in replies])
    told = pd.DataFrame([_told(reply.timing) for reply in replies], columns=list(TOLD), dtype="float64")
    return pd.DataFrame(
        {
            "arm": segment.target,
            **segment.labels,
            "call": frame["call"].to_numpy(),
            "code": codes,
            "ok": [code == "OK" for code in codes],
            "latency_ms": ((frame["done_ns"] - frame["scheduled_ns"]) / 1e6).to_numpy(),
            "service_ms": ((frame["done_ns"] - frame["sent_ns"]) / 1e6).to_numpy(),
            "first_ms": np.where(first_ns > 0, (first_ns - frame["sent_ns"]) / 1e6, np.nan),
            **{name: frame[name].to_numpy() for name in ("scheduled_ns", "sent_ns", "done_ns")},
            "request_bytes": sum(map(len, target.messages)),
            "reply_bytes": [reply.reply_bytes for reply in replies],
            **{name: told[name].to_numpy() for name in TOLD},
            "busy_share": busy_share,
            # A lone caller waits for nobody but its server, and all that it does belongs to its call.
            "valid": busy_share <= MOST_BUSY or not (segment.rate_per_s or segment.callers > 1),
        }
    )


def _told(timing: str) -> dict[str, float]:
    phases_ms, batch_rows = parse_header(timing)
    told = {f"{phase}_ms": duration_ms for phase, duration_ms in phases_ms.items()}
    return told | ({"batch_rows": float(batch_rows)} if batch_rows else {})


if __name__ == "__main__":
    main()
