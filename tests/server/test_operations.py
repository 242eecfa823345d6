"""What operators rely on: health, reflection, limits, load that is shed, stops that lose nothing, restarts."""

import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pred_server import Client, Model, load, serve
from pred_server.checkout import FLIGHTS, ROOT
from pred_server.errors import (
    Cancelled,
    DeadlineExceeded,
    LimitExceeded,
    PredServerError,
    ServerStartError,
    Unavailable,
)
from pred_server.tutorial.background import Server
from tests.patched import patched
from tests.ports import free_address
from tests.waits import health, refused, wait_until

STOPS = int(os.environ.get("STOPS", "4"))  # how often a server is stopped with 200 calls in flight

# `sum`, but x is how many seconds it takes, on the thread that computes; what it computes is printed, before and after.
SLOW = """
import time, pred_server.model.builtin as m
def predict(self, table):
    print("computing", len(table), flush=True)
    time.sleep(float(table["x"].sum()))
    print("computed", len(table), flush=True)
    return (table["x"] + table["y"]).to_numpy()
m.Sum.predict = predict
"""


QUIET = "\n".join(line for line in SLOW.splitlines() if "print" not in line)


def xy(seconds: float, y: float = 1.0) -> pd.DataFrame:
    return pd.DataFrame({"x": [seconds], "y": [y]})


def test_describe_says_what_the_model_takes_and_gives(flights_server: Server, flights_model: Model) -> None:
    found = flights_server.client().describe()
    assert found.schema == flights_model.schema
    assert found.schema.target.unit == "minutes"
    assert (found.name, found.version, found.engine, found.models) == ("flights", "1", "sklearn", ("flights/1",))
    assert found.encodings == ("csv", "columns", "tensor", "arrow")
    assert found.scores["mae_minutes"] == str(flights_model.scores["mae_minutes"])
    page = found._repr_html_()
    assert "<td>carrier</td>" in page
    assert "mae_minutes: 12" in page


def test_health_is_told_overall_and_by_model() -> None:
    with serve("sum", "--model", "linear") as server:
        for name in ("", "prediction.Prediction", "sum", "linear", "linear/1"):
            assert health(server, name) == "SERVING"
        with pytest.raises(grpc.RpcError) as caught:
            health(server, "nonsense")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_tells_the_contract(sum_server: Server) -> None:
    with grpc.insecure_channel(sum_server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"prediction.Prediction", "grpc.health.v1.Health"} <= set(database.get_services())
        file = database.FindFileContainingSymbol("prediction.Prediction")
        assert [method.name for method in file.service[0].method] == ["Predict", "PredictStream", "Describe"]


def test_logs_are_json_if_asked_for_with_the_request_id_and_the_phases() -> None:
    with serve("sum", "--log-level", "info", "--log-format", "json") as server:
        server.client().predict(xy(0), encoding="csv")
        wait_until(lambda: '"OK"' in server.logs(), "the line of the call")
        lines = [json.loads(line) for line in server.logs().splitlines() if line.startswith("{")]
    line = next(line for line in lines if line.get("rpc") == "Predict")
    assert len(line["request_id"]) == 32
    assert (line["code"], line["encoding"], line["rows"]) == ("OK", "csv", 1)
    assert line["duration_ms"] >= line["decode_ms"] + line["predict_ms"]


def test_at_ten_times_its_capacity_load_is_shed_at_once_and_health_answers() -> None:
    """Four calls fit, forty callers ask again and again."""
    refused_ms: list[float] = []
    kinds: set[tuple[str, str, float | None]] = set()
    answers: list[bool] = []

    def ask(number: int) -> None:
        for turn in range(25):
            start_ns = time.perf_counter_ns()
            try:
                answers.append(client.predict(xy(0.01, number + turn)).tolist() == [0.01 + (number + turn)])
            except LimitExceeded as error:
                refused_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
                kinds.add((error.reason, error.flag, error.limit))

    with patched(SLOW, "--max-calls-in-flight", "4", "--log-level", "warning") as server:
        client = server.client(encoding="csv", connections=4)
        callers = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for caller in callers:
            caller.start()
        checks = 0
        while any(caller.is_alive() for caller in callers):
            assert health(server) == "SERVING"
            checks += 1
        for caller in callers:
            caller.join()
    p50_ms, p99_ms = np.percentile(refused_ms, [50, 99])
    print(
        f"{len(answers)} answered, {len(refused_ms)} refused (p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, as seen by 40 "
        f"threads of one Python process), health answered {checks} times"
    )
    assert len(answers) + len(refused_ms) == 1_000
    assert all(answers)
    assert len(answers) >= 4
    assert kinds == {("OVERLOADED", "--max-calls-in-flight", 4)}
    assert checks > 1


