"""A forwarder that delays: what passes is what was sent, never too early, never too much at a time."""

import math
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from pred_server.checkout import ROOT
from pred_server.lab import distance, memory
from pred_server.lab.ways import start_distance
from pred_server.limits import MIB
from pred_server.tutorial.background import Process

TIMEOUT_S = 60
FAST = 1e12  # bytes a second


@contextmanager
def joined(rtt_ms: float, rate: float = FAST) -> Iterator[tuple[socket.socket, socket.socket, Process]]:
    """A connection through a forwarder: its two ends, and the forwarder."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "pred_server.lab.distance", f"127.0.0.1:{listener.getsockname()[1]}"]
        with Process([*command, str(rtt_ms), str(rate)], TIMEOUT_S) as forwarder:
            host, _, port = forwarder.address.rpartition(":")
            with socket.create_connection((host, int(port))) as near:
                far, _ = listener.accept()
                with far:
                    near.settimeout(TIMEOUT_S)
                    far.settimeout(TIMEOUT_S)
                    yield near, far, forwarder


def receive(end: socket.socket, n_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < n_bytes and (piece := end.recv(MIB)):
        received += piece
    return bytes(received)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_pass_unchanged_in_both_directions_and_the_end_of_one_leaves_the_other_open(seed: int) -> None:
    rng = random.Random(seed)
    there, back = (rng.randbytes(rng.choice([1, 70_000, 3 * MIB])) for _ in range(2))

    def send(end: socket.socket, data: bytes) -> None:
        start = 0
        while start < len(data):
            size = rng.choice([1, 1_000, 200_000])
            end.sendall(data[start : start + size])
            start += size

    with joined(rtt_ms=rng.choice([0.5, 20])) as (near, far, _):
        sender = threading.Thread(target=send, args=(near, there))
        sender.start()
        answer = threading.Thread(target=send, args=(far, back))
        answer.start()
        assert receive(far, len(there)) == there
        assert receive(near, len(back)) == back
        sender.join()
        answer.join()
        near.shutdown(socket.SHUT_WR)
        assert far.recv(1) == b"", "a half-close passes"
        far.sendall(b"still open")
        assert receive(near, 10) == b"still open"
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""


def test_an_echo_never_comes_back_before_the_round_trip() -> None:
    with joined(rtt_ms=40) as (near, far, _):
        for _ in range(5):
            start_ns = time.monotonic_ns()
            near.sendall(b"?")
            far.sendall(far.recv(1))
            assert near.recv(1) == b"?"
            assert time.monotonic_ns() - start_ns >= 40_000_000


def test_no_more_than_the_rate_passes_over_all_connections_together() -> None:
    link = distance.Link(0.25, rate=1_000)
    now_s = time.monotonic()
    assert [link.arrival_s(500) >= now_s + due_s for due_s in (0.75, 1.25, 1.75)] == [True] * 3
    n_bytes, rate = MIB, 10 * MIB
    with joined(rtt_ms=10, rate=rate) as (near, far, _):
        start_ns = time.monotonic_ns()
        sender = threading.Thread(target=near.sendall, args=(bytes(n_bytes),))
        sender.start()
        assert len(receive(far, n_bytes)) == n_bytes
        assert time.monotonic_ns() - start_ns >= 1e9 * (n_bytes / rate + 0.005)
        sender.join()


def test_a_sender_whose_reader_does_not_read_is_stopped() -> None:
    data = random.Random(0).randbytes(MIB)
    with joined(rtt_ms=10, rate=distance.GIGABIT) as (near, far, forwarder):
        before = memory.resident_mib([forwarder.pid])
        near.settimeout(2)  # nothing could be sent for so long
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256 * MIB:
                sent += near.send(data[sent % MIB :])
        assert math.isnan(memory.growth_mib(before)) or memory.growth_mib(before) < 16
        whole = data * (sent // MIB + 1)
        assert receive(far, sent) == whole[:sent], "nothing of it is lost"


def test_where_nobody_answers_the_caller_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"127.0.0.1:{listener.getsockname()[1]}"
    with start_distance(f"http://{nobody}", 1) as forwarder:
        assert forwarder.address.startswith("http://127.0.0.1:")
        host, _, port = forwarder.address.removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), TIMEOUT_S) as near:
            assert near.recv(1) == b""


def test_an_end_that_is_gone_ends_the_other() -> None:
    with joined(rtt_ms=1) as (near, far, _):
        far.close()
        with pytest.raises(OSError, match=r"reset|pipe"):
            while True:
                near.sendall(bytes(MIB))


def test_a_forwarder_ends_with_the_process_that_started_it() -> None:
    code = "from pred_server.lab.ways import start_distance\nprint(start_distance('127.0.0.1:1', 1).pid, flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}input()"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        forwarder = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([forwarder], timeout=30)[1] == []
