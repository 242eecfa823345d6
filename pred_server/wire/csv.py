"""CSV, the article's encoding: read fast, written so that every bit comes back, and strict about faults."""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from pred_server.errors import InvalidInput, ServerFault
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import MAX_RECORD_BYTES, MIB, Limits, check_columns, check_size, cores
from pred_server.wire.csv_faults import (
    PIECE_BYTES,
    TRUE,
    check_characters,
    explain,
    line_of,
    looks_like,
    missing_value,
    read_records,
    wrong,
)
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Column, Schema
from pred_server.wire.tables import Table, arrow_columns, from_arrow, is_text, to_arrow


class CsvCodec:
    """CSV text (RFC 4180) in both directions, as in the article.

    A missing number is an empty field or `nan`; a missing text is an empty field without quotes, while `""` is the
    empty text. Lines without any character are skipped. Numbers are written with the digits that read back as the
    same bits. Line endings may be LF or CRLF, and a byte-order mark may stand in front.

    CSV knows no types: a text that reads as a number is one where the model takes numbers, and a number is text where
    it takes text. Other encodings refuse both.
    """

    name = "csv"
    field = "input_data"
    quick_values = 1_000

    def write_table(self, table: Table, request: Request) -> None:
        arrow = to_arrow(table)
        for place, values in enumerate(arrow.columns):
            if values.type in (pa.float16(), pa.float32()):
                # The shortest text of a float32, read as float64, would be another number.
                arrow = arrow.set_column(place, arrow.column_names[place], values.cast(pa.float64()))
        if arrow.num_columns == 1 and arrow.column(0).null_count:
            arrow = _without_blank_lines(arrow)
        request.input_data = _header(arrow.column_names) + _body_text(arrow)

    def read_table(self, request: Request, schema: Schema, limits: Limits) -> tuple[Rows, list[str]]:
        text = request.input_data.removeprefix("\ufeff")
        if not text.endswith("\n"):
            text += "\n"
        if text.isspace():
            raise InvalidInput.field("input_data", "is empty; a header and at least one row are needed")
        check_columns(re.match(r"[\r\n]*+[^\r\n]*+", text)[0].count(",") + 1)  # type: ignore[index]  # matches any text
        try:
            check_characters(text)
            header = next(record for record in read_records(text) if record)
            ignored = schema.check_names(header)
        except csv.Error as error:
            raise InvalidInput.field("input_data", f"line 1: {error}") from error
        except InvalidInput as error:
            raise InvalidInput(f"{error}{looks_like(text)}", error.violations) from None
        try:
            columns = _read_few(text, schema.columns) if len(text) <= FEW_CHARACTERS else None
            if columns is None:
                columns = {name: from_arrow(values) for name, values in arrow_columns(_parse(text, schema))}
            check_size(len(columns[schema.names[0]]), len(columns), limits)
            return schema.to_rows(columns), ignored
        except (InvalidInput, pa.ArrowException, csv.Error) as error:
            if isinstance(error, InvalidInput) and not error.violations:
                raise  # no rows: nothing to point at
            # The fast reader knows no line numbers. A slow one finds them, now that there is a fault to report.
            explain(text, schema, error)
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput.field("input_data", "is not a table in CSV") from error

    def write_result(self, result: Result, response: Response) -> None:
        response.result = result_text(result)

    def read_result(self, response: Response, dtype: str | None) -> Result:
        text = response.result
        try:
            header = next(read_records(text))
            few = None
            if dtype and len(text) <= FEW_CHARACTERS:
                few = _read_few(text, [Column(name, dtype, nullable=True) for name in header])
            if few:
                return Result.of_columns(list(few.values()), header, dtype)
            table = _read_csv(text, dict.fromkeys(header, _arrow_type(dtype)) if dtype else {})
            columns = [from_arrow(values) for _, values in arrow_columns(table)]
        except (StopIteration, pa.ArrowException, ValueError, TypeError) as error:
            raise ServerFault("the server's answer is not CSV") from error
        return Result.of_columns(columns, header, dtype)


def count_character(data: bytes, start: int, end: int, character: bytes) -> int:
    """Return how often a character stands in a part of the data: `bytes.count` takes longer where it often does."""
    array = np.frombuffer(data, np.uint8, end - start, start)
    pieces = (array[place : place + PIECE_BYTES] for place in range(0, len(array), PIECE_BYTES))
    return sum(int(np.count_nonzero(piece == ord(character))) for piece in pieces)


