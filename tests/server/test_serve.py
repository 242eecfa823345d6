"""Real server processes, called over real sockets."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest
from grpc_tools import protoc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeClassifier

from pred_server import Client, Model, save, serve
from pred_server.checkout import FLIGHTS, ROOT
from pred_server.errors import (
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    ModelNotFound,
    RemoteError,
    ServerFault,
    ServerStartError,
    Unavailable,
)
from pred_server.generated.pred_pb2 import Request
from pred_server.limits import Limits
from pred_server.tutorial.background import Server
from tests.patched import patched

XY = pd.DataFrame({"x": [1.0, 0.1, np.nan, 5e-324], "y": [2.0, 0.2, 1.0, 5e-324]}, index=[7, 7, 3, 1])


def test_10000_flights_come_back_equal_to_the_bit_in_order_once_each(
    flights: pd.DataFrame, flights_model: Model, flights_server: Server
) -> None:
    served = flights_server.client().predict(flights)
    assert served.index.equals(flights.index)
    assert served.name == "arr_delay"
    assert served.to_numpy().tobytes() == flights_model.predict(flights).tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_table_that_fits_is_served_as_predicted_in_process(
    data: st.DataObject, flights_model: Model, flights_server: Server
) -> None:
    n_rows = data.draw(st.integers(1, 5))
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.sampled_from(
        ["UA", "ü\n,\"'"]
    )

    def column(values: st.SearchStrategy[object], dtype: object) -> pd.Series:
        return pd.Series(data.draw(st.lists(values, min_size=n_rows, max_size=n_rows)), dtype=dtype)

    whole, any_float = st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=True, allow_infinity=True)
    table = pd.DataFrame(
        {
            name: column(text | st.none(), str) if name in ("carrier", "origin", "dest")
            else column(any_float, float) if name == "dep_delay"
            else column(whole, "int64")
            for name in flights_model.schema.names
        }
    )  # fmt: skip
    served = flights_server.client().predict(table)
    assert served.to_numpy().tobytes() == flights_model.predict(table).tobytes()


def test_sum_keeps_index_bits_and_missing_values(sum_server: Server) -> None:
    served = sum_server.client().predict(XY)
    assert served.index.tolist() == [7, 7, 3, 1]
    assert served.name == "0"
    assert served.to_numpy().tobytes() == (XY["x"] + XY["y"]).to_numpy().tobytes()


def test_a_classifier_serves_its_labels(tmp_path: Path) -> None:
    iris = load_iris(as_frame=True)
    labels = iris.target_names[iris.target]
    save(DecisionTreeClassifier(max_depth=2).fit(iris.data, labels), iris.data, tmp_path / "iris", target="species")
    with serve(tmp_path / "iris") as server:
        served = server.client().predict(iris.data)
    assert served.name == "species"
    assert served.tolist() == DecisionTreeClassifier(max_depth=2).fit(iris.data, labels).predict(iris.data).tolist()


@pytest.fixture(scope="module")
def article_stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("article")
    article = ROOT / "tests/article"
    assert protoc.main(["protoc", f"-I{article}", f"--python_out={out}", f"--grpc_python_out={out}", "pred.proto"]) == 0
    return out


def ask_as_the_article_does(stubs: Path, address: str, text: str) -> str:
    command = [sys.executable, ROOT / "tests/article/client.py", stubs, address]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_articles_client_gets_its_answers_from_both_servers(article_stubs: Path, sum_server: Server) -> None:
    with serve("sum", module="pred_server.tutorial.article") as article:
        assert ask_as_the_article_does(article_stubs, article.address, "x,y\n1,2\n") == "0\n3\n"
        assert (
            ask_as_the_article_does(article_stubs, article.address, "x,y\n1,2\n0.1,0.2\n")
            == "0\n3.0\n0.30000000000000004\n"
        )
    header, *values = ask_as_the_article_does(article_stubs, sum_server.address, "x,y\n1,2\n0.1,0.2\n").split()
    assert header == "0"
    assert [float(value) for value in values] == [3.0, 0.1 + 0.2]


def test_the_articles_server_predicts_flights(
    article_stubs: Path, flights: pd.DataFrame, flights_model: Model, flights_server: Server
) -> None:
    few = flights.head(50)
    with serve("flights", module="pred_server.tutorial.article") as article:
        by_article = ask_as_the_article_does(article_stubs, article.address, few.to_csv(index=False))
        by_client = article.client().predict(few)
    by_ours = ask_as_the_article_does(article_stubs, flights_server.address, few.to_csv(index=False))
    expected = flights_model.predict(few).tolist()
    for text, name in ((by_article, "0"), (by_ours, "arr_delay")):
        header, *values = text.split()
        assert header == name
        assert [float(value) for value in values] == expected
    assert by_client.tolist() == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "input_data"),
        ("month,day\n1,2\n", "hour"),
        ("x,y\n1,2\n3,abc\n", "x"),
    ],
)
def test_bad_csv_is_invalid_argument_and_the_next_call_works(
    text: str, complaint: str, flights_server: Server, flights: pd.DataFrame
) -> None:
    client = flights_server.client()
    with pytest.raises(InvalidInput) as caught:
        client.call(Request(input_data=text))
    assert caught.value.code == "INVALID_ARGUMENT"
    assert any(complaint in str(violation) for violation in caught.value.violations)
    assert len(client.predict(flights.head(3))) == 3


def test_the_field_at_fault_reaches_the_client(sum_server: Server) -> None:
    with pytest.raises(InvalidInput) as caught:
        sum_server.client().call(Request(input_data="x,y\n1,2\n3,4\n5,six\n"))
    (violation,) = caught.value.violations
    assert violation.field == "y"
    assert str(caught.value).startswith("y: line 4: 'six' is not a number")


def test_unknown_columns_are_ignored_and_named(sum_server: Server) -> None:
    with pytest.warns(UserWarning, match="ignored them: größe, a,b"):
        served = sum_server.client().predict(XY.assign(**{"größe": 1, "a,b": 2}))
    assert len(served) == len(XY)


def test_replies_stay_small_however_wide_the_table(sum_server: Server) -> None:
    """All metadata of a reply has to fit 8 KiB, or the client would see a broken stream instead of the reason."""
    wide = [f"{'ü' * 900}{number}" for number in range(500)]
    client = sum_server.client()
    with pytest.raises(InvalidInput, match="x: the column is missing"):
        client.call(Request(input_data=",".join(wide) + "\n1\n"))
    with pytest.raises(InvalidInput, match="stands more than once"):
        client.call(Request(input_data=",".join(wide * 2) + "\n1\n"))
    _, metadata = client.call(Request(input_data=",".join(["x", "y", "plain", *wide]) + "\n" + "1," * 502 + "1\n"))
    assert metadata["ignored-columns"] == "plain,..."
    _, metadata = client.call(Request(input_data=f"x,y,{' ' * 100_000}\n1,2,3\n"))
    assert metadata["ignored-columns"] == "..."


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"])
def test_bytes_that_are_no_message_are_invalid_argument(data: bytes, sum_server: Server) -> None:
    with grpc.insecure_channel(sum_server.address) as channel:
        ask = channel.unary_unary("/prediction.Prediction/Predict")
        with pytest.raises(grpc.RpcError) as caught:
            ask(data, timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the bytes sent are not the message that this rpc takes"


def test_a_program_without_the_contract_calls_by_reflection(sum_server: Server, tmp_path: Path) -> None:
    """What grpcurl does, with buf, which comes with the environment, and far from any proto file."""

    def curl(*arguments: str, path: str = "") -> str:
        buf = shutil.which("buf", path=Path(sys.executable).parent) or "buf"
        command = [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--reflect", *arguments]
        done = subprocess.run(
            [*command, f"http://{sum_server.address}{path}"],
            capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
        return done.stdout

    reflection = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]
    assert curl("--list-services").split() == ["grpc.health.v1.Health", *reflection, "prediction.Prediction"]
    methods = {"prediction.Prediction/Predict", "prediction.Prediction/PredictStream", "prediction.Prediction/Describe"}
    assert methods <= set(curl("--list-methods").split())
    table = json.dumps({"input_data": "x,y\n1,2\n"})
    assert json.loads(curl("-d", table, path="/prediction.Prediction/Predict")) == {"result": "0\n3\n"}
    assert json.loads(curl(path="/prediction.Prediction/Describe"))["name"] == "sum"
    assert json.loads(curl(path="/grpc.health.v1.Health/Check")) == {"status": "SERVING"}


def test_the_model_is_chosen_by_name_and_version(flights: pd.DataFrame) -> None:
    with serve("sum", "--model", "flights") as server:
        assert server.serves == "sum v1, flights v1, sklearn"
        assert len(server.client(model="flights", version="1").predict(flights.head(2))) == 2
        assert server.client().predict(XY.iloc[:1]).iloc[0] == 3
        with pytest.raises(ModelNotFound, match=r"no model sum v2 here; there is sum v1, flights v1"):
            server.client(model="sum", version="2").predict(XY)


def test_limits_are_flags_and_are_told(sum_server: Server) -> None:
    with serve("sum", "--max-rows", "3", "--max-message-bytes", "10000") as server:
        client = server.client()
        with pytest.raises(LimitExceeded, match=r"4 rows \(--max-rows is 3\)") as caught:
            client.predict(XY)
        assert (caught.value.reason, caught.value.flag, caught.value.limit) == ("TOO_LARGE", "--max-rows", 3)
        with pytest.raises(LimitExceeded, match=r"15,\d+ bytes \(--max-message-bytes is 10,000\)") as caught:
            client.call(Request(input_data="x" * 15_000))
        assert (caught.value.reason, caught.value.flag) == ("TOO_LARGE", "--max-message-bytes")
        with pytest.raises(LimitExceeded, match="larger than max"):  # gRPC's own words, above twice the limit
            client.call(Request(input_data="x" * 30_000))
        assert len(client.predict(XY.head(3))) == 3


def test_a_deadline_that_passes_and_a_server_that_is_gone(flights: pd.DataFrame) -> None:
    with serve("sum") as server:
        client = server.client()
        with pytest.raises(DeadlineExceeded):
            client.predict(pd.concat([XY] * 200_000), timeout_s=1e-6)
        assert len(client.predict(XY)) == len(XY)
        address = server.address
    with Client(address) as late, pytest.raises(Unavailable, match="nobody answers at that address"):
        late.predict(XY)


def test_a_server_that_is_not_ours_is_told_apart(flights: pd.DataFrame) -> None:
    with serve("sum", module="pred_server.tutorial.article") as article:
        with pytest.raises(RemoteError, match="Exception calling application") as caught:
            article.client().predict(flights.head(1))
        assert caught.value.code == "UNKNOWN"


def test_a_fault_of_the_server_shows_no_traceback_and_is_logged() -> None:
    with patched("import pred_server.model.builtin as m\nm.Sum.predict = lambda self, table: 1 / 0") as server:
        with pytest.raises(ServerFault, match=r"under request id [0-9a-f]{32}") as caught:
            server.client().predict(XY)
        log = server.logs()
    assert "ZeroDivisionError" in log
    assert str(caught.value).split()[-1] in log
    assert "Traceback" not in str(caught.value)
    assert "Zero" not in str(caught.value)


def test_want_of_memory_is_no_fault_of_the_table() -> None:
    patch = (
        "import pyarrow as pa, pred_server.wire.arrow as arrow, pred_server.wire.csv as csv\n"
        "def fail(table): raise pa.ArrowMemoryError('malloc failed')\n"
        "arrow.arrow_columns = csv.arrow_columns = fail"
    )
    table = pd.concat([XY] * 5_000)
    with patched(patch) as server:
        client = server.client()
        for encoding in ("arrow", "csv"):
            with pytest.raises(LimitExceeded, match="the server has no memory for this") as caught:
                client.predict(table, encoding=encoding)
            assert caught.value.reason == "OVERLOADED"
        assert len(client.predict(table, encoding="tensor")) == len(table), "and it goes on"


def test_calls_of_many_threads_get_their_own_answers(sum_server: Server) -> None:
    client, wrong = sum_server.client(), []

    def ask(n: int) -> None:
        for i in range(20):
            table = pd.DataFrame({"x": np.full(i + 1, float(n)), "y": float(i)})
            if client.predict(table).tolist() != [n + i] * (i + 1):
                wrong.append((n, i))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def run_serve(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pred_server", "serve", "--model", "sum", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_taken_port_is_one_sentence_and_exit_1(sum_server: Server) -> None:
    found = run_serve("--address", sum_server.address)
    assert found.returncode == 1
    assert found.stdout == ""
    (sentence,) = found.stderr.splitlines()
    assert sentence.startswith(f"pred-server: cannot listen on {sum_server.address}: the port is taken, or")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--address", "0.0.0.0:0"], "can be reached from the network, by anyone and without encryption"),
        (["--address", "[::]:0"], "can be reached from the network"),
        (["--address", "localhost"], "write HOST:PORT"),
        (["--address", "127.0.0.1:99999"], "write HOST:PORT"),
        (["--model", "nowhere"], "no model directory 'nowhere'"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(flags: list[str], complaint: str) -> None:
    found = run_serve(*flags)
    assert found.returncode == 1
    assert complaint in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "stream", "accepted"),
    [(signal.SIGTERM, False, "Predict request_id"), (signal.SIGINT, True, "PredictStream request_id")],
)
def test_a_signal_ends_the_server_cleanly_and_the_accepted_call_is_answered(
    number: signal.Signals, stream: bool, accepted: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pred_server", "serve", "--log-level", "debug", "--address", "127.0.0.1:0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("pred_server ready on 127.0.0.1:")
        assert line.endswith(" (flights v1, sklearn)\n")
        table = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(200_000)
        with Client(line.split()[3], timeout_s=120) as client, ThreadPoolExecutor() as pool:
            answer = pool.submit(client.predict, table, stream=stream)
            while f" {accepted}" not in process.stderr.readline():
                pass
            process.send_signal(number)
            assert len(answer.result()) == len(table)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def test_cancelling_leaves_the_server_well(flights_server: Server, flights: pd.DataFrame) -> None:
    client = flights_server.client()
    stub = next(client._connection._stubs)
    call = stub.Predict.future(Request(input_data=flights.to_csv(index=False)).SerializeToString())
    call.cancel()
    assert call.cancelled()
    assert len(client.predict(flights.head(1))) == 1


def test_a_port_on_ipv6_loopback() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with serve("sum", "--address", "[::1]:0") as server:
        assert server.client().predict(XY.iloc[:1]).iloc[0] == 3


def test_a_server_that_cannot_start_tells_why() -> None:
    with pytest.raises(ServerStartError, match=r"(?s)ended with code 1.*no model directory 'nowhere'"):
        serve("nowhere")


def test_a_long_name_is_asked_for_as_it_is(tmp_path: Path) -> None:
    name = "m" * 64
    table = pd.DataFrame({"x": [1.0, 2.0]})
    save(LinearRegression().fit(table, table["x"]), table, tmp_path / "mine", name=name)
    with serve(tmp_path / "mine") as server:
        assert len(server.client(model=name, version="1").predict(table)) == 2


def test_bad_chunks_leave_no_error_in_the_log() -> None:
    """The first chunk is at fault, and so is the second, for which nobody asks any more."""
    with serve("linear", "--max-message-bytes", "20000", "--log-level", "info") as server:
        good, bad = pd.DataFrame(np.ones((2, 10))).add_prefix("x"), pd.DataFrame(np.ones((2, 9))).add_prefix("x")
        large = pd.DataFrame(np.ones((300, 10))).add_prefix("x")
        roomy = Limits(max_message_bytes=2**30)
        for _ in range(10):
            with Client(server.address, limits=roomy, encoding="tensor") as client, pytest.raises(InvalidInput):
                list(client.predict_stream([bad, large, good]))
        server.close()
        assert "ERROR" not in server.logs()
        assert "Traceback" not in server.logs()


def test_a_warning_names_the_callers_line(sum_server: Server) -> None:
    client = sum_server.client(encoding="csv")
    with pytest.warns(UserWarning, match="ignored them: z") as warned:
        client.predict(XY.assign(z=1))
    assert warned[0].filename == __file__
