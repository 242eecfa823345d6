"""A competitor: Arrow Flight's DoExchange, called with ready bytes as any gRPC method."""

from contextlib import AsyncExitStack
from typing import Any

import pandas as pd
import pyarrow as pa

from pred_server.lab.ways.transports import stream
from pred_server.lab.ways.way import Arm, Call, Grpc, Options, Target, Way, ready
from pred_server.store.loading import load


class Flight(Way):
    name, title = "flight", "Arrow Flight"
    wire = Grpc("/arrow.flight.protocol.FlightService/DoExchange", stream=True)

    def run(self, address: str, model: str, options: Options) -> None:
        from pyarrow import flight

        loaded = load(model)

        class Exchange(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow ships no types
            def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
                predictions = loaded.predict(reader.read_all().to_pandas())
                result = pa.table({loaded.schema.target.name: predictions})
                writer.begin(result.schema)
                writer.write_table(result)

        server = Exchange(f"grpc://{address}")
        ready(self, address, server.port, model)
        server.serve()

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        """Return FlightData messages, which carry the parts of an Arrow IPC stream."""
        ipc = pa.BufferOutputStream()
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        with pa.ipc.new_stream(ipc, arrow.schema) as writer:
            writer.write_table(arrow)
        descriptor = b"\x08\x02\x12\x07predict"  # of type CMD; the first message has it
        parts = list(pa.ipc.MessageReader.open_stream(ipc.getvalue()))
        return tuple(
            (b"" if place else _field(1, descriptor))
            + _field(2, part.metadata.to_pybytes())
            + (_field(1_000, part.body.to_pybytes()) if part.body else b"")
            for place, part in enumerate(parts)
        )

    def connect(self, target: Target, stack: AsyncExitStack) -> Call:
        return stream(target, stack, "/arrow.flight.protocol.FlightService/DoExchange")


def _field(number: int, data: bytes) -> bytes:
    """Return a protobuf field of bytes: its tag, its length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _varint(value >> 7)
