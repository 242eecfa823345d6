"""The tables that a caller hands in, of pandas, NumPy and Arrow, and how each becomes another."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from pred_server.errors import InvalidInput, Violation, clip
from pred_server.limits import ROW_BLOCK
from pred_server.wire.schema import NUMERIC_DTYPES, as_numbers, check_unique, plain

Table: TypeAlias = pd.DataFrame | np.ndarray | pa.Table

_GAPS = {
    **{kind: pd.Int64Dtype() for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{kind: pd.UInt64Dtype() for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    pa.bool_(): pd.BooleanDtype(),
}
# The integers that a float64 holds exactly lie between this and its negative.
EXACT = 2**53


def as_table(table: Any) -> Table:
    """Return the table as it is, if it is one. Raises InvalidInput."""
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if isinstance(table, np.ma.MaskedArray):
        table = np.ma.filled(table.astype(float), np.nan)
    if isinstance(table, np.ndarray) and table.ndim != 2:
        raise InvalidInput(f"an array of shape (n_rows, n_columns) is needed, not of shape {table.shape}")
    if not isinstance(table, pd.DataFrame | np.ndarray | pa.Table):
        raise InvalidInput(f"a table is a DataFrame, a 2-D array or an Arrow table, not a {type(table).__name__}")
    if table.shape[1] == 0:
        raise InvalidInput("the table has no columns")
    if isinstance(table, pa.Table) or (isinstance(table, pd.DataFrame) and not table.columns.is_unique):
        check_unique(names_of(table))
    return table


def names_of(table: pd.DataFrame | pa.Table) -> list[str]:
    """Return the columns' names as text."""
    return [str(name) for name in (table.columns.tolist() if isinstance(table, pd.DataFrame) else table.column_names)]


def count_bytes(table: Table | str) -> int:
    """Return about how many bytes the values take."""
    if isinstance(table, str):
        return len(table)
    if not isinstance(table, pd.DataFrame):
        return int(table.nbytes)
    if all(isinstance(kind, np.dtype) and kind.kind != "O" for kind in set(table.dtypes)):
        return 8 * table.size
    some = table.head(1_000)  # text may have any length
    return int(some.memory_usage(index=False, deep=True).sum() * len(table) / max(len(some), 1))


