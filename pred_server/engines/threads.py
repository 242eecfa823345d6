"""Splits large tables among threads: each predicts rows of its own, and they meet once, at the end.

OpenMP, by which scikit-learn computes boosting, splits the rows for each tree, and its threads meet after each. Where a
client, or anything else, runs on one of the cores, all of them wait for it as many times as there are trees. Threads
that have rows of their own wait once, and none of them spins meanwhile.

Whether that pays depends on the model: some hold Python's lock while they compute. So it is measured at the start.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pred_server.limits import cores
from pred_server.model.model import Model
from pred_server.model.sklearn_engine import NEAREST_ROWS, Engine
from pred_server.model.threads import keep_to_one_thread
from pred_server.wire.rows import Rows

# A size is measured so many times, both ways; sizes grow by a factor, for so long.
ROUNDS, FIRST_ROWS, FACTOR, CALIBRATION_S = 3, 16, 4, 0.3
# No larger table is made for it.
MOST_VALUES = 1_000_000
# What is saved must be more than the measurement may be wrong by.
WORTH = 0.9


def with_threads(model: Model, n_threads: int = 0, from_rows: int = 0) -> Model:
    """Return the same model, whose large tables are split among threads; `Model.threads` says how.

    Parameters
    ----------
    n_threads : how many; 0 means one for each core that this process may use, and no more than OMP_NUM_THREADS says
    from_rows : the rows of the smallest table that is split; 0 finds out, from the model's sample, within
        `CALIBRATION_S`. A table larger than all that were tried is not split if none of those gained by it.
    """
    n_threads = n_threads or usable_cores()
    engine = SplitEngine(model.engine, n_threads)
    if n_threads > 1:
        engine.from_rows = from_rows or _calibrate(model, engine)
    split = engine.from_rows < math.inf
    said = f"{n_threads} from {engine.from_rows:,} rows on, 1 below" if split else "1"
    return dataclasses.replace(model, engine=engine, threads=said)


def usable_cores() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(said)) if said.isdecimal() and int(said) else cores()


class SplitEngine:
    """An engine that asks another one for parts of a table, on several threads; each has one of OpenMP's."""

    from_rows: float = math.inf

    def __init__(self, engine: Engine, n_threads: int):
        self.name = engine.name
        self.engine = engine
        self._n_threads = n_threads
        self._others = ThreadPoolExecutor(max(1, n_threads - 1), "rows", initializer=keep_to_one_thread)

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        keep_to_one_thread()
        return self.predict_split(rows, output) if len(rows) >= self.from_rows else self.engine.predict(rows, output)

    def predict_split(self, rows: Rows, output: str) -> np.ndarray:
        """Predict on all threads. Parts are whole blocks of rows, of any engine: so a row's result stays the same."""
        step = max(1, math.ceil(len(rows) / self._n_threads / NEAREST_ROWS)) * NEAREST_ROWS
        first, *others = [rows.take(slice(start, start + step)) for start in range(0, len(rows), step)]
        waiting = [self._others.submit(self.engine.predict, part, output) for part in others]
        return np.concatenate([self.engine.predict(first, output), *(part.result() for part in waiting)])


def _calibrate(model: Model, engine: SplitEngine) -> float:
    """Return from how many rows on a table is predicted sooner by all threads than by one; infinity if none was."""
    if model.sample is None or len(model.sample) == 0:
        return math.inf
    keep_to_one_thread()
    until_s = time.perf_counter() + CALIBRATION_S
    sample, n_rows, one_s = model.schema.frame_to_rows(model.sample), FIRST_ROWS, 0.0
    engine.engine.predict(sample.take(slice(1)), "labels")  # the first call sets things up
    # A table that is FACTOR times as large takes FACTOR times as long, or less.
    while time.perf_counter() + 2 * FACTOR * one_s < until_s and n_rows * len(model.schema.columns) <= MOST_VALUES:
        rows = sample.take(np.arange(n_rows) % len(sample))
        one_s = all_s = math.inf
        for _ in range(ROUNDS):
            one_s = min(one_s, _took_s(engine.engine.predict, rows))
            if n_rows > NEAREST_ROWS:  # else there is one part
                all_s = min(all_s, _took_s(engine.predict_split, rows))
            if time.perf_counter() + 2 * one_s > until_s:
                break
        if all_s < WORTH * one_s:
            return n_rows
        n_rows *= FACTOR
    return math.inf


def _took_s(predict: Callable[[Rows, str], np.ndarray], rows: Rows) -> float:
    start_s = time.perf_counter()
    predict(rows, "labels")
    return time.perf_counter() - start_s
