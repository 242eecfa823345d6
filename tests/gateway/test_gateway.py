"""HTTP to the Go gateway, gRPC to the Python server: real processes both, and clients in Go."""

import csv
import gzip
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pandas as pd
import psutil
import pytest
from grpc_tools import protoc
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from pred_server import Model, load, save, serve
from pred_server.checkout import FLIGHTS, ROOT
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.tutorial import stubs
from pred_server.tutorial.background import Gateway, Server, gateway
from pred_server.wire.timing import SERVER_PHASES
from tests.ports import free_address
from tests.waits import comes_true

OUTAGE_S = float(os.environ.get("OUTAGE_S", "2"))  # how long the backend stays away
HANG_S = 120  # how long a test waits for what should happen soon
Go = Callable[..., str]


@pytest.fixture(scope="module")
def flights_gateway(go: Go, flights_server: Server) -> Iterator[Gateway]:
    with gateway(flights_server.address) as running:
        yield running


@pytest.fixture(scope="module")
def sum_gateway(go: Go, sum_server: Server) -> Iterator[Gateway]:
    with gateway(sum_server.address) as running:
        yield running


def post(url: str, body: str | bytes, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(url, "POST", "/predict", body.encode() if isinstance(body, str) else body, names)


def ask(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=HANG_S)
    connection.request(method, path, body, dict(headers))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def eventually(what: str, condition: Callable[[], bool]) -> None:
    assert comes_true(condition, HANG_S), f"still waiting: {what}"


def test_a_backend_may_listen_on_a_socket(go: Go) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pred") as folder:  # a socket's path is short
        backend = f"unix:{folder}/pred.sock"
        with serve("sum", "--address", backend) as server, gateway(server.address) as front:
            assert f"(backend {backend})" in front.logs()
            assert post(front.address, "x,y\n1,2\n", content_type="text/csv")[::2] == (200, "0\n3\n")


def test_10000_flights_come_back_equal_to_the_bit_as_csv_and_as_json(
    flights: pd.DataFrame, flights_model: Model, flights_gateway: Gateway
) -> None:
    expected = flights_model.predict(flights).tolist()
    status, headers, text = post(flights_gateway.address, flights.to_csv(index=False), Content_Type="text/csv")
    assert (status, headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    header, *values = text.split()
    assert header == "arr_delay"
    assert [float(value) for value in values] == expected

    records = json.dumps(flights.to_dict("records"))
    status, headers, text = post(flights_gateway.address, records, Content_Type="application/json")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert [record["arr_delay"] for record in json.loads(text)] == expected


class Upload:
    """A body that is sent in pieces of a length that nobody knows beforehand, while the reply is read."""

    def __init__(self, url: str, pieces: Iterable[bytes], **headers: str):
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=HANG_S)
        self._pieces = pieces
        self._headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.sent = False
        self._sender = threading.Thread(target=self._send)

    def _send(self) -> None:
        connection = self._connection
        connection.putrequest("POST", "/predict")
        for name, value in {"Transfer-Encoding": "chunked", **self._headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        with suppress(ConnectionError):  # the gateway may break the connection; the reader sees it too
            for piece in self._pieces:
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.sent = True
            connection.send(b"0\r\n\r\n")

    def __enter__(self) -> http.client.HTTPResponse:
        self._connection.connect()
        self._sender.start()
        answer = http.client.HTTPResponse(self._connection.sock, method="POST")
        answer.begin()
        return answer

    def __exit__(self, *_: object) -> None:
        self._sender.join(HANG_S)
        self._connection.close()


def test_300000_flights_come_back_as_a_stream_equal_to_the_bit(flights_model: Model, flights_gateway: Gateway) -> None:
    table = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(300_000)
    body = table.to_csv(index=False).encode()
    pieces = (body[start : start + 100_000] for start in range(0, len(body), 100_000))
    upload = Upload(flights_gateway.address, pieces, Content_Type="text/csv")
    with upload as answer:
        text = answer.read().decode()
    assert (answer.status, answer.headers["Transfer-Encoding"]) == (200, "chunked")
    assert "Server-Timing" in answer.headers["Trailer"].split(", ")
    header, *values = text.split()
    assert header == "arr_delay"
    assert [float(value) for value in values] == flights_model.predict(table).tolist()


def test_100_mb_of_csv_pass_in_constant_memory_and_the_first_predictions_come_early(go: Go) -> None:
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(rng.normal(size=(5_000, 10))).add_prefix("x")
    rows = numbers.to_csv(index=False, header=False).encode()
    header = (",".join(numbers.columns) + "\n").encode()
    repeats = -(-100_000_000 // len(rows))
    with serve("linear") as server, gateway(server.address) as running:
        process = psutil.Process(running.pid)
        assert post(running.address, header + rows[: rows.index(b"\n") + 1])[0] == 200
        before = process.memory_info().rss
        start = time.perf_counter()
        upload = Upload(running.address, itertools.chain([header], itertools.repeat(rows, repeats)))
        with upload as answer:
            first, early = answer.read(1_000), not upload.sent
            first_s, most = time.perf_counter() - start, 0
            lines, lengths = first.count(b"\n"), len(first)
            while part := answer.read(1 << 20):
                lines, lengths = lines + part.count(b"\n"), lengths + len(part)
                most = max(most, process.memory_info().rss)
        whole_s = time.perf_counter() - start
    grown = most - before
    print(
        f"{repeats * len(rows) / 1e6:.0f} MB of CSV in {whole_s:.1f} s; the gateway's memory grew by "
        f"{grown / 2**20:.1f} MiB; the first predictions came after {first_s / whole_s:.1%} of the time"
    )
    assert answer.status == 200
    assert lines == 1 + repeats * len(numbers)
    assert early, "the first predictions came after the last row"
    assert grown <= 32 * 2**20


def test_a_bad_row_in_a_stream_is_an_error_or_breaks_the_connection(go: Go, sum_server: Server) -> None:
    rows = b"1,2\n" * 1_000
    with gateway(sum_server.address, "-chunk-bytes", "1000") as running:
        status, headers, text = post(running.address, b"x,y\n1,two\n" + rows)
        error = json.loads(text)["error"]
        assert (status, error["violations"][0]["field"]) == (400, "y")
        assert error["message"].startswith("y: line 2: 'two' is not a number")
        assert list(timing(headers)) == ["decode", "backend", "gateway"]

        begun = threading.Event()

        def pieces() -> Iterator[bytes]:
            yield b"x,y\n" + rows
            begun.wait(HANG_S)
            yield b"1,two\n" + rows

        with Upload(running.address, pieces()) as answer:
            first = answer.read(4)
            begun.set()
            assert (answer.status, first) == (200, b"0\n3\n")
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answer.read()
        eventually("a line in the log", lambda: '"aborted":true' in running.logs())
        assert re.search(r"in chunk \d+, the rows from [\d,]+ on: y: line \d+: 'two'", running.logs())


def test_a_server_without_streams_gets_a_large_table_whole(go: Go) -> None:
    rows = "1,2\n" * 1_000
    flags = ("-chunk-bytes", "1000", "-max-body-bytes", "5000")
    with serve("sum", module="pred_server.tutorial.article") as article, gateway(article.address, *flags) as running:
        for _ in range(2):
            assert post(running.address, "x,y\n" + rows)[::2] == (200, "0\n" + "3\n" * 1_000)
        status, _, text = post(running.address, "x,y\n" + 2 * rows)
        assert (status, json.loads(text)["error"]["code"]) == (413, "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("headers", [{}, {"Content_Type": "application/x-www-form-urlencoded"}])
def test_what_the_articles_picture_posts_is_taken(headers: dict[str, str], sum_gateway: Gateway) -> None:
    assert post(sum_gateway.address, "x,y\n1,2\n", **headers)[::2] == (200, "0\n3\n")


def test_json_keeps_every_digit(sum_gateway: Gateway) -> None:
    numbers = [5e-324, 1.7976931348623157e308, 0.1, -0.0, 123456789012345680.0]
    body = json.dumps([{"y": 0, "x": number} for number in numbers])
    status, _, text = post(sum_gateway.address, body, Content_Type="application/json")
    assert status == 200
    assert [record["0"] for record in json.loads(text)] == [number + 0 for number in numbers]
    nothing = post(sum_gateway.address, '[{"x": null, "y": 1}]', Content_Type="application/json")[2]
    assert json.loads(nothing) == [{"0": None}]


def test_probabilities_come_back_equal_to_the_bit_as_csv_and_as_json(
    go: Go, tmp_path: Path, sum_gateway: Gateway
) -> None:
    wine = load_wine(as_frame=True)
    labels = wine.target_names[wine.target]
    classifier = RandomForestClassifier(n_estimators=30, random_state=0).fit(wine.data, labels)
    save(classifier, wine.data, tmp_path / "wine", target="cultivar")
    expected = [
        dict(zip(classifier.classes_, row, strict=True)) for row in classifier.predict_proba(wine.data).tolist()
    ]
    table, records = wine.data.to_csv(index=False), json.dumps(wine.data.to_dict("records"))
    with serve(tmp_path / "wine") as server, gateway(server.address) as running:
        status, _, text = post(running.address, table, Model_Output="probabilities")
        header, *lines = csv.reader(text.splitlines())
        assert (status, header) == (200, list(classifier.classes_))
        assert [dict(zip(header, map(float, line), strict=True)) for line in lines] == expected

        json_headers = {"Content_Type": "application/json", "Model_Output": "probabilities"}
        status, _, text = post(running.address, records, **json_headers)
        assert (status, json.loads(text)) == (200, expected)

        status, _, text = post(running.address, records, Content_Type="application/json")
        assert (status, json.loads(text)) == (200, [{"cultivar": label} for label in classifier.predict(wine.data)])
        assert post(running.address, table, Model_Output="labels")[2] == post(running.address, table)[2]
        refusals = [(running, table, "certainty"), (sum_gateway, "x,y\n1,2\n", "probabilities")]
        for refusing, body, output in refusals:
            status, _, text = post(refusing.address, body, Model_Output=output)
            assert (status, json.loads(text)["error"]["violations"][0]["field"]) == (400, "output")


def test_the_servers_errors_reach_the_web_user_with_the_field_and_the_request_id(sum_gateway: Gateway) -> None:
    status, headers, text = post(sum_gateway.address, "x,y\n1,2\n3,four\n", X_Request_Id="order-66")
    error = json.loads(text)["error"]
    assert status == 400
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["request_id"] == headers["X-Request-Id"] == "order-66"
    assert error["violations"][0]["field"] == "y"
    assert error["message"].startswith("y: line 3: 'four' is not a number")
    assert json.loads(post(sum_gateway.address, "x,y\n1,2\n", Model_Name="none")[2])["error"]["code"] == "NOT_FOUND"


def timing(headers: http.client.HTTPMessage) -> dict[str, float]:
    """Milliseconds by name, in the order of the header."""
    return {name: float(ms) for name, ms in re.findall(r"(\w+);dur=(\d+\.\d+)", headers["Server-Timing"])}


@pytest.mark.parametrize("encoding", ["csv", "json"])
def test_server_timing_has_the_servers_phases_and_the_gateways_hop(
    encoding: str, flights: pd.DataFrame, flights_gateway: Gateway
) -> None:
    if encoding == "csv":
        body, media_type = flights.to_csv(index=False), "text/csv"
    else:
        body, media_type = json.dumps(flights.to_dict("records")), "application/json"
    start = time.perf_counter()
    status, headers, _ = post(flights_gateway.address, body, Content_Type=media_type)
    measured_ms = (time.perf_counter() - start) * 1000
    assert status == 200
    found = timing(headers)
    assert list(found) == [*SERVER_PHASES, "backend", "gateway"]
    assert 'batch;desc="' in headers["Server-Timing"]
    assert sum(found[phase] for phase in SERVER_PHASES) <= found["backend"]
    assert found["backend"] + found["gateway"] <= measured_ms


def test_server_timing_of_errors_and_of_the_articles_server(go: Go, sum_gateway: Gateway) -> None:
    status, headers, _ = post(sum_gateway.address, "x,y\n1,two\n")
    assert (status, list(timing(headers))) == (400, ["decode", "backend", "gateway"])
    status, headers, _ = post(sum_gateway.address, "")
    assert (status, headers["Server-Timing"]) == (400, None)
    with serve("sum", module="pred_server.tutorial.article") as article, gateway(article.address) as running:
        status, headers, _ = post(running.address, "x,y\n1,2\n")
        assert (status, list(timing(headers))) == (200, ["backend", "gateway"])


def test_the_request_id_stands_in_the_servers_log(go: Go) -> None:
    with serve("sum", "--log-level", "info") as server, gateway(server.address) as running:
        post(running.address, "x,y\n1,2\n", X_Request_Id="order-67")
        assert "request_id=order-67" in server.logs()
        assert '"request_id":"order-67"' in running.logs()


def test_what_http_clients_commonly_do_is_taken_or_named(sum_gateway: Gateway) -> None:
    table, answer = "x,y\n1,2\n3,4\n", "0\n3\n7\n"
    for kind in ("text/csv; charset=utf8", 'text/csv; charset="US-ASCII"', "text/plain", "application/octet-stream"):
        assert post(sum_gateway.address, table, Content_Type=kind)[::2] == (200, answer)
    zipped = gzip.compress(table.encode())
    assert post(sum_gateway.address, zipped, Content_Encoding="gzip")[::2] == (200, answer)
    records = "\ufeff" + json.dumps([{"x": 1, "y": 2}])
    assert post(sum_gateway.address, records, Content_Type="application/json")[::2] == (200, '[{"0":3}]\n')

    refusals: tuple[tuple[str, dict[str, str], int, str], ...] = (
        ("x,y1,23,4", {"Content_Type": "application/x-www-form-urlencoded"}, 400, "--data-binary"),
        (table, {"Content_Type": "multipart/form-data; boundary=b"}, 415, "--data-binary"),
        (table, {"Content_Encoding": "br"}, 415, "gzip"),
        (table, {"Host": "evil.example"}, 421, "-allow-host"),
        (table, {"Origin": "http://evil.example", "Content_Type": "text/plain"}, 403, "another site"),
    )
    for body, headers, expected, words in refusals:
        status, _, text = post(sum_gateway.address, body, **headers)
        assert (status, words in json.loads(text)["error"]["message"]) == (expected, True), text


def test_bodies_that_come_at_once_are_bounded_in_all(go: Go) -> None:
    """Twelve clients post 12 MiB of JSON each, and the gateway may hold 24 MiB."""
    record = "{" + ",".join(f'"x{place}":1' for place in range(10)) + "}"
    body = "[" + ",".join([record] * 175_000) + "]"
    flags = ("-max-body-bytes", "16000000", "-chunk-bytes", "100000", "-max-bytes-held", "40000000")
    with serve("linear") as server, gateway(server.address, *flags) as running, ThreadPoolExecutor(12) as pool:
        process = psutil.Process(running.pid)
        before, most, stop = process.memory_info().rss, 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not stop.wait(0.01):
                most = max(most, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()

        def ask_once(_: int) -> tuple[int, str | None]:
            status, headers, _ = post(running.address, body, Content_Type="application/json")
            return status, headers["Retry-After"]

        answers = Counter(pool.map(ask_once, range(12)))
        stop.set()
        watcher.join()
        assert set(answers) <= {(200, None), (429, "1")}, answers
        assert answers[200, None] > 0
        assert most - before < 2 * 12 * len(body)  # what is held, and what Go has not collected; unbounded it is 600 MB
        assert post(running.address, body, Content_Type="application/json")[0] == 200


def test_too_large_is_413(go: Go) -> None:
    limits = ("--max-rows", "200", "--max-message-bytes", "1000")
    own = ("-max-body-bytes", "10000", "-max-stream-bytes", "10000")
    with serve("sum", *limits) as server, gateway(server.address, *own) as running:
        assert post(running.address, "x,y\n" + "1,2\n" * 200)[0] == 200
        for rows, words in (
            (210, "--max-rows is 200"),
            (400, "--max-message-bytes is 1,000"),
            (1_000, "larger than the prediction server allows"),  # gRPC itself refuses what is over twice the limit
            (5_000, "larger than 10000 bytes"),  # the gateway's own limit
        ):
            status, headers, text = post(running.address, "x,y\n" + "1,2\n" * rows)
            error = json.loads(text)["error"]
            assert (status, error["code"], headers["Retry-After"]) == (413, "RESOURCE_EXHAUSTED", None)
            assert words in error["message"]


def test_a_server_with_too_much_to_do_is_429_and_stays_ready(go: Go) -> None:
    limits = ("--max-calls-in-flight", "1", "--log-level", "debug")
    with (
        serve("sum", *limits) as server,
        gateway(server.address) as running,
        grpc.insecure_channel(server.address) as channel,
    ):
        end = threading.Event()

        def no_chunks() -> Iterator[Request]:
            end.wait()
            yield from ()

        stream = PredictionStub(channel).PredictStream(no_chunks())
        eventually("the stream to be accepted", lambda: "accepted" in server.logs())
        status, headers, text = post(running.address, "x,y\n1,2\n")
        error = json.loads(text)["error"]
        assert (status, error["code"], headers["Retry-After"]) == (429, "RESOURCE_EXHAUSTED", "1")
        assert "--max-calls-in-flight is 1" in error["message"]
        assert ask(running.address, "GET", "/readyz")[0] == 200
        end.set()
        assert list(stream) == []
        eventually("an answer", lambda: post(running.address, "x,y\n1,2\n")[0] == 200)


def test_a_server_that_drains_is_not_ready_and_answers_what_it_accepted(go: Go, flights_model: Model) -> None:
    table = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(300_000)
    body = table.to_csv(index=False)
    with (
        serve("flights", "--log-level", "debug", "--drain-delay-s", "1") as server,
        gateway(server.address, "-timeout", f"{HANG_S}s") as running,
        ThreadPoolExecutor() as pool,
    ):
        assert ask(running.address, "GET", "/readyz")[::2] == (200, '{"status":"ready"}\n')
        answer = pool.submit(post, running.address, body)
        eventually("the call to be accepted", lambda: "accepted" in server.logs())
        os.kill(server.pid, signal.SIGTERM)
        said: list[str] = []

        def turned() -> bool:
            status, _, text = ask(running.address, "GET", "/readyz")
            said.append(text)
            return status == 503

        eventually("/readyz to turn", turned)
        assert not answer.done()
        assert (
            "or stopping" in said[-1]
        )  # the server's own word; of one that is gone, it is said that it cannot be reached
        status, _, text = answer.result()
        assert status == 200
        assert [float(value) for value in text.split()[1:]] == flights_model.predict(table).tolist()
        eventually("the server to end", lambda: not server.running)
        assert "cannot be reached" in ask(running.address, "GET", "/readyz")[2]


def test_a_header_may_shorten_the_deadline(flights: pd.DataFrame, flights_gateway: Gateway) -> None:
    table = flights.to_csv(index=False)
    status, _, text = post(flights_gateway.address, table, Request_Timeout_Ms="1")
    assert (status, json.loads(text)["error"]["code"]) == (504, "DEADLINE_EXCEEDED")
    assert post(flights_gateway.address, table, Request_Timeout_Ms="60000")[0] == 200


def test_unknown_columns_are_named_in_a_header(sum_gateway: Gateway) -> None:
    assert post(sum_gateway.address, "x,y,größe\n1,2,3\n")[1]["Ignored-Columns"] == "gr%C3%B6%C3%9Fe"


def test_a_backend_that_dies_under_load_is_503_until_it_is_back(go: Go) -> None:
    """50 requests a second go on all the while; none hangs, and the gateway is not restarted."""
    address = free_address()
    answers: list[tuple[float, int]] = []
    stop = threading.Event()

    def call(running: Gateway) -> None:
        while not stop.wait(0.1):
            answers.append((time.monotonic(), post(running.address, "x,y\n1,2\n")[0]))

    def wait_for(status: int, since: float) -> float:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if any(at > since and got == status for at, got in list(answers)):
                return time.monotonic() - since
            stop.wait(0.01)
        raise AssertionError(f"no {status} within 30 s: {Counter(got for _, got in answers)}")

    with gateway(address) as running:
        with serve("sum", "--address", address) as server:
            callers = [threading.Thread(target=call, args=(running,)) for _ in range(5)]
            for caller in callers:
                caller.start()
            wait_for(200, time.monotonic())
            os.kill(server.pid, signal.SIGKILL)
            killed = time.monotonic()
            wait_for(503, killed)
        stop.wait(OUTAGE_S)
        starting = time.monotonic()  # it answers before the ready line is read
        with serve("sum", "--address", address):
            ready = time.monotonic()
            back_s = wait_for(200, ready)
            stop.set()
            for caller in callers:
                caller.join()
        down = Counter(got for at, got in answers if killed + 0.5 < at < starting)
        print(f"outage of {ready - killed:.1f} s: {dict(down)}; 200 again {back_s:.2f} s after the ready line")
        assert set(down) == {503}
        assert {got for _, got in answers} == {200, 503}


def test_a_go_program_against_the_articles_contract_works(
    go: Go, flights: pd.DataFrame, flights_model: Model, flights_server: Server, tmp_path: Path
) -> None:
    (tmp_path / "flights.csv").write_text(flights.head(20).to_csv(index=False))
    command = ["run", "./gateway/examples/article", "-address", flights_server.address, str(tmp_path / "flights.csv")]
    header, *values = go(*command).split()
    assert header == "arr_delay"
    assert [float(value) for value in values] == flights_model.predict(flights.head(20)).tolist()
    source = (ROOT / "gateway/examples/article/main.go").read_text()
    assert "&predpb.Request{InputData:" in source
    assert "res.Result" in source


def test_a_go_client_with_stubs_of_the_articles_own_proto_works(go: Go, sum_server: Server, tmp_path: Path) -> None:
    """The same source, a module of its own, and not a line of ours but go.mod's versions."""
    source = (ROOT / "gateway/examples/article/main.go").read_text()
    (tmp_path / "main.go").write_text(source.replace(f"{stubs.module_path()}/generated/predpb", "article/predpb"))
    (tmp_path / "go.mod").write_text(
        (ROOT / "go.mod").read_text().replace(f"module {stubs.module_path()}", "module article")
    )
    shutil.copy(ROOT / "go.sum", tmp_path)
    plugins = [f"--plugin={name}={go('tool', '-n', name).strip()}" for name in stubs.GO_PLUGINS]
    outputs = [f"--go_out={tmp_path}", f"--go-grpc_out={tmp_path}"]
    assert protoc.main(["protoc", f"-I{ROOT / 'tests/article'}", *plugins, *outputs, "pred.proto"]) == 0
    go("build", "-C", str(tmp_path), "-o", str(tmp_path / "client"), ".")
    (tmp_path / "table.csv").write_text("x,y\n1,2\n0.1,0.2\n")
    with serve("sum", module="pred_server.tutorial.article") as article:
        for address, expected in ((article.address, "0\n3.0\n0.30000000000000004\n"), (sum_server.address, None)):
            done = subprocess.run(
                [tmp_path / "client", "-address", address, tmp_path / "table.csv"],
                capture_output=True, text=True, check=True, timeout=60,
            )  # fmt: skip
            assert expected in (None, done.stdout)
            assert [float(value) for value in done.stdout.split()] == [0.0, 3.0, 0.1 + 0.2]


def outside(folder: Path, go: Go, source: str) -> Path:
    """A program, built in a folder that has nothing of the checkout but a `replace` with its path."""
    folder.mkdir()
    (folder / "main.go").write_text(source)
    module = stubs.module_path()
    (folder / "go.mod").write_text(
        f"module example.org/{folder.name}\n\ngo 1.26.0\n\nrequire {module} v0.0.0\n\nreplace {module} => {ROOT}\n"
    )
    go("mod", "tidy", "-C", str(folder))
    go("vet", "-C", str(folder), ".")
    go("build", "-C", str(folder), "-o", str(folder / "program"), ".")
    return folder / "program"


@pytest.fixture(scope="module")
def outsider(go: Go, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What the program prints that has package pred alone: predictions of a table, whole and as a stream."""
    source = (ROOT / "tests/gateway/outside/main.go").read_text()
    program = outside(tmp_path_factory.mktemp("go") / "outside", go, source)

    def ask(server: Server, table: pd.DataFrame, *flags: str) -> Any:
        columns = []
        for name, values in table.items():
            missing = values.isna().to_numpy()
            kind = {"f": "Floats", "i": "Ints"}.get(values.dtype.kind, "Texts")
            plain = [
                ("" if kind == "Texts" else 0) if gone else value
                for value, gone in zip(values.tolist(), missing, strict=True)
            ]
            columns.append({"Name": name, kind: plain, "Missing": np.flatnonzero(missing).tolist()})
        done = subprocess.run(
            [program, "-address", server.address, *flags],
            input=json.dumps(columns), capture_output=True, text=True, timeout=HANG_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


def bits(values: Any) -> list[str]:
    return [f"{value:016x}" for value in np.ascontiguousarray(values, np.float64).view(np.uint64).tolist()]


def test_a_program_with_the_client_alone_predicts_10000_flights_equal_to_the_bit(
    flights: pd.DataFrame, flights_model: Model, flights_server: Server, outsider: Callable[..., Any]
) -> None:
    table = flights.assign(tailnum="N1")
    table.loc[table.index[::100], "dep_delay"] = np.nan
    answer = outsider(flights_server, table)
    expected = bits(flights_model.predict(table))
    assert answer["whole"] == answer["stream"] == {"arr_delay": expected}
    assert answer["ignored"] == ["tailnum"]
    assert answer["batch"] == 10_000


@pytest.mark.parametrize("rows", ["1", "77", "100000"])
def test_a_program_with_the_client_alone_sends_numbers_as_a_tensor(
    rows: str, go: Go, outsider: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(5)
    numbers = pd.DataFrame(rng.normal(size=(500, 10)) * 10.0 ** rng.integers(-6, 6, size=(500, 10))).add_prefix("x")
    with serve("linear") as server:
        answer = outsider(server, numbers[numbers.columns[::-1]], "-rows", rows)
    assert (
        answer["whole"]
        == answer["stream"]
        == {load("linear").schema.target.name: bits(load("linear").predict(numbers))}
    )


def test_a_program_with_the_client_alone_gets_labels_and_probabilities(
    go: Go, tmp_path: Path, outsider: Callable[..., Any]
) -> None:
    wine = load_wine(as_frame=True)
    for target, labels in (("cultivar", wine.target_names[wine.target]), ("number", wine.target)):
        classifier = RandomForestClassifier(n_estimators=30, random_state=0).fit(wine.data, labels)
        save(classifier, wine.data, tmp_path / target, target=target)
        with serve(tmp_path / target) as server:
            expected = {target: [str(label) for label in classifier.predict(wine.data)]}
            answer = outsider(server, wine.data)
            assert answer["whole"] == answer["stream"] == expected
            answer = outsider(server, wine.data, "-probabilities")
            chances = classifier.predict_proba(wine.data)
            expected = {str(label): bits(chances[:, at]) for at, label in enumerate(classifier.classes_)}
            assert answer["whole"] == answer["stream"] == expected


def test_the_program_in_gateways_readme_works(go: Go, sum_server: Server, tmp_path: Path) -> None:
    (source,) = re.findall(r"```go\n(.*?)```", (ROOT / "gateway/README.md").read_text(), re.DOTALL)
    assert '"127.0.0.1:50051"' in source
    program = outside(tmp_path / "hello", go, source.replace("127.0.0.1:50051", sum_server.address))
    done = subprocess.run([program], capture_output=True, text=True, check=True, timeout=HANG_S)
    assert done.stdout.strip() == source.split("// ")[1].splitlines()[0]


def test_the_client_depends_on_grpc_and_protobuf_alone(go: Go) -> None:
    module = stubs.module_path()
    packages = go("list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./gateway/pred").split()
    others = [name for name in packages if not name.startswith((module, "google.golang.org/", "golang.org/x/"))]
    assert others == []
    assert {name for name in packages if name.startswith(module)} == {
        f"{module}/gateway/pred", f"{module}/gateway/internal/access", f"{module}/gateway/internal/kept",
        f"{module}/generated/predpb",
    }  # fmt: skip


def test_one_of_two_servers_is_killed_and_one_drained_and_no_call_fails(go: Go, tmp_path: Path) -> None:
    """100 calls a second go on all the while. What was in flight on the killed server is tried again on the other."""
    program = outside(tmp_path / "steady", go, (ROOT / "tests/gateway/steady/main.go").read_text())

    def asked(server: Server, since: int = 0) -> Callable[[], bool]:
        return lambda: server.logs().count("code=OK") >= since + 20

    with ExitStack() as stack:
        killed, drained = (stack.enter_context(serve("sum", "--log-level", "info")) for _ in range(2))
        addresses = [killed.address, drained.address]
        with (tmp_path / "calls").open("w") as calls:
            steady = subprocess.Popen(
                [program, "-backend", ",".join(addresses)], stdin=subprocess.PIPE, stdout=calls, text=True
            )
            stack.callback(steady.kill)

            def lines() -> list[str]:
                return (tmp_path / "calls").read_text().splitlines()

            def in_flight() -> int:
                count = Counter(line == "+" for line in lines())
                return count[True] - count[False]

            for server in (killed, drained):
                eventually("both servers to be asked", asked(server))
            os.kill(killed.pid, signal.SIGSTOP)
            eventually("calls in flight", lambda: in_flight() >= 20)  # half of all go to the server that stands still
            at_the_kill = in_flight()
            os.kill(killed.pid, signal.SIGKILL)
            eventually("calls to be tried again", lambda: in_flight() < 5)
            back = stack.enter_context(serve("sum", "--log-level", "info", "--address", addresses[0]))
            eventually("the killed server's successor to be asked", asked(back))

            os.kill(drained.pid, signal.SIGTERM)
            eventually("the drained server to end", lambda: not drained.running)
            assert drained._process.returncode == 0
            eventually("the other to take all calls", asked(back, back.logs().count("code=OK")))
            back = stack.enter_context(serve("sum", "--log-level", "info", "--address", addresses[1]))
            eventually("the drained server's successor to be asked", asked(back))

            assert steady.stdin is not None
            steady.stdin.close()
            assert steady.wait(HANG_S) == 0
    ended = [line.split() for line in lines() if line != "+"]
    again = sum(int(ms) >= 150 for _, ms in ended)  # the first pause before a retry is of 200 ms at the least
    codes = Counter(code for code, _ in ended)
    print(f"{dict(codes)}; {at_the_kill} in flight at the kill; {again} calls took 150 ms or more")
    assert set(codes) == {"OK"}
    assert again >= 5


@pytest.fixture(scope="module")
def encodings(go: Go, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, built. It is a module of its own, and has Arrow to fetch."""
    program = tmp_path_factory.mktemp("go") / "encodings"
    try:
        go("build", "-C", "gateway/examples/encodings", "-o", str(program), ".")
    except stubs.GoMissing as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Arrow for Go cannot be reached: {error}")
    return program


@pytest.mark.parametrize("chunk_rows", [1, 7, 1_000_000])
@pytest.mark.parametrize("name", ["linear", "flights"])
def test_every_encoding_from_go_is_equal_to_the_bit(
    name: str, chunk_rows: int, encodings: Path, flights: pd.DataFrame, flights_server: Server, tmp_path: Path
) -> None:
    rng = np.random.default_rng(chunk_rows)
    numbers = rng.normal(size=(200, 10)) * 10.0 ** rng.integers(-6, 6, size=(200, 10))
    table = flights.head(200) if name == "flights" else pd.DataFrame(numbers).add_prefix("x")
    table.to_csv(tmp_path / "table.csv", index=False)
    with serve("linear") if name == "linear" else nullcontext(flights_server) as server:
        done = subprocess.run(
            [encodings, "-address", server.address, "-chunk-rows", str(chunk_rows), tmp_path / "table.csv"],
            capture_output=True, text=True, timeout=HANG_S,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, *lines = csv.reader(done.stdout.splitlines())
    model = load(name)
    assert header == [model.schema.target.name, "bits"]
    assert [bits for _, bits in lines] == [f"{bits:016x}" for bits in model.predict(table).view(np.uint64).tolist()]
    assert [float(value) for value, _ in lines] == model.predict(table).tolist()
    assert len(re.findall("200 predictions", done.stderr)) == (8 if name == "linear" else 6)
    assert ("is left out" in done.stderr) == (name == "flights")


def test_it_ends_with_whoever_started_it(go: Go) -> None:
    running = gateway("127.0.0.1:1")
    running._process.stdin.close()  # what the system does for a parent that was killed
    assert running._process.wait(30) == 0
    running.close()
