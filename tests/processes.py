"""Which processes a test has started, and which of them still run."""

from collections.abc import Iterable

import psutil


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run. A zombie does not: it has ended, and its exit code waits to be read."""
    return [process for process in processes if _runs(process)]


def children() -> list[psutil.Process]:
    """Return the running processes that this one has started, and theirs."""
    return running(psutil.Process().children(recursive=True))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False