def rows_in_chunk(table: Table, chunk_bytes: int) -> int:
    """Return how many rows take about so many bytes: whole blocks of rows, at least one."""
    return max(1, len(table) * chunk_bytes // max(count_bytes(table), 1) // ROW_BLOCK) * ROW_BLOCK


def in_chunks(table: Table, n_rows: int) -> Iterator[Table]:
    """Cut a table into pieces of so many rows, without a copy; at least one piece."""
    for start in range(0, max(len(table), 1), n_rows):
        if isinstance(table, pa.Table):
            yield table.slice(start, n_rows)
        else:
            yield (
                table.iloc[start : start + n_rows] if isinstance(table, pd.DataFrame) else table[start : start + n_rows]
            )


def without_columns(table: pd.DataFrame | pa.Table, known: set[str]) -> tuple[Table, list[str]]:
    """Return the table without the columns that are not known, and their names; the whole where none is known."""
    names = names_of(table)
    unknown = [name for name in names if name not in known]
    if not unknown or len(unknown) == len(names):
        return table, []
    places = [place for place, name in enumerate(names) if name in known]
    return table.iloc[:, places] if isinstance(table, pd.DataFrame) else table.select(places), unknown


def to_frame(table: Table, names: list[str]) -> pd.DataFrame:
    """Return the table as a DataFrame; `names` are for an array, which has none."""
    if isinstance(table, pa.Table):
        return table.to_pandas()
    if isinstance(table, pd.DataFrame):
        return table
    if table.shape[1] != len(names):
        raise InvalidInput(f"the array has {table.shape[1]} columns, and the model takes {len(names)}: {names}")
    return pd.DataFrame(table, columns=names, copy=False)


def to_arrow(table: Table) -> pa.Table:
    """Return the table as an Arrow table. A NaN stays one where pandas has floats of NumPy's, and is a null elsewhere.

    Raises
    ------
    InvalidInput
        A column holds what Arrow has no type for, or decimals or bytes, or a name stands twice.
    """
    if isinstance(table, pa.Table):
        return _plain_types(table)
    columns = {}
    frame = to_frame(table, [])
    for name, values in frame.items():
        try:
            values = plain(values)
            if values.dtype == "object" and pd.api.types.infer_dtype(values, skipna=True) in ("mixed", "mixed-integer"):
                raise ValueError("Arrow would take True for 1.0")
            nan_as_null = not isinstance(values.dtype, np.dtype) or values.dtype.kind != "f"
            # The array inside: pyarrow asks a Series for attributes that pandas is slow to deny.
            held = values.to_numpy() if isinstance(values.dtype, np.dtype) else values.array
            columns[str(name)] = pa.array(held, from_pandas=nan_as_null)
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise InvalidInput.field(str(name), "holds values of several kinds, or of one unknown") from error
    if len(columns) < frame.shape[1]:
        check_unique(names_of(frame))
    return _plain_types(pa.table(columns))


# What every encoding but the tensor carries; the tensor carries the numbers and booleans among them.
_CARRIED = (
    pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string,
    pa.types.is_null,
)  # fmt: skip


def is_carried(kind: pa.DataType) -> bool:
    """Whether encodings carry values of this type."""
    return any(is_type(kind) for is_type in _CARRIED)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _plain_types(table: pa.Table) -> pa.Table:
    """Return the table with the values of its dictionaries. Raises InvalidInput where a column cannot be carried.

    One encoding could carry decimals, another times: all refuse them alike.
    """
    violations = []
    for place, field in enumerate(table.schema):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not is_carried(kind):
            what = f"holds values of type {clip(str(kind))}; make them numbers, booleans or text"
            violations.append(Violation(field.name, what))
        elif kind != field.type:
            table = table.set_column(place, field.name, table.column(place).cast(kind))
    if violations:
        raise InvalidInput.at(violations)
    return table


def arrow_columns(table: pa.Table) -> list[tuple[str, pa.Array]]:
    """Return the names and values of an Arrow table, each column in one piece."""
    return [(name, column.combine_chunks()) for name, column in zip(table.column_names, table.columns, strict=True)]


def from_arrow(values: pa.Array) -> Any:
    """Return the values as a NumPy array where Arrow's type is one of NumPy's, else as pandas has them."""
    if pa.types.is_primitive(values.type) and (values.null_count == 0 or pa.types.is_floating(values.type)):
        return values.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(values.type) or pa.types.is_boolean(values.type):  # pandas has gaps among these
        return values.to_pandas(types_mapper=_GAPS.get).array
    if pa.types.is_null(values.type):
        return np.full(len(values), None)
    return values.to_pandas().array


def to_array(table: Table) -> tuple[np.ndarray, list[str]]:
    """Return the table as one array of shape (n_rows, n_columns), and the names of its columns, none for an array.

    Raises
    ------
    InvalidInput
        Not all columns are numbers or all booleans, or an integer would lose digits among floats.
    """
    if isinstance(table, np.ndarray):
        array, names = table, list[str]()
    else:
        frame = to_frame(table, [])
        names = [str(name) for name in frame.columns]
        kinds = set(frame.dtypes)
        if len(kinds) == 1 and str(next(iter(kinds))) in NUMERIC_DTYPES:
            return frame.to_numpy(), names
        if any(isinstance(kind, pd.CategoricalDtype) or kind == "object" for kind in kinds):
            frame = pd.concat([_with_numbers(frame.iloc[:, place]) for place in range(len(names))], axis=1)
        dtypes = [getattr(dtype, "numpy_dtype", dtype) for dtype in frame.dtypes]
        if {str(dtype) for dtype in dtypes} != {"bool"}:
            for name, dtype in zip(names, dtypes, strict=True):
                _require_number(name, dtype)
        gaps = any(not isinstance(dtype, np.dtype) for dtype in frame.dtypes) and bool(frame.isna().to_numpy().any())
        common = np.result_type(*dtypes, *([np.float64] if gaps else []))
        if common.kind == "f":
            for position, dtype in enumerate(dtypes):
                _require_exact(names[position], frame.iloc[:, position], dtype, common)
        array = frame.to_numpy(dtype=common, na_value=np.nan) if gaps else frame.to_numpy(dtype=common)
    if array.dtype.name not in (*NUMERIC_DTYPES, "bool"):
        raise InvalidInput(f"an array of {array.dtype} cannot be sent; use {', '.join(NUMERIC_DTYPES)} or bool")
    return array, names


def _with_numbers(values: pd.Series) -> pd.Series:
    """Return categories and objects that are numbers as numbers, and any other column as it is."""
    numbers = as_numbers(plain(values))
    return numbers if pd.api.types.is_numeric_dtype(numbers.dtype) else values


def _require_number(name: str, dtype: Any) -> None:
    if str(dtype) not in NUMERIC_DTYPES:
        raise InvalidInput.field(name, f"has dtype {dtype}, and a tensor holds numbers; use columns or arrow")


def _require_exact(name: str, values: pd.Series, dtype: np.dtype, common: np.dtype) -> None:
    limit = EXACT if common.itemsize == 8 else 2**24
    if dtype.kind in "iu" and dtype.itemsize > 2 and not values.between(-limit, limit)[values.notna()].all():
        raise InvalidInput.field(name, f"has integers that {common} does not hold; use columns or arrow")
