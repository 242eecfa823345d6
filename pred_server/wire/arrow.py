"""Arrow: an IPC stream. Every type exactly, at the speed of memory, where both ends have an Arrow library."""

import struct
from collections.abc import Container, Iterator
from contextlib import suppress

import pyarrow as pa

from pred_server.errors import InvalidInput, ServerFault, clip
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import Limits, check_size
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema
from pred_server.wire.tables import Table, arrow_columns, from_arrow, is_text, to_arrow


class ArrowCodec:
    name = field = "arrow"
    quick_values = 100_000

    def write_table(self, table: Table, request: Request) -> None:
        request.arrow = _write(to_arrow(table))

    def read_table(self, request: Request, schema: Schema, limits: Limits) -> tuple[Rows, list[str]]:
        data = pa.py_buffer(request.arrow)
        try:
            with pa.ipc.open_stream(data) as reader:
                names = reader.schema.names
            ignored = schema.check_names(names)
            check_size(_count_rows(data), len(schema.columns), limits)
            place_of = {name: place for place, name in enumerate(names)}
            places = [place_of[name] for name in schema.names]
            batches = []
            with pa.ipc.open_stream(data, options=pa.ipc.IpcReadOptions(included_fields=places)) as reader:
                for name, arrow_type in zip(reader.schema.names, reader.schema.types, strict=True):
                    _require_plain(name, arrow_type)
                for batch in reader:
                    batch.validate(full=True)
                    batches.append(batch)
            table = pa.Table.from_batches(batches, reader.schema)
            columns = {name: from_arrow(values) for name, values in arrow_columns(table)}
        except (pa.ArrowException, OSError, ValueError, struct.error) as error:
            raise InvalidInput.field("arrow", "is not an Arrow IPC stream that can be read whole") from error
        return schema.to_rows(columns), ignored

    def write_result(self, result: Result, response: Response) -> None:
        columns = [pa.array(values, from_pandas=False) for values in result.columns]
        response.arrow = _write(pa.table(columns, result.names))

    def read_result(self, response: Response, dtype: str | None) -> Result:
        try:
            with pa.ipc.open_stream(response.arrow) as reader:
                table = reader.read_all()
            columns = [from_arrow(values) for _, values in arrow_columns(table)]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ServerFault("the server's answer is not an Arrow IPC stream") from error
        return Result.of_columns(columns, table.column_names, None)


def _write(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
        writer.write_table(table.replace_schema_metadata())
    return sink.getvalue().to_pybytes()


def _require_plain(name: str, arrow_type: pa.DataType) -> None:
    # Dictionaries, views and runs may unfold to a thousand times their size.
    for is_plain in ("floating", "integer", "boolean", "string", "large_string", "null"):
        if getattr(pa.types, f"is_{is_plain}")(arrow_type):
            return
    raise InvalidInput.field(
        name, f"has the Arrow type {clip(str(arrow_type))}; use numbers, booleans or plain strings"
    )


def rows_of(data: bytes | memoryview) -> int:
    """Return how many rows an IPC stream has, 0 where it is none. Raises InvalidInput where it is compressed."""
    try:
        return _count_rows(pa.py_buffer(data))
    except (pa.ArrowException, OSError, ValueError, struct.error):
        return 0


def texts_of(data: bytes | memoryview, names: Container[str]) -> Iterator[pa.Buffer]:
    """Yield the texts that columns of these names hold, as far as an IPC stream can be read; several may be the same.

    The stream is one that `rows_of` has taken: nothing in it unfolds.
    """
    with suppress(pa.ArrowException, OSError, ValueError), pa.ipc.open_stream(data) as reader:
        for batch in reader:
            for name, values in zip(batch.schema.names, batch.columns, strict=True):
                if name in names and is_text(values.type) and (texts := values.buffers()[2]):
                    yield texts


def _count_rows(data: pa.Buffer) -> int:
    """Return how many rows there are; columns of nulls have many in no bytes.

    Raises InvalidInput where something is or may be compressed: a few bytes might unfold to gigabytes.

    pyarrow does not say so. We look into the message, a flatbuffer, as Arrow's Message.fbs describes it: the third
    field is `header`, the first field of a RecordBatch is `length`, and the fourth is `compression`. pyarrow checks the
    message's structure before it hands it out.
    """
    n_rows = 0
    for message in pa.ipc.MessageReader.open_stream(data):
        if message.type == "dictionary":  # unfolded even where nobody asks for its column
            raise InvalidInput.field("arrow", "holds a dictionary; send the values themselves")
        if message.type == "record batch":
            metadata = message.metadata.to_pybytes()
            header = _place_of(metadata, struct.unpack_from("<I", metadata)[0], 2)
            batch = header + struct.unpack_from("<I", metadata, header)[0]
            if _place_of(metadata, batch, 3):
                raise InvalidInput.field("arrow", "holds a compressed record batch; send it without compression")
            length = _place_of(metadata, batch, 0)
            n_rows += struct.unpack_from("<q", metadata, length)[0] if length else 0
    return n_rows


def _place_of(data: bytes, table: int, number: int) -> int:
    """Return where a field of a flatbuffer's table stands, 0 if it is left out (https://flatbuffers.dev/internals)."""
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    size, slot = struct.unpack_from("<H", data, vtable)[0], 4 + 2 * number
    offset = int(struct.unpack_from("<H", data, vtable + slot)[0]) if slot < size else 0
    return table + offset if offset else 0
