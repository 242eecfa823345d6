"""Messages are weighed by what they unfold to, and refused before they are parsed."""

import tracemalloc
from contextlib import suppress
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pred_server.errors import InvalidInput, LimitExceeded
from pred_server.generated.pred_pb2 import Column, Columns, Request, Tensor
from pred_server.guard import weight
from pred_server.guard.weight import NUMBER_BYTES, TEXT_BYTES, weigh
from pred_server.limits import MAX_COLUMNS, MIB, Limits
from pred_server.wire import csv
from pred_server.wire.codec import CODECS
from pred_server.wire.schema import Column as SchemaColumn
from pred_server.wire.schema import Schema
from tests.attacks.kinds import field

XY = Schema((SchemaColumn("x", "float64"), SchemaColumn("y", "float64")), SchemaColumn("0", "float64"))
LIMITS = Limits(max_rows=1_000, max_values=5_000)


def arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("encoding", CODECS)
def test_a_table_weighs_at_least_what_its_values_take(encoding: str) -> None:
    table = pd.DataFrame(np.ones((900, 2)), columns=["x", "y"])
    CODECS[encoding].write_table(table, request := Request())
    assert weigh(request.SerializeToString(), XY, LIMITS) >= 8 * table.size


@pytest.mark.parametrize(
    "request_",
    [
        Request(input_data="x,y\n" + "1,2\n" * 1_001),
        Request(input_data='x,y\n"1",2\n' + "\n\n" + "1,2\n" * 1_000),
        Request(arrow=arrow(pa.table({"x": pa.nulls(1_001), "y": pa.nulls(1_001)}))),
        Request(columns=Columns(columns=[Column(name="x", float64=np.ones(1_001))])),
        Request(columns=Columns(columns=[Column(name="x", float32=np.ones(1_001))])),
        Request(columns=Columns(columns=[Column(name="x", int64=[1] * 1_001)])),
        Request(columns=Columns(columns=[Column(name="x", bool=[True] * 1_001)])),
        Request(columns=Columns(columns=[Column(name="x", str=[""] * 1_001)])),
        Request(columns=Columns(columns=[Column(name="x", str=["a" * 50] * 10 + [""] * 1_001)])),
        Request(columns=Columns(columns=[Column(name="x", missing=range(1_001))])),
    ],
    ids=lambda request: str(request)[:20],
)
def test_too_many_rows_are_seen_in_the_bytes(request_: Request) -> None:
    with pytest.raises(LimitExceeded) as caught:
        weigh(request_.SerializeToString(), XY, LIMITS)
    assert caught.value.flag == "--max-rows"


@pytest.mark.parametrize("text", ["\n\n", "\r\n"])
def test_lines_that_are_no_rows_do_not_count(text: str) -> None:
    body = f"x,y{text}" + '"1\n",2\n' + f"1,2{text}" * 998 + text * 50 + "1,2"
    assert weigh(Request(input_data=body).SerializeToString(), XY, LIMITS)


@given(st.text('x,"\r\n', max_size=40), st.integers(1, 9))
def test_rows_are_counted_in_pieces_as_at_once(text: str, piece_bytes: int) -> None:
    data = f"-{text}-".encode()
    with patch.object(csv, "PIECE_BYTES", piece_bytes):
        assert csv.count_rows(data, 1, len(data) - 1, -1) == n_rows_of(text)


def n_rows_of(text: str) -> int:
    """Count as `count_rows` does, a character at a time."""
    records, record, is_quoted = [], "", False
    for character in text:
        record += character
        is_quoted ^= character == '"'
        if character == "\n" and not is_quoted:
            records.append(record)
            record = ""
    return sum(record not in ("\n", "\r\n") for record in records) - 1 + (text[-1:] != "\n")


def test_to_count_rows_takes_little_memory() -> None:
    data = Request(input_data="x,y\n" + "\n" * 8 * MIB + "1,2\n" * 10_000).SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match="10,000 rows"):
            weigh(data, XY, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_values_are_limited_as_rows_times_columns() -> None:
    wide = Schema(tuple(SchemaColumn(f"x{place}", "float64") for place in range(50)), XY.target)
    with pytest.raises(LimitExceeded, match="rows of 50 columns") as caught:
        weigh(Request(input_data="x0\n" + "1\n" * 200).SerializeToString(), wide, LIMITS)
    assert caught.value.flag == "--max-values"


@pytest.mark.parametrize(
    "data",
    [
        field(3, field(1, b"") * (MAX_COLUMNS + 1)),
        field(2, field(3, b"") * (MAX_COLUMNS + 1)),
        field(2, field(6, b"") * (MAX_COLUMNS + 1)),
        field(3, b"") * 1_000,
        field(2, field(2, bytes(1_000))),
        field(3, field(1, field(2, bytes(8)) * 2_000)),
    ],
    ids=["columns", "names", "categories", "parts", "shape", "lists"],
)
def test_fields_that_unfold_are_counted_first(data: bytes) -> None:
    Request.FromString(data)  # protobuf takes it
    with pytest.raises((LimitExceeded, InvalidInput)):
        weigh(data, XY, LIMITS)


def test_the_models_own_names_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Schema(tuple(SchemaColumn(f"x{place}", "float64") for place in range(MAX_COLUMNS)), XY.target)
    tensor = Tensor(dtype="float64", shape=[1, MAX_COLUMNS], names=wide.names, data=bytes(8 * MAX_COLUMNS))
    data = Request(tensor=tensor).SerializeToString()
    monkeypatch.setattr(weight, "MAX_COLUMNS", 0)
    monkeypatch.setattr(weight, "_MOST_FIELDS", 4)  # dtype, the two dimensions in one, and the values
    assert weigh(data, wide, Limits()) >= 8 * MAX_COLUMNS
    with pytest.raises(InvalidInput, match="fields"):
        weigh(data.replace(b"x17", b"x18", 1), wide, Limits())


@pytest.mark.parametrize("names", [["x", "y"], ["x", "y", "x"], ["x"], ["y", "x"]])
def test_names_weigh_the_same_whether_the_model_has_them_or_not(names: list[str]) -> None:
    other = Schema((SchemaColumn("v", "float64"), SchemaColumn("w", "float64")), XY.target)
    data = Request(tensor=Tensor(names=names, shape=[1, 2], data=bytes(16))).SerializeToString()
    assert weigh(data, XY, LIMITS) == weigh(data, other, LIMITS)


def test_texts_are_sampled_where_they_cannot_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight, "_SOME_TEXTS", 10)
    request = Request(columns=Columns(columns=[Column(name="x", str=["LaGuardia"] * 150)]))
    got = weigh(request.SerializeToString(), XY, LIMITS)
    assert 140 * TEXT_BYTES < got < 170 * TEXT_BYTES + 10 * NUMBER_BYTES + 2 * request.ByteSize()


@given(st.binary(max_size=300))
def test_any_bytes_are_weighed_or_refused(data: bytes) -> None:
    with suppress(LimitExceeded, InvalidInput):
        assert weigh(data, XY, LIMITS) >= 0


@given(st.integers(0, 100))
def test_a_message_cut_anywhere_is_weighed(cut: int) -> None:
    data = Request(tensor=Tensor(dtype="float64", shape=[3, 2], names=["x", "y"], data=bytes(48))).SerializeToString()
    assert weigh(data[:cut], XY, LIMITS) >= 0
