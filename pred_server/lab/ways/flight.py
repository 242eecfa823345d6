"""A rival: Arrow Flight's DoExchange, batch by batch; by pyarrow's own client, or from ready bytes.

Large tables go in batches of 2 MiB, the size to which Arrow's own encoder for Flight cuts them. Each batch is answered
as it comes; the client reads answers while it writes, or both ends would wait for the other to read.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pandas as pd
import pyarrow as pa

from pred_server.lab.ways.transports import stream
from pred_server.lab.ways.way import Arm, Call, Caller, Launch, OverGrpc, StreamCaller, Target, Way, ready
from pred_server.limits import MIB, ROW_BLOCK, cores
from pred_server.model.model import Model
from pred_server.wire.tables import from_arrow
from pred_server.wire.tensor import before_bytes

BATCH_BYTES = 2 * MIB
# Batches that the client writes before it waits for the first answer.
AHEAD = 4


class Flight(Way):
    name, title = "flight", "Arrow Flight"
    wire = OverGrpc("/arrow.flight.protocol.FlightService/DoExchange", stream=True)

    def run(self, launch: Launch) -> None:
        from pyarrow import flight

        model = launch.load()
        turns = threading.BoundedSemaphore(cores())  # more threads would keep Python's lock from one another

        class Exchange(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow ships no types
            def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
                for number, chunk in enumerate(reader):
                    with turns:
                        result = _predict(model, chunk.data)
                    if number == 0:
                        writer.begin(result.schema)
                    writer.write_batch(result)

        server = Exchange(f"grpc://{launch.address}")
        ready(self, launch, server.port)
        server.serve()

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        exchange = _exchange(target, stack)
        return lambda table: pa.Table.from_batches(exchange([table])).column(0).to_pandas()

    def stream_client(self, target: Target, stack: AsyncExitStack) -> StreamCaller:
        exchange = _exchange(target, stack)
        return lambda tables: sum(map(len, exchange(tables)))

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        """Return FlightData messages, which carry the parts of an Arrow IPC stream."""
        ipc = pa.BufferOutputStream()
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        with pa.ipc.new_stream(ipc, arrow.schema) as writer:
            for batch in _batches(arrow):
                writer.write_batch(batch)
        descriptor = b"\x08\x02\x12\x07predict"  # of type CMD; the first message has it
        parts = list(pa.ipc.MessageReader.open_stream(ipc.getvalue()))
        return tuple(
            (b"" if place else _field(1, descriptor))
            + _field(2, part.metadata.to_pybytes())
            + (_field(1_000, part.body.to_pybytes()) if part.body else b"")
            for place, part in enumerate(parts)
        )

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return stream(target, stack, self.wire.method)


def _exchange(target: Target, stack: AsyncExitStack) -> Callable[[Iterable[pd.DataFrame]], Iterator[pa.RecordBatch]]:
    """Connect, and return the function that sends tables, batch by batch, and yields the answers as they come."""
    from pyarrow import flight

    client = stack.enter_context(flight.connect(f"grpc://{target.address}"))
    descriptor = flight.FlightDescriptor.for_command(b"predict")

    def exchange(tables: Iterable[pd.DataFrame]) -> Iterator[pa.RecordBatch]:
        arrow = (pa.Table.from_pandas(table, preserve_index=False) for table in tables)
        writer, reader = client.do_exchange(descriptor)
        with writer:
            for number, batch in enumerate(batch for table in arrow for batch in _batches(table)):
                if number == 0:
                    writer.begin(batch.schema)
                writer.write_batch(batch)
                if number >= AHEAD:
                    yield reader.read_chunk().data
            writer.done_writing()
            yield from (chunk.data for chunk in reader)

    return exchange


def _predict(model: Model, batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = zip(batch.schema.names, batch.columns, strict=True)
    rows = model.schema.to_rows({name: from_arrow(values) for name, values in columns})
    result = model.predict_rows(rows)
    return pa.record_batch([pa.array(values) for values in result.columns], result.names)


def _batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Cut a table into whole blocks of rows: so a row is predicted as in the whole table."""
    n_rows = max(1, BATCH_BYTES * len(table) // table.nbytes // ROW_BLOCK) * ROW_BLOCK
    yield from table.to_batches(max_chunksize=n_rows)


def _field(number: int, data: bytes) -> bytes:
    """Return a protobuf field of bytes: its tag, its length, the bytes."""
    return before_bytes(number, len(data)) + data
