"""Streams: chunks in, predictions out, in order; few in memory; broken and cancelled ones leave nothing behind."""

import csv
import io
import math
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import psutil
import pytest

from pred_server import Client, Model, load, serve
from pred_server.client import memory
from pred_server.client.client import CHUNK_BYTES, FEW_ROWS
from pred_server.client.stream import WINDOW, RequestStream
from pred_server.errors import DeadlineExceeded, InvalidInput, LimitExceeded, ServerFault, Unavailable
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.tutorial.background import Server
from pred_server.wire.csv import split_records
from tests.ports import free_address
from tests.waits import comes_true


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("linear", "--model", "sum", "--log-level", "info") as running:
        yield running


@pytest.fixture(scope="module")
def linear() -> Model:
    return load("linear")


def numbers(n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_rows, 10))


def test_a_large_table_is_streamed_by_itself_and_put_together(server: Server, linear: Model) -> None:
    frame = pd.DataFrame(numbers(100_003)).add_prefix("x").sample(frac=1, random_state=0)
    served = server.client().predict(frame)
    assert served.waterfall.chunks == math.ceil(100_003 / (CHUNK_BYTES // 80))
    assert served.index.equals(frame.index)
    assert served.to_numpy().tobytes() == linear.predict(frame).tobytes()


def test_an_answer_comes_before_the_next_chunk_is_asked_for(server: Server) -> None:
    """A conversation: whoever waits for an answer before going on is not kept waiting for the end."""
    turn: queue.Queue[int] = queue.Queue()
    turn.put(1)
    answers = 0
    for _ in server.client().predict_stream(numbers(n) for n in iter(turn.get, 0)):
        answers += 1
        turn.put(1 if answers < 5 else 0)
    assert answers == 5


def test_a_bad_chunk_ends_the_stream_and_says_which_rows(server: Server) -> None:
    good = numbers(40)
    bad = good.copy()
    bad[3, 4] = np.nan
    stream = server.client().predict_stream([good, good, bad, good])
    with pytest.raises(InvalidInput, match=r"in chunk 3, the rows from 81 on: x4: row 4 has no value") as caught:
        assert [len(part) for part in stream] == [40, 40]
    assert caught.value.violations[0].field == "x4"
    with pytest.raises(InvalidInput) as caught:
        frame = pd.DataFrame(np.vstack([numbers(100_000), bad])).add_prefix("x")
        server.client().predict(frame)
    assert len(caught.value.answered) > 0
    assert caught.value.answered.index.equals(frame.index[: len(caught.value.answered)])


def test_what_the_callers_iterator_raises_reaches_the_caller(server: Server) -> None:
    def chunks() -> Iterator[np.ndarray]:
        yield numbers(3)
        raise FileNotFoundError("the disk is gone")

    got = []
    with pytest.raises(FileNotFoundError, match="the disk is gone"):
        for part in server.client().predict_stream(chunks()):
            got.append(len(part))
    assert got == [3]
    assert len(server.client().predict(numbers(2))) == 2


def test_leaving_a_stream_early_stops_the_drawing_and_the_work(server: Server) -> None:
    drawn, before = 0, logged(server, "PredictStream", "code=")

    def endless() -> Iterator[np.ndarray]:
        nonlocal drawn
        while True:
            drawn += 1
            yield numbers(100)

    for number, _ in enumerate(server.client().predict_stream(endless())):
        if number == 20:
            break
    assert drawn <= 21 + WINDOW + 1
    # OK where all that had come was answered before the server learned that nobody listens.
    wait_for_log(server, "PredictStream", "code=", times=before + 1)


def logged(server: Server, *words: str) -> int:
    return sum(all(word in line for word in words) for line in server.logs().splitlines())


def wait_for_log(server: Server, *words: str, times: int = 1) -> None:
    waited = threading.Event()
    for _ in range(3_000):
        if logged(server, *words) >= times:
            return
        waited.wait(0.01)
    raise AssertionError(f"{words} never stood in the log")


def test_back_pressure_a_reader_who_does_not_read_stops_the_drawing(server: Server) -> None:
    drawn = threading.Semaphore(0)

    def endless() -> Iterator[np.ndarray]:
        while True:
            drawn.release()
            yield numbers(1_000)

    stream = iter(server.client().predict_stream(endless()))
    next(stream)
    count = 0
    while drawn.acquire(timeout=1):  # until nothing is drawn for a second
        count += 1
        assert count <= WINDOW + 2, "chunks are drawn though nobody reads the answers"
    stream.close()


def test_memory_stays_flat_over_10_million_rows(server: Server) -> None:
    """80 bytes a row, 800 MB in all; both ends hold a few chunks of it."""
    rows, chunk = 10_000_000, 13_107
    block = numbers(chunk)
    ends = {"client": psutil.Process(), "server": psutil.Process(server.pid)}
    before: dict[str, int] = {}
    most = dict.fromkeys(ends, 0)
    answered = 0
    for number, part in enumerate(server.client().predict_stream(block for _ in range(rows // chunk + 1))):
        answered += len(part)
        if number == 30:
            before = {name: process.memory_info().rss for name, process in ends.items()}
        if number > 30 and number % 20 == 0:
            most = {name: max(most[name], process.memory_info().rss) for name, process in ends.items()}
    assert answered >= rows
    grown_mib = {name: (most[name] - before[name]) / 2**20 for name in ends}
    print(f"{answered:,} rows: resident memory grew by {grown_mib} MiB after the first 30 chunks")
    assert max(grown_mib.values()) < 64


def test_a_client_that_vanishes_gives_its_slot_back() -> None:
    over = threading.Event()

    def one_chunk_then_nothing() -> Iterator[Request]:
        yield Request(input_data=pd.DataFrame(numbers(1)).add_prefix("x").to_csv(index=False))
        over.wait()

    with serve("linear", "--max-calls-in-flight", "1") as small, small.client() as client:

        def is_let_in() -> bool:
            try:
                return len(client.predict(numbers(2))) == 2
            except LimitExceeded:
                return False

        channel = grpc.insecure_channel(small.address, [("grpc.use_local_subchannel_pool", 1)])
        call = PredictionStub(channel).PredictStream(one_chunk_then_nothing())
        next(call)  # Its reply says that the stream is in: a call made before could have the slot itself.
        assert not is_let_in(), "the stream has the only slot"
        channel.close()
        del call
        assert comes_true(is_let_in), "the slot came back"
        over.set()


def test_a_stream_needs_no_chunks(server: Server) -> None:
    assert list(server.client().predict_stream([])) == []


def test_limits_hold_in_streams(server: Server) -> None:
    with serve("linear", "--max-rows", "50", "--max-deadline-s", "0.5") as small:
        client = small.client()
        with pytest.raises(LimitExceeded, match=r"51 rows \(--max-rows is 50\)"):
            list(client.predict_stream([numbers(50), numbers(51)]))
        for whose, timeout_s in ((r"--max-deadline-s is 0\.5", 30), (r"within 0\.1 s, the caller's deadline", 0.1)):
            hang: queue.Queue[int] = queue.Queue()  # a chunk that never comes
            with pytest.raises(DeadlineExceeded, match=whose):
                list(client.predict_stream((numbers(n) for n in iter(hang.get, 0)), timeout_s=timeout_s))
            hang.put(0)


@pytest.mark.parametrize("resume", [False, True])
def test_a_stream_that_breaks_tells_what_came_or_goes_on_from_there(resume: bool, linear: Model) -> None:
    frame = pd.DataFrame(numbers(4_000)).add_prefix("x")
    address, parts, broken = free_address(), [], None
    first = serve("linear", "--address", address)
    with serve("sum") as keeps_the_client:
        client = type(keeps_the_client.client())(address)
    second: Server | None = None
    try:
        try:
            chunks = (frame.iloc[start : start + 20] for start in range(0, 4_000, 20))
            for part in client.predict_stream(chunks, resume=resume):
                parts.append(part)
                if len(parts) == 50:
                    first._process.send_signal(signal.SIGKILL)
                    first._process.wait()
                    if resume:
                        second = serve("linear", "--address", address)
        except Unavailable as error:
            broken = error
        together = pd.concat(parts)
        assert together.to_numpy().tobytes() == linear.predict(frame).tobytes()[: 8 * len(together)]
        assert (len(together) == len(frame)) == resume
        assert (broken is None) == resume
    finally:
        client.close()
        first.close()
        if second:
            second.close()


class FakeCall:
    """A call that answers with what it was given, however many requests come."""

    def __init__(self, responses: list[object]):
        self._responses = responses

    retry = False

    def __call__(self, outgoing: Iterator[Request], pause_s: float) -> "FakeCall":
        list(outgoing)
        return self

    def __iter__(self) -> Iterator[object]:
        return iter(self._responses)

    def initial_metadata(self) -> tuple[()]:
        return ()

    trailing_metadata = initial_metadata

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize(("responses", "complaint"), [([1], "1 chunks were sent and not"), ([1, 2, 3], "more answers")])
def test_a_server_that_miscounts_is_found_out(responses: list[object], complaint: str) -> None:
    with pytest.raises(ServerFault, match=complaint):
        list(RequestStream(FakeCall(responses), [Request(), Request()], resume=False, write=Request.SerializeToString))


def test_predict_a_file_that_is_larger_than_a_message(tmp_path: Path, server: Server, linear: Model) -> None:
    from pred_server.cli import main

    frame = pd.DataFrame(numbers(60_000)).add_prefix("x")
    frame.to_csv(tmp_path / "large.csv", index=False)
    assert (tmp_path / "large.csv").stat().st_size > 8 * 2**20
    for encoding in ("csv", "tensor", "arrow", "columns"):
        out = run(main, ["predict", tmp_path / "large.csv", "--address", server.address, "--encoding", encoding])
        header, *values = out.split()
        assert header == "y"
        assert np.array([float(value) for value in values]).tobytes() == linear.predict(frame).tobytes()


def run(main: object, arguments: list[object]) -> str:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([str(each) for each in arguments]) == 0
    return out.getvalue()


def test_a_broken_stream_keeps_its_deadline_while_the_callers_iterator_waits() -> None:
    """A conversation whose server dies: the iterator waits for an answer that will not come."""
    never: queue.Queue[int] = queue.Queue()
    server = serve("linear")
    client = Client(server.address)

    def chunks() -> Iterator[np.ndarray]:
        yield numbers(5)
        server._process.kill()
        server._process.wait()
        never.get()

    with pytest.raises((Unavailable, DeadlineExceeded)):
        list(client.predict_stream(chunks(), resume=True, timeout_s=2))
    never.put(0)
    client.close()
    server.close()


def test_a_stream_is_slowed_down_not_refused_where_rows_wait(linear: Model) -> None:
    with serve("linear", "--max-queued-rows", "100") as small:
        table = numbers(6_000)
        parts = list(small.client().predict_stream(table[start : start + 60] for start in range(0, 6_000, 60)))
    whole = linear.predict(pd.DataFrame(table).add_prefix("x"))
    assert pd.concat(parts).to_numpy().tobytes() == whole.tobytes()


@pytest.mark.parametrize("encoding", ["csv", "tensor", "arrow"])
def test_a_large_table_is_streamed_whatever_encoding_was_asked_for(encoding: str, server: Server) -> None:
    with Client(server.address, encoding=encoding) as fresh:
        assert fresh.predict(numbers(60_000)).waterfall.chunks > 1


@pytest.mark.parametrize("rows", [FEW_ROWS, FEW_ROWS + 1])
def test_long_texts_are_streamed_too(rows: int, flights_server: Server, flights: pd.DataFrame) -> None:
    long = flights.head(rows).assign(dest="x" * 100_000)
    with Client(flights_server.address) as client:
        assert client.predict(long).waterfall.chunks > 1


def test_columns_that_the_model_does_not_know_stay_at_home(flights_server: Server, flights: pd.DataFrame) -> None:
    """Whatever their type: a date cannot be sent as columns."""
    odd = flights.assign(time_hour=pd.Timestamp("2013-01-01"), mixed=[[1]] * len(flights))
    for rows in (3, 100):
        with pytest.warns(UserWarning, match="ignored them: time_hour, mixed"):
            assert len(flights_server.client().predict(odd.head(rows))) == rows


def test_what_is_found_out_of_a_table_is_not_asked_of_each_chunk(
    server: Server, linear: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, prepare = list[object](), memory.prepare
    monkeypatch.setattr(memory, "prepare", lambda *given: (asked.append(given), prepare(*given))[1])
    frame = pd.DataFrame(numbers(50_000)).add_prefix("x")
    with pytest.warns(UserWarning, match="ignored them: when"):
        served = server.client().predict(frame.assign(when=pd.Timestamp("2013-01-01")))
    assert served.waterfall.chunks > 1
    assert len(asked) == 1
    assert served.to_numpy().tobytes() == linear.predict(frame).tobytes()


def test_a_stream_is_iterated_over_once_and_a_closed_client_says_so(server: Server) -> None:
    client = Client(server.address)
    stream = client.predict_stream([numbers(2)])
    assert len(list(stream)) == 1
    with pytest.raises(RuntimeError, match="once"):
        list(stream)
    client.close()
    with pytest.raises(Unavailable, match="this client is closed"):
        list(client.predict_stream([numbers(2)], encoding="tensor"))


@pytest.mark.parametrize("tail", [b"", b"\n", b"\n\n\n", b"1,2"])
@pytest.mark.parametrize("head", [b"", b"\n" * 70])
def test_a_file_is_cut_where_records_end(head: bytes, tail: bytes) -> None:
    rows = b"".join(b'%d,"a\n""b"\r\n' % number for number in range(50))
    whole = head + b"n,s\n" + rows + tail
    expected = [row for row in csv.reader(io.StringIO(whole.decode(), newline="")) if row]
    for size in (16, 33, 64, 1_000, 10_000):
        pieces = list(split_records(io.BytesIO(whole), size))
        got = [[row for row in csv.reader(io.StringIO(piece, newline="")) if row] for piece in pieces]
        assert all(piece[0] == ["n", "s"] and len(piece) > 1 for piece in got)
        assert [row for piece in got for row in piece[1:]] == expected[1:]


def test_a_file_of_another_age_is_not_cut_in_the_wrong_place() -> None:
    pieces = split_records(io.BytesIO(b"n,s\r1,a\n" + b"2,b\n" * 50), 16)
    with pytest.raises(InvalidInput, match="a carriage return in its header"):
        list(pieces)


@pytest.mark.parametrize("whole", [b"", b"\n", b"n,s\n", b"n,s", b"\xef\xbb\xbfn,s\n"])
def test_a_file_without_rows_goes_out_as_it_is(whole: bytes) -> None:
    assert list(split_records(io.BytesIO(whole), 16)) == [whole.decode("utf-8-sig")]


REFUSES_AT_FIRST = """
import itertools
from pred_server.errors import Unavailable
from pred_server.guard.admission import Admission
enter, count = Admission.enter, itertools.count()
def refuse_at_first(self, peer):
    if next(count) % 2:
        raise Unavailable("not yet")
    return enter(self, peer)
Admission.enter = refuse_at_first
from pred_server.cli import main
raise SystemExit(main(["serve", "--model", "sum", "--address", "127.0.0.1:0"]))
"""


def test_a_stream_that_is_refused_at_first_loses_no_chunk_when_it_is_asked_for_again() -> None:
    """gRPC's own repetition of streams does, now and then, or ends the process."""
    chunks = [np.array([[1.0, number]]) for number in range(5)]
    right = [[1.0 + number] for number in range(5)]
    with Server([sys.executable, "-c", REFUSES_AT_FIRST], 60) as server:
        with Client(server.address, retry=False) as client, pytest.raises(Unavailable, match="not yet"):
            for _ in range(3):
                list(client.predict_stream(chunks, encoding="tensor"))
        with Client(server.address, encoding="tensor") as client:
            for _ in range(10):
                assert [part.tolist() for part in client.predict_stream(chunks)] == right
