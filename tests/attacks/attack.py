"""One attacker: a process of the lowest priority that repeats an attack for some seconds, within bounds of its own.

    python -m tests.attacks.attack ADDRESS KIND SECONDS SEED

It prints what it did as JSON: rounds, calls, bytes, connections, and seconds.
"""

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from pred_server.checkout import ROOT
from tests.attacks.http2 import Connection, Gone

LOWEST_PRIORITY = 19
# What an attacker may take: the machine is to be shared with the server that is attacked, and with those who watch.
MOST_MEMORY = 3 << 30  # bytes of addresses
MOST_CONNECTIONS = 200  # at the same time
MOST_CALLS = 200_000
MOST_BYTES = 8 << 30
# A server that refuses connections is not asked again at once.
PAUSE_S = 0.05


class Attack:
    """What an attack may use: connections, chance, and a clock."""

    def __init__(self, address: str, seconds: float, seed: int):
        self.address = address
        self.rng = random.Random(seed)
        self.n_rounds = self.n_connections = self._n_calls = self._n_bytes = 0
        self._end_s = time.monotonic() + seconds
        self._open: list[Connection] = []

    @property
    def left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())

    @property
    def is_over(self) -> bool:
        return not self.left_s or self.n_calls > MOST_CALLS or self.n_bytes > MOST_BYTES

    @property
    def n_calls(self) -> int:
        return self._n_calls + sum(connection.n_calls for connection in self._open)

    @property
    def n_bytes(self) -> int:
        return self._n_bytes + sum(connection.n_bytes for connection in self._open)

    def connect(self, **options: Any) -> Connection:
        """Open a connection, which stays open until the round fails or the attack is over."""
        if len(self._open) >= MOST_CONNECTIONS:
            self.disconnect()
        self._open.append(connection := Connection(self.address, **options))
        self.n_connections += 1
        return connection

    def connection(self) -> Connection:
        """Return a connection that the rounds share."""
        return self._open[0] if self._open else self.connect()

    def disconnect(self) -> None:
        """Close all connections."""
        self._n_calls, self._n_bytes = self.n_calls, self.n_bytes
        for connection in self._open:
            connection.close()
        self._open.clear()

    def linger(self, seconds: float = 1.0) -> None:
        """Keep all connections for a while, and take what comes."""
        until_s = time.monotonic() + min(seconds, self.left_s)
        while (left_s := until_s - time.monotonic()) > 0:
            for connection in self._open:
                connection.receive(min(0.05, left_s) / len(self._open))

    def run(self, attack_once: "Callable[[Attack], object]") -> None:
        """Repeat an attack until its time is over, or it has done as much as it may."""
        while not self.is_over:
            self.n_rounds += 1
            try:
                attack_once(self)
            except Gone:
                self.disconnect()
                time.sleep(min(PAUSE_S, self.left_s))
        self.disconnect()


class Attacker:
    """An attacker's process. Close it, or wait for it."""

    def __init__(self, address: str, kind: str, seconds: float, seed: int = 0):
        command = [sys.executable, "-m", "tests.attacks.attack", address, kind, str(seconds), str(seed)]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def report(self, timeout_s: float = 120.0) -> dict[str, float]:
        """Wait for its end, and return what it did. Raises where it failed."""
        text, _ = self._process.communicate(timeout=timeout_s)
        if self._process.returncode:
            raise RuntimeError(f"an attacker ended with code {self._process.returncode}")
        return json.loads(text)

    def close(self) -> None:
        if self.is_running:
            self._process.kill()
        self._process.communicate()


def main() -> None:
    os.nice(LOWEST_PRIORITY)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    from tests.attacks.kinds import KINDS

    address, kind, seconds, seed = sys.argv[1:]
    attack = Attack(address, float(seconds), int(seed))
    attack.run(KINDS[kind])
    report = {"rounds": attack.n_rounds, "calls": attack.n_calls, "bytes": attack.n_bytes}
    print(json.dumps(report | {"connections": attack.n_connections, "seconds": float(seconds)}))


if __name__ == "__main__":
    main()
