"""How much memory processes need at most, as Linux counts it."""

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pred_server.limits import KIB


def resident_mib(pids: Iterable[int]) -> dict[int, float]:
    """Return the memory that processes have now, in MiB, and have the system count their peaks anew."""
    for pid in pids:
        with suppress(OSError):  # the process has ended, or this is not Linux
            Path(f"/proc/{pid}/clear_refs").write_text("5")
    return {pid: _mib(pid, "VmRSS") for pid in pids}


def growth_mib(before: dict[int, float]) -> float:
    """Return by how much processes have grown at most since `resident_mib`, in MiB; NaN if it is not known."""
    grown = [_mib(pid, "VmHWM") - mib for pid, mib in before.items()]
    return sum(grown) if grown else float("nan")


def _mib(pid: int, what: str) -> float:
    try:
        (kib,) = re.findall(rf"^{what}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return float("nan")
    return int(kib) / KIB
