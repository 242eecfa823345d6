"""Four encodings, one table: what goes in comes out, to the bit; and what lies is refused with the field that lies."""

import struct
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pred_server.errors import InvalidInput, LimitExceeded
from pred_server.generated.pred_pb2 import Request, Response, Tensor
from pred_server.limits import Limits
from pred_server.wire.codec import CODECS, codec_of
from pred_server.wire.result import Result
from pred_server.wire.schema import DTYPES, NUMERIC_DTYPES, Column, Schema
from pred_server.wire.tables import Table, as_table

TARGET = Column("t", "float64")
XY = Schema((Column("x", "float64", nullable=True), Column("y", "float64")), TARGET)
MIXED = Schema((Column("n", "int64"), Column("s", "str", nullable=True), Column("b", "bool")), TARGET)
# NUL, which no CSV reader agrees on; lone surrogates, which are not UTF-8, are left out by the codec.
characters = st.characters(codec="utf-8", exclude_characters="\0")
names = st.text(characters, min_size=1, max_size=8).filter(lambda name: not name.startswith("\ufeff"))
any_codec = pytest.mark.parametrize("encoding", CODECS)


def values_of(column: Column) -> st.SearchStrategy[object]:
    if column.dtype == "bool":
        return st.booleans()
    if column.dtype == "str":
        text = st.text(characters, max_size=12)
        return st.none() | text if column.nullable else text
    if column.is_float:
        return st.floats(width=64 if column.dtype == "float64" else 32, allow_nan=column.nullable)
    info = np.iinfo(column.dtype)
    return st.integers(info.min, info.max)


@st.composite
def tables(draw: st.DrawFn, one_dtype: bool = False) -> tuple[Schema, pd.DataFrame]:
    some = st.sampled_from((*NUMERIC_DTYPES, "bool") if one_dtype else DTYPES)
    drawn_names = draw(st.lists(names, min_size=2, max_size=5, unique=True))
    dtypes = [draw(some)] * len(drawn_names) if one_dtype else [draw(some) for _ in drawn_names]
    columns = tuple(
        Column(name, dtype, draw(st.booleans()) and (dtype == "str" or dtype.startswith("float")))
        for name, dtype in zip(drawn_names, dtypes, strict=True)
    )
    n_rows = draw(st.integers(1, 6))
    data = {}
    for column in columns:
        drawn = draw(st.lists(values_of(column), min_size=n_rows, max_size=n_rows))
        data[column.name] = pd.Series(drawn, dtype=str if column.dtype == "str" else column.dtype)
    return Schema(columns, TARGET), pd.DataFrame(data)


def assert_same_bits(sent: pd.Series, arrived: pd.Series) -> None:
    assert arrived.dtype == sent.dtype
    if sent.dtype.kind == "f":
        nan = np.isnan(sent.to_numpy())  # of the many NaNs there are, any will do
        assert np.array_equal(np.isnan(arrived.to_numpy()), nan)
        assert sent.to_numpy()[~nan].tobytes() == arrived.to_numpy()[~nan].tobytes()
    else:
        pd.testing.assert_series_equal(arrived, sent)


def send(encoding: str, table: Table, schema: Schema) -> tuple[pd.DataFrame, list[str]]:
    """The table as a server reads it, the message serialized in between."""
    request = Request()
    CODECS[encoding].write_table(table, request)
    message = CODECS["tensor"].message_of(table, []) if encoding == "tensor" else request.SerializeToString()
    arrived = Request.FromString(message)
    assert arrived == request
    assert codec_of(arrived).name == encoding
    rows, ignored = CODECS[encoding].read_table(arrived, schema, Limits(max_rows=10))
    return rows.to_frame(schema.index), ignored


@any_codec
@given(data=st.data(), random=st.randoms())
def test_any_table_that_fits_the_schema_arrives_bit_for_bit(encoding: str, data: st.DataObject, random: object) -> None:
    schema, table = data.draw(tables(one_dtype=encoding == "tensor"))
    shuffled = list(table.columns)
    random.shuffle(shuffled)
    as_sent: Table = table[shuffled]
    if encoding == "arrow" and data.draw(st.booleans()):
        as_sent = pa.Table.from_pandas(as_sent)
    got, ignored = send(encoding, as_sent, schema)
    assert ignored == []
    assert list(got.columns) == schema.names
    for column in schema.columns:
        assert_same_bits(table[column.name], got[column.name])


@given(st.sampled_from(["C", "F"]), st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=8))
def test_an_array_arrives_whatever_its_memory_layout(order: str, rows: list[tuple[float, float]]) -> None:
    schema = Schema((Column("x", "float64", nullable=True), Column("y", "float64", nullable=True)), TARGET)
    array = np.array(rows, order=order)
    got, _ = send("tensor", array, schema)
    for place, name in enumerate("xy"):
        assert_same_bits(pd.Series(array[:, place], name=name), got[name])


