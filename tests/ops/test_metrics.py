"""What one watches: the numbers are right, their labels are few, Prometheus reads them, and the alerts fire."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sklearn.linear_model import LinearRegression

from pred_server import save, serve
from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, LimitExceeded, ModelNotFound, ServerStartError
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.ops.counts import Calls, Histogram
from pred_server.tutorial.background import Gateway, Process, Server, gateway
from tests.ops.certificates import Authority, write
from tests.ports import free_address
from tests.waits import wait_until

TABLE = pd.DataFrame({"x": [1.0, 3.0], "y": [2.0, 4.0]})
ALERTS = ROOT / "docs/alerts.yml"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

needs_prometheus = pytest.mark.skipif(
    not shutil.which("promtool"), reason="Prometheus is not installed (on Debian: apt install prometheus)"
)


def get(url: str) -> str:
    """Read a page of this machine, whatever proxy the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as reply:
        return str(reply.read().decode())


def where(process: Process) -> str:
    """The URL of a process's metrics."""
    found = re.search(r"^metrics on (\S+)$", process.logs(), re.MULTILINE)
    assert found, process.logs()
    return found[1]


def samples_of(process: Process) -> Samples:
    """All that a process publishes, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(get(where(process)))
        for sample in family.samples
    }


def sample(process: Process, name: str, **labels: str) -> float:
    """One number; 0 where it is not there."""
    return samples_of(process).get((name, tuple(sorted(labels.items()))), 0.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    flags = ("--model", "linear", "--metrics", "127.0.0.1:0", "--max-rows", "200000", "--log-level", "info")
    with serve("sum", *flags) as server:
        yield server


def test_calls_are_counted_by_rpc_model_encoding_and_code(server: Server) -> None:
    client = server.client()
    with client:
        for encoding in ("csv", "columns", "tensor", "arrow"):
            for _ in range(3):
                client.predict(TABLE, encoding=encoding)
        list(client.predict_stream([TABLE, TABLE], encoding="tensor"))
        with pytest.raises(InvalidInput):
            client.predict("x,y\n1,nonsense\n", encoding="csv")
    for encoding in ("csv", "columns", "tensor", "arrow"):
        labels = {"rpc": "Predict", "model": "sum/1", "encoding": encoding, "code": "OK"}
        wait_until(lambda labels=labels: sample(server, "pred_server_calls_total", **labels) == 3, encoding)  # type: ignore[misc]
    stream = {"rpc": "PredictStream", "model": "sum/1", "encoding": "tensor", "code": "OK"}
    fault = {"rpc": "Predict", "model": "sum/1", "encoding": "", "code": "INVALID_ARGUMENT"}
    wait_until(lambda: sample(server, "pred_server_calls_total", **stream) == 1, "the stream is counted")
    wait_until(lambda: sample(server, "pred_server_calls_total", **fault) == 1, "the fault is counted")
    now = samples_of(server)
    assert now["pred_server_rows_total", (("model", "sum/1"),)] == 4 * 3 * 2 + 4
    for phase in ("decode", "queue", "predict", "encode"):
        assert now["pred_server_phase_seconds_count", (("model", "sum/1"), ("phase", phase))] >= 12
        assert now["pred_server_phase_seconds_sum", (("model", "sum/1"), ("phase", phase))] > 0
    assert now["pred_server_call_seconds_count", (("model", "sum/1"), ("rpc", "PredictStream"))] == 1
    assert now["pred_server_batch_rows_count", (("model", "sum/1"),)] == 13
    assert now["pred_server_batch_rows_bucket", (("le", "1"), ("model", "sum/1"))] == 0
    assert now["pred_server_batch_rows_bucket", (("le", "2"), ("model", "sum/1"))] >= 12


def test_what_the_server_holds_and_what_it_serves(server: Server) -> None:
    with server.client() as client:
        identity = client.describe().identity
    label, schema, digest = str(identity).rsplit("/", 2)
    info = {"name": "sum", "version": "1", "schema": schema, "digest": digest, "engine": "sklearn"}
    now = samples_of(server)
    models = {dict(labels)["model"]: dict(labels) for name, labels in now if name == "pred_server_model_info"}
    assert set(models) == {"sum/1", "linear/1"}
    assert models["sum/1"] == {"model": label, **info, "engine": models["sum/1"]["engine"]}
    assert now["pred_server_limit", (("limit", "max_rows"),)] == 200_000
    assert now["process_resident_memory_bytes", ()] > 1e7
    assert 0 <= now["pred_server_loop_delay_seconds", ()] <= 1
    assert now["pred_server_queued_rows", ()] == 0
    assert now["pred_server_stopping", ()] == 0

    def chunks() -> Iterator[Request]:
        yield Request(input_data="x,y\n1,2\n")
        wait_until(lambda: sample(server, "pred_server_calls_in_flight") == 1, "the stream is in flight")

    with grpc.insecure_channel(server.address) as channel:
        assert len(list(PredictionStub(channel).PredictStream(chunks(), timeout=60))) == 1
    wait_until(lambda: sample(server, "pred_server_calls_in_flight") == 0, "it has left")


def test_refusals_are_counted_by_their_limit(server: Server) -> None:
    with server.client() as client, pytest.raises(LimitExceeded):
        client.predict(np.ones((200_001, 2)), stream=False)
    wait_until(lambda: sample(server, "pred_server_refusals_total", limit="max_rows") == 1, "it is counted")
    assert sample(server, "pred_server_refusals_total", limit="max_calls_in_flight") == 0


def test_callers_make_up_no_labels(server: Server) -> None:
    def series() -> set[tuple[str, tuple[tuple[str, str], ...]]]:
        return set(samples_of(server))

    def ask(name: str, version: str) -> None:
        with server.client(model=name, version=version) as client, pytest.raises(ModelNotFound):
            client.predict("x,y\n1,2\n", encoding="csv")

    unknown = {"rpc": "Predict", "model": "", "encoding": "", "code": "NOT_FOUND"}
    ask("made-up", "1")
    wait_until(lambda: sample(server, "pred_server_calls_total", **unknown) == 1, "it is counted")
    before = series()
    for number in range(20):
        ask(f"made-up-{number}", str(number))
    wait_until(lambda: sample(server, "pred_server_calls_total", **unknown) == 21, "all are counted")
    assert series() == before
    assert "made-up" not in get(where(server))


def test_methods_that_callers_make_up_are_one(tmp_path: Path) -> None:
    tokens = write(tmp_path / "tokens", "web a-token-of-the-web-team\n")
    with serve("sum", "--token-file", str(tokens), "--metrics", "127.0.0.1:0") as server:
        with grpc.insecure_channel(server.address) as channel:
            for method in ("/prediction.Prediction/Predict", "/made.up/One", "/made.up/Two"):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(b"", timeout=30)
        refused = {"model": "", "encoding": "", "code": "UNAUTHENTICATED"}
        assert sample(server, "pred_server_calls_total", rpc="Predict", **refused) == 1
        assert sample(server, "pred_server_calls_total", rpc="other", **refused) == 2
        assert sample(server, "pred_server_files_broken", files="tokens") == 0
        tokens.unlink()
        wait_until(lambda: sample(server, "pred_server_files_broken", files="tokens") == 1, "the file is missed")


def test_a_new_version_that_cannot_be_used_is_published(tmp_path: Path) -> None:
    save(LinearRegression().fit(TABLE, [3.0, 7.0]), TABLE, tmp_path / "m", name="m")
    with serve(tmp_path / "m", "--reload", "--metrics", "127.0.0.1:0") as server:
        assert ("pred_server_files_broken", (("files", "model m"),)) in samples_of(server)
        assert sample(server, "pred_server_files_broken", files="model m") == 0
        (tmp_path / "m/manifest.json").write_text("{}")
        wait_until(lambda: sample(server, "pred_server_files_broken", files="model m") == 1, "it is refused")


def test_a_model_that_is_replaced_keeps_its_label() -> None:
    calls = Calls()
    watch = SimpleNamespace(phases_ms={"predict": 1.0}, batch_rows=1)
    for identity in ("flights/1/schema/one", "flights/1/schema/two", "flights/2/schema/three", ""):
        call: Any = SimpleNamespace(rpc="Predict", identity=identity, encoding="csv", rows=2, start_ns=0, watch=watch)
        calls.observe(call, "OK", None)
    assert {label: of.rows for label, of in calls.of_models.items() if label} == {"flights/1": 4, "flights/2": 2}
    assert calls.ended["Predict", "flights/1", "csv", "OK"] == 2


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 5, 100):
        histogram.add(value)
    assert histogram.buckets() == [("1", 2), ("2", 3), ("4", 4), ("+Inf", 6)]
    assert histogram.total == 112


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nowhere", "the port is missing"),
        ("192.0.2.1:0", "--expose-to-network"),
        ("TAKEN", "cannot be used"),
        (
            "unix:/tmp/metrics.sock",
            "--metrics unix:/tmp/metrics.sock: Prometheus reads from ports alone; write HOST:PORT",
        ),
    ],
)
def test_an_address_for_metrics_that_cannot_be(address: str, sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = address.replace("TAKEN", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ServerStartError, match=sentence):
            serve("sum", "--metrics", address)


def test_without_the_flag_nothing_is_published_and_nothing_counted(sum_server: Server) -> None:
    assert "metrics on" not in sum_server.logs()


def test_the_expiry_of_the_certificate_is_published(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("127.0.0.1")
    with serve("sum", "--tls-cert", str(cert), "--tls-key", str(key), "--metrics", "127.0.0.1:0") as server:
        assert sample(server, "pred_server_certificate_not_after_seconds") > 1.7e9
        assert sample(server, "pred_server_files_broken", files="certificate") == 0


# Traces


@pytest.mark.parametrize(
    ("parent", "trace"),
    [
        (PARENT, TRACE),
        (f"01{PARENT[2:]}-more", TRACE),
        (f"{PARENT}-more", ""),
        (f"ff{PARENT[2:]}", ""),
        (PARENT[:-1], ""),
        (PARENT.upper(), ""),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"01{PARENT[2:]}-{'a' * 600}", ""),
    ],
)
def test_the_log_has_the_trace_where_it_is_well_formed(server: Server, parent: str, trace: str) -> None:
    request_id = f"request-{abs(hash(parent))}"
    with grpc.insecure_channel(server.address) as channel:
        metadata = [("traceparent", parent), ("x-request-id", request_id)]
        PredictionStub(channel).Predict(Request(input_data="x,y\n1,2\n"), metadata=metadata, timeout=30)

    def line() -> str:
        return next((line for line in server.logs().splitlines() if request_id in line), "")

    wait_until(line, "the call is logged")
    assert ("trace_id=" in line()) == bool(trace)
    assert not trace or f"trace_id={trace} " in line()


# With the gateway, and with Prometheus


@contextmanager
def both(*flags: str) -> Iterator[tuple[Server, Gateway]]:
    with (
        serve("sum", "--metrics", "127.0.0.1:0", "--log-level", "info", *flags) as server,
        gateway(server.address, "-metrics", "127.0.0.1:0", "-retries", "0") as front,
    ):
        yield server, front


def post(front: Gateway, body: str = "x,y\n1,2\n", **headers: str) -> int:
    request = urllib.request.Request(f"{front.address}/predict", body.encode(), headers, method="POST")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_request_is_counted_by_both_and_its_trace_is_in_both_logs(go: object) -> None:
    with both() as (server, front):
        assert post(front, traceparent=PARENT) == 200
        assert post(front, body="x,y\n1,nonsense\n") == 400
        counted = {"route": "/predict", "status": "200", "code": "OK"}
        wait_until(lambda: sample(front, "gateway_requests_total", **counted) == 1, "the gateway counts it")
        assert sample(front, "gateway_backend_seconds_count") == 2
        labels = {"rpc": "Predict", "model": "sum/1", "encoding": "csv", "code": "OK"}
        wait_until(lambda: sample(server, "pred_server_calls_total", **labels) == 1, "the server counts it")
        wait_until(lambda: f"trace_id={TRACE}" in server.logs(), "the server logs the trace")
        lines = [json.loads(line) for line in front.logs().splitlines() if line.startswith("{")]
        assert [line.get("trace_id") for line in lines if line["msg"] == "request"] == [TRACE, None]


def run(*command: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **settings)


@needs_prometheus
def test_promtool_takes_the_alerts() -> None:
    checked = run("promtool", "check", "rules", str(ALERTS))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_each_alert_fires_on_what_it_is_there_for(tmp_path: Path) -> None:
    cases = (ROOT / "tests/ops/alerts_test.yml").read_text().replace("ALERTS", str(ALERTS))
    tested = run("promtool", "test", "rules", str(write(tmp_path / "test.yml", cases)))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_is_tested_and_explained() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    page, cases = (ROOT / "docs/watch.md").read_text(), (ROOT / "tests/ops/alerts_test.yml").read_text()
    assert len(alerts) == len(set(alerts)) > 10
    for alert in alerts:
        assert f"| `{alert}` |" in page
        fires = re.search(rf"alertname: {alert}\n\s+exp_alerts:", cases)
        assert fires, f"no test has {alert} fire"


def test_each_metric_of_the_alerts_is_published(go: object, tmp_path: Path) -> None:
    names = set(re.findall(r"\b(?:pred_server|gateway|process)_[a-z_]+", "".join(expressions())))
    cert, key = Authority(tmp_path).issue("127.0.0.1")
    with both("--tls-cert", str(cert), "--tls-key", str(key)) as (server, front):
        assert post(front) == 503  # the gateway does not know of the certificate
        published = {name for process in (server, front) for name, _ in samples_of(process)}
    published |= {"pred_server_calls_total"}  # which begins with the first call
    assert {name for name in names if not name.startswith("gateway_certificate")} <= published | {
        "gateway_files_broken"
    }


def expressions() -> Iterator[str]:
    """The alerts' expressions: what their sentences say is no metric."""
    for line in ALERTS.read_text().splitlines():
        if "summary:" not in line and "alert:" not in line and not line.startswith("#"):
            yield line.replace("(pred_server|gateway)_", "pred_server_") + "\n"


