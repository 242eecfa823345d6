"""A server on a Unix socket: who may connect, whose file it is, and clients in Python and in Go."""

import os
import signal
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pandas as pd
import pytest

from pred_server import Client, Model, serve
from pred_server.cli import main
from pred_server.errors import LimitExceeded, ServerStartError, Unavailable
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.ops.socket_file import socket_file
from pred_server.tutorial.background import Server
from tests.waits import health, wait_until

XY = pd.DataFrame({"x": [1.0, 0.1], "y": [2.0, 0.2]})
SUMS = [3.0, 0.1 + 0.2]


@pytest.fixture
def path() -> Iterator[Path]:
    """A path for a socket, in a folder whose own path is short."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pred") as folder:
        yield Path(folder, "pred.sock")


def start(path: Path, *flags: str, model: str = "sum") -> Server:
    return serve(model, "--address", f"unix:{path}", *flags)


def leave(path: Path) -> None:
    """Make the file that a dead server leaves behind."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def test_predictions_over_a_socket_are_those_of_the_model(
    path: Path, flights: pd.DataFrame, flights_model: Model
) -> None:
    with start(path, model="flights") as server:
        assert server.address == f"unix:{path}"
        assert health(server) == "SERVING"
        for connections in (1, 3):
            client = server.client(connections=connections)
            served = client.predict(flights)
            assert served.to_numpy().tobytes() == flights_model.predict(flights).tobytes()
        in_chunks = server.client().predict_stream([flights.iloc[:99], flights.iloc[99:300]])
        assert pd.concat(in_chunks).tolist() == flights_model.predict(flights.iloc[:300]).tolist()
    assert not path.exists()


def test_the_file_is_its_owners_alone_unless_a_mode_is_given(path: Path) -> None:
    before = os.umask(0)
    try:
        with start(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_file_has_its_mode_from_the_first_moment_and_the_umask_is_what_it_was(path: Path, mode: int) -> None:
    before = os.umask(0o27)
    try:
        with socket_file(str(path), mode):
            leave(path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.umask(before) == 0o27
    finally:
        os.umask(before)


@pytest.mark.parametrize("mode", ["9", "u+x", "-600", "66", "00600"])
def test_a_mode_that_is_none_is_refused(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", f"--socket-mode={mode}"])
    assert "is not a mode of a file in octal, such as 600" in capsys.readouterr().err


def test_a_living_server_keeps_its_socket(path: Path) -> None:
    with start(path, "--socket-mode", "660") as first:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with pytest.raises(ServerStartError, match=f"a server listens on unix:{path}; stop it, or choose another path"):
            start(path)
        assert first.client().predict(XY).tolist() == SUMS


def test_the_file_of_a_dead_server_is_replaced_and_its_clients_find_the_next_one(path: Path) -> None:
    with Client(f"unix:{path}", retry=False) as impatient, Client(f"unix:{path}") as patient:
        with start(path) as server:
            assert patient.predict(XY).tolist() == SUMS
            os.kill(server.pid, signal.SIGKILL)
            wait_until(lambda: not server.running, "the server is dead")
        assert path.is_socket()
        with pytest.raises(Unavailable, match="nobody answers at that address"):
            impatient.predict(XY)
        with start(path):
            assert patient.predict(XY).tolist() == SUMS
        assert not path.exists()


def test_what_is_no_socket_stays(path: Path) -> None:
    path.write_text("something else")
    complaint = "is there, and is no socket; remove it, or choose another path"
    with pytest.raises(ServerStartError, match=complaint), socket_file(str(path)):
        pass
    assert path.read_text() == "something else"


def test_a_socket_that_cannot_be_tried_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        with pytest.raises(ServerStartError, match="cannot look who listens on unix:"), socket_file(str(path)):
            pass


def test_a_folder_that_is_missing_is_said(path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"cannot listen on unix:.*its folder is missing"):
        start(path / "below")


def test_an_address_on_a_port_needs_no_file() -> None:
    before = os.umask(0o22)
    with socket_file(""):
        assert os.umask(before) == 0o22


def test_limits_hold_for_all_callers_together(path: Path) -> None:
    let_go, streams = threading.Event(), []

    def one_and_wait() -> Iterator[Request]:
        yield Request(input_data="x,y\n1,2\n")
        let_go.wait()

    with start(path, "--max-calls-in-flight", "2") as server, ExitStack() as stack:
        stack.callback(let_go.set)
        for _ in range(2):
            options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
            channel = stack.enter_context(grpc.insecure_channel(server.address, options))
            streams.append(PredictionStub(channel).PredictStream(one_and_wait()))
            assert next(streams[-1]).result == "0\n3\n"
        client = server.client(retry=False)
        with pytest.raises(LimitExceeded, match="--max-calls-in-flight is 2"):
            client.predict(XY, stream=False, encoding="csv")
        let_go.set()
        wait_until(lambda: _is_served(client), "a slot is free")


def _is_served(client: Client) -> bool:
    try:
        return client.predict(XY, stream=False, encoding="csv").tolist() == SUMS
    except LimitExceeded:
        return False
