"""A server is replaced by another, under load and with streams open, and nobody notices.

REPLACEMENTS=20 makes it longer: so many rounds, in each of which both of two servers are replaced, one after the other.
"""

import itertools
import os
import queue
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import pytest

from pred_server import Client, serve
from pred_server.tutorial.background import Server
from tests.waits import health, refused, wait_until

ROUNDS = int(os.environ.get("REPLACEMENTS", "1"))
CALLERS = 3  # of each kind, each with a connection of its own
LARGE = 100_000  # rows of a table that is sent in several chunks


class Forwarder:
    """A TCP balancer that knows nothing of gRPC: each new connection goes to the next server that takes it."""

    def __init__(self, addresses: list[str]):
        self._turn = itertools.cycle(addresses)
        self._n = len(addresses)
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            while True:
                near = self._listener.accept()[0]
                self._ends.append(near)
                far = self._connect()
                if far is None:
                    near.close()
                    continue
                self._ends.append(far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()
        except OSError:
            return  # closed

    def _connect(self) -> socket.socket | None:
        for _ in range(self._n):
            host, port = next(self._turn).split(":")
            try:
                return socket.create_connection((host, int(port)))
            except ConnectionRefusedError:
                continue
        return None

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                end.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._ends):
            end.close()


class Load:
    """Callers that ask without a pause. Everything that is not the right answer is kept."""

    def __init__(self, target: str):
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._target = target
        self._ends = threading.Event()
        kinds: list[Callable[[Client, int], bool]] = [self.unary, self.stream, self.large]
        self._threads = [
            threading.Thread(target=self._run, args=(kind, 10_000_000 * number))
            for kind in kinds
            for number in range(CALLERS if kind != self.large else 1)
        ]

    def unary(self, client: Client, y: int) -> bool:
        return bool(client.predict(pd.DataFrame({"x": [0.5], "y": [float(y)]}), encoding="csv").tolist() == [y + 0.5])

    def stream(self, client: Client, y: int) -> bool:
        chunks = (pd.DataFrame({"x": [0.5], "y": [float(y + number)]}) for number in range(5))
        got = [part.tolist() for part in client.predict_stream(chunks, encoding="columns")]
        return got == [[y + number + 0.5] for number in range(5)]

    def large(self, client: Client, y: int) -> bool:
        x = np.arange(LARGE) + float(y)
        return bool((client.predict(pd.DataFrame({"x": x, "y": 0.5})).to_numpy() == x + 0.5).all())

    def _run(self, ask: Callable[[Client, int], bool], first: int) -> None:
        with Client(self._target) as client:
            for y in itertools.count(first):
                if self._ends.is_set():
                    return
                try:
                    if not ask(client, y):
                        self.faults.append(f"{ask.__name__}: a wrong answer")
                    self.answers[ask.__name__] += 1
                except Exception as error:
                    self.faults.append(f"{ask.__name__}: {error!r}")

    def wait_for_answers(self) -> None:
        """Wait until callers of each kind have had some more answers, or one has a fault."""
        before, pause = self.answers.copy(), threading.Event()
        for _ in range(6_000):
            news = [self.answers[kind] - before[kind] for kind in ("unary", "stream", "large")]
            if self.faults or min(news) >= 2:
                return
            pause.wait(0.01)
        raise AssertionError(f"callers wait for answers: {before} before, {self.answers} now")

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def open_streams(targets: list[str]) -> Iterator[tuple[list[Client], Callable[[], list[float]]]]:
    """A stream to each target that stays open, by a client of its own.

    Calling the second value sends a further chunk over each, and returns the answers.
    """
    with ExitStack() as stack:
        chunks: list[queue.Queue[float | None]] = [queue.Queue() for _ in targets]

        def tables(drawn: "queue.Queue[float | None]") -> Iterator[pd.DataFrame]:
            while (x := drawn.get()) is not None:
                yield pd.DataFrame({"x": [x], "y": [1.0]})

        clients = [stack.enter_context(Client(target, encoding="csv")) for target in targets]
        answers = [iter(client.predict_stream(tables(drawn))) for client, drawn in zip(clients, chunks, strict=True)]

        def ask() -> list[float]:
            for number, drawn in enumerate(chunks):
                drawn.put(float(number))
            return [float(next(answer).iloc[0]) for answer in answers]

        yield clients, ask
        for drawn in chunks:
            drawn.put(None)
        assert [list(answer) for answer in answers] == [[]] * len(targets)


