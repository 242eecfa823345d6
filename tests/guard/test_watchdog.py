"""Calls that nobody ends are ended, over real sockets: answers not read, streams that idle, messages half sent."""

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import grpc
import numpy as np
import pytest

from pred_server import serve
from pred_server.generated.pred_pb2 import Request, Tensor
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.guard import watchdog
from pred_server.guard.admission import Admission
from pred_server.limits import MIB, Limits
from tests.attacks.beside import resident_mib
from tests.attacks.http2 import PREDICT, PREDICT_STREAM, Connection, framed
from tests.waits import comes_true

PATIENCE_S = 30.0
# Answers up to so many bytes are read, others are not.
NARROW = 200
SLOTS = 4


def table(n_rows: int) -> bytes:
    data = np.ones((n_rows, 2)).tobytes()
    return Request(tensor=Tensor(dtype="float64", shape=[n_rows, 2], data=data)).SerializeToString()


@pytest.fixture
def connections() -> Iterator[list[Connection]]:
    opened: list[Connection] = []
    yield opened
    for connection in opened:
        connection.close()


def outcome(connection: Connection) -> bytes:
    """Ask for a row, and return the headers of the answer: they hold the error's sentence, if there is one."""
    stream = connection.call(PREDICT, table(1))
    assert connection.wait(stream, seconds=PATIENCE_S)
    return connection.headers[stream]


def is_refused(connection: Connection) -> bool:
    return b"--max-calls-in-flight" in outcome(connection)


def test_an_answer_that_is_not_read_frees_its_slot_at_the_deadline(connections: list[Connection]) -> None:
    with serve("sum", "--max-calls-in-flight", str(SLOTS), "--max-deadline-s", "1") as server:
        connections.append(connection := Connection(server.address, window=NARROW))
        assert not is_refused(connection)
        unread = [connection.call(PREDICT, table(1_000)) for _ in range(SLOTS)]
        assert comes_true(lambda: is_refused(connection))
        assert comes_true(lambda: not is_refused(connection), PATIENCE_S)
        assert connection.wait(*unread, seconds=PATIENCE_S), "the calls have ended, too"
        assert "Traceback" not in server.logs()


def test_answers_that_are_not_read_do_not_keep_their_memory(connections: list[Connection]) -> None:
    with serve("sum", "--max-deadline-s", "3") as server:
        client = server.client()
        client.predict(np.ones((1_000_000, 2)), stream=False)
        before_mib = resident_mib(server.pid)
        connections.append(connection := Connection(server.address, window=NARROW, patience_s=PATIENCE_S))
        unread = []
        for _ in range(25):  # answers of 8 MB
            unread.append(connection.call(PREDICT, table(1_000_000)))
        assert comes_true(lambda: resident_mib(server.pid) > before_mib + 100, PATIENCE_S)
        # gRPC forgets the latest call when there is another.
        assert comes_true(lambda: client.describe() and connection.wait(*unread, seconds=0.1), PATIENCE_S)
        assert comes_true(lambda: resident_mib(server.pid) < before_mib + 64, PATIENCE_S)
        assert client.predict(np.ones((2, 2))).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("n_chunks", [0, 2])
def test_an_idle_stream_ends_with_a_sentence(n_chunks: int) -> None:
    over = threading.Event()

    def chunks() -> Iterator[Request]:
        yield from [Request.FromString(table(3))] * n_chunks
        over.wait(PATIENCE_S)

    with serve("sum", "--idle-stream-s", "1") as server, grpc.insecure_channel(server.address) as channel:
        answers = PredictionStub(channel).PredictStream(chunks(), timeout=PATIENCE_S)
        for _ in range(n_chunks):
            assert len(next(answers).tensor.data) == 3 * 8
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        over.set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "the next chunk did not come in time (--idle-stream-s" in caught.value.details()


def test_a_stream_whose_answers_are_not_read_ends(connections: list[Connection]) -> None:
    with serve("sum", "--idle-stream-s", "1") as server:
        connections.append(connection := Connection(server.address, window=NARROW))
        assert not is_refused(connection)
        stream = connection.call(PREDICT_STREAM, *[table(1_000)] * 10, end=False)
        assert comes_true(lambda: not is_refused(connection) and stream in connection.ended, PATIENCE_S)
        assert "Traceback" not in server.logs()


def test_a_stream_that_takes_its_turn_is_not_ended() -> None:
    """Longer than it may idle, but chunk by chunk in time."""
    turn = threading.Event()

    def chunks() -> Iterator[np.ndarray]:
        for _ in range(10):
            turn.wait(0.3)
            yield np.ones((2, 2))

    with serve("sum", "--idle-stream-s", "2") as server:
        parts = list(server.client().predict_stream(chunks()))
    assert [part.tolist() for part in parts] == [[2.0, 2.0]] * 10


@pytest.mark.parametrize(
    ("path", "flag"), [(PREDICT, b"--max-deadline-s is 1"), (PREDICT_STREAM, b"in time (--idle-stream-s")]
)
def test_half_a_message_ends_at_the_limit(path: str, flag: bytes, connections: list[Connection]) -> None:
    with serve("sum", "--max-deadline-s", "1", "--idle-stream-s", "1") as server:
        connections.append(connection := Connection(server.address))
        stream = connection.call(path, end=False)
        connection.send(stream, framed(bytes(1_000), size=30 * MIB))
        assert connection.wait(stream, seconds=PATIENCE_S)
        assert flag in connection.headers[stream]


