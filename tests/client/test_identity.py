"""Which model answers: replies say it, calls may expect it, and a client outlives the models that it asks."""

import itertools
import queue
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from grpc_status import rpc_status
from sklearn.linear_model import LinearRegression

from pred_server import Client, load, save, serve
from pred_server.errors import InvalidInput, RemoteError, SchemaChanged
from pred_server.generated.pred_pb2 import ColumnDescription, DescribeRequest, DescribeResponse, Request, Response
from pred_server.generated.pred_pb2_grpc import PredictionServicer, PredictionStub, add_PredictionServicer_to_server
from pred_server.tutorial.background import Server
from pred_server.wire.schema import Column, Schema
from pred_server.wire.status import to_status
from tests.ports import free_address

X = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 4)), columns=list("abcd"))
WEIGHTS = pd.Series({"a": 1.0, "b": 10.0, "c": 100.0, "d": 1_000.0})
ENCODINGS = ("auto", "csv", "columns", "tensor", "arrow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that weigh their columns alike; the folder of each is named after the columns, in their order."""
    folder = tmp_path_factory.mktemp("models")
    for columns in ("ab", "ba", "abc", "ad"):
        table = X[list(columns)]
        save(LinearRegression().fit(table, table @ WEIGHTS[list(columns)]), table.head(), folder / columns, name="m")
    return folder


def weigh(columns: str, table: pd.DataFrame = X) -> np.ndarray:
    return (table[list(columns)] @ WEIGHTS[list(columns)]).to_numpy()


@contextmanager
def replaced(
    first: Callable[[str], Server], second: Callable[[str], Server], warm: Callable[[str], object]
) -> Iterator[Server]:
    """Start a server, `warm` clients of it, and put another server in its place."""
    address = free_address()
    with first(address):
        warm(address)
    with second(address) as server:
        yield server


def model(path: Path) -> Callable[[str], Server]:
    return lambda address: serve(path, "--address", address, "--log-level", "info")


def without_identity(path: Path) -> Callable[[str], Server]:
    """A server as it was before replies said which model answered."""
    code = (
        "import pred_server.server.service as s, pred_server.model.model as m; "
        "s.check_expected = lambda *_: None; m.Model.identity = ''; "
    )

    def start(address: str) -> Server:
        arguments = ["serve", "--model", str(path), "--address", address]
        main = f"from pred_server.cli import main; raise SystemExit(main({arguments!r}))"
        return Server([sys.executable, "-c", code + main], start_timeout_s=60)

    return start


def article(address: str) -> Server:
    return serve("sum", "--address", address, module="pred_server.tutorial.article")


SCHEMA = Schema((Column("a", "float64"), Column("é", "str", nullable=True)), Column("y", "int64"))


def test_a_schemas_hash_is_the_same_everywhere() -> None:
    assert SCHEMA.hash == Schema.from_json(SCHEMA.to_json()).hash == "12c9c5995e612dd9"


@pytest.mark.parametrize(
    "other",
    [
        Schema((Column("b", "float64"), SCHEMA.columns[1]), SCHEMA.target),
        Schema((Column("a", "float32"), SCHEMA.columns[1]), SCHEMA.target),
        Schema((Column("a", "float64", nullable=True), SCHEMA.columns[1]), SCHEMA.target),
        Schema(SCHEMA.columns[::-1], SCHEMA.target),
        Schema(SCHEMA.columns[:1], SCHEMA.target),
        Schema(SCHEMA.columns, Column("z", "int64")),
        Schema(SCHEMA.columns, Column("y", "float64")),
        Schema(SCHEMA.columns, SCHEMA.target, ("p", "q")),
    ],
    ids=["name", "dtype", "nullable", "order", "fewer", "target", "target's dtype", "targets"],
)
def test_whatever_a_caller_may_rely_on_is_in_the_hash(other: Schema) -> None:
    assert other.hash != SCHEMA.hash


def test_a_unit_is_not() -> None:
    assert Schema((Column("a", "float64", unit="km"), SCHEMA.columns[1]), SCHEMA.target).hash == SCHEMA.hash


@contextmanager
def stub_of(server: Server) -> Iterator[PredictionStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield PredictionStub(channel)


def identities(call: Any) -> list[str]:
    return [value for key, value in call.trailing_metadata() if key == "model-identity"]


def test_every_reply_says_which_model_answered_and_so_does_the_log(folder: Path) -> None:
    expected = load(folder / "ab").identity
    assert re.fullmatch(r"m/1/[0-9a-f]{16}/[0-9a-f]{16}", expected)
    good, bad = Request(input_data="a,b\n1,2\n"), Request(input_data="a\n1\n")
    with serve(folder / "ab", "--log-level", "info") as server, stub_of(server) as stub:
        _, predicted = stub.Predict.with_call(good)
        _, described = stub.Describe.with_call(DescribeRequest())
        streamed = stub.PredictStream(iter([good, good]))
        assert len(list(streamed)) == 2
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(bad)
        for call in (predicted, described, streamed, refused.value):
            assert identities(call) == [expected]
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Predict(good, metadata=[("model-name", "nobody")])
        assert identities(unknown.value) == []
        wait_for(lambda: server.logs().count(f"model_identity={expected}") >= 4, "the lines of the calls")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    for _ in range(3_000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"still waiting: {what}")


def test_the_content_has_a_digest_of_its_own(folder: Path, tmp_path: Path) -> None:
    table = X[["a", "b"]]
    save(LinearRegression().fit(table, 3 * weigh("ab")), table.head(), tmp_path / "other", name="m")
    *one, content = load(folder / "ab").identity.split("/")
    *another, other_content = load(tmp_path / "other").identity.split("/")
    assert one == another
    assert content != other_content
    assert load(folder / "ab").identity.endswith(content)


@pytest.mark.parametrize("name", ["sum", "linear"])
def test_a_built_in_model_is_the_same_in_every_process(name: str) -> None:
    with serve(name) as server:
        assert server.client().describe().identity == load(name).identity


def reason_of(error: Any) -> str:
    (detail,) = rpc_status.from_call(error).details
    from google.rpc.error_details_pb2 import ErrorInfo

    info = ErrorInfo()
    assert detail.Unpack(info)
    return info.reason


def test_a_call_that_expects_another_schema_is_refused_before_anything_is_read(folder: Path) -> None:
    nonsense, never = Request(input_data="no table at all"), queue.Queue[Request]()
    with serve(folder / "ab") as server, stub_of(server) as stub:
        expecting = [("expect-schema", load(folder / "ba").schema.hash)]
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(nonsense, metadata=expecting)
        stream = stub.PredictStream(iter(never.get, None), metadata=expecting)  # no chunk has come yet
        with pytest.raises(grpc.RpcError) as at_the_start:
            next(stream)
        never.put(None)
        for error in (refused.value, at_the_start.value):
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert reason_of(error) == "SCHEMA_CHANGED"
        assert stub.Describe(DescribeRequest(), metadata=expecting).name == "m"
        right = [("expect-schema", load(folder / "ab").schema.hash)]
        assert stub.Predict(Request(input_data="a,b\n1,2\n"), metadata=right).result


def chunks_of(table: Any) -> Iterator[Any]:
    """An iterator, which cannot be rewound, of more chunks than are under way at once."""
    for start in range(0, 50, 2):
        yield table[start : start + 2] if isinstance(table, np.ndarray) else table.iloc[start : start + 2]


def streamed(client: Client, table: Any) -> np.ndarray:
    return pd.concat(client.predict_stream(chunks_of(table))).to_numpy()


def large(client: Client, table: Any) -> np.ndarray:
    many = np.tile(table, (2_000, 1)) if isinstance(table, np.ndarray) else pd.concat([table] * 2_000)
    predictions = client.predict(many)
    assert predictions.waterfall.chunks > 1
    return predictions.to_numpy()[:50]


def asked(client: Client, table: Any) -> np.ndarray:
    return client.predict(table).to_numpy()


def text(client: Client, table: Any) -> np.ndarray:
    return client.predict(pd.DataFrame(table).to_csv(index=False)).to_numpy()


def arrow(client: Client, table: Any) -> np.ndarray:
    return client.predict(pa.Table.from_pandas(table)).to_numpy()


Ask = Callable[[Client, Any], np.ndarray]
NAMED: list[tuple[str, Ask]] = [
    *itertools.product(ENCODINGS, (asked, streamed, text, arrow)),
    ("auto", large),
    ("csv", large),
]
UNNAMED: list[tuple[str, Ask]] = [*itertools.product(ENCODINGS, (asked, streamed)), ("auto", large), ("tensor", large)]


class Crowd:
    """A client for each way to ask, all of one address."""

    def __init__(self, ways: list[tuple[str, Ask]]):
        self._ways = ways
        self._clients: list[Client] = []

    def open(self, address: str, table: Any) -> None:
        self._clients = [Client(address, encoding=encoding) for encoding, _ in self._ways]
        self.ask(table)

    def ask(self, table: Any) -> list[np.ndarray | Exception]:
        """Ask once by each; return what came."""
        return [self._one(place, table) for place in range(len(self._ways))]

    def _one(self, place: int, table: Any) -> np.ndarray | Exception:
        _, ask = self._ways[place]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                return ask(self._clients[place], table)
        except (InvalidInput, RemoteError, SchemaChanged) as error:
            return error

    def assert_right(self, table: Any, expected: np.ndarray) -> None:
        for (encoding, ask), got in zip(self._ways, self.ask(table), strict=True):
            assert isinstance(got, np.ndarray), f"{encoding}, {ask.__name__}: {got!r}"
            np.testing.assert_allclose(got, expected, err_msg=f"{encoding}, {ask.__name__}")

    def assert_refused(self, table: Any, kind: type[Exception], sentence: str) -> None:
        for (encoding, ask), got in zip(self._ways, self.ask(table), strict=True):
            assert isinstance(got, kind), f"{encoding}, {ask.__name__}: {got!r}"
            assert re.search(sentence, str(got)), f"{encoding}, {ask.__name__}: {got}"

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    crowd = Crowd(request.param)
    yield crowd
    crowd.close()


named = pytest.mark.parametrize("crowd", [NAMED], ids=["named"], indirect=True)
unnamed = pytest.mark.parametrize("crowd", [UNNAMED], ids=["arrays"], indirect=True)


@named
@pytest.mark.parametrize(("before", "after"), [("ab", "abc"), ("abc", "ab"), ("ab", "ba"), ("ab", "ad")])
def test_a_named_table_is_answered_by_the_new_model_at_the_first_call(
    before: str, after: str, folder: Path, crowd: Crowd
) -> None:
    with replaced(model(folder / before), model(folder / after), lambda address: crowd.open(address, X)):
        crowd.assert_right(X, weigh(after))


@unnamed
def test_an_array_keeps_its_meaning_where_the_models_columns_change_places(folder: Path, crowd: Crowd) -> None:
    table = X[["a", "b"]].to_numpy()
    with replaced(model(folder / "ab"), model(folder / "ba"), lambda address: crowd.open(address, table)):
        for _ in range(2):
            crowd.assert_right(table, weigh("ab"))


@unnamed
def test_an_array_keeps_its_meaning_where_the_model_has_a_column_less(folder: Path, crowd: Crowd) -> None:
    table = X[["a", "b", "c"]].to_numpy()
    with replaced(model(folder / "abc"), model(folder / "ba"), lambda address: crowd.open(address, table)):
        for _ in range(2):
            crowd.assert_right(table, weigh("ab"))


@unnamed
def test_an_array_with_the_new_models_further_column_is_answered(folder: Path, crowd: Crowd) -> None:
    table = X[["a", "b"]].to_numpy()
    with replaced(model(folder / "ab"), model(folder / "abc"), lambda address: crowd.open(address, table)):
        crowd.assert_refused(table, InvalidInput, "")
        crowd.assert_right(X[["a", "b", "c"]].to_numpy(), weigh("abc"))


@unnamed
def test_an_array_that_may_mean_either_is_refused_once_and_the_sentence_says_why(folder: Path, crowd: Crowd) -> None:
    table = X[["a", "d"]].to_numpy()
    with replaced(model(folder / "ab"), model(folder / "ad"), lambda address: crowd.open(address, table)):
        crowd.assert_refused(table, SchemaChanged, "it took a, b, and takes a, d. An array does not say which")
        crowd.assert_right(table, weigh("ad"))


def test_who_describes_anew_means_the_new_columns_from_then_on(folder: Path) -> None:
    client: list[Client] = []

    def warm(address: str) -> None:
        client.append(Client(address))
        client[0].predict(X[["a", "b"]].to_numpy())

    with replaced(model(folder / "ab"), model(folder / "ba"), warm), client[0]:
        names = client[0].describe().schema.names
        assert names == ["b", "a"]
        np.testing.assert_allclose(client[0].predict(X[names].to_numpy()), weigh("ab"))


@named
def test_a_server_that_sends_no_identity_is_served_as_before(folder: Path, crowd: Crowd) -> None:
    with without_identity(folder / "abc")(free_address()) as server:
        crowd.open(server.address, X)
        crowd.assert_right(X, weigh("abc"))


@unnamed
def test_an_array_keeps_its_meaning_among_servers_that_send_no_identity(folder: Path, crowd: Crowd) -> None:
    table = X[["a", "b"]].to_numpy()
    first, second = without_identity(folder / "ab"), without_identity(folder / "ba")
    with replaced(first, second, lambda address: crowd.open(address, table)):
        crowd.assert_right(table, weigh("ab"))


@named
@pytest.mark.parametrize("turn", ["older first", "article first", "article last"])
def test_other_servers_come_and_go(turn: str, folder: Path, crowd: Crowd) -> None:
    """One call may fail. None answers with wrong numbers, and the second is right."""
    table = X[["a", "b"]].set_axis(["x", "y"], axis=1).assign(**X)
    ours = model(Path("sum"))
    first, second, expected = {
        "older first": (without_identity(folder / "ab"), model(folder / "abc"), weigh("abc")),
        "article first": (article, ours, (X["a"] + X["b"]).to_numpy()),
        "article last": (ours, article, (X["a"] + X["b"]).to_numpy()),
    }[turn]
    ways = crowd._ways
    if turn != "older first":  # the article's server has one encoding, no streams, and no large messages
        crowd._ways = [way for way in ways if way[1] not in (streamed, large) and way[0] in ("auto", "csv")]
    with replaced(first, second, lambda address: crowd.open(address, table)):
        for got in crowd.ask(table):
            assert isinstance(got, Exception) or np.allclose(got, expected)
        crowd.assert_right(table, expected)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_servers_with_two_models_side_by_side_answer_every_call(encoding: str, folder: Path) -> None:
    """While one after the other is replaced: a call may be described by one server, and answered by the other."""
    with serve(folder / "ab") as old, serve(folder / "ba") as new:
        client = Client(f"{old.address},{new.address}", encoding=encoding)
        table = X[["a", "b"]]
        position = client.describe().schema.names
        for _ in range(10):
            np.testing.assert_allclose(client.predict(table), weigh("ab"))
            np.testing.assert_allclose(client.predict(table[position].to_numpy()), weigh("ab"))
            np.testing.assert_allclose(streamed(client, table), weigh("ab"))
        client.close()


X_COLUMN = ColumnDescription(name="a", dtype="float64")


class Stubborn(PredictionServicer):
    """Describes itself, and never takes the schema that it has described."""

    def __init__(self) -> None:
        self.asked = 0

    def Describe(self, request: DescribeRequest, context: Any) -> DescribeResponse:
        context.set_trailing_metadata((("model-identity", "stubborn/1/0000000000000000/0"),))
        return DescribeResponse(name="stubborn", columns=[X_COLUMN], target=X_COLUMN, encodings=["csv"])

    def Predict(self, request: Request, context: Any) -> Response:
        self.asked += 1
        context.abort_with_status(to_status(SchemaChanged("not that one")))

    def PredictStream(self, requests: Iterator[Request], context: Any) -> Iterator[Response]:
        self.asked += 1
        context.abort_with_status(to_status(SchemaChanged("not that one")))


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_refuses_whatever_it_said_is_asked_once_more_and_no_more(stream: bool) -> None:
    stubborn, server = Stubborn(), grpc.server(futures.ThreadPoolExecutor(2))
    add_PredictionServicer_to_server(stubborn, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client, pytest.raises(SchemaChanged, match="not that one"):
        client.predict(X[["a"]], stream=stream)
    assert stubborn.asked == 2
    server.stop(None)