@pytest.mark.parametrize("rows", [slice(0, 1), slice(3, 1_500), slice(None), slice(0, None, 2)])
@pytest.mark.parametrize("columns", [1, 2, 20])  # of 20, the length takes three bytes
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", "u1", "bool"])
def test_a_message_of_values_that_are_copied_once_is_the_one_that_protobuf_writes(
    rows: slice, columns: int, dtype: str
) -> None:
    array = np.random.default_rng(0).integers(0, 2, (columns, 2_000)).astype(dtype)
    for table in (array.T[rows], np.ascontiguousarray(array.T)[rows], array.T[rows, ::-1]):
        for names in ([], [f"x{place}" for place in range(columns)]):
            CODECS["tensor"].write_table(table, request := Request())
            request.tensor.names.extend(names)
            message = CODECS["tensor"].message_of(table, names)
            assert len(message) == request.ByteSize()
            assert Request.FromString(message) == request
            assert request.tensor.data in (table.astype(table.dtype.newbyteorder("<")).tobytes(order) for order in "CF")


@any_codec
@given(values=st.lists(st.floats(), min_size=1))
def test_results_arrive_bit_for_bit(encoding: str, values: list[float]) -> None:
    for sent in (np.array(values), np.array([values, values]).T):
        response, columns = Response(), ["delay, in minutes", "ü"][: sent.ndim]
        CODECS[encoding].write_result(Result(sent, columns, "float64"), response)
        got = CODECS[encoding].read_result(Response.FromString(response.SerializeToString()), "float64")
        assert got.names == columns
        for column in got.columns:
            assert_same_bits(pd.Series(values), pd.Series(column))


@any_codec
@given(labels=st.lists(st.text(characters), min_size=1))
def test_labels_arrive_as_they_are(encoding: str, labels: list[str]) -> None:
    response = Response()
    CODECS[encoding].write_result(Result(np.array(labels, dtype=object), ["label"], "str"), response)
    got = CODECS[encoding].read_result(response, "str")
    assert (list(got.values), got.names) == (labels, ["label"])


@any_codec
@pytest.mark.parametrize("labels", [np.array([True, False]), np.array([3, -4]), np.array([2**64 - 1], np.uint64)])
def test_labels_of_other_types_keep_their_type(encoding: str, labels: np.ndarray) -> None:
    response = Response()
    CODECS[encoding].write_result(Result(labels, ["label"], str(labels.dtype)), response)
    got = CODECS[encoding].read_result(response, str(labels.dtype)).values
    assert got.dtype == labels.dtype
    assert got.tolist() == labels.tolist()


@any_codec
def test_no_rows_too_many_rows_and_unknown_columns(encoding: str) -> None:
    table = pd.DataFrame({"z": [0.5] * 4, "y": [2.0] * 4, "x": [1.0] * 4})
    got, ignored = send(encoding, table, XY)
    assert (list(got.columns), ignored) == (["x", "y"], ["z"])
    with pytest.raises(InvalidInput, match="no rows"):
        send(encoding, table.head(0), XY)
    with pytest.raises(LimitExceeded, match=r"11 rows \(--max-rows is 10\)"):
        send(encoding, pd.concat([table] * 3).head(11), XY)
    with pytest.raises(InvalidInput, match="y: the column is missing"):
        send(encoding, table[["x", "z"]], XY)


def test_nullable_and_categorical_columns_of_pandas_are_sent_as_what_they_hold() -> None:
    table = pd.DataFrame(
        {
            "n": pd.array([1, 2], dtype="Int64"),
            "s": pd.Series(["a", None], dtype="category"),
            "b": pd.array([True, False], dtype="boolean"),
        }
    )
    for encoding in ("csv", "columns", "arrow"):
        got, _ = send(encoding, table, MIXED)
        assert got["n"].tolist() == [1, 2]
        assert got["s"].isna().tolist() == [False, True]
        assert got["b"].tolist() == [True, False]
    with pytest.raises(InvalidInput, match="s: has dtype category, and a tensor holds numbers"):
        send("tensor", table, MIXED)


@any_codec
@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1.5, None], dtype="Float64"),
        pd.Series([None, 2**50 + 1], dtype="Int64"),
        pd.Series([0.5, None], dtype="float[pyarrow]"),
        pd.Series([2, None], dtype="category"),
        pd.Series([None, 2.5], dtype=object),
    ],
)
def test_a_number_may_be_missing_where_there_is_no_other_column(encoding: str, values: pd.Series) -> None:
    got, _ = send(encoding, pd.DataFrame({"x": values}), Schema(XY.columns[:1], TARGET))
    assert_same_bits(values.astype("float64"), got["x"])


