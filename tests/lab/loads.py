"""What the tests of both generators do: keep a schedule, and call a server that is stopped meanwhile."""

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import psutil
import pytest

from pred_server.lab.load import Generator, Segment
from pred_server.lab.ways import Target


def check_schedules(generator: Generator, target: Target) -> None:
    """Check that calls of an open loop are due when they should be, and are not sent before."""
    segments = [
        Segment(target.arm.name, 300, rate_per_s=1_000, arrivals=way, labels={"way": way})
        for way in ("constant", "poisson")
    ]
    found = generator.run([target], segments)
    gaps_ms = found.groupby("way")["scheduled_ns"].diff().dropna() / 1e6
    constant, poisson = (gaps_ms[found["way"] == way] for way in ("constant", "poisson"))
    assert np.allclose(constant, 1, atol=1e-3)
    assert poisson.mean() == pytest.approx(1, rel=0.3)
    assert poisson.std() == pytest.approx(1, rel=0.3)
    assert (found["sent_ns"] >= found["scheduled_ns"]).all()


def stopped_meanwhile(
    pid: int, run: Callable[[], pd.DataFrame], stop_s: float, busy_s: float
) -> tuple[pd.DataFrame, float]:
    """Run a load, and stop the server's process once it has computed for `busy_s`.

    Returns
    -------
    The calls, all of them answered, and for how many seconds the process really stood still
    """
    process = psutil.Process(pid)

    def used_s() -> float:
        times = process.cpu_times()
        return times.user + times.system

    found: list[pd.DataFrame] = []
    before_s = used_s()
    running = threading.Thread(target=lambda: found.append(run()))
    running.start()
    while used_s() < before_s + busy_s:  # until the load has been on for a while
        assert running.is_alive()
        time.sleep(0.001)
    stopped_s = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(stop_s)
    finally:
        os.kill(pid, signal.SIGCONT)
        lasted_s = time.monotonic() - stopped_s
    running.join()
    (calls,) = found
    assert calls["ok"].all()
    return calls, lasted_s