def test_above_the_queued_rows_load_is_shed() -> None:
    with patched(SLOW, "--max-queued-rows", "10") as server, ThreadPoolExecutor(4) as pool:
        client = server.client(encoding="csv")
        first = pool.submit(client.predict, xy(1))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        rows = pd.concat([xy(0)] * 6)
        outcomes = [pool.submit(client.predict, rows) for _ in range(3)]
        refused = [error for error in (each.exception() for each in outcomes) if error]
        assert first.result().tolist() == [2.0]
        assert all(isinstance(error, LimitExceeded) and error.flag == "--max-queued-rows" for error in refused)
        assert len(refused) >= 1


def test_what_nobody_waits_for_is_not_computed() -> None:
    with patched(SLOW, "--max-batch-rows", "1") as server, ThreadPoolExecutor(4) as pool:
        client = server.client(encoding="csv")
        busy = pool.submit(client.predict, xy(1.5))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        late = [pool.submit(client.predict, pd.concat([xy(0)] * 7), timeout_s=0.3) for _ in range(3)]
        assert all(isinstance(each.exception(), DeadlineExceeded) for each in late)
        stub = next(client._connection._stubs)
        from pred_server.generated.pred_pb2 import Request

        gone = stub.Predict.future(Request(input_data="x,y\n" + "0,1\n" * 9).SerializeToString())
        gone.cancel()
        assert busy.result().tolist() == [2.5]
        assert client.predict(xy(0)).tolist() == [1.0]
        computed = Counter(line for line in server.logs().splitlines() if line.startswith("computed"))
    assert computed["computed 1"] == 2
    assert not computed["computed 7"] and not computed["computed 9"]


def test_the_deadline_cap_holds_for_callers_who_set_none() -> None:
    with patched(SLOW, "--max-deadline-s", "0.3") as server:
        client = server.client(encoding="csv")
        with pytest.raises(DeadlineExceeded, match=r"than the server allows \(--max-deadline-s is 0\.3\)"):
            client.predict(xy(1))
        wait_until(lambda: "computed" in server.logs(), "the model to be free")
        assert client.predict(xy(0)).tolist() == [1.0]


def test_waiting_requests_are_computed_together_and_a_bad_one_harms_only_itself() -> None:
    code = SLOW.replace('print("computed"', 'assert not (table["y"] == 13).any(); print("computed"')
    with patched(code) as server, ThreadPoolExecutor(20) as pool:
        client = server.client(encoding="csv")
        pool.submit(client.predict, xy(1))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        asked = {y: pool.submit(client.predict, xy(0, y)) for y in range(8, 18)}
        for y, answer in asked.items():
            if y == 13:
                assert "under request id" in str(answer.exception())
            else:
                assert answer.result().tolist() == [float(y)]
    with patched(SLOW) as server, ThreadPoolExecutor(20) as pool:
        client = server.client(encoding="csv")
        pool.submit(client.predict, xy(1))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        asked = {y: pool.submit(client.predict, xy(0, y)) for y in range(10)}
        batches = {answer.result().waterfall.batch_rows for answer in asked.values()}
    assert max(batches) > 1, "nothing was computed together"


