"""The files that `pred-server predict` takes, told by their content: CSV, Parquet, Feather and Arrow, JSON lines."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from pred_server.client.prepare import CsvText
from pred_server.errors import InvalidInput
from pred_server.wire.csv import split_records
from pred_server.wire.tables import Table, in_chunks, rows_in_chunk

Tables = Iterator[CsvText | Table]

# What a file begins with that is none of these, and what to do with it.
OTHERS = {
    b"PK\x03\x04": "is an Excel workbook or another zip archive; save the sheet as CSV",
    b"\xff\xfe": "is UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text; save it as UTF-8",
    b"[": "is a JSON array; write one object a line (JSON lines), or CSV",
    b"<": "is HTML or XML; save the table as CSV",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
}


def read_tables(file: BinaryIO, chunk_bytes: int, name: str) -> Tables:
    """Yield the table of a file in chunks of about so many bytes; at least one.

    Raises
    ------
    InvalidInput
        The file is not of one of these formats, or is damaged.
    """
    head = file.peek(64)[:64] if isinstance(file, io.BufferedReader) else b""
    for magic, batches_of in FORMATS.items():
        if head.startswith(magic):
            return _chunks(batches_of, file, chunk_bytes, name)
    for magic, what in OTHERS.items():
        if head.lstrip().startswith(magic):
            raise InvalidInput(f"{name} {what}")
    return split_records(file, chunk_bytes, name)


def _chunks(
    batches_of: Callable[[BinaryIO], Iterable[pa.RecordBatch]], file: BinaryIO, chunk_bytes: int, name: str
) -> Tables:
    try:
        n_rows = 0
        for batch in batches_of(file):
            n_rows += len(batch)
            table = pa.Table.from_batches([batch])
            yield from in_chunks(table, rows_in_chunk(table, chunk_bytes))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(f"{name} is damaged, or no table: {str(error).splitlines()[0]}") from error
    if not n_rows:
        raise InvalidInput(f"{name} has no rows")


def _seekable(file: BinaryIO) -> BinaryIO:
    """Return a file in which readers may jump; a pipe is read whole."""
    return file if file.seekable() else io.BytesIO(file.read())


def _arrow_file(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    reader = pa.ipc.open_file(file)
    return map(reader.get_batch, range(reader.num_record_batches))


# How the batches of each format are read, by what a file of it begins with.
FORMATS: dict[bytes, Callable[[BinaryIO], Iterable[pa.RecordBatch]]] = {
    b"PAR1": lambda file: pa.parquet.ParquetFile(_seekable(file)).iter_batches(),
    b"ARROW1": lambda file: _arrow_file(_seekable(file)),
    b"\xff\xff\xff\xff": pa.ipc.open_stream,
    b"{": pa.json.open_json,
}
