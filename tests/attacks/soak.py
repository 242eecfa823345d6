"""`make soak`: many calls of every kind, good and bad, and nothing that grows.

python -m tests.attacks.soak [CALLS]
"""

import itertools
import os
import sys
from dataclasses import dataclass

import numpy as np
import psutil

from pred_server import serve
from pred_server.errors import PredServerError
from pred_server.limits import MIB
from pred_server.tutorial.background import Server
from pred_server.wire.codec import CODECS
from tests.waits import comes_true

CALLS = 200_000
GROWN_MIB = 10
# A pool of threads grows until all of them were busy at once: the server has three pools.
MORE_THREADS = 3 * (os.cpu_count() or 1)
# Of the calls, so many come before the first look: caches and pools fill.
WARM_UP = 0.25
ROWS = (1, 1, 1, 1, 10, 200, 3_000)


@dataclass
class Look:
    """What a server has."""

    resident_mib: float
    n_descriptors: int
    n_threads: int


def look(server: Server) -> Look:
    process = psutil.Process(server.pid)
    with process.oneshot():
        return Look(process.memory_info().rss / MIB, process.num_fds(), process.num_threads())


def ask(server: Server, n_calls: int, n_connections: int = 4) -> None:
    """Make calls: of every encoding, some in streams, every tenth refused, every thousandth on a new connection."""
    rng = np.random.default_rng(0)
    clients = [server.client() for _ in range(n_connections)]
    tables = [rng.normal(size=(n_rows, 2)) for n_rows in ROWS]
    sums = [(table[:, 0] + table[:, 1]).tolist() for table in tables]
    turns = itertools.product(CODECS, range(len(ROWS)))
    for number, (encoding, place) in zip(range(n_calls), itertools.cycle(turns), strict=False):
        client = clients[number % n_connections]
        if number % 1_000 == 999:
            with type(client)(server.address) as fresh:
                assert fresh.predict(tables[place]).tolist() == sums[place]
        elif number % 10 == 9:
            try:
                client.predict(np.ones((2, 3)), encoding=encoding)
            except PredServerError as error:
                assert error.code == "INVALID_ARGUMENT", error
            else:
                raise AssertionError("a table with too many columns was taken")
        else:
            stream = number % 10 == 8
            assert client.predict(tables[place], encoding=encoding, stream=stream).tolist() == sums[place]
    for client in clients:
        client.close()


def soak(n_calls: int) -> tuple[Look, Look]:
    """Return what a server has after a quarter of the calls, and after all."""
    with serve("sum") as server:
        ask(server, round(WARM_UP * n_calls))
        first = settled(server, look(server))
        ask(server, n_calls - round(WARM_UP * n_calls))
        return first, settled(server, first)


def settled(server: Server, first: Look) -> Look:
    """Look again until the connections are closed, and memory is given back."""

    def is_settled() -> bool:
        now = look(server)
        return now.n_descriptors <= first.n_descriptors and now.resident_mib < first.resident_mib + GROWN_MIB

    comes_true(is_settled, 20.0)
    return look(server)


def main() -> int:
    n_calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    first, last = soak(n_calls)
    print(f"{n_calls:,} calls; after a quarter of them {first}; at the end {last}")
    grows = last.resident_mib >= first.resident_mib + GROWN_MIB
    return int(grows or last.n_descriptors > first.n_descriptors or last.n_threads > first.n_threads + MORE_THREADS)


if __name__ == "__main__":
    sys.exit(main())