def test_an_array_of_big_endian_numbers_arrives() -> None:
    request = Request()
    CODECS["tensor"].write_table(np.array([[1.5, -2.0]], dtype=">f8"), request)
    rows, _ = CODECS["tensor"].read_table(request, XY, Limits(max_rows=10))
    assert rows.array.tolist() == [[1.5, -2.0]]


def test_a_tensor_without_rows_may_not_claim_any_number_of_columns() -> None:
    with pytest.raises(LimitExceeded, match="more than 10,000 columns"):
        CODECS["tensor"].read_table(Request(tensor=Tensor(dtype="float64", shape=[0, 2**62])), XY, Limits(max_rows=10))


def test_a_tensor_refuses_what_would_lose_digits() -> None:
    whole = pd.DataFrame({"x": [0.5], "y": [2**53 + 1]})
    with pytest.raises(InvalidInput, match="y: has integers that float64 does not hold"):
        send("tensor", whole, XY)
    assert send("tensor", whole.assign(y=2**53), XY)[0]["y"].tolist() == [2.0**53]
    with pytest.raises(InvalidInput, match="float16 cannot be sent"):
        send("tensor", np.zeros((1, 2), np.float16), XY)


def tensor(**changes: object) -> Request:
    good = {"dtype": "float64", "shape": (2, 2), "names": ("x", "y"), "data": bytes(32)}
    return Request(tensor=Tensor(**good | changes))


def columns(**each: dict[str, object]) -> Request:
    request = Request()
    for name, lists in each.items():
        request.columns.columns.add(name=name, **lists)
    return request


def arrow(write: Callable[[pa.Table], bytes] | None = None, **data: object) -> Request:
    table = pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0]} | data)
    if write:
        return Request(arrow=write(table))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Request(arrow=sink.getvalue().to_pybytes())


def compressed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("request_", "field", "complaint"),
    [
        (tensor(dtype="float16"), "tensor.dtype", "is 'float16'; use int8"),
        (tensor(dtype=""), "tensor.dtype", "is ''"),
        (tensor(shape=(4,)), "tensor.shape", "two numbers are needed"),
        (tensor(shape=(-1, 2)), "tensor.shape", "two numbers"),
        (tensor(shape=(2, 2, 1)), "tensor.shape", "two numbers"),
        (tensor(shape=(0,) * 100_000), "tensor.shape", "is [0, 0, 0]; two numbers"),
        (tensor(shape=(3, 2)), "tensor.data", "has 32 bytes; 3 rows of 2 columns of float64 take 48"),
        (tensor(shape=(2, 2**62)), "tensor.data", "has 32 bytes"),
        (tensor(dtype="float32"), "tensor.data", "take 16"),
        (tensor(names=("x",)), "tensor.names", "are 1, and the tensor has 2 columns"),
        (tensor(order=7), "tensor.order", "is 7"),
        (tensor(categories=("a",)), "tensor.categories", "are for replies"),
        (tensor(dtype="bool", data=b"\0\1\2\1"), "tensor.data", "other than 0 and 1"),
        (columns(x={"float64": [1]}, y={"float64": [1, 2]}), "columns.columns[1]", "'y' has 2 values"),
        (columns(x={"float64": [1], "str": ["a"]}, y={}), "columns.columns[0]", "float64 and str"),
        (columns(x={"float64": [1], "missing": [1]}, y={"int64": [1]}), "columns.columns[0].missing", "below 1"),
        (columns(x={"float64": [1, 2], "missing": [1, 0]}, y={}), "columns.columns[0].missing", "rising"),
        (columns(x={"str": ["1"]}, y={"float64": [1]}), "x", "holds values of dtype str"),
        (columns(x={"float64": [1]}, y={"float64": [1], "missing": [0]}), "y", "no value"),
        (Request(arrow=b""), "arrow", "that can be read whole"),
        (Request(arrow=b"ARROW1\0\0"), "arrow", "that can be read whole"),
        (Request(arrow=arrow().arrow[:-60]), "arrow", "that can be read whole"),
        (arrow(compressed), "arrow", "compressed"),
        (arrow(y=pa.array(["a", "b"]).dictionary_encode()), "arrow", "dictionary"),
        (arrow(y=pa.array(["a", "b"]).cast(pa.string_view())), "y", "string_view"),
        (arrow(y=[[1.0], [2.0]]), "y", "list"),
        (arrow(y=["a", "b"]), "y", "holds values of dtype str"),
        (Request(input_data="x,y\n1,2\n", arrow=b"a"), "arrow", "beside another table"),
    ],
)  # fmt: skip
def test_a_message_that_lies_is_refused_with_its_field(request_: Request, field: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec_of(request_).read_table(request_, XY, Limits(max_rows=10))
    assert caught.value.violations[0].field == field
    assert complaint in caught.value.violations[0].description


def test_numbers_of_another_type_are_checked_in_every_encoding() -> None:
    """A tensor has one type, a model's columns may have several: each value must fit its column all the same."""
    schema = Schema((Column("age", "int64"), Column("income", "float64"), Column("rate", "float32")), TARGET)
    good = pd.DataFrame({"age": [1.0, 2.0], "income": [0.5, 1.5], "rate": [0.25, 0.1]})
    for encoding in CODECS:
        got, _ = send(encoding, good, schema)
        assert got.dtypes.map(str).tolist() == ["int64", "float64", "float32"]
        assert got["rate"].tolist() == [0.25, float(np.float32(0.1))]
        with pytest.raises(InvalidInput, match="age"):
            send(encoding, good.assign(age=[1.0, 1.5]), schema)
    with pytest.raises(InvalidInput, match=r"age: row 1 has 9.2.*e\+18"):
        send("columns", good.assign(age=2.0**63), schema)
    with pytest.raises(InvalidInput, match="s: holds floating values"):
        send("tensor", np.ones((2, 3)), MIXED)


def test_a_dictionary_is_refused_also_where_its_column_is_not_asked_for() -> None:
    """It is unfolded before anybody asks: 16 KB of zeros may be half a gigabyte."""
    packed = pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["a" * 100_000]))
    for options in (None, pa.ipc.IpcWriteOptions(compression="zstd")):
        sink = pa.BufferOutputStream()
        table = pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0], "z": packed})
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        with pytest.raises(InvalidInput, match="arrow: holds a dictionary"):
            CODECS["arrow"].read_table(Request(arrow=sink.getvalue().to_pybytes()), XY, Limits(max_rows=10))


