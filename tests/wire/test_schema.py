from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pred_server.errors import InvalidInput
from pred_server.generated.pred_pb2 import Request
from pred_server.limits import UNLIMITED
from pred_server.wire.codec import CODECS
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Column, Schema, infer_column


def align(values: object, column: Column) -> pd.Series:
    schema = Schema((column,), Column("t", "float64"))
    return schema.frame_to_rows(pd.DataFrame({column.name: values})).to_frame(schema.index)[column.name]


@pytest.mark.parametrize(
    ("values", "column", "complaint"),
    [
        ([1.0, np.nan], Column("a", "float64"), "a: row 2 has no value"),
        ([1.0, 1.5], Column("a", "int64"), "a: row 2 has 1.5, not a whole number of type int64"),
        ([np.inf], Column("a", "int32"), "a: row 1 has inf"),
        ([256], Column("a", "uint8"), "a: row 1 has 256"),
        ([-1], Column("a", "uint64"), "a: row 1 has -1"),
        (["x"], Column("a", "float64"), "a: holds values of dtype str; the model takes float64"),
        ([True], Column("a", "float64"), "a: holds values of dtype bool"),
        ([1], Column("a", "str"), "a: holds integer values; the model takes string values"),
        (["a", None], Column("a", "str"), "a: row 2 has no value"),
        ([1], Column("a", "bool"), "a: holds integer values; the model takes boolean values"),
    ],
)
def test_values_of_another_type_are_refused_by_name_and_row(values: object, column: Column, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        align(values, column)
    assert complaint in str(caught.value)
    assert caught.value.violations[0].field == "a"


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([1.0, 2.0], Column("a", "int64")),
        ([1, 2], Column("a", "float64")),
        (pd.array([1, 2], dtype="Int64"), Column("a", "int64")),
        (pd.array([1, None], dtype="Int64"), Column("a", "float64", nullable=True)),
        ([1.5, 2.5], Column("a", "float32")),
        (["a", "b"], Column("a", "str")),
        (pd.Categorical(["a", "b"]), Column("a", "str")),
        (pd.Series(["a", None], dtype=object), Column("a", "str", nullable=True)),
        ([True, False], Column("a", "bool")),
    ],
)
def test_values_are_cast_where_nothing_is_lost(values: object, column: Column) -> None:
    got, sent = align(values, column), pd.Series(values)
    assert got.dtype == (pd.Series(["a"]).dtype if column.dtype == "str" else column.dtype)
    assert got.isna().tolist() == sent.isna().tolist()
    assert got.dropna().tolist() == sent.dropna().tolist()


def test_columns_are_matched_by_name() -> None:
    schema = Schema((Column("a", "int64"), Column("b", "str")), Column("t", "float64"))
    table = pd.DataFrame({"c": [0, 0], "b": ["x", "y"], "a": [1, 2]}, index=["same", "same"])
    assert {name: list(values) for name, values in schema.frame_to_rows(table).columns.items()} == {
        "a": [1, 2],
        "b": ["x", "y"],
    }
    with pytest.raises(InvalidInput, match="b: the column is missing"):
        schema.frame_to_rows(table.drop(columns="b"))
    with pytest.raises(InvalidInput, match="a: the column stands more than once"):
        schema.frame_to_rows(pd.concat([table, table[["a"]]], axis=1))
    with pytest.raises(InvalidInput, match="no rows"):
        schema.frame_to_rows(table.head(0))


def test_columns_of_one_type_become_one_array_by_columns() -> None:
    schema = Schema((Column("a", "float64"), Column("b", "float64", nullable=True)), Column("t", "float64"))
    for n_rows in (1, 5):
        array = np.arange(2.0 * n_rows).reshape(n_rows, 2)
        frame = pd.DataFrame(array, columns=["b", "a"])
        for got in (
            schema.frame_to_rows(frame),
            schema.array_to_rows(array, ["b", "a"]),
            schema.array_to_rows(array[:, ::-1], ["a", "b"]),
        ):
            assert got.array.flags.f_contiguous
            assert got.array.tolist() == array[:, ::-1].tolist()
            assert len(got) == n_rows
    view = np.asfortranarray(array)
    assert np.shares_memory(schema.array_to_rows(view, ["a", "b"]).array, view)
    with pytest.raises(InvalidInput, match="a: row 2 has no value"):
        schema.array_to_rows(np.array([[1, 2], [np.nan, np.nan]]), ["a", "b"])
    assert np.isnan(schema.array_to_rows(np.array([[1, np.nan]]), ["a", "b"]).array[0, 1])


@pytest.mark.parametrize("dtypes", [("float64", "float64"), ("float64", "str")])
def test_tables_are_joined_and_cut_by_rows(dtypes: tuple[str, str]) -> None:
    schema = Schema(
        tuple(Column(name, dtype) for name, dtype in zip("ab", dtypes, strict=True)), Column("t", "float64")
    )
    frame = pd.DataFrame({"a": np.arange(9.0), "b": np.arange(9.0)}).astype(dict(zip("ab", dtypes, strict=True)))
    parts = [schema.frame_to_rows(frame.iloc[start : start + n]) for start, n in ((0, 1), (1, 3), (4, 5))]
    joined = Rows.concat(parts)
    pd.testing.assert_frame_equal(joined.to_frame(schema.index), frame)
    assert joined.array is None or joined.array.flags.f_contiguous
    some = joined.take(np.array([8, 0, 0])).to_frame(schema.index)
    pd.testing.assert_frame_equal(some, frame.iloc[[8, 0, 0]].reset_index(drop=True))


def test_a_schema_survives_json() -> None:
    schema = Schema((Column("a", "int64"), Column("b", "str", nullable=True)), Column("t", "float64", unit="minutes"))
    assert Schema.from_json(schema.to_json()) == schema


def test_a_column_type_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(InvalidInput, match="column 'when' has dtype datetime64"):
        infer_column(pd.Series(pd.to_datetime(["2013-01-01"]), name="when"))


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([Decimal("1.5")], dtype=object),
        pd.Series([1], dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
        pd.Series([b"1.5"], dtype=object),
    ],
    ids=["objects", "Arrow's", "bytes"],
)
@pytest.mark.parametrize("name", CODECS)
def test_decimals_and_bytes_are_refused_alike_in_every_encoding(name: str, values: pd.Series) -> None:
    with pytest.raises(InvalidInput, match=r"^a: "):
        CODECS[name].write_table(pd.DataFrame({"a": values}), Request())
    with pytest.raises(InvalidInput, match=r"^a: "):
        align(values, Column("a", "float64"))


@pytest.mark.parametrize("encoding", CODECS)
@pytest.mark.parametrize("dtype", ["Float64", "Int64", "double[pyarrow]", "int32[pyarrow]"])
def test_gaps_of_pandas_and_arrow_are_missing_values_in_every_encoding(dtype: str, encoding: str) -> None:
    schema = Schema((Column("a", "float64", nullable=True), Column("b", "float64")), Column("t", "float64"))
    table, request = pd.DataFrame({"a": pd.array([1, None], dtype), "b": pd.array([3, 4], dtype)}), Request()
    CODECS[encoding].write_table(table, request)
    rows, _ = CODECS[encoding].read_table(request, schema, UNLIMITED)
    assert np.array_equal(rows.array, [[1, 3], [np.nan, 4]], equal_nan=True)
    assert np.array_equal(schema.frame_to_rows(table).array, rows.array, equal_nan=True)
