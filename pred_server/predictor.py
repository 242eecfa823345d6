"""The one place where predictions are computed: a thread that takes what waits, as one call of the model.

No timer collects a batch. While the model computes, requests wait; when it is free, it takes all that wait for the same
model, up to a number of rows. An idle server adds no delay, a busy one batches by itself.
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
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    async def predict(self, model: Model, table: Aligned, output: str, deadline_s: float) -> Computed:
        """Compute the predictions for a table that the model's schema aligned.

        Parameters
        ----------
        output : "labels" or "probabilities"
        deadline_s : on the clock of time.monotonic; work that still waits then is not computed, nor is work whose
            caller was cancelled

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
            limit = self._limits.max_queued_rows
            if self._queued_rows and self._queued_rows + n_rows > limit:
                message = f"{self._queued_rows:,} rows wait already; come back later"
                raise LimitExceeded(message, "OVERLOADED", limit, flag("max_queued_rows"))
            self._queued_rows += n_rows
            self._waiting.append(work)
            self._changed.notify()
        return await work.future

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                batch = self._take()
            if batch:
                self._compute(batch)

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

    def _compute(self, batch: list[_Work]) -> None:
        start_ns = time.perf_counter_ns()
        first = batch[0]
        table = concat([work.table for work in batch])
        n_rows = count_rows(table)
        try:
            values = first.model.predict_aligned(table, first.output)
        except Exception as error:
            if len(batch) == 1:
                _deliver(first, error)
            else:  # one of them is at fault, and the others need not know
                for work in batch:
                    self._compute([work])
            return
        predict_ns = time.perf_counter_ns() - start_ns
        end = 0
        for work in batch:
            start, end = end, end + work.n_rows
            _deliver(work, Computed(values[start:end], start_ns - work.submitted_ns, predict_ns, n_rows))


def _deliver(work: _Work, outcome: Computed | Exception) -> None:
    def settle() -> None:
        if not work.is_wanted():
            return
        if isinstance(outcome, Computed):
            work.future.set_result(outcome)
        else:
            work.future.set_exception(outcome)

    work.loop.call_soon_threadsafe(settle)
