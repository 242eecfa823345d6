"""Tensor: one block of little-endian numbers. The least work of all, for tables whose columns have one type."""

from typing import Literal

import numpy as np

from pred_server.errors import InvalidInput, ServerFault, clip
from pred_server.generated.pred_pb2 import Request, Response, Tensor
from pred_server.limits import MAX_COLUMNS, Limits, check_columns, check_size
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import NUMERIC_DTYPES, Schema
from pred_server.wire.tables import Table, to_array

_DTYPES = {name: np.dtype(name).newbyteorder("<") for name in (*NUMERIC_DTYPES, "bool")}
_NAMES = {np.dtype(name): name for name in _DTYPES}  # `dtype.name` is Python, and slow for one row
_TENSOR = Request.DESCRIPTOR.fields_by_name["tensor"].number
_VALUES = Tensor.DESCRIPTOR.fields_by_name["data"].number
_LONG = 1_000  # rows from which a column is worth a piece of its own
_ORDERS: dict[int, Literal["C", "F"]] = {Tensor.ORDER_ROW_MAJOR_UNSPECIFIED: "C", Tensor.ORDER_COLUMN_MAJOR: "F"}


class TensorCodec:
    name = field = "tensor"
    quick_values = 100_000

    def write_table(self, table: Table, request: Request) -> None:
        _write(request.tensor, *to_array(table))

    def message_of(self, table: Table, names: list[str]) -> bytes:
        """Return a serialized request with a table; `names` are the columns' where it is an array.

        The values are copied once: protobuf, and what fills its message, copies them three times.
        """
        array, names_of_frame = to_array(table)
        head, values = _parts(array, names or names_of_frame)
        start = head.SerializeToString() + before_bytes(_VALUES, array.nbytes)
        return b"".join([before_bytes(_TENSOR, len(start) + array.nbytes), start, *values])

    def read_table(self, request: Request, schema: Schema, limits: Limits) -> tuple[Rows, list[str]]:
        tensor = request.tensor
        if tensor.categories:
            raise InvalidInput.field("tensor.categories", "are for replies; send text as columns or arrow")
        check_columns(len(tensor.names))
        array = _read(tensor, limits)
        names = list(tensor.names) or schema.names
        if len(names) != array.shape[1]:
            raise InvalidInput.field("tensor.names", f"are {len(names)}, and the tensor has {array.shape[1]} columns")
        ignored = [] if names == schema.names else schema.check_names(names)
        return schema.array_to_rows(array, names), ignored

    def write_result(self, result: Result, response: Response) -> None:
        values, categories = result.values, list[str]()
        if values.dtype.kind in "UOT":
            labels, values = np.unique(values.astype(str), return_inverse=True)
            categories, values = labels.tolist(), values.astype(np.int32)
        _write(response.tensor, values.reshape(len(values), -1), result.names)
        response.tensor.categories.extend(categories)

    def read_result(self, response: Response, dtype: str | None) -> Result:
        tensor = response.tensor
        try:
            columns = list(_read(tensor).T)
            if tensor.categories:
                labels = np.array(tensor.categories, dtype=object)
                columns = [labels[places] for places in columns]
        except (InvalidInput, IndexError) as error:
            raise ServerFault("the server's answer is not a tensor") from error
        return Result.of_columns(columns, tensor.names, dtype)


def _write(tensor: Tensor, array: np.ndarray, names: list[str]) -> None:
    head, values = _parts(array, names)
    tensor.CopyFrom(head)
    tensor.data = b"".join(values)


def _parts(array: np.ndarray, names: list[str]) -> tuple[Tensor, list[memoryview]]:
    """Return a tensor without its values, and these in contiguous pieces, without a copy where they are long."""
    by_columns = abs(array.strides[0]) < abs(array.strides[1])  # also in a slice of a longer table
    dtype = _NAMES[array.dtype.newbyteorder("=")]
    order = Tensor.ORDER_COLUMN_MAJOR if by_columns else Tensor.ORDER_ROW_MAJOR_UNSPECIFIED
    values = array.astype(_DTYPES[dtype], copy=False)
    lines = values.T if by_columns else values
    apart = len(values) >= _LONG and by_columns and not lines.flags.c_contiguous  # columns of a longer table
    pieces = list(lines) if apart else [lines]
    head = Tensor(dtype=dtype, shape=array.shape, names=names, order=order)
    return head, [np.ascontiguousarray(piece).data for piece in pieces]


def before_bytes(field: int, n_bytes: int) -> bytes:
    """Return what stands before the bytes of a field, or of a message in one: its number, and how many they are.

    https://protobuf.dev/programming-guides/encoding
    """
    return _varint(field << 3 | 2) + _varint(n_bytes)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)


def _read(tensor: Tensor, limits: Limits | None = None) -> np.ndarray:
    """Return the values in the tensor's shape, as a view of its bytes."""
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(NUMERIC_DTYPES)
        raise InvalidInput.field("tensor.dtype", f"is {clip(tensor.dtype)!r}; use {known} or bool")
    shape = tuple(tensor.shape[:3])  # one too many is enough to see that it is wrong
    if len(shape) != 2 or min(shape) < 0:
        raise InvalidInput.field(
            "tensor.shape", f"is {clip(str(list(shape)))}; two numbers are needed, rows and columns"
        )
    if limits is not None:
        check_size(shape[0], min(shape[1], MAX_COLUMNS), limits)  # the size of the data refuses more
    order = _ORDERS.get(tensor.order)
    if order is None:
        raise InvalidInput.field("tensor.order", f"is {tensor.order}; use one of {', '.join(Tensor.Order.keys())}")
    data = tensor.data  # once: protobuf copies it for each look
    needed = shape[0] * shape[1] * dtype.itemsize
    if len(data) != needed:
        raise InvalidInput.field(
            "tensor.data",
            f"has {len(data)} bytes; {shape[0]} rows of {shape[1]} columns of {tensor.dtype} take {needed}",
        )
    check_columns(shape[1])  # without rows it could be any number
    if dtype.kind == "b" and needed and np.frombuffer(data, np.uint8).max() > 1:
        raise InvalidInput.field("tensor.data", "has a byte other than 0 and 1 where booleans are announced")
    return np.frombuffer(data, dtype).reshape(shape, order=order)
