"""The one place where predictions are computed: a thread that takes what waits, as one call of the model.

No timer collects a batch. While the model computes, requests wait; when it is free, it takes all that wait for the same
model, up to a number of rows. An idle server adds no delay, a busy one batches by itself.

To wake a thread and be woken by it costs one or two tenths of a millisecond, more than some models take for a row. Such
a model is asked on the event loop, at once, while it holds that up for no longer than `INLINE_NS`. The first time that
it computes for `NEVER_AGAIN_NS` is the last: what its time depends on may lie in the data. Where several calls are in
flight, the loop first takes in those that have arrived: together they cost little more than one.

Models that take longer stay off the loop also where nobody waits: only a loop that is free takes in what is to go into
the next batch.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from pred_server.errors import LimitExceeded, PredServerError
from pred_server.limits import Limits, flag, took_too_long
from pred_server.model.model import Model
from pred_server.wire.rows import Aligned, concat, count_rows

INLINE_ROWS = 64
INLINE_NS = 500_000
NEVER_AGAIN_NS = 10_000_000
# No more calls are expected after so many turns of the event loop for each that waits, or after so long.
QUIET_TURNS = 8
GATHER_NS = 2_000_000


class Computed(NamedTuple):
    values: np.ndarray
    """Of shape (n_rows,), or (n_rows, n_classes) for probabilities."""
    queue_ns: int
    predict_ns: int
    batch_rows: int


@dataclass(eq=False)
class _Work:
    model: Model
    table: Aligned
    output: str
    deadline_s: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Computed]"
    n_rows: int
    submitted_ns: int = field(default_factory=time.perf_counter_ns)

    def is_wanted(self) -> bool:
        return not self.future.done() and time.monotonic() < self.deadline_s

    def same_kind(self, other: "_Work") -> bool:
        return self.model is other.model and self.output == other.output


class Predictor:
    """Computes on one thread that lives as long as the server: OpenMP keeps a pool for each thread that calls it."""

    def __init__(self, limits: Limits, calls_in_flight: Callable[[], int] = lambda: 1):
        self._limits = limits
        self._calls_in_flight = calls_in_flight
        self._waiting: deque[_Work] = deque()
        self._open: set[_Work] = set()  # queued or being computed; only the event loop touches it
        self._queued_rows = 0
        self._changed = threading.Condition()
        self._busy = False
        self._gathering: asyncio.Task[None] | None = None
        self._for_room: list[asyncio.Future[None]] = []
        self._slowest_ns: dict[tuple[int, str, int], float] = {}  # of late, for few rows, by `_kind`
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    async def predict(
        self,
        model: Model,
        table: Aligned,
        output: str,
        deadline_s: float,
        *,
        wait_for_room: bool = False,
    ) -> Computed:
        """Compute the predictions for a table that the model's schema aligned.

        Parameters
        ----------
        output : "labels" or "probabilities"
        deadline_s : on the clock of time.monotonic; work that still waits then is not computed, nor is work whose
            caller was cancelled
        wait_for_room : whether to wait where too many rows are queued: a stream is slowed down, not refused

        Raises
        ------
        LimitExceeded
            Too many rows wait already.
        DeadlineExceeded
            The deadline passed before the predictions were there.
        InvalidInput
            The estimator refuses the values, or has no probabilities.
        """
        n_rows = count_rows(table)
        if self._is_quick(model, output, n_rows) and not self._is_crowded() and self._is_idle():
            return self._compute_now(model, output, [table], [time.perf_counter_ns()])[0]
        loop = asyncio.get_running_loop()
        work = _Work(model, table, output, deadline_s, loop, loop.create_future(), n_rows)
        self._open.add(work)
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                while not work.future.done() and (room := self._submit(work, wait_for_room)):
                    await room
                return await work.future
        except TimeoutError:
            raise took_too_long(self._limits) from None
        finally:
            self._open.discard(work)
            if not work.future.done() or work.future.cancelled():
                self._withdraw(work)

    def give_up(self, error: PredServerError) -> None:
        """Raise an error in every call that waits for predictions; on the event loop."""
        for work in self._open:
            _settle(work.future, error)
        with self._changed:
            self._make_room()  # those who wait for some find that theirs is settled

    def _is_quick(self, model: Model, output: str, n_rows: int) -> bool:
        return n_rows <= INLINE_ROWS and self._slowest_ns.get(_kind(model, output, n_rows), math.inf) <= INLINE_NS

    def _is_crowded(self) -> bool:
        return self._calls_in_flight() > 1 and self._limits.max_batch_rows > 1

    def _is_idle(self) -> bool:
        with self._changed:  # only the event loop queues, so what is idle now stays so
            return not (self._busy or self._waiting)

    def _submit(self, work: _Work, wait_for_room: bool) -> "asyncio.Future[None] | None":
        """Queue the work. Where there is no room, raise, or return what becomes done once there may be."""
        limit = self._limits.max_queued_rows
        with self._changed:
            if self._queued_rows and self._queued_rows + work.n_rows > limit:
                if not wait_for_room:
                    message = f"{self._queued_rows:,} rows wait already; come back later"
                    raise LimitExceeded(message, "OVERLOADED", limit, flag("max_queued_rows"))
                self._for_room.append(room := work.loop.create_future())
                return room
            self._queued_rows += work.n_rows
            self._waiting.append(work)
            if self._busy or not self._is_quick(work.model, work.output, work.n_rows):
                self._changed.notify()
            elif self._gathering is None:
                self._gathering = work.loop.create_task(self._gather())
            return None

    async def _gather(self) -> None:
        """Let the loop take in the calls that have arrived, then compute what waits, or leave it to the thread.

        gRPC's core hands calls to the loop one by one and through a thread of its own: many turns of the loop may pass
        before it has the next one, though that has long been there. The more calls wait, the more are likely to come,
        and the longer the loop looks for them.
        """
        end_ns, n_rows, quiet = time.perf_counter_ns() + GATHER_NS, 0, 0
        while quiet < QUIET_TURNS * len(self._waiting) and n_rows < INLINE_ROWS and time.perf_counter_ns() < end_ns:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self._queued_rows == n_rows else 0
            n_rows = self._queued_rows
        with self._changed:
            self._gathering = None
            batch = [] if self._busy else self._take()
            n_rows = sum(work.n_rows for work in batch)
            # Under the lock, so that the thread does not compute meanwhile. What fails is left to it: it has more time.
            if batch and not (self._is_quick(batch[0].model, batch[0].output, n_rows) and self._try(batch)):
                self._waiting.extendleft(reversed(batch))
                self._queued_rows += n_rows
            if self._waiting:
                self._changed.notify()

    def _withdraw(self, work: _Work) -> None:
        """Nobody waits for it any more: it must not count, nor hold its table."""
        with self._changed:
            if work in self._waiting:
                self._waiting.remove(work)
                self._free(work)

    def _free(self, work: _Work) -> None:
        self._queued_rows -= work.n_rows
        self._make_room()

    def _make_room(self) -> None:
        for room in self._for_room:
            room.get_loop().call_soon_threadsafe(_settle, room, None)
        self._for_room.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                while not self._waiting:
                    self._changed.wait()
                self._busy = True
                batch = self._take()
            self._compute(batch)

    def _take(self) -> list[_Work]:
        """Take the first piece of work and those that can be computed with it, in their order; drop the unwanted."""
        taken: list[_Work] = []
        kept: deque[_Work] = deque()
        rows = 0
        for work in self._waiting:
            fits = not taken or (taken[0].same_kind(work) and rows + work.n_rows <= self._limits.max_batch_rows)
            if work.is_wanted() and not fits:
                kept.append(work)
                continue
            self._free(work)
            if work.is_wanted():  # else its caller is gone, or about to learn that its deadline has passed
                taken.append(work)
                rows += work.n_rows
        self._waiting = kept
        return taken

    def _compute(self, batch: list[_Work]) -> None:
        if not self._try(batch):  # one of them is at fault, and the others need not know
            middle = len(batch) // 2
            self._compute(batch[:middle])
            self._compute(batch[middle:])

    def _try(self, batch: list[_Work]) -> bool:
        """Compute it as one, and give each its answer, or the only one its error; False if several failed together."""
        batch = [work for work in batch if work.is_wanted()]
        if not batch:
            return True
        first = batch[0]
        tables, submitted_ns = [work.table for work in batch], [work.submitted_ns for work in batch]
        try:
            outcomes: Sequence[Computed | Exception] = self._compute_now(
                first.model, first.output, tables, submitted_ns
            )
        except Exception as error:
            if len(batch) > 1:
                return False
            outcomes = [error]
        # Once for the batch: to wake the loop costs more than to settle a call. All are of one loop, the server's.
        first.loop.call_soon_threadsafe(_settle_all, [work.future for work in batch], outcomes)
        return True

    def _compute_now(
        self, model: Model, output: str, tables: Sequence[Aligned], submitted_ns: Sequence[int]
    ) -> list[Computed]:
        start_ns, computed_ns = time.perf_counter_ns(), time.thread_time_ns()
        table = concat(tables)
        n_rows = count_rows(table)
        values = model.predict_aligned(table, output)
        predict_ns = time.perf_counter_ns() - start_ns
        if n_rows <= INLINE_ROWS:
            key = _kind(model, output, n_rows)
            slowest_ns = self._slowest_ns.get(key, 0.0)
            # Not what it took, which may have been spent waiting for a core: that says nothing of the model.
            never_again = 0 < slowest_ns <= INLINE_NS and time.thread_time_ns() - computed_ns > NEVER_AGAIN_NS
            self._slowest_ns[key] = math.inf if never_again else max(predict_ns, 0.95 * slowest_ns)
        found, end = [], 0
        for each, since_ns in zip(tables, submitted_ns, strict=True):
            start, end = end, end + count_rows(each)
            found.append(Computed(values[start:end], start_ns - since_ns, predict_ns, n_rows))
        return found


def _kind(model: Model, output: str, n_rows: int) -> tuple[int, str, int]:
    """What takes about the same time: a model may be quick for one row and slow for sixty."""
    return id(model), output, n_rows.bit_length()


def _settle_all(futures: "Sequence[asyncio.Future[Any]]", outcomes: Sequence[Any]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        _settle(future, outcome)


def _settle(future: "asyncio.Future[Any]", outcome: Any) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
