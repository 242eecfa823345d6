"""How a table travels: one small class for each encoding, all with the interface of `Codec`.

To add a fifth: write the class, give `Request` and `Response` a field of that name, and add it to `CODECS`.
"""

import struct
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from pred_server.errors import InvalidInput, LimitExceeded, ServerFault, Violation, clip
from pred_server.generated.pred_pb2 import Column as Values
from pred_server.generated.pred_pb2 import Request, Response, Tensor
from pred_server.limits import KIB, MIB
from pred_server.wire.csv import Csv, columns_of, typed
from pred_server.wire.rows import Aligned
from pred_server.wire.schema import MAX_COLUMNS, NUMERIC_DTYPES, Schema, check_rows
from pred_server.wire.tables import Table, from_arrow, to_array, to_arrow


class Codec(Protocol):
    name: str
    field: str
    """The field of `Request` that holds the table."""
    quick_values: int
    """Results of up to so many numbers are written within half a millisecond: an event loop can do it by itself."""

    def write_table(self, table: Table, request: Request) -> None:
        """Put a table into a request. Raises InvalidInput where the encoding cannot carry it."""

    def read_table(self, request: Request, schema: Schema, max_rows: int) -> tuple[Aligned, list[str]]:
        """Return the aligned table of a request, and the names of the columns that were ignored.

        Raises InvalidInput where the table is malformed or does not fit, LimitExceeded above `max_rows`.
        """

    def write_result(self, values: np.ndarray, names: list[str], response: Response) -> None:
        """Put predictions, of shape (n_rows,) or (n_rows, n_classes), into a response, with the columns' names."""

    def read_result(self, response: Response, dtype: str | None) -> tuple[list[Any], list[str]]:
        """Return the predictions of a response: an array for each column, and the columns' names.

        `dtype` is what the server said that they are; CSV, without it, takes them for what they look like. Raises
        ServerFault if they cannot be read.
        """


class TensorCodec:
    """One block of little-endian numbers: the least work of all, for tables whose columns have one type."""

    name = field = "tensor"
    quick_values = 100_000

    def write_table(self, table: Table, request: Request) -> None:
        array, names = to_array(table)
        _fill_tensor(request.tensor, array, names)

    def read_table(self, request: Request, schema: Schema, max_rows: int) -> tuple[Aligned, list[str]]:
        tensor = request.tensor
        if tensor.categories:
            raise _wrong("tensor.categories", "are for replies; send text as columns or arrow")
        if len(tensor.names) > MAX_COLUMNS:
            raise LimitExceeded(f"the table has more than {MAX_COLUMNS:,} columns")
        array = _array(tensor, max_rows)
        names = list(tensor.names) or schema.names
        if len(names) != array.shape[1]:
            raise _wrong("tensor.names", f"are {len(names)}, and the tensor has {array.shape[1]} columns")
        return schema.align_array(array, names), [] if names == schema.names else schema.check_names(names)

    def write_result(self, values: np.ndarray, names: list[str], response: Response) -> None:
        categories: list[str] = []
        if values.dtype.kind in "UOT":
            labels, values = np.unique(values.astype(str), return_inverse=True)
            categories, values = labels.tolist(), values.astype(np.int32)
        tensor = response.tensor
        _fill_tensor(tensor, values.reshape(len(values), -1), names)
        tensor.categories.extend(categories)

    def read_result(self, response: Response, dtype: str | None) -> tuple[list[Any], list[str]]:
        try:
            columns: list[Any] = list(_array(response.tensor).T)
            if response.tensor.categories:
                labels = np.array(response.tensor.categories, dtype=object)
                columns = [labels[places] for places in columns]
        except (InvalidInput, IndexError) as error:
            raise ServerFault("the server's answer is not a tensor") from error
        return columns, list(response.tensor.names)


