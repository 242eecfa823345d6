"""The files that people have: some are read, of the others the message says what they are and what to do."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

from pred_server.checkout import ROOT
from pred_server.client.files import read_tables
from pred_server.errors import InvalidInput
from pred_server.model.model import Model
from pred_server.tutorial.background import Server


def arrow_stream(table: pd.DataFrame, path: Path) -> None:
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(str(path), arrow.schema) as writer:
        writer.write_table(arrow)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "csv": lambda table, path: table.to_csv(path, index=False),
    "parquet": lambda table, path: table.to_parquet(path),
    "feather": lambda table, path: pa.feather.write_feather(table.reset_index(drop=True), path),
    "arrow stream": arrow_stream,
    "JSON lines": lambda table, path: table.to_json(path, orient="records", lines=True),
}


def predict(file: str, server: Server, data: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "pred_server", "predict", file, "--address", server.address]
    return subprocess.run(command, cwd=ROOT, input=data, capture_output=True, timeout=120)


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("piped", [False, True])
def test_a_file_is_taken_for_what_it_holds(
    written: str, piped: bool, tmp_path: Path, flights: pd.DataFrame, flights_server: Server, flights_model: Model
) -> None:
    path = tmp_path / "table"
    WRITERS[written](flights.head(300), path)
    done = predict("-", flights_server, path.read_bytes()) if piped else predict(str(path), flights_server)
    assert done.returncode == 0, done.stderr
    header, *values = done.stdout.decode().split()
    assert header == "arr_delay"
    assert [float(value) for value in values] == flights_model.predict(flights.head(300)).tolist()


def test_a_large_file_comes_in_chunks_that_hold_all_rows() -> None:
    table = pd.DataFrame({"x": range(100_000), "y": range(100_000)})
    file = io.BytesIO()
    table.to_parquet(file)
    file.seek(0)
    parts = [part.to_pandas() for part in read_tables(io.BufferedReader(file), 100_000, "the file")]
    assert len(parts) > 10
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), table)


def workbook() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as book:
        book.writestr("xl/workbook.xml", "<workbook/>")
    return packed.getvalue()


def empty_parquet() -> bytes:
    file = io.BytesIO()
    pd.DataFrame({"x": [1.0], "y": [2.0]}).head(0).to_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (workbook(), "is an Excel workbook or another zip archive; save the sheet as CSV"),
        ("x,y\n1,2\n".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (json.dumps([{"x": 1, "y": 2}]).encode(), "is a JSON array; write one object a line"),
        (b"\n <html></html>", "is HTML or XML; save the table as CSV"),
        (b"PAR1 and no more", "is damaged, or no table"),
        (b"ARROW1 and no more", "is damaged, or no table"),
        (b"\xff\xff\xff\xff and no more", "is damaged, or no table"),
        (b'{"x": 1, "y"', "is damaged, or no table"),
        (empty_parquet(), "has no rows"),
        (b"x,y\n\xe9,2\n", "is not UTF-8 text"),
    ],
)
def test_of_any_other_file_the_message_says_what_it_is(data: bytes, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        list(read_tables(io.BufferedReader(io.BytesIO(data)), 1_000, "the file"))
