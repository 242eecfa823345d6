"""What callers sent does not forge lines of the log, nor fill it; nor does what is normal write a traceback."""

import json
import logging
import os
import re
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from hypothesis import given
from hypothesis import strategies as st

from pred_server import serve
from pred_server.errors import InvalidInput
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.server import logs
from pred_server.tutorial.background import Server

FORGED = "2026-01-01 00:00:00,000 ERROR pred_server.server.call all is lost"
HOSTILE = [
    f"one\n{FORGED}",
    f"two\r{FORGED}",
    f"three\r\n{FORGED}",
    "four\x1b[2J\x1b[31mred",
    "five\x00\x07\x08\x7f",
    "six\x85\x9b31m\u2028\u2029\u202etxt.exe\u200b\ufeff",
    "seven\ud800",
    "eight \U000e0041 \N{GRINNING FACE}",
    "nine code=OK rows=7",
]
SMALL = Request(input_data="x,y\n1,2\n")


def record(message: str, *args: object, error: BaseException | None = None, **extra: object) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("pred_server", logging.ERROR, __file__, 1, message, args, exc_info)
    made.__dict__.update(extra)
    return made


@given(st.text(st.characters(), max_size=30) | st.sampled_from(HOSTILE))
def test_any_text_is_one_line_in_both_forms(text: str) -> None:
    line = logs.Text(logs.FIELDS).format(record("asked for %s", text))
    assert line.isprintable()
    line.encode()
    line = logs.Json(logs.FIELDS).format(record("asked for %s", text, request_id=text))
    assert line.isprintable() and line.isascii()
    assert json.loads(line)["request_id"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_the_words_of_an_exception_are_no_lines_of_their_own(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        failed = record("request %s failed", text, error=error)
    first, *rest = logs.Text(logs.FIELDS).format(failed).split("\n")
    assert first.isprintable()
    assert rest and all(line.startswith("  | ") and line.isprintable() for line in rest)
    failed.exc_text = None
    line = logs.Json(logs.FIELDS).format(failed)
    assert line.isprintable()
    assert (
        json.loads(line)["exc_info"].rstrip().endswith(text.encode("utf-8", "replace").decode()[-3:])
        or "\ud800" in text
    )


@given(st.dictionaries(st.sampled_from(["request_id", "code", "rows"]), st.text(max_size=10), min_size=1))
def test_a_value_cannot_be_taken_for_further_fields(fields: dict[str, str]) -> None:
    text = logs.escape(logs.as_text(fields))
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "=]*)(?: |$)', text)
    assert [key for key, _ in pairs] == list(fields)
    assert " ".join(f"{key}={value}" for key, value in pairs) == text


def test_plain_text_stays_as_it_is() -> None:
    for text in ("Zürich", "日本", "a b", "plain", r"C:\path"):
        assert logs.escape(text) == text
    assert logs.as_text({"code": "OK", "rows": 3, "encoding": ""}) == "code=OK rows=3 encoding="


@pytest.mark.parametrize("form", ["text", "json"])
def test_callers_write_one_line_a_call_whatever_they_send(form: str) -> None:
    asked = 0
    with serve("sum", "--log-level", "debug", "--log-format", form) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = PredictionStub(channel)
            for text in HOSTILE:
                name = text.encode("utf-8", "replace").decode()
                asked += 1
                with pytest.raises(grpc.RpcError):
                    stub.Predict(Request(input_data=f'"{name}","{name}"\n1,2\n'), timeout=60)
            for entry in ("nine code=OK rows=7", '"', "=", "\\n", "x" * 5_000):
                for key in ("x-request-id", "model-name", "model-version", "output"):
                    asked += 1
                    stub.Predict.future(SMALL, metadata=[(key, entry)], timeout=60).exception()
        log = lines_of(server, asked)
    assert len(log) == asked
    for line in log:
        assert line.isprintable()
        if form == "json":
            assert json.loads(line)["rpc"] == "Predict"
        else:
            assert len(re.findall(r" code=[A-Z]", re.sub(r'"(?:[^"\\]|\\.)*"', "", line))) == 1


def lines_of(server: Server, n_calls: int) -> list[str]:
    """The lines that say how a call ended, once there are as many as calls."""
    pause = threading.Event()
    for _ in range(3_000):
        lines = [line for line in server.logs().split("\n") if "duration_ms" in line]
        if len(lines) >= n_calls:
            return lines
        pause.wait(0.01)
    raise AssertionError(f"{len(lines)} lines of {n_calls} calls")


def test_infinite_values_write_one_line_and_not_one_a_call() -> None:
    with serve("linear", "--model", "sum") as server:
        before = server.logs()
        client = server.client()
        for encoding in ("csv", "tensor", "columns", "arrow") * 3:
            for value in (np.inf, -np.inf):
                with pytest.raises(InvalidInput):
                    client.predict(np.full((2, 10), value), encoding=encoding)
        written = server.logs()[len(before) :]
    assert written.count("\n") == 1
    assert "model linear refused a table" in written


def test_a_client_that_refuses_replies_or_leaves_writes_no_traceback() -> None:
    large = Request(input_data="x,y\n" + "1,2\n" * 20_000)
    with serve("sum", "--log-level", "info") as server:
        with grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", 1)]) as channel:
            stub = PredictionStub(channel)
            for message in (SMALL, large) * 5:
                with pytest.raises(grpc.RpcError):
                    stub.Predict(message, timeout=60)
                with pytest.raises(grpc.RpcError):
                    list(stub.PredictStream(iter([message] * 5), timeout=60))
        with grpc.insecure_channel(server.address) as channel:
            stub = PredictionStub(channel)
            for message in (SMALL, large) * 20:
                stub.Predict.future(message).cancel()
                stub.PredictStream(iter([message] * 5)).cancel()
                HealthStub(channel).Watch(HealthCheckRequest()).cancel()
            assert stub.Predict(SMALL, timeout=60)
    assert_calm(server)


def assert_calm(server: Server) -> None:
    log = server.logs()
    assert "Traceback" not in log and "ERROR" not in log and "WARNING" not in log, log


@pytest.mark.parametrize("drain_timeout_s", ["0.2", "30"])
def test_a_stop_with_all_kinds_of_calls_open_is_quiet(drain_timeout_s: str) -> None:
    """Watches, streams that wait, streams that were never begun, tools that think, messages that never come."""
    never = threading.Event()

    def first_then(*messages: object) -> Iterator[object]:
        yield from messages
        never.wait()

    with (
        serve("sum", "--log-level", "info", "--drain-timeout-s", drain_timeout_s) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = PredictionStub(channel)
        watches = [HealthStub(channel).Watch(HealthCheckRequest(service=name)) for name in ("", "sum", "no")]
        for watch in watches:
            next(watch)
        if drain_timeout_s != "30":  # else the stop would wait for them, as it should
            streams = [stub.PredictStream(first_then(SMALL)) for _ in range(5)]
            for stream in streams:
                next(stream)
            streams.extend(stub.PredictStream(first_then()) for _ in range(5))
            tool = channel.stream_stream(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                ServerReflectionRequest.SerializeToString,
            )(first_then(ServerReflectionRequest(list_services="")))
            next(tool)
        os.kill(server.pid, signal.SIGTERM)
        assert server._process.wait(25) == 0
        never.set()
    assert_calm(server)


def test_descriptors_that_run_out_are_logged_once() -> None:
    """Connections take all descriptors for some seconds: one line, however long that lasts; another once it is over."""
    limit = 64
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
        "import pred_server.server.logs as logs; logs.LOOK_S = 0.05\n"
        "from pred_server.cli import main\n"
        "raise SystemExit(main(['serve', '--model', 'sum', '--address', '127.0.0.1:0']))\n"
    )
    pause = threading.Event()
    with Server([sys.executable, "-c", code], start_timeout_s=60) as server:
        host, port = server.address.split(":")
        before = server.logs()
        held = [socket.create_connection((host, int(port))) for _ in range(limit + 20)]
        wait_for(lambda: "file descriptor" in server.logs())
        pause.wait(1)  # twenty looks
        assert server.logs()[len(before) :].count("\n") == 1, server.logs()
        for connection in held:
            connection.close()
        wait_for(lambda: "descriptors again" in server.logs())
        assert server.client().predict(np.array([[1.0, 2.0]])).tolist() == [3.0]
    assert server.logs()[len(before) :].count("\n") == 2, server.logs()


def wait_for(condition: object) -> None:
    pause = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it never came")


def test_the_soft_limit_on_descriptors_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        logs.use_all_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
