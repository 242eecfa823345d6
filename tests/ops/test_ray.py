"""Behind Ray Serve, in a cluster on this machine: the same answers, the differences that docs/ray.md names, and losses.

`make test-long` runs these: they need an environment of their own, and a start takes half a minute.
"""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pandas as pd
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_tools import protoc

from pred_server import Client, load, serve
from pred_server.checkout import ROOT
from pred_server.generated.pred_pb2 import Request
from pred_server.lab.experiments import sample, table_of
from pred_server.lab.ways import ray as way
from pred_server.lab.ways.ray import PYTHON, RayServer, start_ray
from pred_server.limits import MIB
from pred_server.ops import ray_cluster
from pred_server.ops.ray_cluster import ENVIRONMENT, HOOK
from pred_server.tutorial.background import GATEWAY, Process, Server, gateway
from pred_server.wire.codec import CODECS
from tests.callers import Load
from tests.ops.ray_cases import ANSWERED, FAULTS, FLAGS, GOOD, XY, Ask, comparable, one, said, several
from tests.ports import free_address, free_port
from tests.waits import health, wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PYTHON.exists(), reason=way.Ray().missing()),
]
SMALL = ("--object-store-mib", "100")
PAGE = (ROOT / "docs/ray.md").read_text()


@pytest.fixture(scope="module", autouse=True)
def own_folder() -> Iterator[Path]:
    """Ray's files go here, and are gone after the last test. Its sockets need a shorter path than pytest's."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", name)
        yield Path(name)
        assert list(Path(name).iterdir()) == []


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with serve("sum", "--model", "linear", *FLAGS) as server:
        yield server


@pytest.fixture(scope="module")
def behind() -> Iterator[Server]:
    """Two replicas with the flags of `plain`."""
    with start_ray("sum", "linear", flags=("--replicas", "2", *SMALL, *FLAGS)) as server:
        yield server


@pytest.fixture(scope="module")
def roomy() -> Iterator[Server]:
    """Two replicas with the limits that a server has by default, and real flights."""
    with start_ray("sum", "linear", "flights", flags=("--replicas", "2", *SMALL)) as server:
        yield server


def family(server: Process) -> list[psutil.Process]:
    """Return the server's process and all that it started."""
    process = psutil.Process(server.pid)
    return [process, *process.children(recursive=True)]


def replicas(server: Process) -> list[psutil.Process]:
    return [process for process in family(server) if title(process).startswith("ray::ServeReplica")]


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_the_ready_line_says_what_is_served(behind: Server) -> None:
    assert re.fullmatch(r"127\.0\.0\.1:\d+", behind.address)
    assert behind.serves == "sum v1, linear v1, sklearn"
    assert len(replicas(behind)) == 2


@pytest.mark.parametrize("ask", [*ANSWERED.values(), *FAULTS.values()], ids=[*ANSWERED, *FAULTS])
def test_all_that_a_caller_gets_is_as_from_a_plain_server(ask: Ask, plain: Server, behind: Server) -> None:
    answer = said(behind.address, ask)
    assert comparable(answer, ask) == comparable(said(plain.address, ask), ask)
    assert answer.trailing["request_id"], "which Serve adds"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("encoding", CODECS)
@pytest.mark.parametrize("model", ["linear", "flights"])
def test_predictions_are_the_models_to_the_bit(model: str, encoding: str, streamed: bool, roomy: Server) -> None:
    if (model, encoding) == ("flights", "tensor"):
        pytest.skip("a tensor carries no text")
    loaded = load(model)
    table = sample(table_of(loaded), 20_000, seed=0)
    with Client(roomy.address, model=model) as client:
        predicted = client.predict(table, encoding=encoding, stream=streamed)
        assert client.describe().schema == loaded.schema
    assert predicted.name == loaded.schema.target.name
    assert predicted.to_numpy().tobytes() == loaded.predict(table).tobytes()


