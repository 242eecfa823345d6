"""How long server processes have computed, which tells costs apart that latency cannot."""

import ctypes
import time
from collections.abc import Iterable

import psutil


def with_workers(pids: Iterable[int]) -> tuple[int, ...]:
    """Return these processes and all that they have started; those that have ended are left out."""
    found = []
    for pid in pids:
        if psutil.pid_exists(pid):
            process = psutil.Process(pid)
            found += [pid, *(child.pid for child in process.children(recursive=True))]
    return tuple(dict.fromkeys(found))


def cpu_ms(pids: Iterable[int]) -> float:
    """Return the milliseconds that these processes have computed, in all their threads; NaN if there are none.

    Each process has a clock of its own (`clock_getcpuclockid`). Where a system has no such clocks, its own count is
    taken, which goes by hundredths of a second.
    """
    times = [_one_ms(pid) for pid in pids]
    return sum(times) if times else float("nan")


def _one_ms(pid: int) -> float:
    clock, libc = ctypes.c_int(), ctypes.CDLL(None)
    try:
        if hasattr(libc, "clock_getcpuclockid") and libc.clock_getcpuclockid(pid, ctypes.byref(clock)) == 0:
            return time.clock_gettime_ns(clock.value) / 1e6
        used = psutil.Process(pid).cpu_times()
        return float(used.user + used.system) * 1e3
    except (OSError, psutil.Error):  # the process has ended
        return float("nan")