def count_rows(data: bytes, start: int, end: int, most: int) -> int:
    """Return how many rows CSV text in UTF-8 has, or, where they are surely few enough, how many it may have."""
    n_rows = count_character(data, start, end, b"\n")
    if n_rows <= most:
        return n_rows
    # Empty lines, and line feeds within quotes, are no rows; the header is none.
    n_rows, n_quotes, last = -1, 0, 0
    array = np.frombuffer(data, np.uint8, end - start, start)
    for place in range(0, len(array), PIECE_BYTES):
        ends, n_quotes = _record_ends(array[place : place + PIECE_BYTES], n_quotes)
        if len(ends):
            ends += place
            lengths = np.diff(ends, prepend=last)
            blank = (lengths == 1) | ((lengths == 2) & (array[ends - 2] == ord("\r")))
            n_rows += len(ends) - int(blank.sum())
            last = ends[-1]
    return n_rows + (data[end - 1 : end] != b"\n")


def result_text(result: Result, header: bool = True) -> str:
    """Return predictions as CSV, in the digits that read back as the same bits."""
    head, values = _header(result.names) if header else "", result.values
    if values.size <= FEW_VALUES and values.dtype in (np.float64, np.int64):
        rows = values.reshape(len(values), -1).tolist()
        return head + "".join([",".join([repr(value).removesuffix(".0") for value in row]) + "\n" for row in rows])
    columns = [pa.array(column, from_pandas=False) for column in result.columns]
    return head + _body_text(pa.table(columns, result.names))


def split_records(file: BinaryIO, piece_bytes: int, name: str = "the file") -> Iterator[str]:
    """Cut a CSV file into pieces that end where a record ends, each with the header in front; at least one.

    Raises
    ------
    InvalidInput
        The file is not UTF-8, or a record is longer than `MAX_RECORD_BYTES` (a quote that is not closed?).
    """
    header, rest, read, yielded = b"", b"", 0, False
    while block := file.read(piece_bytes):
        read += len(block)
        data = rest + block
        if read == len(block):
            data = data.removeprefix(b"\xef\xbb\xbf")  # a byte-order mark, which spreadsheets put in front
        if len(data) > MAX_RECORD_BYTES + piece_bytes:
            raise InvalidInput(f"{name} has a record of over {MAX_RECORD_BYTES:,} bytes; is a quote not closed?")
        ends, _ = _record_ends(np.frombuffer(data, np.uint8))
        if not len(ends):
            rest = data
            continue
        start = 0
        if not header:
            start = next((int(end) for end in ends if data[:end].strip()), 0)
            header = data[:start]
        body = data[start : ends[-1]]
        if header and body.strip():
            if yielded and b"\r" in header.rstrip():  # then more than the header may stand before the first line feed
                raise InvalidInput(f"{name} has a carriage return in its header; let lines end with a line feed")
            yielded = True
            yield _decode(header + body, name, read)
        rest = data[ends[-1] :] if header else data
    if rest.strip() or not yielded:  # a file without rows goes out as it is: the server says what is wrong
        yield _decode(header + rest, name, read)


def _record_ends(array: np.ndarray, n_quotes: int = 0) -> tuple[np.ndarray, int]:
    """Return where records end: behind each line feed that an even number of quotes precedes; and the number of quotes.

    Parameters
    ----------
    array : bytes of UTF-8
    n_quotes : how many quotes stand before them
    """
    feeds = np.flatnonzero(array == ord("\n"))
    quotes = np.flatnonzero(array == ord('"'))
    return feeds[(np.searchsorted(quotes, feeds) + n_quotes) % 2 == 0] + 1, n_quotes + len(quotes)


