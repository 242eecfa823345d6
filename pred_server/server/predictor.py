"""The one place where predictions are computed: a thread takes all requests that wait for a model as one call of it.

No timer collects a batch. While the model computes, requests wait; when it is free, it takes all that wait for the same
model, up to a number of rows. An idle server adds no delay, and a busy one batches by itself.

A model that is known to be quick runs on the event loop instead (`inline`). Where calls come together, the loop first
takes in those that have arrived: together they cost little more than one.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pred_server.errors import DeadlineExceeded, LimitExceeded, PredServerError
from pred_server.guard.admission import has_room
from pred_server.limits import ROW_BLOCK, Limits, flag, took_too_long
from pred_server.model.model import Model
from pred_server.server.inline import QuickModels
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.timing import Stopwatch

# A table of more rows is predicted in pieces, which grow until one takes so long. They are whole blocks of rows.
PIECE_ROWS, PIECE_NS = 1_024 * ROW_BLOCK, 250_000_000
# A connection without waiting rows may queue so much of the limit at any time.
FIRST_SHARE = 0.01
# The loop expects no more calls after so many empty turns for each waiting call, or after so long.
QUIET_TURNS = 8
GATHER_NS = 2_000_000
# Calls are alone once so many in turn have met no other. From then on one in so many looks for others.
ALONE_CALLS, LOOK_CALLS = 4, 64


@dataclass(eq=False)
class Work:
    """One request for predictions: what is asked, and who waits for it."""

    model: Model
    rows: Rows
    output: str
    deadline_s: float
    watch: Stopwatch
    future: "asyncio.Future[Result]"
    peer: str = ""
    submitted_ns: int = field(default_factory=time.perf_counter_ns)

    def is_wanted(self) -> bool:
        return not self.future.done() and time.monotonic() < self.deadline_s

    def goes_with(self, other: "Work") -> bool:
        return self.model is other.model and self.output == other.output


class Predictor:
    """Computes on one thread that lives as long as the server: OpenMP keeps a pool for each thread that calls it.

    Parameters
    ----------
    calls_in_flight : tells how many calls the server has; without it, no quick call waits for others
    """

    def __init__(self, limits: Limits, calls_in_flight: Callable[[], int] | None = None):
        self.quick = QuickModels(limits)
        self._limits = limits
        self._calls_in_flight = calls_in_flight
        self._waiting: deque[Work] = deque()
        self._open: set[Work] = set()  # queued or being computed; only the event loop touches it
        self.queued_rows = 0
        self._changed = threading.Condition()
        self._busy = False
        self._gathering: asyncio.Task[None] | None = None
        self._alone = ALONE_CALLS  # calls in turn that have met no other
        self._for_room: list[asyncio.Future[None]] = []
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    async def predict(
        self,
        model: Model,
        rows: Rows,
        output: str,
        deadline_s: float,
        watch: Stopwatch,
        *,
        peer: str = "",
        wait_for_room: bool = False,
    ) -> Result:
        """Return the predictions for rows that fit the model's schema.

        Parameters
        ----------
        output : "labels" or "probabilities"
        deadline_s : on the clock of time.monotonic; work that still waits then is not computed, nor is the work of a
            caller who was cancelled
        watch : gets the times of the phases queue and predict
        peer : the connection that asks; see `has_room`
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
        loop = asyncio.get_running_loop()
        work = Work(model, rows, output, deadline_s, watch, loop.create_future(), peer)
        if self.quick.has(model, output, len(rows)) and not self._is_crowded() and self._is_idle():
            return self._compute([work])[0]
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
            self._make_room()  # whoever waits for room sees that the call is settled

    # On the event loop

    def _is_crowded(self) -> bool:
        """Whether other calls are likely to come at the same time; for a quick call, before it is computed.

        gRPC hands over calls one by one. Where each takes little time, those that wait in gRPC are not in flight yet,
        so how many there are does not show. It is tried out: calls that met others wait for more.
        """
        if self._limits.max_batch_rows == 1 or self._calls_in_flight is None:
            return False
        self._alone += 1
        return self._calls_in_flight() > 1 or self._alone <= ALONE_CALLS or self._alone % LOOK_CALLS == 0

    def _is_idle(self) -> bool:
        with self._changed:  # only the event loop queues, so an idle thread stays idle
            return not (self._busy or self._waiting)

    def _submit(self, work: Work, wait_for_room: bool) -> "asyncio.Future[None] | None":
        """Queue the work. Where there is no room, raise, or return a future that is done once there may be."""
        limit, n_rows, loop = self._limits.max_queued_rows, len(work.rows), work.future.get_loop()
        with self._changed:
            if self.queued_rows + n_rows > limit and not self._has_room(work):
                if not wait_for_room:
                    message = f"{self.queued_rows:,} rows wait already; come back later"
                    raise LimitExceeded(message, "OVERLOADED", limit, flag("max_queued_rows"))
                self._for_room.append(room := loop.create_future())
                return room
            self.queued_rows += n_rows
            self._waiting.append(work)
            if self._busy or not self.quick.has(work.model, work.output, n_rows):
                self._changed.notify()
            elif self._gathering is None:
                self._gathering = loop.create_task(self._gather())
            return None

    async def _gather(self) -> None:
        """Let the loop take in the calls that have arrived, then compute them, or leave them to the thread.

        gRPC's core hands calls to the loop one by one and through a thread of its own: many turns of the loop may pass
        before it has the next call, though that has long arrived. The more calls wait, the more are likely to come, and
        the longer the loop looks for them.
        """
        end_ns, n_rows, quiet = time.perf_counter_ns() + GATHER_NS, 0, 0
        while quiet < QUIET_TURNS * len(self._waiting) and time.perf_counter_ns() < end_ns:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.queued_rows == n_rows else 0
            n_rows = self.queued_rows
        with self._changed:
            self._gathering = None
            batch = [] if self._busy else self._take()
            if len(batch) > 1:
                self._alone = 0
            n_rows = sum(len(work.rows) for work in batch)
            # Under the lock, so that the thread does not compute meanwhile. It gets what fails: it has more time.
            if batch and not (self.quick.has(batch[0].model, batch[0].output, n_rows) and self._answer(batch)):
                self._waiting.extendleft(reversed(batch))
                self.queued_rows += n_rows
            if self._waiting:
                self._changed.notify()

    def _withdraw(self, work: Work) -> None:
        """Forget work that nobody waits for: it must not count, nor hold its rows."""
        with self._changed:
            if work in self._waiting:
                self._waiting.remove(work)
                self._free(work)

    # Under the lock

    def _has_room(self, work: Work) -> bool:
        own = sum(len(other.rows) for other in self._waiting if other.peer == work.peer)
        n_peers = len({work.peer, *(other.peer for other in self._waiting)})
        limit = self._limits.max_queued_rows
        # Others may have filled up even what there is beyond the limit. Who has nothing there gets a little in.
        is_first_and_small = not own and len(work.rows) <= limit * FIRST_SHARE
        return is_first_and_small or has_room(len(work.rows), self.queued_rows, own, n_peers, limit)

    def _free(self, work: Work) -> None:
        self.queued_rows -= len(work.rows)
        self._make_room()

    def _make_room(self) -> None:
        for room in self._for_room:
            room.get_loop().call_soon_threadsafe(_settle, room, None)
        self._for_room.clear()

    def _take(self) -> list[Work]:
        """Take the first work and all that can be computed with it, in their order; drop the unwanted."""
        batch: list[Work] = []
        kept: deque[Work] = deque()
        n_rows = 0
        for work in self._waiting:
            fits = not batch or (batch[0].goes_with(work) and n_rows + len(work.rows) <= self._limits.max_batch_rows)
            if work.is_wanted() and not fits:
                kept.append(work)
                continue
            self._free(work)
            if work.is_wanted():  # else its caller is gone, or about to learn that its deadline has passed
                batch.append(work)
                n_rows += len(work.rows)
        self._waiting = kept
        return batch

    # On the thread, or for quick models on the event loop

    def _run(self) -> None:
        while True:
            self._answer_apart(self._wait_for_batch())  # kept in no variable, which would hold its rows till the next

    def _wait_for_batch(self) -> list[Work]:
        with self._changed:
            self._busy = False
            while not self._waiting:
                self._changed.wait()
            self._busy = True
            return self._take()

    def _answer_apart(self, batch: list[Work]) -> None:
        """Answer a batch. Where one request is at fault, halve it until that one fails alone: the others succeed."""
        if not self._answer(batch):
            middle = len(batch) // 2
            self._answer_apart(batch[:middle])
            self._answer_apart(batch[middle:])

    def _answer(self, batch: list[Work]) -> bool:
        """Compute a batch and settle its futures; False if several requests failed together."""
        batch = [work for work in batch if work.is_wanted()]
        if not batch:
            return True
        try:
            outcomes: Sequence[Result | Exception] = self._compute(batch)
        except Exception as error:
            if len(batch) > 1:
                return False
            outcomes = [error]
        # Once for the batch: to wake the loop costs more than to settle a call. All are of one loop, the server's.
        futures = [work.future for work in batch]
        futures[0].get_loop().call_soon_threadsafe(_settle_all, futures, outcomes)
        return True

    def _compute(self, batch: Sequence[Work]) -> list[Result]:
        start_ns, start_thread_ns = time.perf_counter_ns(), time.thread_time_ns()
        first, rows = batch[0], Rows.concat([work.rows for work in batch])
        predict = _predict_in_pieces if len(rows) > PIECE_ROWS else _predict
        result = predict(first, rows)
        end_ns, n_rows = time.perf_counter_ns(), len(rows)
        computed_ns = time.thread_time_ns() - start_thread_ns
        self.quick.record(first.model, first.output, n_rows, end_ns - start_ns, computed_ns)
        results, end = [], 0
        for work in batch:
            start, end = end, end + len(work.rows)
            results.append(result.take(slice(start, end)))
            work.watch.add("queue", work.submitted_ns, start_ns)
            work.watch.add("predict", start_ns, end_ns)
            work.watch.batch_rows = max(work.watch.batch_rows, n_rows)
        return results


def _predict(work: Work, rows: Rows) -> Result:
    return work.model.predict_rows(rows, work.output)


def _predict_in_pieces(work: Work, rows: Rows) -> Result:
    """Predict a large table piece by piece, and stop where nobody waits for it any more. A row's result stays the same.

    Raises DeadlineExceeded where nobody does.
    """
    results, start, n_rows = [], 0, PIECE_ROWS
    while start < len(rows):
        if not work.is_wanted():
            raise DeadlineExceeded("nobody waits for this any more")
        start_ns = time.perf_counter_ns()
        results.append(_predict(work, rows.take(slice(start, start + n_rows))))
        start += n_rows
        if time.perf_counter_ns() - start_ns < PIECE_NS:
            n_rows *= 2
    return replace(results[0], values=np.concatenate([result.values for result in results]))


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
