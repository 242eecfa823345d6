"""Which processes a test has started."""

import psutil


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run. One that has ended stays a zombie where nobody collects orphans."""
    return [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def children() -> list[psutil.Process]:
    """Return the running processes that this one has started, and theirs."""
    return running(psutil.Process().children(recursive=True))
