"""What is measured beside our server: floors that compute nothing, and other ways to serve the same model.

Each runs as a process of its own: `serve(model, "--kind", "rest", module="pred_server.lab.baselines")`.

    echo     grpc.aio, any method: the same bytes back, or as many of them as the call's `reply-bytes` metadata says
    tcp      a bare socket: reads what the header announces, answers with as many bytes as it asks for
    article  the article's server without gRPC's limit of 4 MiB, so that large tables have a time and not a refusal
    rest     FastAPI and uvicorn, columns as JSON by orjson
    flight   Arrow Flight's DoExchange
"""

import argparse
import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent import futures
from typing import Any

import grpc
import pandas as pd

from pred_server.generated.pred_pb2_grpc import add_PredictionServicer_to_server
from pred_server.model.store import load
from pred_server.tutorial.article import Prediction, model_named

TCP_HEADER = struct.Struct("<QQ")  # bytes that follow, bytes wanted back
BUFFER_BYTES = 1024 * 1024
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
OPTIONS = (("grpc.so_reuseport", 0), *UNLIMITED)


def echo(address: str, model: str, options: Sequence[tuple[str, int]] = ()) -> None:
    asyncio.run(_echo(address, options))


async def _echo(address: str, options: Sequence[tuple[str, int]]) -> None:
    server = grpc.aio.server(options=(*OPTIONS, *options))
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port(address)
    await server.start()
    _ready("echo", address, port, "gRPC")
    await server.wait_for_termination()


class _Echo(grpc.GenericRpcHandler):
    """Answers every method; those whose name ends in Stream are streams both ways."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(_echo_stream)
        return grpc.unary_unary_rpc_method_handler(_echo_unary)


async def _echo_unary(request: bytes, context: Any) -> bytes:
    return _reply(request, context)


async def _echo_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield _reply(request, context)


def _reply(request: bytes, context: Any) -> bytes:
    for key, value in context.invocation_metadata():
        if key == "reply-bytes":
            return request[: int(value)]
    return request


def tcp(address: str, model: str) -> None:
    with _listen(address) as listener:
        _ready("tcp", address, listener.getsockname()[1], "sockets")
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Reply, until the peer hangs up, to each request with as many bytes as it asks for."""
    buffer, head = memoryview(bytearray(BUFFER_BYTES)), memoryview(bytearray(TCP_HEADER.size))
    with connection:
        while connection.recv_into(head, len(head), socket.MSG_WAITALL) == len(head):
            left, wanted = TCP_HEADER.unpack(head)
            while left:
                received = connection.recv_into(buffer, min(left, BUFFER_BYTES))
                if not received:
                    return
                left -= received
            connection.sendall(bytes(wanted))


def article(address: str, model: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), options=OPTIONS)
    add_PredictionServicer_to_server(Prediction(model_named(model)), server)
    port = server.add_insecure_port(address)
    server.start()
    _ready("article", address, port, model)
    server.wait_for_termination()


def rest(address: str, model: str) -> None:
    import orjson
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    loaded = load(model)
    app = FastAPI()

    def answer(body: bytes) -> bytes:
        table = pd.DataFrame(orjson.loads(body))
        predictions = {loaded.schema.target.name: loaded.predict(table)}
        return orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY)

    async def predict(request: Request) -> Response:
        return Response(await run_in_threadpool(answer, await request.body()), media_type="application/json")

    app.add_api_route("/predict", predict, methods=["POST"])
    listener = _listen(address)
    _ready("rest", f"http://{address}", listener.getsockname()[1], model)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])


def flight(address: str, model: str) -> None:
    import pyarrow as pa
    import pyarrow.flight

    loaded = load(model)

    class Exchange(pa.flight.FlightServerBase):  # type: ignore[misc]  # pyarrow ships no types
        def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
            predictions = loaded.predict(reader.read_all().to_pandas())
            result = pa.table({loaded.schema.target.name: predictions})
            writer.begin(result.schema)
            writer.write_table(result)

    server = Exchange(f"grpc://{address}")
    _ready("flight", address, server.port, model)
    server.serve()


def flight_messages(table: pd.DataFrame) -> tuple[bytes, ...]:
    """A table as Flight sends it: FlightData messages, which carry the parts of an Arrow IPC stream."""
    import pyarrow as pa

    stream = pa.BufferOutputStream()
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(stream, arrow.schema) as writer:
        writer.write_table(arrow)
    descriptor = b"\x08\x02\x12\x07predict"  # of type CMD
    parts = list(pa.ipc.MessageReader.open_stream(stream.getvalue()))
    return tuple(
        (b"" if place else _field(1, descriptor))
        + _field(2, part.metadata.to_pybytes())
        + (_field(1_000, part.body.to_pybytes()) if part.body else b"")
        for place, part in enumerate(parts)
    )


def _field(number: int, data: bytes) -> bytes:
    """A protobuf field of bytes: its tag, its length, itself."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    head = b""
    while value > 0x7F:
        head, value = head + bytes([value & 0x7F | 0x80]), value >> 7
    return head + bytes([value])


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    listener = socket.create_server((host, int(port)))
    # Connections inherit it. Without it a reply in two parts waits 40 ms for the acknowledgement of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _ready(kind: str, address: str, port: int, serves: str) -> None:
    print(f"{kind} ready on {address.rpartition(':')[0]}:{port} ({serves})", flush=True)


KINDS = {kind.__name__: kind for kind in (echo, tcp, article, rest, flight)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.lab.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--model", default="flights", help="sum, flights, or a model directory")
    parser.add_argument("--address", default="127.0.0.1:0", help="HOST:PORT; port 0 picks a free one")
    parser.add_argument("--option", nargs=2, action="append", metavar=("NAME", "NUMBER"), help="of gRPC, for the echo")
    args = parser.parse_args()
    if args.option:
        echo(args.address, args.model, [(name, int(number)) for name, number in args.option])
    else:
        KINDS[args.kind](args.address, args.model)


if __name__ == "__main__":
    main()