class ColumnsCodec:
    """A typed list for each column: plain protobuf, which any language reads without a further library."""

    name = field = "columns"
    quick_values = 10_000

    def write_table(self, table: Table, request: Request) -> None:
        for name, values in _columns(to_arrow(table)):
            _fill(request.columns.columns.add(name=name), values)

    def read_table(self, request: Request, schema: Schema, max_rows: int) -> tuple[Aligned, list[str]]:
        columns = request.columns.columns
        if len(columns) > MAX_COLUMNS:
            raise LimitExceeded(f"the table has more than {MAX_COLUMNS:,} columns")
        ignored = schema.check_names([column.name for column in columns])
        data, n_rows, known = {}, -1, set(schema.names)
        for place, column in enumerate(columns):
            if column.name not in known:
                continue
            where = f"columns.columns[{place}]"
            kind = _kind(column, where)
            length = len(getattr(column, kind))
            check_rows(length, max_rows)
            if n_rows not in (-1, length):
                raise _wrong(where, f"{clip(column.name)!r} has {length} values, and the columns before it {n_rows}")
            n_rows = length
            data[column.name] = _values(column, kind, where)
        return schema.align(data), ignored

    def write_result(self, values: np.ndarray, names: list[str], response: Response) -> None:
        columns = columns_of(values)
        for name, each in zip(names, columns, strict=True):
            _fill(response.columns.columns.add(name=name), pa.array(each, from_pandas=False))

    def read_result(self, response: Response, dtype: str | None) -> tuple[list[Any], list[str]]:
        columns = response.columns.columns
        try:
            arrays = [_values(each, _kind(each, each.name), each.name) for each in columns]
        except InvalidInput as error:
            raise ServerFault("the server's answer is not columns") from error
        return typed(arrays, dtype), [each.name for each in columns]


class ArrowCodec:
    """An Arrow IPC stream: every type exactly, at the speed of memory, where both ends have an Arrow library."""

    name = field = "arrow"
    quick_values = 100_000

    def write_table(self, table: Table, request: Request) -> None:
        request.arrow = _ipc(to_arrow(table))

    def read_table(self, request: Request, schema: Schema, max_rows: int) -> tuple[Aligned, list[str]]:
        data = pa.py_buffer(request.arrow)
        try:
            with pa.ipc.open_stream(data) as reader:
                names = reader.schema.names
            ignored = schema.check_names(names)
            _refuse_compression(data)
            places = [names.index(name) for name in schema.names]
            batches, n_rows = [], 0
            with pa.ipc.open_stream(data, options=pa.ipc.IpcReadOptions(included_fields=places)) as reader:
                for name, kind in zip(reader.schema.names, reader.schema.types, strict=True):
                    _require_plain(name, kind)
                for batch in reader:
                    n_rows += batch.num_rows
                    check_rows(n_rows, max_rows)
                    batch.validate(full=True)
                    batches.append(batch)
            table = {
                name: from_arrow(column) for name, column in _columns(pa.Table.from_batches(batches, reader.schema))
            }
        except (pa.ArrowException, OSError, ValueError, MemoryError, struct.error) as error:
            raise _wrong("arrow", "is not an Arrow IPC stream that can be read whole") from error
        return schema.align(table), ignored

    def write_result(self, values: np.ndarray, names: list[str], response: Response) -> None:
        columns = columns_of(values)
        response.arrow = _ipc(pa.table([pa.array(each, from_pandas=False) for each in columns], names))

    def read_result(self, response: Response, dtype: str | None) -> tuple[list[Any], list[str]]:
        try:
            with pa.ipc.open_stream(response.arrow) as reader:
                columns = _columns(reader.read_all())
            return [from_arrow(column) for _, column in columns], [name for name, _ in columns]
        except (pa.ArrowException, OSError) as error:
            raise ServerFault("the server's answer is not an Arrow IPC stream") from error


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Csv(), ColumnsCodec(), TensorCodec(), ArrowCodec())}


_WITH_PRESENCE = [codec for codec in CODECS.values() if Request.DESCRIPTOR.fields_by_name[codec.field].has_presence]
# Requests of up to so many bytes are read within half a millisecond: an event loop can do it by itself. A tensor may be
# larger, if it `is_plain`.
QUICK_BYTES, QUICK_TENSOR_BYTES = 16 * KIB, 3 * MIB // 2
# The tag of a field: its number, and 2 for bytes, text and messages.
_TENSOR_TAG = Request.DESCRIPTOR.fields_by_name["tensor"].number << 3 | 2