def test_200_calls_in_flight_and_a_signal_no_call_is_lost_and_none_is_wrong() -> None:
    """STOPS=20 makes it longer. Who was accepted gets the right answer, everybody else UNAVAILABLE."""
    for _ in range(STOPS):
        with patched(SLOW, "--log-level", "debug") as server:
            client = Client(server.address, retry=False, encoding="csv", connections=4)
            outcomes: list[tuple[int, object]] = []

            def ask(number: int, client: Client = client, outcomes: list[tuple[int, object]] = outcomes) -> None:
                try:
                    outcomes.append((number, float(client.predict(xy(0.001, number)).iloc[0])))
                except PredServerError as error:
                    outcomes.append((number, error))

            client.predict(xy(0))
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(200)]
            for thread in threads:
                thread.start()
            wait_until(lambda: server.logs().count("accepted") > 50, "calls to be accepted")
            os.kill(server.pid, signal.SIGTERM)
            for thread in threads:
                thread.join()
            assert server._process.wait(30) == 0
            logs = server.logs()
            client.close()
        accepted = logs.count("accepted") - 1
        answered = sum(outcome == 0.001 + number for number, outcome in outcomes)
        turned_away = sum(isinstance(outcome, Unavailable) for _, outcome in outcomes)
        unexpected = [repr(each) for each in outcomes if not isinstance(each[1], float | Unavailable)]
        assert answered + turned_away == 200, unexpected
        assert answered == accepted
        assert "Traceback" not in logs


def test_health_says_not_serving_while_draining_and_a_second_signal_ends_at_once() -> None:
    with patched(SLOW) as server, ThreadPoolExecutor(2) as pool:
        client = Client(server.address, retry=False, encoding="csv")
        slow = pool.submit(client.predict, xy(2))
        wait_until(lambda: "computing" in server.logs(), "the call to be on its way")
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            os.kill(server.pid, signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        wait_until(lambda: refused(client), "the end of new calls")
        with pytest.raises(Unavailable):
            client.predict(xy(0))
        assert not slow.done()
        assert slow.result().tolist() == [3.0]
        assert server._process.wait(30) == 0
        client.close()
    with patched(SLOW) as server, ThreadPoolExecutor(1) as pool:
        client = Client(server.address, retry=False, encoding="csv")
        slow = pool.submit(client.predict, xy(60))
        wait_until(lambda: "computing" in server.logs(), "the call to be on its way")
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: server.running and refused(client), "the drain")
        os.kill(server.pid, signal.SIGTERM)
        assert server._process.wait(30) == 1
        assert isinstance(slow.exception(), Unavailable | Cancelled)
        client.close()


def successor(address: str, imported: Path) -> Server:
    """A server that takes an address over: it binds once nobody answers there, however slowly the machine starts it."""
    host, port = address.split(":")
    code = f"""
import pathlib, socket, time
import pred_server.store.loading, pred_server.server.run
from pred_server.cli import main
pathlib.Path({str(imported)!r}).touch()
while True:
    with socket.socket() as probe:
        if probe.connect_ex(({host!r}, {port})):
            break
    time.sleep(0.01)
raise SystemExit(main(["serve", "--model", "linear", "--address", {address!r}]))
"""
    return Server([sys.executable, "-c", code], start_timeout_s=60)


@pytest.mark.parametrize("rows", [1, 30_000])
def test_killed_and_restarted_under_load_every_call_is_answered_rightly(rows: int, tmp_path: Path) -> None:
    """30,000 rows are 2.3 MiB in one message: more than gRPC keeps for another try by itself."""
    address = free_address()
    array = np.random.default_rng(0).normal(size=(rows, 10))
    expected = load("linear").predict(pd.DataFrame(array).add_prefix("x")).tobytes()
    stop = threading.Event()
    outcomes: list[object] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                outcomes.append(client.predict(array, stream=False).to_numpy().tobytes() == expected)
            except Exception as error:
                outcomes.append(error)

    with (
        serve("linear", "--address", address) as first,
        ThreadPoolExecutor(1) as pool,
        Client(address) as client,
    ):
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        second = pool.submit(successor, address, tmp_path / "imported")
        wait_until((tmp_path / "imported").exists, "the second server to have all but the port")
        wait_until(lambda: len(outcomes) > 10, "the load to run")
        os.kill(first.pid, signal.SIGKILL)
        before = len(outcomes)
        with second.result():
            wait_until(lambda: len(outcomes) > before + 20, "answers of the second server")
            stop.set()
            for thread in threads:
                thread.join()
    assert outcomes.count(True) == len(outcomes), Counter(map(repr, outcomes))