@needs_prometheus
def test_promtool_takes_what_both_publish(go: object) -> None:
    with both() as (server, front):
        assert post(front) == 200
        labels = {"rpc": "Predict", "model": "sum/1", "encoding": "csv", "code": "OK"}
        wait_until(lambda: sample(server, "pred_server_calls_total", **labels) == 1, "the server counts it")
        for process in (server, front):
            checked = run("promtool", "check", "metrics", input=get(where(process)))
            assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
@pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus itself is not installed")
def test_prometheus_scrapes_both_and_fires_an_alert(go: object, tmp_path: Path) -> None:
    with both("--max-calls-in-flight", "1") as (server, front), prometheus(tmp_path, server, front) as ask:
        targets = {"pred-server", "gateway"}
        wait_until(lambda: {one["labels"]["job"] for one in ask("targets")["activeTargets"] if one["health"] == "up"}
                   == targets, "both are scraped")  # fmt: skip
        assert not firing(ask)
        with grpc.insecure_channel(server.address) as channel:
            held = PredictionStub(channel).PredictStream(endless(over := threading.Event()), timeout=120)
            next(held)  # it has the only slot
            wait_until(lambda: post(front) == 429 and {"PredServerRefusesLoad", "GatewayRefusesLoad"} <= firing(ask),
                       "the alerts fire")  # fmt: skip
            over.set()


def endless(over: threading.Event) -> Iterator[Request]:
    yield Request(input_data="x,y\n1,2\n")
    over.wait(120)


def firing(ask: Callable[[str], Any]) -> set[str]:
    return {alert["labels"]["alertname"] for alert in ask("alerts")["alerts"] if alert["state"] == "firing"}


@contextmanager
def prometheus(folder: Path, server: Server, front: Gateway) -> Iterator[Callable[[str], Any]]:
    """A Prometheus that scrapes both each second; ask it by the names of its API."""
    jobs = {"pred-server": where(server), "gateway": where(front)}
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [url.split("/")[2]]}]} for job, url in jobs.items()
        ],
    }
    write(folder / "prometheus.yml", json.dumps(config))  # JSON is YAML, too
    address = free_address()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return "Ready" in get(f"http://{address}/-/ready")
            except OSError:
                return False

        try:
            wait_until(ready, "Prometheus is ready")
            yield lambda name: json.loads(get(f"http://{address}/api/v1/{name}"))["data"]
        finally:
            process.terminate()
            process.wait(30)
