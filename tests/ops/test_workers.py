"""`serve --workers`: several servers, one of which may be killed at any time; nobody notices, and it comes back."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from sklearn.linear_model import LinearRegression

from pred_server import Client, save, serve
from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.ops.workers import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, hold, next_pause
from pred_server.tutorial.background import Server, gateway
from pred_server.wire.address import parse_address
from tests.callers import Load
from tests.processes import running
from tests.waits import wait_until

TABLE = pd.DataFrame({"x": [1.0], "y": [2.0]})
ANY = [parse_address("127.0.0.1:0")]


def processes(server: Server) -> dict[str, int]:
    """The workers' process ids, by the address that each listens at."""
    found = {}
    for child in psutil.Process(server.pid).children():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
            listening = [one.laddr for one in child.net_connections() if one.status == psutil.CONN_LISTEN]
            found.update({f"{at.ip.removeprefix('::ffff:')}:{at.port}": child.pid for at in listening})
    return found


def addresses(server: Server) -> list[str]:
    return server.address.split(",")


def serves(address: str) -> bool:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return HealthStub(channel).Check(HealthCheckRequest(), timeout=30).status == HealthCheckResponse.SERVING
        except grpc.RpcError:
            return False


def kill(server: Server, address: str) -> None:
    """Kill a worker, and wait until another process serves at its address."""
    again = f"the worker at {address} serves again, as process"
    before = server.logs().count(again)
    os.kill(processes(server)[address], signal.SIGKILL)
    wait_until(lambda: server.logs().count(again) > before and serves(address), "the worker to be back")


def wait_for_successor(server: Server, address: str) -> None:
    """Wait until callers have found the process that serves at an address now. Until then they need the other one."""
    pid = processes(server)[address]
    wait_until(lambda: answered_by(server)[pid] > 0, "the new process to answer the callers")


def answered_by(server: Server) -> Counter[int]:
    """How many calls of Predict each process has answered, by the lines of the log."""
    return Counter(int(pid) for pid in re.findall(r" INFO (\d+) \S+ Predict .* code=OK", server.logs()))


def test_one_line_names_all_addresses() -> None:
    with serve("sum", "--workers", "2") as server:
        assert len(addresses(server)) == len(set(addresses(server))) == 2
        assert server.serves == "sum v1, sklearn, 2 workers"
        assert set(processes(server)) == set(addresses(server))
        for address in addresses(server):
            with Client(address, retry=False) as client:
                assert client.predict(TABLE).tolist() == [3.0]
        assert server.client().predict(TABLE).tolist() == [3.0]


def test_the_supervisor_has_no_grpc_and_no_model() -> None:
    """As it is typed: the helper that starts servers for notebooks has imported a client before."""
    command = [sys.executable, "-m", "pred_server", "serve", "--model", "sum", "--address", "127.0.0.1:0"]
    with Server([*command, "--workers", "2"], 60) as server:
        loaded = Path(f"/proc/{server.pid}/maps").read_text()
        assert server.client().predict(TABLE).tolist() == [3.0]
    assert "python" in loaded
    for library in ("cygrpc", "numpy", "sklearn", "pandas", "pyarrow"):
        assert library not in loaded