def test_a_large_message_and_its_reply_pass(roomy: Server) -> None:
    loaded = load("linear")
    table = sample(table_of(loaded), 500_000, seed=0)
    with Client(roomy.address, model="linear", timeout_s=120) as client:
        predicted = client.predict(table, encoding="tensor", stream=False)
    assert predicted.to_numpy().tobytes() == loaded.predict(table).tobytes()


def test_a_long_path_for_temporary_files_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, expected in ((30, None), (31, "/tmp")):
        monkeypatch.setattr(tempfile, "tempdir", "/" + "t" * (length - 1))
        assert ray_cluster._short_folder() == expected


def test_the_articles_client_gets_its_answer(behind: Server, tmp_path: Path) -> None:
    article = ROOT / "tests/article"
    made = ["protoc", f"-I{article}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}", "pred.proto"]
    assert protoc.main(made) == 0
    command = [sys.executable, article / "client.py", tmp_path, behind.address]
    done = subprocess.run(command, input="x,y\n1,2\n", capture_output=True, text=True, check=True, timeout=60)
    header, value = done.stdout.split()
    assert (header, float(value)) == ("0", 3.0)


def test_the_gateway_is_ready_and_answers_large_tables_too(roomy: Server, go: Callable[..., str]) -> None:
    assert GATEWAY.exists()
    with gateway(roomy.address) as http:
        assert urllib.request.urlopen(f"{http.address}/readyz", timeout=60).status == 200
        text = XY.to_csv(index=False)
        for body, n_rows in ((text, 3), ("x,y\n" + "1,2\n" * 300_000, 300_000)):
            request = urllib.request.Request(f"{http.address}/predict", body.encode(), {"Content-Type": "text/csv"})
            lines = urllib.request.urlopen(request, timeout=120).read().decode().split()
            assert lines[0] == "0"
            assert len(lines) == n_rows + 1
            assert float(lines[1]) == 3.0


def test_the_gateway_says_of_a_bad_table_what_it_says_before_a_plain_server(
    plain: Server, behind: Server, go: Callable[..., str]
) -> None:
    replies = []
    for server in (plain, behind):
        with gateway(server.address) as http:
            request = urllib.request.Request(f"{http.address}/predict", b"x\n1\n", {"Content-Type": "text/csv"})
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=60)
            body = re.sub(r'"request_id":"[^"]*"', "", caught.value.read().decode())
            replies.append((caught.value.code, body))
    assert replies[0] == replies[1]
    assert replies[0][0] == 400


# The lines of the table in docs/ray.md


def test_each_difference_on_the_page_names_a_test_that_is_there() -> None:
    lines = [line for line in PAGE.split("## What differs", 1)[1].splitlines() if line.startswith("| **")]
    assert len(lines) >= 12
    sources = {path.name: path.read_text() for path in (ROOT / "tests/ops").glob("test_ray*.py")}
    for line in lines:
        named = re.findall(r"`(test_ray\w*\.py)::(\w+)`", line)
        assert named, line
        for file, name in named:
            assert f"def {name}(" in sources[file], f"{file} has no {name}"


def test_deadlines_are_known_to_the_replica(roomy: Server) -> None:
    """What is not asked for in time is not computed: the server's own words come, or gRPC's at the caller."""
    with serve("sum") as server:
        for address in (server.address, roomy.address):
            answer = said(address, several(), timeout_s=1e-3)
            assert answer.code in ("DEADLINE_EXCEEDED", "OK")
    slow = several(*[Request(input_data="x,y\n" + "1,2\n" * 100_000)] * 40)
    answer = said(roomy.address, slow, timeout_s=0.3)
    assert answer.code == "DEADLINE_EXCEEDED"


