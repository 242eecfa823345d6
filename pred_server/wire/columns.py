"""Columns: a typed list for each column. Plain protobuf, which any language reads without a further library."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pred_server.errors import InvalidInput, ServerFault, clip
from pred_server.generated.pred_pb2 import Column, Request, Response
from pred_server.limits import Limits, check_columns, check_size
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema
from pred_server.wire.tables import Table, arrow_columns, to_arrow

# The lists of a column, and what pandas calls a list with gaps.
_LISTS = {
    "float64": "float64",
    "float32": "float32",
    "int64": "Int64",
    "uint64": "UInt64",
    "bool": "boolean",
    "str": "str",
}


class ColumnsCodec:
    name = field = "columns"
    quick_values = 10_000

    def write_table(self, table: Table, request: Request) -> None:
        for name, values in arrow_columns(to_arrow(table)):
            _write(request.columns.columns.add(name=name), values)

    def read_table(self, request: Request, schema: Schema, limits: Limits) -> tuple[Rows, list[str]]:
        columns = request.columns.columns
        check_columns(len(columns))
        ignored = schema.check_names([column.name for column in columns])
        data: dict[str, Any] = {}
        n_rows, known = -1, set(schema.names)
        for place, column in enumerate(columns):
            if column.name not in known:
                continue
            where = f"columns.columns[{place}]"
            used = _list_of(column, where)
            length = len(getattr(column, used))
            check_size(length, len(known), limits)
            if n_rows not in (-1, length):
                raise InvalidInput.field(
                    where, f"{clip(column.name)!r} has {length} values, and the columns before it {n_rows}"
                )
            n_rows = length
            data[column.name] = _read(column, used, where)
        return schema.to_rows(data), ignored

    def write_result(self, result: Result, response: Response) -> None:
        for name, values in zip(result.names, result.columns, strict=True):
            _write(response.columns.columns.add(name=name), pa.array(values, from_pandas=False))

    def read_result(self, response: Response, dtype: str | None) -> Result:
        columns = response.columns.columns
        try:
            values = [_read(column, _list_of(column, column.name), column.name) for column in columns]
        except InvalidInput as error:
            raise ServerFault("the server's answer is not columns") from error
        return Result.of_columns(values, [column.name for column in columns], dtype)


def _write(column: Column, values: pa.Array) -> None:
    types = pa.types
    used = (
        "bool" if types.is_boolean(values.type)
        else "uint64" if types.is_unsigned_integer(values.type)
        else "int64" if types.is_integer(values.type)
        else "float64" if types.is_float64(values.type) or types.is_null(values.type)
        else "float32" if types.is_floating(values.type)
        else "str" if types.is_string(values.type) or types.is_large_string(values.type)
        else ""
    )  # fmt: skip
    if not used:
        raise InvalidInput.field(column.name, f"holds values of type {values.type}, which columns cannot carry")
    if values.null_count:
        column.missing.extend(np.flatnonzero(values.is_null()).tolist())
        nothing = "" if used == "str" else False if used == "bool" else 0
        values = pa.array([0.0] * len(values)) if types.is_null(values.type) else values.fill_null(nothing)
    getattr(column, used).extend(values.to_numpy(zero_copy_only=False).tolist())


def _list_of(column: Column, where: str) -> str:
    """Return the name of the list that holds a column's values; any, if none does."""
    used = [name for name in _LISTS if len(getattr(column, name))]
    if len(used) > 1:
        raise InvalidInput.field(where, f"{clip(column.name)!r} has values in {' and '.join(used)}; one list is needed")
    return used[0] if used else "float64"


def _read(column: Column, used: str, where: str) -> Any:
    values, missing = getattr(column, used), np.array(column.missing, np.int64)
    if len(missing) and (missing[-1] >= len(values) or (np.diff(missing) <= 0).any()):
        raise InvalidInput.field(
            f"{where}.missing", f"are not rising places below {len(values)}, which {clip(column.name)!r} has"
        )
    if len(missing) == len(values) > 0:
        return np.full(len(values), None)  # nothing at all is of any type
    array: Any = np.array(values, object) if used == "str" else np.fromiter(values, used, len(values))
    if len(missing):
        array = array if used == "str" else pd.Series(array).astype(pd.api.types.pandas_dtype(_LISTS[used])).array
        array[missing] = None
    return array