def test_half_messages_end_where_memory_is_short(connections: list[Connection]) -> None:
    limits = ("--max-bytes-in-flight", str(16 * MIB), "--max-message-bytes", str(32 * MIB))
    with serve("sum", *limits, "--log-level", "warning") as server:
        before_mib = resident_mib(server.pid)
        streams = []
        connections.append(connection := Connection(server.address, patience_s=PATIENCE_S))
        for _ in range(8):
            streams.append(connection.call(PREDICT, end=False))
            connection.send(streams[-1], framed(bytes(20 * MIB), size=32 * MIB))
        assert connection.wait(*streams[:1], seconds=PATIENCE_S)
        assert b"memory is short" in connection.headers[streams[0]]
        assert b"--max-bytes-in-flight" in connection.headers[streams[0]]
        assert "have sent half a message" in server.logs()
        connection.wait(*streams, seconds=2)
        assert comes_true(lambda: resident_mib(server.pid) < before_mib + 2 * 16 + 64, PATIENCE_S)
        assert server.client().predict(np.ones((2, 2))).tolist() == [2.0, 2.0]


def test_streams_that_are_not_read_end_where_memory_is_short(connections: list[Connection]) -> None:
    limits = ("--max-bytes-in-flight", str(16 * MIB), "--max-message-bytes", str(4 * MIB), "--log-level", "warning")
    with serve("sum", *limits) as server:
        before_mib = resident_mib(server.pid)
        connections.append(connection := Connection(server.address, window=NARROW, patience_s=PATIENCE_S))
        streams = [connection.call(PREDICT_STREAM, *[table(10_000)] * 10, end=False) for _ in range(20)]
        few = 16 // 4  # cannot hold so much, and may stay
        assert comes_true(
            lambda: connection.wait(*streams, seconds=0.1) or len(connection.ended) >= len(streams) - few, PATIENCE_S
        ), "long before --idle-stream-s"
        assert "do not read" in server.logs()
        assert comes_true(lambda: resident_mib(server.pid) < before_mib + 2 * 16 + 64, PATIENCE_S)
        assert server.client().predict(np.ones((2, 2))).tolist() == [2.0, 2.0]


def test_slots_are_shared_between_connections(connections: list[Connection]) -> None:
    with serve("sum", "--max-calls-in-flight", str(SLOTS)) as server:
        connections.extend([greedy := Connection(server.address), other := Connection(server.address)])
        for _ in range(SLOTS):  # one connection may take them all
            greedy.call(PREDICT_STREAM, end=False)
        assert comes_true(lambda: is_refused(greedy))
        for _ in range(SLOTS // 2):
            assert not is_refused(other)
            other.call(PREDICT_STREAM, end=False)
        assert comes_true(lambda: is_refused(other)), "no more than its share"
        assert server.client().predict(np.ones((2, 2))).tolist() == [2.0, 2.0]


def test_a_call_over_the_limit_is_refused_before_its_message_is_whole(connections: list[Connection]) -> None:
    with serve("sum", "--max-calls-in-flight", "1") as server:
        connections.append(connection := Connection(server.address))
        connection.call(PREDICT_STREAM, end=False)
        assert comes_true(lambda: is_refused(connection))
        stream = connection.call(PREDICT, end=False)
        connection.send(stream, framed(b"half of it", size=30 * MIB))
        assert connection.wait(stream, seconds=PATIENCE_S)
        assert b"--max-calls-in-flight" in connection.headers[stream]


@pytest.mark.parametrize(("mib_per_s", "expected"), [(0, 5), (32.0, 40)])
def test_giving_memory_back_takes_a_small_part_of_the_time_unless_memory_grows(
    mib_per_s: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_s, releases_s, start_bytes = [0.0], list[float](), 1 << 40

    def release() -> None:
        releases_s.append(clock_s[0])
        clock_s[0] += 1.0

    def is_over(_: float) -> bool:
        clock_s[0] += 0.1
        return clock_s[0] > 100.0

    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    monkeypatch.setattr(watchdog, "release_unused", release)
    monkeypatch.setattr(watchdog, "resident_bytes", lambda: 0)
    guard = watchdog.Watchdog(Admission(Limits()), Limits())
    monkeypatch.setattr(watchdog, "resident_bytes", lambda: start_bytes + int(mib_per_s * MIB * clock_s[0]))
    guard.hold_down_memory(cast(threading.Event, SimpleNamespace(wait=is_over)))
    assert len(releases_s) == pytest.approx(expected, rel=0.3)


def test_memory_is_given_back_while_the_event_loop_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    is_released = threading.Event()

    async def be_late() -> bool:
        watching = asyncio.create_task(guard.run())
        await asyncio.sleep(0)
        outcome = is_released.wait(PATIENCE_S)  # the loop does nothing meanwhile
        watching.cancel()
        return outcome

    monkeypatch.setattr(watchdog, "release_unused", is_released.set)
    monkeypatch.setattr(watchdog, "resident_bytes", lambda: 0)
    guard = watchdog.Watchdog(Admission(Limits()), Limits())
    monkeypatch.setattr(watchdog, "resident_bytes", lambda: 1 << 40)
    assert asyncio.run(be_late())
