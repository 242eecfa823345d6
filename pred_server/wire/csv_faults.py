"""Find the faults of a CSV text by line and column: fast readers do not name them, or accept them in silence."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pred_server.errors import InvalidInput, Violation, clip
from pred_server.limits import KIB
from pred_server.wire.schema import Column, Schema

if TYPE_CHECKING:
    import _csv

_LINE = re.compile(r"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")


def read_records(text: str) -> "_csv.Reader":
    """Reads line by line: mostly the header alone is asked for, and a StringIO would copy all of a long text."""
    return csv.reader(match[0] for match in _LINE.finditer(text))


# Texts are searched piece by piece: each place that is found takes eight bytes.
PIECE_BYTES = 64 * KIB

_BESIDE_QUOTE = np.zeros(256, bool)  # by character
_BESIDE_QUOTE[list(b',\r\n"')] = True


def check_characters(text: str) -> None:
    """Refuse what fast CSV readers take without a word: NUL, and quotes that open or close in the wrong place.

    One wrong quote can swallow the rows up to the next one, and no count of columns would show it.
    """
    if "\0" in text:
        raise _at_character(text, text.index("\0"), "there is a NUL character")
    if '"' not in text:
        return
    data = f"\n{text}\n".encode()
    if (opening := _opening_of_wrong_quote(data)) >= 0:
        where = len(data[1:opening].decode())
        raise _at_character(text, where, "a quote stands inside a field, or is not closed")


def _opening_of_wrong_quote(data: bytes) -> int:
    """Return the place of the first quote that opens where none may, or is closed so, or never; -1 if there is none.

    Line feeds stand around the data.
    """
    n_quotes = 0
    for start in range(1, len(data) - 1, PIECE_BYTES):
        piece = np.frombuffer(data[start - 1 : start + PIECE_BYTES + 1], np.uint8)  # with a neighbour on either side
        quotes = np.flatnonzero(piece[1:-1] == ord('"')) + 1
        closes = (np.arange(len(quotes)) + n_quotes) % 2
        bad = np.flatnonzero(~_BESIDE_QUOTE[piece[quotes + 2 * closes - 1]])
        if len(bad):
            place = start - 1 + int(quotes[bad[0]])
            return data.rfind(b'"', 0, place) if closes[bad[0]] else place
        n_quotes += len(quotes)
    return data.rfind(b'"') if n_quotes % 2 else -1


def _at_character(text: str, index: int, what: str) -> InvalidInput:
    before = text[:index]  # all is well with this part, so what precedes the character are whole fields
    [record] = deque((record for record in read_records(before + "x") if record), maxlen=1)  # the last
    header = next((record for record in read_records(text) if record), [])
    name = header[min(len(record), len(header)) - 1] if header else "input_data"
    line = before.count("\n") + before.count("\r") - before.count("\r\n") + 1
    return InvalidInput.field(name, f"line {line}: {what}")


# Possessive (++, *+): a value of a million digits and a letter must not be tried in a million ways.
_NUMBER = re.compile(r"[+-]?(\d++\.?\d*+|\.\d++)(e[+-]?\d++)?|[+-]?(inf|infinity)", re.IGNORECASE | re.ASCII)
_NAN = re.compile(r"[ \t]*+[+-]?nan[ \t]*+", re.IGNORECASE)
_INTEGER = re.compile(r"-?\d++", re.ASCII)
TRUE, FALSE = ("true", "True", "TRUE", "1"), ("false", "False", "FALSE", "0")
_HOW = {
    "float": "is not a number (write 1234.5: a point, no thousands separator; a missing one is an empty field)",
    "integer": "is not a whole number",
    "bool": "is not true or false",
}


def explain(text: str, schema: Schema, cause: Exception) -> None:
    """Raise InvalidInput that names the lines and columns at fault, or return if none is found."""
    # The fast reader counts the header as row 1. To look from there on spares a million good rows a second look.
    row, column = re.search(r"Row #(\d+)", str(cause)), re.search(r"column #(\d+)", str(cause))
    first = int(row[1]) - 1 if row else 1
    # It sees quotes where the slow one does not: an empty field that it refuses has some.
    quoted = int(column[1]) if column and "invalid value ''" in str(cause) else None
    for start, quoted_column in dict.fromkeys(((first, None), (first, quoted), (1, None))):
        violations = _violations(text, schema, start, quoted_column)
        if violations:
            raise InvalidInput.at(violations)


def _violations(text: str, schema: Schema, start: int, quoted_column: int | None) -> list[Violation]:
    """Return the faults from the record `start` on; record 0 is the header, whose names have been checked."""
    reader = read_records(text)
    header = next(record for record in reader if record)
    # This reader does not see quotes: where there are empty ones, an empty text may be one of them.
    quoted_texts = {column.name for column in schema.columns if column.dtype == "str"} if '""' in text else set()
    wanted = [(header.index(column.name), column) for column in schema.columns]
    violations: list[Violation] = []
    record_number, line_after = 0, reader.line_num + 1
    for record in _checked(reader):
        line, line_after = line_after, reader.line_num + 1
        record_number += bool(record)
        if not record or record_number < start:
            continue
        if len(record) > len(header):
            what = f"line {line} has {len(record)} fields, and the header {len(header)} (a comma inside a field?)"
            violations.append(Violation(header[-1], what))
        elif len(record) < len(header):
            what = f"line {line} ends before this column: {len(record)} fields, and the header has {len(header)}"
            violations.append(Violation(header[len(record)], what))
        else:
            violations += [
                Violation(column.name, f"line {line}: {fault}")
                for position, column in wanted
                if (fault := wrong(record[position], column, position == quoted_column or column.name in quoted_texts))
            ]
        if len(violations) > InvalidInput.max_violations or (violations and quoted_column is not None):
            break
    return violations


def _checked(reader: "_csv.Reader") -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:  # all that is left to object to once the quotes are right
        raise InvalidInput.field("input_data", f"line {reader.line_num}: {error}") from error


def line_of(text: str, row: int) -> int:
    """Return the line on which a row begins; row 0 is the first below the header."""
    reader = read_records(text)
    line_after, records = 1, -2
    for record in reader:
        line, line_after = line_after, reader.line_num + 1
        records += bool(record)
        if records == row:
            return line
    raise IndexError(row)


def looks_like(text: str) -> str:
    """Return what a text that is no CSV of commas seems to be, in words that continue a message; or nothing."""
    first_line = text.lstrip().split("\n", 1)[0]
    if first_line[:1] in ("[", "{"):
        return "; this looks like JSON, and CSV is needed"
    if first_line[:1] == "<":
        return "; this looks like HTML or XML, and CSV is needed"
    if first_line.lower().startswith("sep="):
        return "; leave out the line sep=, and separate the fields by commas"
    names = {";": "semicolons", "\t": "tabs", "|": "bars"}
    separator = next((sign for sign in names if sign in first_line and "," not in first_line), "")
    return f"; the fields seem to be separated by {names[separator]}, and commas are needed" if separator else ""


def missing_value(column: Column) -> str:
    """Return what is wrong with a missing value of a column whose model needs one."""
    return "no value, and the model needs one" + (' (an empty text is written "")' if column.dtype == "str" else "")


def wrong(value: str, column: Column, quoted: bool) -> str | None:
    """Return what is wrong with a field, if anything is; `quoted` where it stands in quotes, or may."""
    if column.dtype == "str":
        return missing_value(column) if value == "" and not (column.nullable or quoted) else None
    if value == "" and column.nullable:
        return "is empty but for its quotes; leave them out for a missing value" if quoted else None
    if value == "" or (column.is_float and _NAN.fullmatch(value)):
        return None if column.nullable else missing_value(column)
    if column.dtype == "bool":
        return None if value in TRUE + FALSE else _is_not(value, "bool")
    number = value.strip(" \t")
    if column.is_float:
        return None if _NUMBER.fullmatch(number) else _is_not(value, "float")
    if not _INTEGER.fullmatch(number):
        return _is_not(value, "integer")
    info = np.iinfo(column.dtype)
    inside = len(number) <= 25 and info.min <= int(number) <= info.max and not (info.min == 0 and number[0] == "-")
    return None if inside else f"{_shown(value)} does not fit {column.dtype} ({info.min} to {info.max})"


def _is_not(value: str, expected: str) -> str:
    return f"{_shown(value)} {_HOW[expected]}"


def _shown(value: str) -> str:
    return repr(clip(value, 40))
