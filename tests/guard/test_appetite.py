"""To read a table takes no more memory than it weighs, whatever the caller sends. Each is read in a new process."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pred_server.errors import InvalidInput
from pred_server.generated.pred_pb2 import Column, Columns, Request
from pred_server.guard.heap import keep_freed_memory
from pred_server.guard.weight import weigh
from pred_server.lab.memory import growth_mib, resident_mib
from pred_server.limits import KIB, MIB, Limits
from pred_server.wire.codec import codec_of
from pred_server.wire.schema import Column as SchemaColumn
from pred_server.wire.schema import Schema
from tests.attacks.kinds import arrow, columns, csv, field, tensor

# Threads, their stacks, and what libraries load at their first call.
BESIDE_MIB = 8
FLOATS = Schema((SchemaColumn("x", "float64", True), SchemaColumn("y", "float64", True)), SchemaColumn("0", "float64"))
INTEGERS = Schema((SchemaColumn("x", "int64"), SchemaColumn("y", "int64")), FLOATS.target)
TEXTS = Schema((SchemaColumn("x", "str"), SchemaColumn("y", "str")), FLOATS.target)
ROWS = 500_000
LONG = "a" * 16 * MIB + "\N{GRINNING FACE}"  # one wide character, and all the others take four bytes, too


MESSAGES: dict[str, tuple[Callable[[], bytes], Schema]] = {
    "numbers as text": (lambda: csv(ROWS, "1234.5,2345.25"), FLOATS),
    "columns": (lambda: columns(ROWS), FLOATS),
    "tensor": (lambda: tensor(ROWS), FLOATS),
    "arrow": (lambda: arrow(pa.table({name: np.zeros(ROWS) for name in "xy"})), FLOATS),
    "fields without end": (lambda: csv(1, "," * 16 * MIB), FLOATS),
    "columns that no model knows": (
        lambda: csv(1_000, ",".join(["1"] * 9_000), header="x,y," + ",".join(f"z{place}" for place in range(8_998))),
        FLOATS,
    ),
    "quotes": (lambda: csv(1, '"' * 16 * MIB), FLOATS),
    "escaped quotes": (lambda: csv(100, '1,2,"' + '""' * 60 * KIB + '"', header="x,y,z"), FLOATS),
    "a wrong quote at the end": (lambda: csv(ROWS, "1,2", '1,2"3\n'), FLOATS),
    "a fault at the end": (lambda: csv(ROWS, "1234567.25,2345678.5", "1,z\n"), FLOATS),
    "a hexadecimal at the end": (lambda: csv(ROWS, "1234567,2345678", "1,0x2\n"), INTEGERS),
    "a wide character in CSV": (lambda: csv(1, f"1,2,{LONG}", header="x,y,z"), FLOATS),
    "a wide character in columns": (
        lambda: Request(columns=Columns(columns=[Column(name=n, str=[LONG]) for n in "xy"])).SerializeToString(),
        TEXTS,
    ),
    "a wide character in Arrow": (lambda: arrow(pa.table({"x": [LONG], "y": [LONG]})), TEXTS),
    "empty texts": (
        lambda: field(3, b"".join(field(1, field(1, name) + field(7, b"") * ROWS) for name in (b"x", b"y"))),
        TEXTS,
    ),
}


@pytest.fixture(scope="module")
def processes() -> "Iterator[multiprocessing.pool.Pool]":
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        yield pool


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a peak, and begins it anew")
@pytest.mark.parametrize("name", MESSAGES)
def test_a_table_takes_no_more_than_it_weighs(name: str, processes: "multiprocessing.pool.Pool") -> None:
    weight_mib, taken_mib = processes.apply(weigh_and_read, (name,))
    assert taken_mib < weight_mib + BESIDE_MIB


def weigh_and_read(name: str) -> tuple[float, float]:
    """Return what a message weighs, and by how much the process grew to read it, in MiB."""
    keep_freed_memory()
    message, schema = MESSAGES[name]
    data = message()
    before = resident_mib([os.getpid()])
    weight = weigh(data, schema, Limits())
    request = Request.FromString(data)
    with suppress(InvalidInput):
        codec_of(request).read_table(request, schema, Limits())
    return weight / MIB, growth_mib(before)