def test_ports_count_on_from_the_address() -> None:
    with ExitStack() as stack:
        ports = [address.port for address in hold(ANY * 8, stack)]
    first = next(port for port in ports if port < 65_000)
    with serve("sum", "--workers", "2", "--address", f"127.0.0.1:{first}") as server:
        assert addresses(server) == [f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"]


def test_each_worker_has_metrics_at_a_port_of_its_own() -> None:
    with ExitStack() as stack:
        low, *_, high = sorted(address.port for address in hold(ANY * 8, stack) if address.port < 65_000)
    flags = ("--workers", "2", "--address", f"127.0.0.1:{low}", "--metrics", f"127.0.0.1:{high}")
    with serve("sum", *flags) as server:
        for port in (high, high + 1):
            assert f"metrics on http://127.0.0.1:{port}/metrics" in server.logs()


@pytest.mark.parametrize("way", ["client", "gateway"])
def test_calls_over_one_connection_to_each_are_dealt_out_evenly(way: str, request: pytest.FixtureRequest) -> None:
    import urllib.request

    calls = 100
    if way == "gateway":
        request.getfixturevalue("go")
    with ExitStack() as stack:
        server = stack.enter_context(serve("sum", "--workers", "2", "--log-level", "info"))
        if way == "client":
            client = server.client(encoding="csv")
            ask: Callable[[], object] = lambda: client.predict(TABLE)  # noqa: E731
        else:
            url = stack.enter_context(gateway(server.address, "-connections", "1")).address + "/predict"
            ask = lambda: urllib.request.urlopen(url, b"x,y\n1,2\n", timeout=60).read()  # noqa: E731
        # The second connection is made while the first is used.
        wait_until(lambda: ask() is not None and len(answered_by(server)) == 2, "both to be asked")
        wait_until(lambda: answered_by(server).total() >= 2, "the lines of the calls")
        before = answered_by(server)
        for _ in range(calls):
            ask()
        wait_until(lambda: answered_by(server).total() >= before.total() + calls, "the lines of the calls")
        shares = answered_by(server) - before
    print(f"{way}: {dict(shares)}")
    assert shares.total() == pytest.approx(calls, abs=2)
    assert min(shares.values()) >= 0.45 * calls, shares


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_workers_are_killed_under_load_and_no_call_is_lost_and_none_is_wrong(kills: int) -> None:
    with serve("sum", "--workers", "2", "--log-level", "info") as server:
        with Load(server.address, resume=True) as load:
            load.wait_for_answers()
            for number in range(kills):
                kill(server, addresses(server)[number % 2])
                wait_for_successor(server, addresses(server)[number % 2])
        print(f"{kills} kills; answers: {dict(load.answers)}; {len(load.faults)} faults")
        assert not load.faults, load.faults[:10]
        logs = server.logs()
        assert logs.count("was ended by signal 9, Killed; it starts again in") == kills
        assert logs.count("serves again, as process") == kills
        assert "Traceback" not in logs


def test_a_worker_that_is_asked_to_stop_drains_and_is_replaced() -> None:
    with serve("sum", "--workers", "2") as server, Load(server.address) as load:
        load.wait_for_answers()
        first = addresses(server)[0]
        before = processes(server)[first]
        os.kill(before, signal.SIGTERM)
        wait_until(
            lambda: processes(server).get(first, before) != before and serves(first), "the worker to be replaced"
        )
        load.wait_for_answers()
        assert "ended with code 0; it starts again" in server.logs()
    assert not load.faults, load.faults[:10]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_the_gateway_does_not_notice_it_either(kills: int, go: Callable[..., str]) -> None:
    import urllib.error
    import urllib.request

    with ExitStack() as stack:
        server = stack.enter_context(serve("sum", "--workers", "2", "--log-level", "info"))
        front = stack.enter_context(gateway(server.address))
        pool = stack.enter_context(ThreadPoolExecutor(4))
        ends, outcomes = threading.Event(), Counter[str]()

        def ask(first: int) -> None:
            y = first
            while not ends.is_set():
                y += 1
                try:
                    with urllib.request.urlopen(f"{front.address}/predict", f"x,y\n1,{y}\n".encode(), timeout=60) as r:
                        outcomes["right" if r.read() == f"0\n{y + 1}\n".encode() else "wrong"] += 1
                except urllib.error.HTTPError as error:
                    outcomes[error.read().decode()] += 1
                except OSError as error:
                    outcomes[repr(error)] += 1

        asking = [pool.submit(ask, 1_000_000 * number) for number in range(4)]
        try:
            for number in range(kills):
                kill(server, addresses(server)[number % 2])
                wait_for_successor(server, addresses(server)[number % 2])
        finally:
            ends.set()
        for one in asking:
            one.result()
    assert set(outcomes) == {"right"}, outcomes


SLOW = """
import time
from sklearn.preprocessing import FunctionTransformer

def slowly(table):
    time.sleep(float(table.iloc[:, 0].max()))
    return table
"""


@pytest.fixture
def slow_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What to serve for x + y, where x is how many seconds it takes."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    (tmp_path / "slow_steps.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    import slow_steps  # type: ignore[import-not-found]

    table = pd.DataFrame({"x": [0.0, 0.001, 0.002], "y": [1.0, 2.0, 4.0]})
    model = make_pipeline(FunctionTransformer(slow_steps.slowly), LinearRegression()).fit(table, table.sum(axis=1))
    monkeypatch.chdir(tmp_path)
    save(model, table, tmp_path / "slow")
    return [tmp_path / "slow", "--trust", "slow_steps.slowly"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_workers_finish_what_they_accepted(number: int, slow_model: list[object]) -> None:
    with serve(*slow_model, "--workers", "2", "--log-level", "debug") as server:  # type: ignore[arg-type]
        with ThreadPoolExecutor(8) as pool, Client(server.address, retry=False, encoding="csv") as client:
            wait_until(lambda: client.predict(TABLE * 0) is not None and len(answered_by(server)) == 2, "both")
            before = server.logs().count("accepted")
            asked = [pool.submit(client.predict, pd.DataFrame({"x": [2.0], "y": [float(y)]})) for y in range(8)]
            wait_until(lambda: server.logs().count("accepted") == before + 8, "all calls to be accepted")
            os.killpg(server.pid, number)  # as a terminal does at Ctrl-C
            for y, answer in enumerate(asked):
                assert answer.result().tolist() == pytest.approx([2.0 + y])
        assert server._process.wait(60) == 0
        assert "Traceback" not in server.logs()
    for address in addresses(server):
        assert not serves(address)


def test_a_second_signal_ends_all_workers_at_once(slow_model: list[object]) -> None:
    with serve(*slow_model, "--workers", "2", "--log-level", "debug") as server:  # type: ignore[arg-type]
        pids = processes(server).values()
        with ThreadPoolExecutor(1) as pool, Client(server.address, retry=False, encoding="csv") as client:
            client.predict(TABLE * 0)
            before = server.logs().count("accepted")
            asked = pool.submit(client.predict, pd.DataFrame({"x": [600.0], "y": [1.0]}))
            wait_until(lambda: server.logs().count("accepted") > before, "the call to be accepted")
            os.kill(server.pid, signal.SIGTERM)
            wait_until(lambda: sum(map(psutil.pid_exists, pids)) == 1, "the idle worker to have ended")
            os.kill(server.pid, signal.SIGTERM)
            assert server._process.wait(60) == 1
            assert asked.exception() is not None
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_workers_do_not_outlive_their_supervisor() -> None:
    with serve("sum", "--workers", "2") as server:
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 3, "the spare")
        workers = psutil.Process(server.pid).children()
        assert len(workers) == 3, "two workers and a spare"
        os.kill(server.pid, signal.SIGKILL)
        server._process.wait()
        wait_until(lambda: not running(workers), "the workers to end")


def pred_server(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pred_server", "serve", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "nowhere"], "no model directory 'nowhere' (it needs a manifest.json): "),
        (["--model", "sum", "--model", "sum"], "two models have one name and version: sum/1, sum/1"),
        (["--model", "sum", "--address", "127.0.0.1:65535"], "from 127.0.0.1:65535 on need ports above 65535"),
        (["--model", "sum", "--address", "unix:/tmp/none"], "workers have a port each, and unix:/tmp/none has none"),
        (["--model", "sum", "--address", "127.0.0.1"], "address '127.0.0.1': the port is missing; "),
        (["--model", "sum", "--address", "192.0.2.1:0"], "192.0.2.1:0: the address is not this machine's"),
        (["--model", "sum", "--address", "0.0.0.0:0"], " can be reached from the network, by anyone and without "),
    ],
)  # fmt: skip
def test_a_worker_that_cannot_start_is_one_sentence_and_1(flags: list[str], sentence: str) -> None:
    address = [] if "--address" in flags else ["--address", "127.0.0.1:0"]
    done = pred_server("--workers", 2, *flags, *address)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("pred-server: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_a_worker_whose_metrics_would_have_no_port_is_one_sentence() -> None:
    done = pred_server("--model", "sum", "--workers", 2, "--address", "127.0.0.1:0", "--metrics", "127.0.0.1:65535")
    sentence = "pred-server: --metrics 127.0.0.1:65535: worker 2 needs a port above 65535; use a lower one\n"
    assert (done.returncode, done.stderr) == (1, sentence)


def test_a_port_that_is_taken_is_one_sentence_and_1(sum_server: Server) -> None:
    done = pred_server("--model", "sum", "--workers", 2, "--address", sum_server.address)
    assert (done.returncode, done.stderr) == (
        1,
        f"pred-server: cannot listen on {sum_server.address}: the port is taken\n",
    )


def test_a_worker_that_cannot_start_again_is_tried_again_until_it_can(tmp_path: Path) -> None:
    table = pd.DataFrame(np.eye(3), columns=list("abc"))
    save(LinearRegression().fit(table, table["a"]), table, tmp_path / "mine")
    manifest = tmp_path / "mine/manifest.json"
    good = manifest.read_text()
    with serve(tmp_path / "mine", "--workers", "2") as server:
        manifest.write_text("{}")
        broken, other = addresses(server)
        before = processes(server)[broken]
        os.kill(before, signal.SIGKILL)
        wait_until(
            lambda: server.logs().count("manifest.json is not a model's manifest; it starts again") >= 2, "tries"
        )
        with Client(other, retry=False) as client:
            assert client.predict(table).tolist() == pytest.approx([1.0, 0.0, 0.0])
        manifest.write_text(good)
        wait_until(lambda: serves(broken), "the worker to be back")
        with Client(broken, retry=False) as client:
            assert client.predict(table).tolist() == pytest.approx([1.0, 0.0, 0.0])


@pytest.mark.parametrize("flags", [["--reload"], []], ids=["watch", "signal"])
def test_a_spare_serves_what_the_others_serve_also_where_the_files_are_bad_by_then(
    tmp_path: Path, flags: list[str]
) -> None:
    table = pd.DataFrame(np.eye(3), columns=list("abc"))
    estimator = LinearRegression().fit(table, table["a"])
    save(estimator, table, tmp_path / "mine", version="1")
    with serve(tmp_path / "mine", "--workers", "2", *flags, "--log-level", "info") as server:
        os.kill(server.pid, signal.SIGHUP)  # all three hear it once they have loaded the model
        wait_until(lambda: server.logs().count("no model has changed") == 3, "two workers and a spare")
        save(estimator, table, tmp_path / "mine", version="2")
        if not flags:
            os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: server.logs().count(" is replaced by mine/2/") == 3, "all to have the new version")
        (tmp_path / "mine/manifest.json").write_text("{}")
        kill(server, address := addresses(server)[0])
        with Client(address, retry=False) as client:
            assert client.describe().version == "2"


