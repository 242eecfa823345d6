"""The one place where predictions are computed: a thread that takes what waits, as one call of the model.

No timer collects a batch. While the model computes, requests wait; when it is free, it takes all that wait for the same
model, up to a number of rows. An idle server adds no delay, a busy one batches by itself.

To wake a thread costs a tenth of a millisecond, more than some models take for a row. Such a model is asked on the
event loop, which that holds up for `INLINE_NS` at the most, or for `INLINE_ALONE_NS` if no other call is there.
"""

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from pred_server.aligned import Aligned, concat, count_rows
from pred_server.errors import DeadlineExceeded, LimitExceeded
from pred_server.limits import Limits, flag
from pred_server.model import Model

INLINE_ROWS = 64
INLINE_NS = 100_000
INLINE_ALONE_NS = 1_000_000


@dataclass(frozen=True)
class Computed:
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
        return not self.future.done()

    def same_kind(self, other: "_Work") -> bool:
        return self.model is other.model and self.output == other.output


class Predictor:
    """Computes on one thread that lives as long as the server: OpenMP keeps a pool for each thread that calls it."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._waiting: deque[_Work] = deque()
        self._queued_rows = 0
        self._changed = threading.Condition()
        self._busy = False
        self._slowest_ns: dict[tuple[int, str], float] = {}  # of late, for few rows, by model and output
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    async def predict(
        self, model: Model, table: Aligned, output: str, deadline_s: float, alone: bool = False
    ) -> Computed:
        """Compute the predictions for a table that the model's schema aligned.

        Parameters
        ----------
        output : "labels" or "probabilities"
        deadline_s : on the clock of time.monotonic; work that still waits then is not computed, nor is work whose
            caller was cancelled
        alone : whether no other call is in flight

        Raises
        ------
        LimitExceeded
            Too many rows wait already.
        DeadlineExceeded
            The deadline passed before the computation began.
        InvalidInput
            The estimator refuses the values, or has no probabilities.
        """
        loop = asyncio.get_running_loop()
        n_rows = count_rows(table)
        work = _Work(model, table, output, deadline_s, loop, loop.create_future(), n_rows)
        with self._changed:
            if not (self._busy or self._waiting) and self._is_quick(work, alone):
                return self._compute_now([work])[0]
            limit = self._limits.max_queued_rows
            if self._queued_rows and self._queued_rows + n_rows > limit:
                message = f"{self._queued_rows:,} rows wait already; come back later"
                raise LimitExceeded(message, "OVERLOADED", limit, flag("max_queued_rows"))
            self._queued_rows += n_rows
            self._waiting.append(work)
            self._changed.notify()
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                return await work.future
        except TimeoutError:
            allowed = f"{flag('max_deadline_s')} is {self._limits.max_deadline_s:g}"
            raise DeadlineExceeded(
                f"this took longer than the deadline, or than the server allows ({allowed})"
            ) from None

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                batch = self._take()
                self._busy = bool(batch)
            if batch:
                self._compute(batch)
                self._busy = False

    def _take(self) -> list[_Work]:
        """Take the first piece of work and those that can be computed with it, in their order; drop the unwanted."""
        taken: list[_Work] = []
        kept: deque[_Work] = deque()
        rows = 0
        for work in self._waiting:
            late = time.monotonic() >= work.deadline_s
            fits = not taken or (taken[0].same_kind(work) and rows + work.n_rows <= self._limits.max_batch_rows)
            if not work.is_wanted() or late:
                self._queued_rows -= work.n_rows
                if late:
                    _deliver(work, DeadlineExceeded("the deadline passed before the model was free"))
            elif fits:
                taken.append(work)
                rows += work.n_rows
                self._queued_rows -= work.n_rows
            else:
                kept.append(work)
        self._waiting = kept
        return taken

    def _is_quick(self, work: _Work, alone: bool) -> bool:
        slowest_ns = self._slowest_ns.get((id(work.model), work.output), float("inf"))
        return work.n_rows <= INLINE_ROWS and slowest_ns <= (INLINE_ALONE_NS if alone else INLINE_NS)

    def _compute(self, batch: list[_Work]) -> None:
        try:
            for work, computed in zip(batch, self._compute_now(batch), strict=True):
                _deliver(work, computed)
        except Exception as error:
            if len(batch) == 1:
                _deliver(batch[0], error)
            else:  # one of them is at fault, and the others need not know
                for work in batch:
                    self._compute([work])

    def _compute_now(self, batch: list[_Work]) -> list[Computed]:
        start_ns = time.perf_counter_ns()
        first = batch[0]
        table = concat([work.table for work in batch])
        n_rows = count_rows(table)
        values = first.model.predict_aligned(table, first.output)
        predict_ns = time.perf_counter_ns() - start_ns
        if n_rows <= INLINE_ROWS:
            key = (id(first.model), first.output)
            self._slowest_ns[key] = max(predict_ns, 0.95 * self._slowest_ns.get(key, 0.0))
        found, end = [], 0
        for work in batch:
            start, end = end, end + work.n_rows
            found.append(Computed(values[start:end], start_ns - work.submitted_ns, predict_ns, n_rows))
        return found


def _deliver(work: _Work, outcome: Computed | Exception) -> None:
    def settle() -> None:
        if not work.is_wanted():
            return
        if isinstance(outcome, Computed):
            work.future.set_result(outcome)
        else:
            work.future.set_exception(outcome)

    work.loop.call_soon_threadsafe(settle)
