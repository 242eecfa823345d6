"""What a message unfolds to, told from its bytes: to parse it to find out may be what is too much.

A repeated field of protobuf may take a hundred times the memory that it takes on the wire: 32 MiB may be 16 million
empty columns. So the fields are walked over first (https://protobuf.dev/programming-guides/encoding), as far as the
limits reach.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pyarrow as pa

from pred_server.errors import InvalidInput
from pred_server.generated.pred_pb2 import Column, Columns, Request, Tensor
from pred_server.limits import MAX_COLUMNS, Limits, check_columns, check_size
from pred_server.wire.arrow import rows_of, texts_of
from pred_server.wire.csv import count_character, count_rows
from pred_server.wire.schema import Schema

# Bytes that a value takes while it is read, and once it is: as a number, and as a text of Python's.
NUMBER_BYTES, TEXT_BYTES = 24, 96
# Bytes that the fast reader of CSV takes to note where a field ends: 8, and up to half a byte more by its threads.
FIELD_BYTES = 10
# Fields of a message, or of a column, beside its texts. More are no table that anyone means to send.
_MOST_FIELDS = 100
# From the length of so many texts that of the others is inferred: to walk over a million takes a third of a second.
_SOME_TEXTS = 1_000

_CSV, _TENSOR, _COLUMNS, _ARROW = (
    Request.DESCRIPTOR.fields_by_name[name].number for name in ("input_data", "tensor", "columns", "arrow")
)
_COLUMN = Columns.DESCRIPTOR.fields_by_name["columns"].number
_LISTS = {field.number: field.name for field in Column.DESCRIPTOR.fields}
_NAMES, _CATEGORIES, _SHAPE, _VALUES = (
    Tensor.DESCRIPTOR.fields_by_name[name].number for name in ("names", "categories", "shape", "data")
)
# Of the lists whose values have one width. In the others, a value ends with a byte below 128.
_WIDTHS = {"float64": 8, "float32": 4}


def weigh(data: bytes, schema: Schema, limits: Limits) -> int:
    """Return how many bytes of memory the table in a serialized `Request` takes, roughly, while it is read.

    Raises
    ------
    LimitExceeded
        It has more rows, columns or values than the limits allow.
    InvalidInput
        It has more fields than any table. Other faults are left for those who read it.
    """
    weight = 2 * len(data)
    for number, start, end in _fields(data, 0, len(data), _MOST_FIELDS):
        if number == _CSV:
            weight += _rows_weight(count_rows(data, start, end, limits.max_rows), schema, limits)
            weight += FIELD_BYTES * count_character(data, start, end, b",")
            weight += 2 * _text_bytes(memoryview(data)[start:end])
        elif number == _ARROW:
            weight += _arrow_weight(memoryview(data)[start:end], schema, limits)
        elif number == _TENSOR:
            weight += _tensor_weight(data, start, end, schema)
        elif number == _COLUMNS:
            weight += _columns_weight(data, start, end, limits)
    return weight


def bytes_beside_values(data: bytes) -> int:
    """Return how many bytes of a serialized `Request` are not its tensor's values; all, where it holds anything else.

    Values take no time to parse. What may stand before them, a type, two dimensions and names, takes a microsecond each
    to look at.
    """
    number, start, end = next(_fields(data, 0, len(data), 1), (0, 0, 0))
    parts = islice(_fields(data, start, end, len(data)), _MOST_FIELDS) if (number, end) == (_TENSOR, len(data)) else ()
    return len(data) - next((last - first for part, first, last in parts if part == _VALUES), 0)


def _text_bytes(utf8: memoryview | pa.Buffer) -> int:
    """Return how much memory UTF-8 takes as a text of Python's: each character takes as much as the widest."""
    # A character beyond U+00FF begins with 0xC4 or more, one beyond U+FFFF with 0xF0 or more.
    widest = np.frombuffer(utf8, np.uint8).max(initial=0)
    return (1 if widest < 0xC4 else 2 if widest < 0xF0 else 4) * len(utf8)