@contextmanager
def cut_once(address: str, after_bytes: int) -> Iterator[str]:
    """The address of a relay that closes its first connection after so many bytes of answers, and no later one."""

    def pump(source: socket.socket, sink: socket.socket, left: float) -> None:
        with suppress(OSError):
            while left and (data := source.recv(4096)):
                sink.sendall(data[: int(min(left, 4096))])
                left -= min(left, len(data))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def relay() -> None:
        with suppress(OSError):
            for left in itertools.chain([after_bytes], itertools.repeat(math.inf)):
                near = listener.accept()[0]
                far = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
                ends.extend((near, far))
                threading.Thread(target=pump, args=(near, far, math.inf), daemon=True).start()
                threading.Thread(target=pump, args=(far, near, left), daemon=True).start()

    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=relay, daemon=True).start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for end in ends:
                end.close()


@pytest.mark.parametrize("after_bytes", [20, 200, 1_000, 50_000])
def test_an_answer_that_is_cut_off_is_asked_for_again(sum_server: Server, after_bytes: int) -> None:
    """Within the settings, the headers, the answer's first and its later bytes."""
    table = pd.DataFrame({"x": np.arange(10_000.0), "y": 1.0})
    with cut_once(sum_server.address, after_bytes) as address, Client(address, encoding="tensor") as client:
        assert client.predict(table, stream=False).tolist() == (table["x"] + 1).tolist()
    with (
        cut_once(sum_server.address, after_bytes) as address,
        Client(address, encoding="tensor", retry=False) as client,
        pytest.raises(Unavailable),
    ):
        client.predict(table, stream=False)


def test_connections_are_sockets(sum_server: Server) -> None:
    import psutil

    def sockets() -> int:
        port = int(sum_server.address.rpartition(":")[2])
        return sum(
            c.status == "ESTABLISHED" and c.raddr and c.raddr.port == port for c in psutil.Process().net_connections()
        )

    before = sockets()
    with Client(sum_server.address, connections=3) as client:
        for _ in range(6):
            client.predict(xy(0))
        assert sockets() == before + 3


def test_two_models_of_one_name_and_version_are_refused() -> None:
    with pytest.raises(ServerStartError, match="two models have one name and version: sum/1, sum/1"):
        serve("sum", "--model", "sum")


def test_a_second_server_on_the_port_ends_with_1_every_time(sum_server: Server) -> None:
    command = [sys.executable, "-m", "pred_server", "serve", "--model", "sum", "--address", sum_server.address]
    started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        _, words = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "the port is taken" in words


@pytest.fixture
def large() -> Iterator[pd.DataFrame]:
    yield pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(150_000)


def test_a_slow_call_does_not_hold_up_the_checks_of_others(flights_server: Server, large: pd.DataFrame) -> None:
    """While the model computes, health answers and a wrong table is refused: neither waits for the model."""
    from pred_server.errors import InvalidInput
    from pred_server.generated.pred_pb2 import Request

    client = flights_server.client()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.predict, large, encoding="arrow", stream=False)
        checks = 0
        while not slow.done():
            assert health(flights_server) == "SERVING"
            with pytest.raises(InvalidInput):
                client.call(Request(input_data="month\n1\n"))
            checks += 1
        assert len(slow.result()) == len(large)
    assert checks > 3


def test_rows_that_nobody_waits_for_do_not_count() -> None:
    with patched(SLOW, "--max-queued-rows", "10") as server, ThreadPoolExecutor(2) as pool:
        client = server.client(encoding="csv")
        busy = pool.submit(client.predict, xy(2))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        with pytest.raises(DeadlineExceeded):
            client.predict(pd.concat([xy(0)] * 9), timeout_s=0.3)
        answer = pool.submit(client.predict, pd.concat([xy(0)] * 8))
        assert busy.result().tolist() == [3.0]
        assert answer.result().tolist() == [1.0] * 8


