"""What runs beside an attack: good callers, a health probe, and a look at the server's memory."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pandas as pd
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pred_server import Client
from pred_server.limits import MIB
from pred_server.tutorial.background import Server
from pred_server.wire.codec import CODECS

PROBE_DEADLINE_S = 10.0
GOOD_DEADLINE_S = 60.0
GOOD_PAUSE_S, PROBE_PAUSE_S, LOOK_PAUSE_S = 0.01, 0.1, 0.02
GOOD_ROWS = (1, 1, 1, 50, 3_000)
# What a server may keep of an attack. An allocator never gives back all.
KEPT_MIB = 64


@dataclass
class Outcome:
    """What was seen during an attack."""

    good_ms: list[float] = field(default_factory=list)
    """The times of good calls of one row."""
    n_good: int = 0
    wrong: list[str] = field(default_factory=list)
    health_ms: list[float] = field(default_factory=list)
    unhealthy: list[str] = field(default_factory=list)
    before_mib: float = 0.0
    peak_mib: float = 0.0

    @property
    def median_ms(self) -> float:
        return statistics.median(self.good_ms) if self.good_ms else float("inf")

    @property
    def slowest_health_ms(self) -> float:
        return max(self.health_ms, default=float("inf"))


def resident_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / MIB


@contextmanager
def beside(address: str, pid: int, n_good: int = 1) -> Iterator[Outcome]:
    """Run good callers of the model `sum`, and a health probe, while the block runs; and look at the memory.

    Parameters
    ----------
    n_good : how many good callers; 0 for a server that predicts nothing
    """
    outcome = Outcome(before_mib=resident_mib(pid))
    over = threading.Event()
    works = [lambda seed=seed: _ask_well(address, seed, outcome, over) for seed in range(n_good)]
    works += [lambda: _probe(address, outcome, over), lambda: _look(pid, outcome, over)]
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield outcome
    finally:
        over.set()
        for thread in threads:
            thread.join(2 * GOOD_DEADLINE_S)


def _ask_well(address: str, seed: int, outcome: Outcome, over: threading.Event) -> None:
    rng = np.random.default_rng(seed)
    with Client(address, timeout_s=GOOD_DEADLINE_S) as client:
        while True:
            n_rows, encoding = int(rng.choice(GOOD_ROWS)), str(rng.choice(list(CODECS)))
            table = pd.DataFrame(rng.normal(size=(n_rows, 2)), columns=["x", "y"])
            start_ns = time.perf_counter_ns()
            try:
                served = client.predict(table, encoding=encoding)
            except Exception as error:
                outcome.wrong.append(f"{n_rows} rows as {encoding}: {type(error).__name__}: {error}")
            else:
                outcome.n_good += 1
                if n_rows == 1:
                    outcome.good_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
                if served.to_numpy().tobytes() != (table["x"] + table["y"]).to_numpy().tobytes():
                    outcome.wrong.append(f"{n_rows} rows as {encoding}: other numbers")
            if over.wait(GOOD_PAUSE_S):
                return


def _probe(address: str, outcome: Outcome, over: threading.Event) -> None:
    """Ask for health on a connection of its own, as a probe does. Each probe has its deadline."""
    asked = health_pb2.HealthCheckRequest()
    while True:
        start_ns = time.perf_counter_ns()
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                health_pb2_grpc.HealthStub(channel).Check(asked, timeout=PROBE_DEADLINE_S, wait_for_ready=True)
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                outcome.unhealthy.append(f"{error.code().name}: {error.details()}")
            outcome.health_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
        if over.wait(PROBE_PAUSE_S):
            return


def _look(pid: int, outcome: Outcome, over: threading.Event) -> None:
    while True:
        try:
            outcome.peak_mib = max(outcome.peak_mib, resident_mib(pid))
        except psutil.NoSuchProcess:
            outcome.wrong.append("the server is gone")
            return
        if over.wait(LOOK_PAUSE_S):
            return


def warm_up(server: Server) -> None:
    """Have the server import what it needs, and allocate what it keeps."""
    client = server.client()
    for encoding in CODECS:
        client.predict(np.ones((100_000, 2)), encoding=encoding, stream=False)
        client.predict(np.ones((1, 2)), encoding=encoding)
