"""Watch a server while something is done to it: its memory, its health, and one caller who does no harm.

All is measured in a process of its own, so that a notebook which is busy with attacking does not slow its own clock.
"""

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import grpc
import pandas as pd
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from pred_server.checkout import ROOT
from pred_server.client.client import Client
from pred_server.errors import PredServerError
from pred_server.generated.pred_pb2 import Request
from pred_server.limits import MIB
from pred_server.wire.address import parse_target

MEMORY, HEALTH, CALL = "memory", "health", "a good caller"
# Seconds between two looks, and the longest time to wait for an answer.
PERIODS_S = {MEMORY: 0.01, HEALTH: 0.05, CALL: 0.05}
HEALTH_TIMEOUT_S, CALL_TIMEOUT_S = 2.0, 10.0


class Vitals(AbstractContextManager["Vitals"]):
    """Use it in a `with` statement. Afterwards it has `samples` and `spans`; times are seconds from its beginning.

    Parameters
    ----------
    processes : the processes whose memory is watched: their ids, by name
    request : what the good caller asks for, again and again, with a client that tries again

    Attributes
    ----------
    samples : DataFrame with the columns kind (memory, health, a good caller), name (of the process whose memory it is),
        at_s (when it was asked for), value (MiB, or milliseconds until the answer) and code (OK, or why there was none)
    spans : what was done, from when to when; `during` adds one
    """

    samples: pd.DataFrame

    def __init__(self, address: str, processes: Mapping[str, int], request: Request):
        self.spans: dict[str, tuple[float, float]] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from pred_server.lab.vitals import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout
        pickle.dump((address, dict(processes), request.SerializeToString()), self._process.stdin)
        self._process.stdin.flush()
        self._begin_s = pickle.load(self._process.stdout)

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Note from when to when something is done."""
        start_s = time.monotonic()
        try:
            yield
        finally:
            self.spans[what] = (start_s - self._begin_s, time.monotonic() - self._begin_s)

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        lines = pickle.load(self._process.stdout)
        self._process.wait()
        self._process.stdout.close()
        self.samples = pd.DataFrame(lines, columns=["kind", "name", "at_s", "value", "code"])
        self.samples["at_s"] -= self._begin_s


def main() -> None:
    """Be the process that watches, until standard input ends."""
    address, processes, data = pickle.load(sys.stdin.buffer)
    request = Request.FromString(data)
    client = Client(address, timeout_s=CALL_TIMEOUT_S)
    health = HealthStub(grpc.insecure_channel(parse_target(address)[0], [("grpc.max_reconnect_backoff_ms", 200)]))
    asks: dict[tuple[str, str], Callable[[], Any]] = {
        (HEALTH, ""): lambda: health.Check(HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S),
        (CALL, ""): lambda: client.call(request),
        **{(MEMORY, name): partial(_memory_mib, psutil.Process(pid)) for name, pid in processes.items()},
    }
    lines: list[tuple[str, str, float, float, str]] = []
    over = threading.Event()

    def watch(kind: str, name: str) -> None:
        while True:
            start_s, value, code = time.monotonic(), None, "OK"
            try:
                value = asks[kind, name]()
            except psutil.Error:  # the process has ended
                return
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                code = error.code().name
            except PredServerError as error:
                code = error.code
            took_ms = 1_000 * (time.monotonic() - start_s)
            lines.append((kind, name, start_s, value if isinstance(value, float) else took_ms, code))
            if over.wait(PERIODS_S[kind]):
                return

    threads = [threading.Thread(target=watch, args=key, daemon=True) for key in asks]
    for ask in asks.values():
        ask()  # connects
    for thread in threads:
        thread.start()
    pickle.dump(time.monotonic(), sys.stdout.buffer)
    sys.stdout.buffer.flush()
    sys.stdin.buffer.read()
    over.set()
    for thread in threads:
        thread.join(CALL_TIMEOUT_S)
    pickle.dump(lines, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _memory_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss / MIB)
