"""What the process takes of the machine's memory, and what its allocator keeps."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from pred_server.limits import MIB

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
# Threads share so many heaps, each of which keeps some of what was freed.
ARENAS = 4


def resident_bytes() -> int:
    """Return how much memory this process has; 0 where the system does not say."""
    with suppress(OSError, ValueError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def keep_freed_memory() -> None:
    """Have malloc keep what a chunk of a stream took for the next: the kernel would clear each page anew.

    Every heap may keep as much, and `malloc_trim` takes it from the first alone: so it must not be more, and of few.
    """
    # Arrow's own allocator keeps what a thread has freed until that thread asks again.
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError, OSError):  # glibc has it, others do not
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, 8 * MIB)
        mallopt(M_TRIM_THRESHOLD, 8 * MIB)


def release_unused() -> None:
    """Give the memory back that was freed and kept."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
