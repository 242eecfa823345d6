"""The server's part of a call's time: a stopwatch, and the text that carries its phases."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SERVER_PHASES = ("decode", "queue", "predict", "encode")


class Stopwatch:
    """Milliseconds by phase. A stream times a phase often, and in several threads: the times add up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.phases_ms: dict[str, float] = {}
        self.batch_rows = 0

    def add(self, phase: str, since_ns: int, until_ns: int) -> None:
        with self._lock:
            self.phases_ms[phase] = self.phases_ms.get(phase, 0.0) + (until_ns - since_ns) / 1e6

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Return a context whose time counts for a phase."""
        start_ns = time.perf_counter_ns()
        try:
            yield
        finally:
            self.add(phase, start_ns, time.perf_counter_ns())

    def header(self) -> str:
        """Return the times as a `Server-Timing` value (https://www.w3.org/TR/server-timing/), in milliseconds.

        `batch` has no duration: it is the largest number of rows that the model computed together.
        """
        parts = [f"{phase};dur={self.phases_ms[phase]:.3f}" for phase in SERVER_PHASES if phase in self.phases_ms]
        if self.batch_rows:
            parts.append(f'batch;desc="{self.batch_rows} rows"')
        return ", ".join(parts)


def parse_header(text: str) -> tuple[dict[str, float], int]:
    """Return milliseconds by phase, and the rows of the batch (0 if unknown), from a `Server-Timing` value."""
    phases = {name: float(ms) for name, ms in re.findall(r"([\w-]+);dur=(\d+(?:\.\d+)?)", text)}
    batch = re.search(r'batch;desc="(\d+)', text)
    return phases, int(batch[1]) if batch else 0
