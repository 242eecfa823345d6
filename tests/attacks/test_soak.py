"""A server that has answered many calls has what it had before. `make soak` makes 200,000."""

import os

from tests.attacks.soak import GROWN_MIB, MORE_THREADS, soak

CALLS = int(os.environ.get("SOAK", "4000"))


def test_nothing_grows() -> None:
    first, last = soak(CALLS)
    assert last.resident_mib < first.resident_mib + GROWN_MIB
    assert last.n_descriptors <= first.n_descriptors
    assert last.n_threads <= first.n_threads + MORE_THREADS