def test_too_many_bytes_at_once_are_refused() -> None:
    with patched(SLOW, "--max-bytes-in-flight", "50000") as server, ThreadPoolExecutor(1) as pool:
        client = server.client(encoding="csv")
        rows = pd.concat([xy(0)] * 7000)
        busy = pool.submit(client.predict, pd.concat([xy(1.5), rows]))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        with pytest.raises(LimitExceeded, match="bytes are in flight") as caught:
            client.predict(rows)
        assert (caught.value.reason, caught.value.flag) == ("OVERLOADED", "--max-bytes-in-flight")
        with pytest.raises(LimitExceeded, match="bytes are in flight"):
            list(client.predict_stream([rows]))
        assert len(busy.result()) == 7001
        wait_until(lambda: not refuses(client, rows), "room")


def refuses(client: Client, table: pd.DataFrame) -> bool:
    try:
        client.predict(table)
    except LimitExceeded:
        return True
    return False


def test_a_model_that_was_quick_and_is_slow_once_is_not_asked_on_the_event_loop_again() -> None:
    with patched(QUIET) as server, ThreadPoolExecutor(2) as pool:
        client = server.client(encoding="csv")
        for _ in range(50):
            client.predict(xy(0))
        client.predict(xy(0.05))  # held up the loop, for the first and last time
        slow = pool.submit(client.predict, xy(1))
        checks = 0
        while not slow.done():
            assert health(server) == "SERVING"
            checks += 1
    assert checks > 5


def test_many_waiting_and_a_bad_one_among_them_cost_little_more() -> None:
    """The batch is halved until the bad one is found, not taken apart row by row."""
    code = SLOW.replace('print("computed"', 'assert not (table["y"] == 13).any(); print("computed"')
    with patched(code) as server, ThreadPoolExecutor(70) as pool:
        client = server.client(encoding="csv")
        busy = pool.submit(client.predict, xy(1.5))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        asked = {y: pool.submit(client.predict, xy(0, y)) for y in range(64)}
        failed = [y for y, answer in asked.items() if answer.exception()]
        assert busy.result().tolist() == [2.5]
        tries = server.logs().count("computing")
    assert failed == [13]
    assert tries < 40


def test_refusals_and_cuts_stand_in_the_log_without_a_traceback() -> None:
    with (
        patched(SLOW, "--max-calls-in-flight", "1", "--drain-timeout-s", "0.2") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        client = Client(server.address, retry=False, encoding="csv")
        slow = pool.submit(client.predict, xy(3))
        wait_until(lambda: "computing" in server.logs(), "the model to be busy")
        with pytest.raises(LimitExceeded):
            client.predict(xy(0))
        os.kill(server.pid, signal.SIGTERM)
        assert isinstance(slow.exception(), Unavailable | Cancelled)
        assert server._process.wait(30) == 0
        client.close()
        logs = server.logs()
    assert "refused code=RESOURCE_EXHAUSTED" in logs
    assert "Traceback" not in logs, logs


def test_a_reply_that_is_too_large_is_told_with_its_flag() -> None:
    with serve("sum", "--max-message-bytes", "30000") as server:
        short = pd.DataFrame({"x": [0.1] * 3_000, "y": [0.2] * 3_000})
        with pytest.raises(LimitExceeded, match=r"the reply has [\d,]+ bytes; send fewer rows") as caught:
            server.client(encoding="csv").predict(short)
        assert caught.value.flag == "--max-message-bytes"


def test_metadata_of_errors_stays_small_whatever_the_names(sum_server: Server) -> None:
    from pred_server.generated.pred_pb2 import Request

    names = ",".join(f"☃{number:03}" * 12 for number in range(40))
    with pytest.raises(grpc.RpcError) as caught:
        request = Request(input_data=f"{names},{names}\n1\n")
        next(sum_server.client()._connection._stubs).Predict(request.SerializeToString())
    size = sum(len(key) + len(value) for key, value in caught.value.trailing_metadata())
    assert size + 3 * len(caught.value.details().encode()) < 4_096