def test_the_proxy_takes_a_message_whole_before_a_replica_refuses_it(behind: Server, plain: Server) -> None:
    """Up to twice the limit our words come from the replica; beyond it gRPC's from the proxy."""
    large = one(Request(input_data="x,y\n" + "1,2\n" * 40_000))
    assert 100_000 < len(large.messages[0]) < 200_000
    assert "--max-message-bytes" in said(behind.address, large).details
    larger = one(Request(input_data="x,y\n" + "1,2\n" * 60_000))
    answers = [said(server.address, larger) for server in (behind, plain)]
    assert {answer.code for answer in answers} == {"RESOURCE_EXHAUSTED"}
    assert all("larger than max" in answer.details for answer in answers)


def test_limits_of_connections_are_no_flags_here() -> None:
    for flag in ("--keepalive-s", "--max-connection-idle-s", "--max-connection-age-s", "--max-streams-per-connection"):
        done = run("ray", flag, "1")
        assert done.returncode == 2
        assert f"unrecognized arguments: {flag}" in done.stderr


def test_health_is_the_proxys_and_knows_no_models(behind: Server) -> None:
    with grpc.insecure_channel(behind.address) as channel:
        stub = HealthStub(channel)
        for name in ("", "prediction.Prediction"):
            assert stub.Check(HealthCheckRequest(service=name), timeout=60).status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(HealthCheckRequest(service="sum"), timeout=60)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
        healthz: object = channel.unary_unary("/ray.serve.RayServeAPIService/Healthz")(b"", timeout=60)
        assert healthz == b"\n\x07success"


def test_reflection_is_rays_and_speaks_v1alpha_alone(behind: Server) -> None:
    with grpc.insecure_channel(behind.address) as channel:

        def ask(package: str) -> bytes:
            method: Callable[..., Iterator[bytes]] = channel.stream_stream(
                f"/{package}.ServerReflection/ServerReflectionInfo"
            )
            question = ServerReflectionRequest(list_services="")
            return next(method(iter([question.SerializeToString()]), timeout=60))

        assert b"prediction.Prediction" in ask("grpc.reflection.v1alpha")
        with pytest.raises(grpc.RpcError) as caught:
            ask("grpc.reflection.v1")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_there_is_no_encryption(behind: Server) -> None:
    host, port = behind.address.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as plain_socket,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        ssl._create_unverified_context().wrap_socket(plain_socket)


def test_compressed_messages_are_taken_and_answers_are_not_compressed(behind: Server) -> None:
    answer = said(behind.address, one(GOOD["csv"]), compression=grpc.Compression.Gzip)
    assert answer.code == "OK"
    assert answer.messages == said(behind.address, one(GOOD["csv"])).messages