def is_quick(data: bytes) -> bool:
    """Whether a serialized request may be quickly read: it is small, or begins with a tensor and has nothing else."""
    if len(data) <= QUICK_BYTES:
        return True
    return len(data) <= QUICK_TENSOR_BYTES and data[0] == _TENSOR_TAG and _first_field_bytes(data) == len(data)


def _first_field_bytes(data: bytes) -> int:
    """How far the field reaches that a message begins with: behind its tag stands its length, seven bits a byte."""
    length = 0
    for place, byte in enumerate(data[1:6]):
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return 2 + place + length
    return 0


def is_plain(request: Request, schema: Schema) -> bool:
    """Whether a tensor is just what the model takes: to read it is to look at its bytes."""
    tensor = request.tensor
    return (
        schema.uniform is not None
        and tensor.dtype == schema.uniform.name
        and len(tensor.names) in (0, len(schema.names))
        and list(tensor.names) in ([], schema.names)
    )


def codec_of(request: Request) -> Codec:
    """The encoding that a request is in. Raises InvalidInput where it holds more than one."""
    there = [codec for codec in _WITH_PRESENCE if request.HasField(codec.field)]
    if not there:  # not even looked at: protobuf would decode the whole text for it
        return CODECS["csv"]
    if request.input_data:
        there.append(CODECS["csv"])
    if len(there) > 1:
        raise InvalidInput.at(
            [Violation(codec.field, "stands beside another table; send exactly one") for codec in there]
        )
    return there[0]


def _wrong(field: str, description: str) -> InvalidInput:
    return InvalidInput.at([Violation(field, description)])


_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in (*NUMERIC_DTYPES, "bool")}
_NAMES = {np.dtype(name): name for name in _DTYPES}  # `dtype.name` is Python, and slow for one row
_ORDERS: dict[int, Literal["C", "F"]] = {Tensor.ORDER_ROW_MAJOR_UNSPECIFIED: "C", Tensor.ORDER_COLUMN_MAJOR: "F"}


def _fill_tensor(tensor: Tensor, array: np.ndarray, names: list[str]) -> None:
    by_columns = abs(array.strides[0]) < abs(array.strides[1])  # also where it is a part of a longer table
    tensor.dtype = _NAMES[array.dtype.newbyteorder("=")]
    tensor.shape.extend(array.shape)
    tensor.names.extend(names)
    tensor.data = array.astype(_DTYPES[tensor.dtype], copy=False).tobytes("F" if by_columns else "C")
    tensor.order = Tensor.ORDER_COLUMN_MAJOR if by_columns else Tensor.ORDER_ROW_MAJOR_UNSPECIFIED


