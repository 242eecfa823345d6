"""How many threads OpenMP takes, which scikit-learn's boosting, neighbours and clusters compute with."""

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

# From so many rows on all cores compute; below, to wake the other threads costs more than they save.
LARGE_ROWS = 512

_here = threading.local()


def keep_to_one_thread() -> None:
    """Have OpenMP compute on the calling thread alone, for as long as that thread lives."""
    if not hasattr(_here, "is_kept"):
        _openmp().limit(limits=1)
        _here.is_kept = True


def threads_for(n_rows: int) -> AbstractContextManager[Any]:
    """Return a context in which OpenMP takes as many threads as are good for so many rows."""
    is_right = n_rows >= LARGE_ROWS or hasattr(_here, "is_kept")
    return nullcontext() if is_right else _openmp().limit(limits=1)


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