def _decode(data: bytes, name: str, read: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not UTF-8 text (near byte {max(0, read - len(data) + error.start)})") from error


def _without_blank_lines(table: pa.Table) -> pa.Table:
    """Return a table of one column with `nan` for missing numbers: readers skip a line without any character."""
    name, values = table.column_names[0], table.column(0)
    if is_text(values.type) or pa.types.is_null(values.type):  # `nan` would be a text where the model takes text
        what = "has a missing value and no column beside it, which has no CSV form that readers agree on; use columns"
        raise InvalidInput.field(name, what)
    if pa.types.is_floating(values.type):
        return pa.table({name: values.fill_null(float("nan"))})
    return pa.table({name: values.cast(pa.string()).fill_null("nan")})


# A further thread writes at least so many values: it would be slower to start than fewer are to write.
WRITE_VALUES = 50_000


def _body_text(table: pa.Table) -> str:
    threads = min(cores(), table.num_rows * table.num_columns // WRITE_VALUES)
    try:
        if threads < 2:
            bodies = [_body(table)]
        else:
            n_rows = -(-table.num_rows // threads)
            with ThreadPoolExecutor(threads) as pool:
                bodies = list(pool.map(_body, (table.slice(n_rows * part, n_rows) for part in range(threads))))
    except pa.ArrowException as error:
        raise InvalidInput("the table has a column that CSV cannot carry") from error
    return b"".join(bodies).decode()


def _header(names: list[str]) -> str:
    header = io.StringIO(newline="")
    # A name that begins with a byte-order mark is quoted: without quotes the mark would be the text's. The writer's own
    # line end, CRLF, has it quote both characters.
    is_marked = bool(names) and names[0].startswith("\ufeff")
    csv.writer(header, quoting=csv.QUOTE_ALL if is_marked else csv.QUOTE_MINIMAL).writerow(names)
    return header.getvalue().removesuffix("\r\n") + "\n"


def _body(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink, pa.csv.WriteOptions(include_header=False))
    return sink.getvalue()


# Longer texts are read by several threads, a block each; none shorter, which the threads' start would not pay for.
BLOCK_BYTES = MIB


def _read_csv(text: str, types: dict[str, pa.DataType], columns: list[str] | None = None) -> pa.Table:
    data = pa.py_buffer(text.encode())
    parse = pa.csv.ParseOptions(newlines_in_values='"' in text)
    convert = pa.csv.ConvertOptions(
        column_types=types,
        include_columns=columns,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )

    def read(threads: bool, block_bytes: int) -> pa.Table:
        # A reader of its own each time: threads that gave up may go on reading theirs for a while.
        options = pa.csv.ReadOptions(use_threads=threads, block_size=block_bytes)
        return pa.csv.read_csv(pa.BufferReader(data), options, parse, convert)

    if data.size > 2 * BLOCK_BYTES:
        # A row may be longer than a block, or wrong, and threads do not know which: then all is read as one.
        with suppress(pa.ArrowException):
            return read(True, BLOCK_BYTES)
    return read(False, data.size + 1)


def _arrow_type(dtype: str) -> pa.DataType:
    # float32 is read as float64 and rounded afterwards, which is what happens to a float64 table in process.
    return {"str": pa.string(), "bool": pa.bool_(), "float32": pa.float64()}.get(dtype) or pa.type_for_alias(dtype)


def _parse(text: str, schema: Schema) -> pa.Table:
    table = _read_csv(text, {column.name: _arrow_type(column.dtype) for column in schema.columns}, schema.names)
    integers = [column.name for column in schema.columns if column.is_integer]
    if integers and ("0x" in text or "0X" in text):  # the fast reader takes 0x10 for 16
        texts = _read_csv(text, dict.fromkeys(integers, pa.string()), integers)
        for name in integers:
            if pa.compute.any(pa.compute.match_substring(texts.column(name), "x", ignore_case=True)).as_py():
                raise InvalidInput.field(name, "has a hexadecimal number, and the model needs a decimal one")
    for position, column in enumerate(schema.columns):
        values = table.column(position)
        if values.null_count and not column.nullable:
            line = line_of(text, pa.compute.index(values.is_null(), True).as_py())
            raise InvalidInput.field(column.name, f"line {line}: {missing_value(column)}")
    return table


# Python reads texts, and writes numbers, up to these sizes: pyarrow would need longer to begin.
FEW_CHARACTERS = 1_024
FEW_VALUES = 32


def _read_few(text: str, columns: Iterable[Column]) -> dict[str, np.ndarray] | None:
    """Return the columns as pyarrow would read them, or None where pyarrow must read.

    It must where it would complain, and where quotes make a difference: an empty field is missing, `""` is not.
    """
    if '""' in text:
        return None
    header, *records = [record for record in read_records(text) if record]
    if not records or {len(record) for record in records} != {len(header)} or len(set(header)) < len(header):
        return None
    fields = dict(zip(header, zip(*records, strict=True), strict=True))
    parsed = {}
    for column in columns:
        values = fields[column.name]
        if any(wrong(value, column, quoted=False) for value in values):
            return None
        if column.is_float:
            parsed[column.name] = np.array([float(value or "nan") for value in values])
        elif column.dtype == "str":
            parsed[column.name] = np.array([value or None for value in values], object)
        elif "" in values:
            return None
        elif column.dtype == "bool":
            parsed[column.name] = np.array([value in TRUE for value in values])
        else:
            parsed[column.name] = np.array([int(value) for value in values], column.dtype)
    return parsed
