"""Callers that ask one server, or several, all the time, and look at each answer."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Self

import numpy as np
import pandas as pd

from pred_server import Client

CALLERS = 3  # of each kind, each with a connection of its own
LARGE = 100_000  # rows of a table that is sent in several chunks


class Callers:
    """Threads that ask without a pause until the block ends. Everything that is not the right answer is kept.

    Parameters
    ----------
    runs : what each thread does. It returns soon after `ends` is set
    """

    def __init__(self, *runs: Callable[[], None]):
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self.ends = threading.Event()
        self._threads = [threading.Thread(target=run) for run in runs]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ends.set()
        for thread in self._threads:
            thread.join()


class Load(Callers):
    """Callers of the model `sum`.

    `resume` says whether streams go on where they broke. One that stops lets them end; one that is killed does not.
    """

    def __init__(self, target: str, resume: bool = False):
        self._target = target
        self._resume = resume
        kinds: list[Callable[[Client, int], bool]] = [self.unary, self.stream, self.large]
        super().__init__(
            *(
                partial(self._run, kind, 10_000_000 * number)
                for kind in kinds
                for number in range(CALLERS if kind != self.large else 1)
            )
        )

    def unary(self, client: Client, y: int) -> bool:
        return bool(client.predict(pd.DataFrame({"x": [0.5], "y": [float(y)]}), encoding="csv").tolist() == [y + 0.5])

    def stream(self, client: Client, y: int) -> bool:
        chunks = (pd.DataFrame({"x": [0.5], "y": [float(y + number)]}) for number in range(5))
        got = [part.tolist() for part in client.predict_stream(chunks, encoding="columns", resume=self._resume)]
        return got == [[y + number + 0.5] for number in range(5)]

    def large(self, client: Client, y: int) -> bool:
        x = np.arange(LARGE) + float(y)
        return bool((client.predict(pd.DataFrame({"x": x, "y": 0.5}), resume=self._resume).to_numpy() == x + 0.5).all())

    def _run(self, ask: Callable[[Client, int], bool], first: int) -> None:
        with Client(self._target) as client:
            for y in itertools.count(first):
                if self.ends.is_set():
                    return
                try:
                    if not ask(client, y):
                        self.faults.append(f"{ask.__name__}: a wrong answer")
                    self.answers[ask.__name__] += 1
                except Exception as error:
                    self.faults.append(f"{ask.__name__}: {error!r}")

    def wait_for_answers(self) -> None:
        """Wait until callers of each kind have had some more answers, or one has a fault."""
        before, pause = self.answers.copy(), threading.Event()
        for _ in range(6_000):
            news = [self.answers[kind] - before[kind] for kind in ("unary", "stream", "large")]
            if self.faults or min(news) >= 2:
                return
            pause.wait(0.01)
        raise AssertionError(f"callers wait for answers: {before} before, {self.answers} now")