def test_every_process_listens_on_loopback_alone(behind: Server) -> None:
    heard = {
        connection.laddr.ip
        for process in family(behind)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, heard
    assert heard


def test_rays_own_ports_want_a_token(behind: Server) -> None:
    (raylet,) = [process for process in family(behind) if re.search(r"raylet/raylet\b", title(process))]
    address = re.search(r"--gcs-address=(\S+)", title(raylet))
    assert address
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False); print(len(ray.nodes()), 'node')"
    for token, works in ((raylet.environ()["RAY_AUTH_TOKEN"], True), ("0" * 64, False)):
        environment = {**os.environ, **ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        command = [PYTHON, "-c", code, address[1]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode == 0, "1 node" in done.stdout) == (works, works), done.stderr[-2000:]


def test_calls_beyond_all_replicas_limits_wait_and_then_are_refused() -> None:
    """A stream that is open counts as a call, as it does in a plain server."""
    held = threading.Event()

    def chunk_then_wait() -> Iterator[bytes]:
        yield GOOD["csv"].SerializeToString()
        held.wait(300)

    with (
        start_ray("sum", flags=("--max-calls-in-flight", "2", *SMALL)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        method: Callable[..., Iterator[bytes]] = channel.stream_stream("/prediction.Prediction/PredictStream")
        streams = [method(chunk_then_wait(), timeout=300) for _ in range(2)]
        assert all(next(stream) for stream in streams)
        waiting = [method(iter([GOOD["csv"].SerializeToString()]), timeout=300) for _ in range(2)]
        refused = []

        def is_refused() -> bool:
            refused.append(said(server.address, one(GOOD["csv"]), timeout_s=5))
            return refused[-1].code == "RESOURCE_EXHAUSTED"

        wait_until(is_refused, "a refusal")
        assert "max_queued_requests" in refused[-1].details, "Serve's words"
        held.set()
        assert all(list(stream) for stream in waiting)


def test_a_caller_that_reads_nothing_is_not_slowed_down(behind: Server) -> None:
    """A plain server stops reading; here the answers wait in the proxy, as many as there are."""
    sent, enough = [0], threading.Event()
    chunk = Request(input_data="x,y\n" + "1,2\n" * 900).SerializeToString()

    def chunks() -> Iterator[bytes]:
        for number in range(3_000):
            sent[0] = number + 1
            yield chunk
        enough.set()

    with grpc.insecure_channel(behind.address) as channel:
        method: Callable[..., Iterator[bytes]] = channel.stream_stream("/prediction.Prediction/PredictStream")
        call = method(chunks(), timeout=300)
        assert enough.wait(200), sent
        call.cancel()  # type: ignore[attr-defined]


def test_a_stop_lets_calls_end_and_leaves_nothing_behind(own_folder: Path) -> None:
    with start_ray("sum", flags=SMALL) as server, Client(server.address, retry=False) as client:
        members = family(server)
        may_go_on = threading.Event()

        def chunks() -> Iterator[pd.DataFrame]:
            yield XY
            may_go_on.wait(300)
            yield XY

        answers = iter(client.predict_stream(chunks(), encoding="csv"))
        assert next(answers).tolist() == (XY["x"] + XY["y"]).tolist()
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: said(server.address, one(GOOD["csv"])).code == "UNAVAILABLE", "the end of new calls")
        assert health(server) == "NOT_SERVING"
        may_go_on.set()
        assert [part.tolist() for part in answers] == [(XY["x"] + XY["y"]).tolist()]
        assert server._process.wait(120) == 0
        gone, alive = psutil.wait_procs(members, timeout=60)
        assert not alive
        assert len(gone) > 5


def test_a_model_that_cannot_be_loaded_is_a_sentence(tmp_path: Path) -> None:
    done = run("ray", "--model", tmp_path / "none", "--address", "127.0.0.1:0", *SMALL)
    assert done.returncode == 1
    assert re.search(r"^pred-server: .*no model|^pred-server: .*is no model", done.stderr, re.MULTILINE), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--replicas", "0"], "replicas is '0'; a number from 1 on is needed, or a range as 1..8"),
        (["--replicas", "4..2"], "replicas is '4..2'"),
        (["--replicas", "one"], "replicas is 'one'"),
        (["--address", "0.0.0.0:0"], "can be reached from the network, by anyone"),
        (["--cluster", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1: Connection refused"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments: list[str], complaint: str) -> None:
    done = run("ray", "--model", "sum", "--address", "127.0.0.1:0", *SMALL, *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [PYTHON, "-m", "pred_server", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


# Losses


def test_a_replica_that_is_killed_under_load_loses_no_call(roomy: Server) -> None:
    with Load(roomy.address, resume=True) as load:
        for _ in range(3):
            load.wait_for_answers()
            before = {process.pid for process in replicas(roomy)}
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda before=before: len({p.pid for p in replicas(roomy)} - before) >= 1, "another replica")
            load.wait_for_answers()
    assert not load.faults, load.faults[:10]
    assert min(load.answers[kind] for kind in ("unary", "stream", "large")) >= 6


def test_a_range_of_replicas_grows_with_the_calls_in_flight() -> None:
    may_end = threading.Event()

    def chunk_then_wait() -> Iterator[bytes]:
        yield GOOD["csv"].SerializeToString()
        may_end.wait(300)

    with start_ray("sum", flags=("--replicas", "1..2", "--target-calls", "1", *SMALL)) as server:
        assert len(replicas(server)) == 1
        with grpc.insecure_channel(server.address) as channel:
            method: Callable[..., Iterator[bytes]] = channel.stream_stream("/prediction.Prediction/PredictStream")
            streams = [method(chunk_then_wait(), timeout=300) for _ in range(4)]
            assert all(next(stream) for stream in streams)
            wait_until(lambda: len(replicas(server)) == 2, "a second replica", timeout_s=240)
            may_end.set()
            assert [list(stream) for stream in streams] == [[]] * 4


def test_a_node_that_is_lost_under_load_loses_no_call(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes, a proxy and a replica on each; clients know both proxies."""
    monkeypatch.setenv("RAY_TMPDIR", str(own_folder / "n"))
    second = free_address()
    nodes = [str(PYTHON), str(ROOT / "tests/ops/ray_nodes.py"), second.rpartition(":")[2]]
    with RayServer(nodes, 120) as cluster:
        flags = ("--cluster", cluster.address, "--replicas", "2")
        with start_ray("sum", flags=flags) as server:
            known = f"{server.address},{second}"
            wait_until(lambda: said(second, one(GOOD["csv"])).code == "OK", "the second proxy", timeout_s=120)
            with Load(known, resume=True) as load:
                for _ in range(2):
                    wait_until(lambda: len(replicas(cluster)) == 2, "a replica on each node", timeout_s=120)
                    load.wait_for_answers()
                    os.kill(cluster.pid, signal.SIGUSR1)
                    wait_until(lambda: said(second, one(GOOD["csv"])).code == "UNAVAILABLE", "the loss")
                    load.wait_for_answers()
                    os.kill(cluster.pid, signal.SIGUSR2)
                    wait_until(lambda: said(second, one(GOOD["csv"])).code == "OK", "a new node", timeout_s=120)
            print(f"two nodes lost under load; answers: {dict(load.answers)}; {len(load.faults)} faults")
            assert not load.faults, load.faults[:10]
        resident = sum(process.memory_info().rss for process in family(cluster))
        assert resident < 6 * 1024 * MIB
    shutil.rmtree(own_folder / "n")


def test_serve_run_takes_the_config_file(own_folder: Path, tmp_path: Path) -> None:
    """With other ports and another model; a variable keeps Ray's processes to loopback, as `pred-server ray` does.

    `serve run` starts Ray's dashboard, which `pred-server ray` does without. At its end the dashboard leaves the folder
    of its fork server (`pymp-…`): it exits by `os._exit`. So it has a folder for temporary files of its own.
    """
    rays = own_folder / "y"
    rays.mkdir()
    port, file = free_port(), tmp_path / "ray.yaml"
    text = (ROOT / "docs/ray.yaml").read_text()
    for old, new in (("50051", str(port)), ("8000", str(free_port())), ("[flights]", "[sum]"), ("1..8", "1")):
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    hook = {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": HOOK, "TMPDIR": str(rays), "RAY_TMPDIR": str(rays)}
    environment = {**os.environ, **ENVIRONMENT, **hook, "PYTHONPATH": str(ROOT)}
    command = [PYTHON.with_name("serve"), "run", file]
    serving = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        address = f"127.0.0.1:{port}"
        wait_until(lambda: serving.poll() is not None or said(address, one(GOOD["csv"])).code == "OK", "it", 180)
        with Client(address) as client:
            assert client.predict(XY).tolist() == (XY["x"] + XY["y"]).tolist()
        members = psutil.Process(serving.pid).children(recursive=True)
    finally:
        serving.send_signal(signal.SIGINT)
        print(serving.communicate(timeout=120)[0][-2000:])
    assert not psutil.wait_procs(members, timeout=60)[1]
    shutil.rmtree(rays)