def replace(server: Server, loads: list[Load], targets: list[str]) -> Server:
    """Stop a server with streams open to it, and start another at its address."""
    right = [number + 1.0 for number in range(len(targets) + 1)]
    with open_streams([server.address, *targets]) as (clients, ask):
        assert ask() == right
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: refuses(server.address), "the end of new calls")
        for load in loads:
            load.wait_for_answers()
        assert ask() == right
        # Beside their open streams to the server that stops, these clients are served by the other.
        for client in clients[1:]:
            assert client.predict(pd.DataFrame({"x": [0.5], "y": [7.0]})).tolist() == [7.5]
        assert ask() == right
        assert server.running
    assert server._process.wait(60) == 0
    log = server.logs()
    assert "Traceback" not in log and "ERROR" not in log, log
    server.close()
    successor = serve("sum", "--address", server.address)
    for load in loads:
        load.wait_for_answers()
    return successor


def refuses(address: str) -> bool:
    with Client(address, retry=False) as client:
        return refused(client)


@pytest.mark.timeout(300 * ROUNDS)
def test_two_servers_are_replaced_in_turn_and_no_call_fails_and_none_is_wrong() -> None:
    """As two addresses that clients know, and behind a TCP balancer; single calls, streams, and tables in chunks."""
    servers = [serve("sum"), serve("sum")]
    forwarder = Forwarder([server.address for server in servers])
    known = ",".join(server.address for server in servers)
    try:
        with Load(known) as direct, Load(forwarder.address) as balanced:
            loads = [direct, balanced]
            for load in loads:
                load.wait_for_answers()
            for _ in range(ROUNDS):
                for number, server in enumerate(servers):
                    servers[number] = replace(server, loads, [known, forwarder.address, forwarder.address])
        faults = [fault for load in loads for fault in load.faults]
        answers = {name: dict(load.answers) for name, load in (("addresses", direct), ("balancer", balanced))}
        print(f"{2 * ROUNDS} replacements; answers: {answers}; {len(faults)} faults")
        assert not faults, faults[:10]
    finally:
        forwarder.close()
        for server in servers:
            server.close()


def test_during_the_delay_health_says_not_serving_and_calls_are_taken() -> None:
    table = pd.DataFrame({"x": [1.0], "y": [2.0]})
    with serve("sum", "--drain-delay-s", "600") as server:
        client = server.client(retry=False)
        assert client.predict(table).tolist() == [3.0]
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: health(server) == "NOT_SERVING", "the delay")
        assert client.predict(table).tolist() == [3.0]
        with Client(server.address, retry=False) as newcomer:
            assert newcomer.predict(table).tolist() == [3.0]
            assert [part.tolist() for part in newcomer.predict_stream([table] * 3)] == [[3.0]] * 3
        os.kill(server.pid, signal.SIGTERM)
        assert server._process.wait(30) == 1


def test_a_stream_that_outlasts_the_drain_ends_with_unavailable_so_that_it_goes_on_elsewhere() -> None:
    table = pd.DataFrame({"x": [1.0], "y": [2.0]})
    may_go_on = threading.Event()

    def chunks() -> Iterator[pd.DataFrame]:
        yield table
        may_go_on.wait()
        yield table * 2

    with serve("sum", "--drain-timeout-s", "0.2") as first, serve("sum") as second:
        known = f"{first.address},{second.address}"
        with Client(known, encoding="csv") as client:
            answers = iter(client.predict_stream(chunks(), resume=True))
            assert next(answers).tolist() == [3.0]
            os.kill(first.pid, signal.SIGTERM)
            assert first._process.wait(30) == 0
            may_go_on.set()
            assert [part.tolist() for part in answers] == [[6.0]]