def _array(tensor: Tensor, max_rows: int | None = None) -> np.ndarray:
    """The values, of the tensor's shape, as a view of its bytes."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise _wrong("tensor.dtype", f"is {clip(tensor.dtype)!r}; use {', '.join(NUMERIC_DTYPES)} or bool")
    shape = tuple(tensor.shape[:3])  # one too many is enough to see that it is wrong
    if len(shape) != 2 or min(shape) < 0:
        raise _wrong("tensor.shape", f"is {clip(str(list(shape)))}; two numbers are needed, rows and columns")
    if max_rows is not None:
        check_rows(shape[0], max_rows)
    order = _ORDERS.get(tensor.order)
    if order is None:
        raise _wrong("tensor.order", f"is {tensor.order}; use one of {', '.join(Tensor.Order.keys())}")
    data = tensor.data  # once: protobuf copies it for each look
    needed = shape[0] * shape[1] * dtype.itemsize
    if len(data) != needed:
        what = f"has {len(data)} bytes; {shape[0]} rows of {shape[1]} columns of {tensor.dtype} take {needed}"
        raise _wrong("tensor.data", what)
    if shape[1] > MAX_COLUMNS:  # without rows it could be any number
        raise LimitExceeded(f"the table has more than {MAX_COLUMNS:,} columns")
    if dtype.kind == "b" and needed and np.frombuffer(data, np.uint8).max() > 1:
        raise _wrong("tensor.data", "has a byte other than 0 and 1 where booleans are announced")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


_KINDS = {
    "float64": "float64",
    "float32": "float32",
    "int64": "Int64",
    "uint64": "UInt64",
    "bool": "boolean",
    "str": "str",
}


def _columns(table: pa.Table) -> list[tuple[str, pa.Array]]:
    """Names and values, each column in one piece."""
    return [(name, column.combine_chunks()) for name, column in zip(table.column_names, table.columns, strict=True)]


def _fill(column: Values, values: pa.Array) -> None:
    kind = (
        "bool" if pa.types.is_boolean(values.type)
        else "uint64" if pa.types.is_unsigned_integer(values.type)
        else "int64" if pa.types.is_integer(values.type)
        else "float64" if pa.types.is_float64(values.type)
        else "float32" if pa.types.is_floating(values.type)
        else "str" if pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        else "float64" if pa.types.is_null(values.type)
        else ""
    )  # fmt: skip
    if not kind:
        raise InvalidInput.at(
            [Violation(column.name, f"holds values of type {values.type}, which columns cannot carry")]
        )
    if values.null_count:
        column.missing.extend(np.flatnonzero(values.is_null()).tolist())
        nothing = "" if kind == "str" else False if kind == "bool" else 0
        values = pa.array([0.0] * len(values)) if pa.types.is_null(values.type) else values.fill_null(nothing)
    getattr(column, kind).extend(values.to_numpy(zero_copy_only=False).tolist())


def _kind(column: Values, where: str) -> str:
    """Which of a column's lists holds its values; any, if none does."""
    used = [kind for kind in _KINDS if len(getattr(column, kind))]
    if len(used) > 1:
        raise _wrong(where, f"{clip(column.name)!r} has values in {' and '.join(used)}; one list is needed")
    return used[0] if used else "float64"


def _values(column: Values, kind: str, where: str) -> Any:
    values, missing = getattr(column, kind), np.array(column.missing, np.int64)
    if len(missing) and (missing[-1] >= len(values) or (np.diff(missing) <= 0).any()):
        raise _wrong(f"{where}.missing", f"are not rising places below {len(values)}, which {clip(column.name)!r} has")
    if len(missing) == len(values) > 0:
        return np.full(len(values), None)  # nothing at all is of any type
    array: Any = np.array(values, object) if kind == "str" else np.fromiter(values, kind, len(values))
    if len(missing):
        array = array if kind == "str" else pd.Series(array).astype(pd.api.types.pandas_dtype(_KINDS[kind])).array
        array[missing] = None
    return array


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata())
    return sink.getvalue().to_pybytes()


def _require_plain(name: str, kind: pa.DataType) -> None:
    # Dictionaries, views and runs may unfold to a thousand times their size.
    for is_plain in ("floating", "integer", "boolean", "string", "large_string", "null"):
        if getattr(pa.types, f"is_{is_plain}")(kind):
            return
    raise _wrong(name, f"has the Arrow type {clip(str(kind))}; use numbers, booleans or plain strings")


def _refuse_compression(data: pa.Buffer) -> None:
    """Raise InvalidInput where something is compressed, or may be: a few bytes might unfold to gigabytes.

    pyarrow does not tell, so we look into the message, a flatbuffer, as Arrow's Message.fbs describes it: the third
    field is `header`, and the fourth of a RecordBatch `compression`. pyarrow has checked the message's structure when
    it hands it out.
    """
    for message in pa.ipc.MessageReader.open_stream(data):
        if message.type == "dictionary":  # unfolded also where its column is not asked for
            raise _wrong("arrow", "holds a dictionary; send the values themselves")
        if message.type == "record batch":
            metadata = message.metadata.to_pybytes()
            header = _field(metadata, struct.unpack_from("<I", metadata)[0], 2)
            if _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], 3):
                raise _wrong("arrow", "holds a compressed record batch; send it without compression")


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table stands, 0 if it is left out (https://flatbuffers.dev/internals)."""
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    size, slot = struct.unpack_from("<H", data, vtable)[0], 4 + 2 * number
    offset = int(struct.unpack_from("<H", data, vtable + slot)[0]) if slot < size else 0
    return table + offset if offset else 0
