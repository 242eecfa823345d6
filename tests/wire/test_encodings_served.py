"""One table in every encoding, in one message and in chunks: what is served equals what is predicted in process."""

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pred_server import Model, load, save, serve
from pred_server.errors import InvalidInput
from pred_server.generated.pred_pb2 import Request
from pred_server.tutorial.background import Server
from pred_server.wire.codec import CODECS

MUTATIONS = int(os.environ.get("MUTATIONS", "20000"))
# In CI streams and descriptions get a part of them.
SHARE = 1 if MUTATIONS >= 100_000 else 10
DOCUMENTED = {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
anything = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("linear", "--model", "flights", "--model", "sum") as running:
        yield running


@pytest.fixture(scope="module")
def linear() -> Model:
    return load("linear")


def cuts(data: st.DataObject, n_rows: int) -> list[tuple[int, int]]:
    """Anywhere: between any two rows, or nowhere."""
    inner = sorted(data.draw(st.sets(st.integers(1, n_rows - 1), max_size=6))) if n_rows > 1 else []
    return list(zip([0, *inner], [*inner, n_rows], strict=True))


@anything
@given(data=st.data())
def test_any_numbers_cut_anywhere(data: st.DataObject, server: Server, linear: Model) -> None:
    finite = st.floats(allow_nan=False, min_value=-1e150, max_value=1e150)  # the estimator refuses infinities
    n_rows = data.draw(st.integers(1, 40))
    array = np.array(data.draw(st.lists(st.lists(finite, min_size=10, max_size=10), min_size=n_rows, max_size=n_rows)))
    frame = pd.DataFrame(array).add_prefix("x")
    expected = linear.predict(frame)
    encoding = data.draw(st.sampled_from(list(CODECS)))
    table = data.draw(st.sampled_from([frame, array, pa.Table.from_pandas(frame)]))
    client = server.client()
    assert client.predict(table, encoding=encoding).to_numpy().tobytes() == expected.tobytes()
    parts = client.predict_stream((frame.iloc[a:b] for a, b in cuts(data, n_rows)), encoding=encoding)
    together = pd.concat(list(parts))
    assert together.to_numpy().tobytes() == expected.tobytes()
    assert together.index.equals(frame.index)


@anything
@given(data=st.data())
def test_any_sum_has_its_bits_infinities_and_subnormals_among_them(data: st.DataObject, server: Server) -> None:
    pairs = data.draw(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=20))
    frame = pd.DataFrame(pairs, columns=["x", "y"])
    expected = load("sum").predict(frame)
    client = server.client(model="sum")
    for encoding in CODECS:
        parts = list(client.predict_stream((frame.iloc[a:b] for a, b in cuts(data, len(frame))), encoding=encoding))
        served = pd.concat(parts).to_numpy()
        assert np.array_equal(np.isnan(served), np.isnan(expected))
        assert served[~np.isnan(served)].tobytes() == expected[~np.isnan(expected)].tobytes()


@pytest.mark.parametrize("encoding", ["csv", "columns", "arrow", "auto"])
@pytest.mark.parametrize("stream", [False, True])
def test_10000_flights(
    encoding: str, stream: bool, server: Server, flights: pd.DataFrame, flights_model: Model
) -> None:
    odd = flights.assign(carrier=flights["carrier"].where(flights["day"] > 3, ""), dest=flights["dest"] + "ü☃")
    served = server.client(model="flights").predict(odd, encoding=encoding, stream=stream)
    assert served.index.equals(flights.index)
    assert served.to_numpy().tobytes() == flights_model.predict(odd).tobytes()


def test_auto_takes_the_tensor_for_numbers_and_asks_what_the_server_has(server: Server, flights: pd.DataFrame) -> None:
    client, numbers = server.client(), pd.DataFrame(np.ones((3, 10))).add_prefix("x")
    assert client.prepare(numbers).codec.name == "tensor"
    assert server.client(model="flights").prepare(flights.head(3)).codec.name == "columns"
    assert server.client(model="flights").prepare(flights).codec.name == "arrow"
    with serve("sum", module="pred_server.tutorial.article") as article:
        assert article.client().prepare(flights).codec.name == "csv"


def test_auto_looks_only_at_the_columns_that_the_model_knows(server: Server) -> None:
    client, numbers = server.client(), pd.DataFrame(np.ones((3, 10))).add_prefix("x")
    prepared = client.prepare(numbers.assign(stray="text"))
    assert (prepared.codec.name, prepared.ignored) == ("tensor", ["stray"])
    with pytest.warns(UserWarning, match="ignored them: stray"):
        served = client.predict(numbers.assign(stray="text"))
    assert served.tolist() == client.predict(numbers).tolist()
    with pytest.warns(UserWarning, match="ignored them: stray"):
        (streamed,) = client.predict_stream([numbers.assign(stray="text")])
    assert streamed.tolist() == served.tolist()


@pytest.mark.parametrize("encoding", ["auto", *CODECS])
def test_csv_text_is_a_table_too(server: Server, encoding: str) -> None:
    client = server.client(encoding=encoding)
    numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 10))).add_prefix("x")
    assert client.predict(numbers.to_csv(index=False)).tolist() == client.predict(numbers).tolist()
    many = pd.concat([numbers] * 5_000)
    text = many.to_csv(index=False)
    assert len(text) > 1_500_000
    assert client.predict(text).to_numpy().tobytes() == client.predict(many).to_numpy().tobytes()
    with pytest.raises(InvalidInput, match="x0: line 3: 'a' is not a number"):
        client.predict("x0\n1\na\n".replace("\n", ",1" * 9 + "\n").replace("x0,1,1,1,1,1,1,1,1,1", ",".join(numbers)))