def test_a_spare_that_dies_is_replaced_and_the_log_says_so() -> None:
    with serve("sum", "--workers", "2") as server:
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 3, "the spare")
        (spare,) = {child.pid for child in psutil.Process(server.pid).children()} - set(processes(server).values())
        os.kill(spare, signal.SIGKILL)
        wait_until(lambda: f"a spare, process {spare}: " in server.logs(), "the line in the log")
        wait_until(lambda: len(psutil.Process(server.pid).children()) == 3, "another spare")


def test_pauses_grow_and_one_that_served_for_a_while_starts_at_once() -> None:
    pauses, pause_s = [], 0.0
    for _ in range(12):
        pauses.append(pause_s := next_pause(pause_s, 0.0))
    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert next_pause(LONGEST_PAUSE_S, STEADY_S) == 0


def listener(port: int, *options: int) -> socket.socket:
    """A socket that listens."""
    one = socket.socket()
    try:
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind(("127.0.0.1", port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


def test_a_port_that_is_held_is_free_for_a_worker_and_for_nobody_else() -> None:
    with ExitStack() as stack:
        port = hold(ANY, stack)[0].port
        with pytest.raises(OSError, match="in use"):
            listener(port)
        with pytest.raises(OSError, match="in use"):
            listener(port, socket.SO_REUSEPORT)
        for _ in range(3):  # as a worker starts again
            with listener(port, socket.SO_REUSEADDR):
                with pytest.raises(OSError, match="in use"):
                    listener(port, socket.SO_REUSEADDR)
                with pytest.raises(OSError, match="in use"):
                    listener(port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
                with ExitStack() as other, pytest.raises(ServerStartError, match="the port is taken"):
                    hold([parse_address(f"127.0.0.1:{port}")], other)
    with listener(port):
        pass


def test_a_port_that_is_held_is_given_to_nobody_who_asks_for_any() -> None:
    """All ports that the system would give are asked for, or as many as there are descriptors for."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with ExitStack() as stack:
        held = {address.port for address in hold(ANY * 8, stack)}
        given = set()
        for option in ([], [socket.SO_REUSEADDR]):
            for _ in range(min(400, (high - low) // 4)):
                given.add(stack.enter_context(listener(0, *option)).getsockname()[1])
    assert not held & given


def test_workers_share_one_port_if_asked_to() -> None:
    with serve("sum", "--workers", "2", "--reuse-port", "--log-level", "info") as server:
        (address,) = addresses(server)
        assert "--reuse-port: the system deals out connections, not calls" in server.logs()

        def ask() -> bool:
            with Client(address, encoding="csv") as client:
                assert client.predict(TABLE).tolist() == [3.0]
            return len(answered_by(server)) == 2

        wait_until(ask, "both to be asked, by one of many connections")
        again = pred_server("--model", "sum", "--workers", 2, "--reuse-port", "--address", address)
        assert again.returncode == 1
        assert "the port is taken" in again.stderr
        os.kill(server.pid, signal.SIGTERM)
        assert server._process.wait(60) == 0


def test_cores_are_shared_out(flights_model: object) -> None:
    cores = len(os.sched_getaffinity(0))
    with serve("flights", "--workers", str(cores)) as server:
        assert server.client().describe().threads == "1"
        for pid in processes(server).values():
            assert "OMP_NUM_THREADS=1" in Path(f"/proc/{pid}/environ").read_text().split("\0")
