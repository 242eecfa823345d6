"""Experiments: call things side by side, in blocks of shuffled A-B-B-A order, and keep every single latency."""

import os
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from pred_server.model import ROOT

Caller = Callable[[pd.DataFrame], object]


def latency_by_rows(
    arms: Mapping[str, Caller],
    table: pd.DataFrame,
    rows: Sequence[int] = (1, 10, 100, 1_000, 10_000),
    blocks: int = 10,
    calls: int = 5,
    warmup: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Time the arms on the same rows, closed loop, one caller.

    Parameters
    ----------
    arms : what to compare: names and functions that take a table; a call that raises counts as failed
    table : DataFrame to draw rows from, with replacement where it has fewer than asked for
    blocks : repetitions; in each, all arms run in a shuffled order and then in its reverse
    calls : calls of each arm in each half of a block
    warmup : calls of each arm before the first block, not recorded

    Returns
    -------
    DataFrame with the columns arm, rows, block, call, latency_ms, ok: one row a call
    """
    rng = random.Random(seed)
    found: list[tuple[str, int, int, int, float, bool]] = []
    with tqdm(total=len(rows) * blocks, desc="measure", unit="block", disable=not progress) as bar:
        for n in rows:
            batch = table.sample(n, replace=n > len(table), random_state=seed)
            for caller in arms.values():
                for _ in range(warmup):
                    _time_call(caller, batch)
            for block in range(blocks):
                order = rng.sample(list(arms), len(arms))
                for half, arm in enumerate([*order, *reversed(order)]):
                    first = 0 if half < len(order) else calls
                    for call in range(first, first + calls):
                        found.append((arm, n, block, call, *_time_call(arms[arm], batch)))
                bar.update()
    return pd.DataFrame(found, columns=["arm", "rows", "block", "call", "latency_ms", "ok"])


def _time_call(caller: Caller, batch: pd.DataFrame) -> tuple[float, bool]:
    start_ns = time.perf_counter_ns()
    try:
        caller(batch)
        ok = True
    except Exception:
        ok = False
    return (time.perf_counter_ns() - start_ns) / 1e6, ok


def stamp(seed: int) -> dict[str, Any]:
    """What one must know to run a measurement again: versions, machine, revision, seed, command."""
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("grpcio", "protobuf", "pandas", "scikit-learn", "numpy", "pyarrow")},
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinning": "none",
        "os": platform.system(),
        "revision": git.stdout.strip() or "unknown",
        "seed": seed,
        "command": shlex.join(["python", *(arg for arg in sys.orig_argv[1:])]),
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as info:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