def test_a_message_of_nothing_but_names_is_refused() -> None:
    request = Request()
    for _ in range(10_001):
        request.columns.columns.add()
    with pytest.raises(LimitExceeded, match="more than 10,000 columns"):
        CODECS["columns"].read_table(request, XY, Limits(max_rows=10))


@pytest.mark.parametrize(
    "table", [pd.DataFrame(), pd.DataFrame(index=[1, 2]), np.ones((3, 0)), np.ones(3), [1, 2], None]
)
def test_what_is_no_table_is_told(table: object) -> None:
    with pytest.raises(InvalidInput):
        as_table(table)


def test_odd_tables_are_sent_or_refused_in_a_sentence() -> None:
    schema = Schema((Column("x", "float64", nullable=True), Column("s", "str", nullable=True)), TARGET)
    for encoding in ("csv", "columns", "arrow"):
        got, _ = send(encoding, pd.DataFrame({"x": pd.array([1, None], dtype="Int64"), "s": ["a", "b"]}), schema)
        assert got["x"].isna().tolist() == [False, True]
        with pytest.raises(InvalidInput, match="several kinds"):
            send(encoding, pd.DataFrame({"x": pd.Series([2**70, 1], dtype=object), "s": ["a", "b"]}), schema)
        chunked = pa.concat_tables(
            [pa.table({"x": [1.0], "s": ["a"]}), pa.table({"x": [2.0], "s": pa.array([None], pa.string())})] * 3
        )
        assert send(encoding, chunked, schema)[0]["s"].isna().sum() == 3
    nothing = pd.DataFrame({"x": [1.0, 2.0], "s": [None, None]}, dtype=object)
    for encoding in ("columns", "arrow"):
        assert send(encoding, nothing.assign(x=[1.0, 2.0]), schema)[0]["s"].isna().all()
    masked = np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], mask=[[False, True], [False, False]])
    xy = Schema((Column("x", "float64", nullable=True), Column("y", "float64", nullable=True)), TARGET)
    assert np.isnan(send("tensor", as_table(masked), xy)[0].iloc[0, 1])


def test_offsets_that_lie_are_refused() -> None:
    schema = Schema((Column("s", "str"),), TARGET)
    whole = arrow(s=["abc", "def"]).arrow
    offsets = struct.pack("<iii", 0, 3, 6)
    assert whole.count(offsets) == 1
    for wrong in (struct.pack("<iii", 0, 3, 2**30), struct.pack("<iii", 0, 3, 1), struct.pack("<iii", 0, -3, 6)):
        request = Request(arrow=whole.replace(offsets, wrong))
        with pytest.raises(InvalidInput, match="that can be read whole"):
            CODECS["arrow"].read_table(request, schema, Limits(max_rows=10))