def _rows_weight(n_rows: int, schema: Schema, limits: Limits) -> int:
    check_size(n_rows, len(schema.columns), limits)
    return n_rows * sum(TEXT_BYTES if column.dtype == "str" else NUMBER_BYTES for column in schema.columns)


def _arrow_weight(stream: memoryview, schema: Schema, limits: Limits) -> int:
    weight = _rows_weight(rows_of(stream), schema, limits)
    names = {column.name for column in schema.columns if column.dtype == "str"}
    return weight + sum(map(_text_bytes, texts_of(stream, names))) if names else weight


def _tensor_weight(data: bytes, start: int, end: int, schema: Schema) -> int:
    n_texts = 0
    for number, first, last in _fields(data, start, end, MAX_COLUMNS + _MOST_FIELDS, schema.names_in_tensor):
        n_texts += number in (_NAMES, _CATEGORIES)
        check_columns(n_texts)
        if number == _SHAPE and last - first > 2 * 10:  # two numbers, of ten bytes at most
            raise InvalidInput.field("tensor.shape", "is longer than two numbers, rows and columns")
    item_bytes = schema.uniform.itemsize if schema.uniform else 1
    return NUMBER_BYTES * (end - start) // item_bytes


def _columns_weight(data: bytes, start: int, end: int, limits: Limits) -> int:
    weight = n_columns = 0
    for number, first, last in _fields(data, start, end, MAX_COLUMNS + _MOST_FIELDS):
        n_columns += number == _COLUMN
        check_columns(n_columns)
        weight += _column_weight(data, first, last, limits)
    return weight


def _column_weight(data: bytes, start: int, end: int, limits: Limits) -> int:
    n_texts = n_numbers = 0
    for number, first, last in _fields(data, start, end, limits.max_rows + _MOST_FIELDS):
        name = _LISTS.get(number, "")
        if name == "str":
            n_texts += 1
            if n_texts == _SOME_TEXTS and (end - start) // 2 <= limits.max_rows:  # a text takes two bytes at least
                n_texts = n_texts * (end - start) // (last - start)
                break
        elif name in _WIDTHS:
            n_numbers += max(1, (last - first) // _WIDTHS[name])
        elif name and name != "name":
            n_numbers += max(1, int((np.frombuffer(data, np.uint8, last - first, first) < 128).sum()))
    check_size(max(n_texts, n_numbers), 1, limits)
    text_bytes = _text_bytes(memoryview(data)[start:end]) if n_texts else 0
    return n_texts * TEXT_BYTES + text_bytes + n_numbers * NUMBER_BYTES


def _fields(data: bytes, start: int, end: int, most: int, known: bytes = b"") -> Iterator[tuple[int, int, int]]:
    """Yield the number of each field of a message, and where its content begins and ends.

    It ends where the bytes are no message: to parse them fails there, too. Raises InvalidInput beyond `most` fields.
    The fields that `known` holds are passed over at once, where they come first among those of their kind.
    """
    place, n_fields = start, 0
    while place < end:
        if known and data[place] == known[0]:
            place += len(known) if data.startswith(known, place, end) else 0
            known = b""
            continue
        tag, place = _varint(data, place, end)
        kind = tag & 7
        if kind == 2:
            length, place = _varint(data, place, end)
            last = place + length
        elif kind == 0:
            _, last = _varint(data, place, end)
        else:
            last = place + {1: 8, 5: 4}.get(kind, end)
        if place > end or last > end:
            return
        n_fields += 1
        if n_fields > most:
            raise InvalidInput(f"the message has more than {most:,} fields where a table has few")
        yield tag >> 3, place, last
        place = last


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """Return a number written in seven bits a byte, and the place behind it; behind `end` where it is cut off."""
    number = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7
    return number, end + 1