def test_a_missing_text_is_missing_in_every_encoding_and_an_empty_one_is_a_text(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": ["good day", "bad day"] * 20, "z": 0.0})
    words = make_column_transformer((CountVectorizer(), "text"), remainder="passthrough")
    estimator = make_pipeline(words, LogisticRegression()).fit(table, table["text"] == "good day")
    save(estimator, table, tmp_path / "words")
    with serve(tmp_path / "words") as server:
        client = server.client()
        for encoding in ("csv", "columns", "arrow"):
            missing, empty = table.head(3).copy(), table.head(3).copy()
            missing.loc[1, "text"], empty.loc[1, "text"] = None, ""
            with pytest.raises(InvalidInput, match=r"text: .*no value, and the model needs one"):
                client.predict(missing, encoding=encoding)
            with pytest.raises(InvalidInput, match=r"text: .*no value, and the model needs one"):
                list(client.predict_stream([table.head(2), missing], encoding=encoding))
            assert client.predict(empty, encoding=encoding).tolist() == estimator.predict(empty).tolist()


def test_a_classifiers_probabilities(tmp_path: Path) -> None:
    wine = load_wine(as_frame=True)
    labels = wine.target_names[wine.target]
    forest = RandomForestClassifier(n_estimators=10, random_state=0).fit(wine.data, labels)
    save(forest, wine.data, tmp_path / "wine", target="cultivar")
    with serve(tmp_path / "wine") as server:
        client = server.client()
        for encoding in CODECS:
            for stream in (False, True):
                given = client.predict(wine.data, encoding=encoding, output="probabilities", stream=stream)
                assert list(given.columns) == list(wine.target_names)
                assert given.to_numpy().tobytes() == forest.predict_proba(wine.data).tobytes()
                named = client.predict(wine.data, encoding=encoding, stream=stream)
                assert named.tolist() == forest.predict(wine.data).tolist()
        assert client.describe().classes == tuple(wine.target_names)
    with serve("linear") as server, pytest.raises(InvalidInput, match="no classifier"):
        server.client().predict(np.ones((1, 10)), output="probabilities")


def test_an_array_with_too_few_columns_is_told(server: Server) -> None:
    for encoding in CODECS:
        with pytest.raises(InvalidInput, match=r"3.* columns, and|columns, and the model takes|has 3 columns"):
            server.client().predict(np.ones((2, 3)), encoding=encoding)


def good_messages() -> list[bytes]:
    numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 10))).add_prefix("x")
    found = []
    for codec in CODECS.values():
        request = Request()
        codec.write_table(numbers, request)
        found.append(request.SerializeToString())
    return found


def mutated(rng: random.Random, message: bytes) -> bytes:
    """A message with some bytes changed, cut out or put in, anywhere."""
    data = bytearray(message)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data)), rng.choice((1, 1, 1, 2, 4, 8))
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            data[at : at + length] = b"\xff" * length
        elif kind == 2:
            del data[at : at + length]
        else:
            data[at:at] = data[max(0, at - 8) : at]
        data = data or bytearray(b"\0")
    return bytes(data)


@pytest.mark.parametrize("rpc", ["Predict", "PredictStream", "Describe"])
def test_mutated_messages_get_a_documented_status_and_harm_nothing(rpc: str, server: Server) -> None:
    rng, seen = random.Random(0), dict.fromkeys(DOCUMENTED, 0)
    good, process = good_messages(), psutil.Process(server.pid)
    n_messages = MUTATIONS if rpc == "Predict" else MUTATIONS // SHARE
    with grpc.insecure_channel(server.address) as channel:
        ask, ask_in_stream = (
            make(f"/prediction.Prediction/{rpc}") for make in (channel.unary_unary, channel.stream_stream)
        )
        resident_bytes = 0
        for done in range(0, n_messages, 50):
            messages = [mutated(rng, rng.choice(good)) for _ in range(50)]
            if rpc == "PredictStream":  # one good chunk, and one that may be bad
                calls = [ask_in_stream(iter([rng.choice(good), message]), timeout=60) for message in messages]
            else:
                calls = [ask.future(message, timeout=60) for message in messages]
            for call in calls:
                if rpc == "PredictStream":
                    with suppress(grpc.RpcError):
                        assert 1 <= len(list(call)) <= 2
                code = call.code().name
                assert code in DOCUMENTED, (code, call.details())
                assert "Traceback" not in (call.details() or "")
                seen[code] += 1
            if done >= n_messages // 4 and not resident_bytes:
                resident_bytes = process.memory_info().rss  # after the pools have grown to what they need
        grown_mib = (process.memory_info().rss - resident_bytes) / 2**20
    print(
        f"{n_messages} mutated messages: {seen}; resident memory grew by {grown_mib:.1f} MiB in the last three quarters"
    )
    assert seen["OK"] and seen["INVALID_ARGUMENT"]
    assert grown_mib < 32
    assert len(server.client().predict(np.ones((2, 10)))) == 2
