"""One call, in each way that there is: who is called, what is sent, and the function that does it.

Each function of `KINDS` connects to a target and returns the function that makes one call.
"""

import asyncio
import io
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
import pandas as pd

from pred_server.client.client import Client
from pred_server.errors import PredServerError
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.lab.baselines import BUFFER_BYTES, TCP_HEADER, flight_messages
from pred_server.limits import Limits
from pred_server.model.store import load
from pred_server.wire.codec import CODECS

OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # or equal channels would share one socket
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared: who answers, what travels, and under which load.

    Parameters
    ----------
    server : `serve`, `gateway` (with `serve` behind it), a kind of `baselines`, or `predict`, which is in process
    encoding : of `serve`, `article` and the floors `echo` and `tcp`, which carry the bytes that `serve` carries; of
        `predict` tensor, if the table is checked beforehand, as a server has it once it has read a tensor
    frame : whether the time is that from a DataFrame to a Series: of `serve` by our `Client`, which cuts a large table
        into chunks by itself, of `article` by pandas, of `flight` by Arrow's client
    chunk_rows : if above 0, a stream of chunks with so many rows each
    flags : further flags of the server
    process : arms with equal server, flags and process share one
    callers : closed loop of so many, unless `rate_per_s` is given: then an open loop
    model : which is served, if not the experiment's
    rows : the numbers of rows at which it takes part, if not at all of them
    calls : in each half of a block, if not as many as the experiment says
    """

    name: str
    server: str = "serve"
    encoding: str = "csv"
    chunk_rows: int = 0
    flags: tuple[str, ...] = ()
    process: int = 0
    connections: int = 1
    callers: int = 1
    rate_per_s: float = 0.0
    arrivals: str = "poisson"
    frame: bool = False
    model: str = ""
    rows: tuple[int, ...] = ()
    calls: int = 0

    @property
    def sends(self) -> tuple[str, ...]:
        """Equal for arms that send the same bytes."""
        own = self.server if self.server in ("predict", "rest", "flight", "gateway") else ""
        return (own, self.encoding, str(self.chunk_rows), str(self.frame), self.model)


@dataclass(frozen=True)
class Target:
    """Where calls go and what each of them sends.

    Parameters
    ----------
    kind : `unary` or `stream` (gRPC), `http` (POST), `tcp` (as `baselines` reads it); or one of those that find a table
        (a Parquet file) in `messages`: `client` (ours), `pandas_client`, `flight_client`, and `predict`, which has no
        server: the generator itself loads the model that `address` names
    address : HOST:PORT; for http a whole URL
    messages : one, or the chunks of a stream
    metadata : sent with each call; for http the headers
    reply_bytes : for tcp, how many bytes the server is to answer with
    """

    name: str
    kind: str
    address: str
    messages: tuple[bytes, ...]
    method: str = "/prediction.Prediction/Predict"
    encoding: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    reply_bytes: int = 0
    connections: int = 1
    timeout_s: float = 60.0


class Reply(NamedTuple):
    code: str
    reply_bytes: int = 0
    timing: str = ""  # of the Server-Timing syntax
    first_ns: int = 0  # when the first message of a stream came back


Call = Callable[[int], Awaitable[Reply]]  # takes the number of the connection


def messages_of(arm: Arm, batch: pd.DataFrame) -> tuple[bytes, ...]:
    """What one call of an arm sends."""
    if arm.server == "predict" or arm.frame:
        return (batch.to_parquet(),)
    if arm.server == "rest":
        import orjson

        return (orjson.dumps(batch.to_dict("list")),)
    if arm.server == "flight":
        return flight_messages(batch)
    step = arm.chunk_rows or len(batch)
    return tuple(_request(batch.iloc[start : start + step], arm) for start in range(0, len(batch), step))


def _request(chunk: pd.DataFrame, arm: Arm) -> bytes:
    request = Request()
    CODECS["csv" if arm.server == "gateway" else arm.encoding].write_table(chunk.reset_index(drop=True), request)
    return request.input_data.encode() if arm.server == "gateway" else request.SerializeToString()


def target_of(arm: Arm, address: str, messages: tuple[bytes, ...]) -> Target:
    """Where one call of an arm goes."""
    kind, method = "unary", "/prediction.Prediction/Predict"
    metadata: tuple[tuple[str, str], ...] = ()
    if arm.server in ("predict", "tcp"):
        kind = arm.server
    elif arm.frame:
        kind = {"serve": "client", "article": "pandas_client", "flight": "flight_client"}[arm.server]
    elif arm.server in ("rest", "gateway"):
        kind, address = "http", f"{address}/predict"
        metadata = (("content-type", "text/csv" if arm.server == "gateway" else "application/json"),)
    elif arm.server == "flight":
        kind, method = "stream", "/arrow.flight.protocol.FlightService/DoExchange"
    elif arm.chunk_rows:
        kind, method = "stream", "/prediction.Prediction/PredictStream"
    return Target(arm.name, kind, address, messages, method, arm.encoding, metadata, connections=arm.connections)


def _channels(target: Target, stack: AsyncExitStack) -> list[grpc.aio.Channel]:
    channels = [grpc.aio.insecure_channel(target.address, OPTIONS) for _ in range(target.connections)]
    for channel in channels:
        stack.push_async_callback(channel.close)
    return channels


async def _finished(call: Any, reply_bytes: int, first_ns: int = 0) -> Reply:
    trailing = await call.trailing_metadata()
    timing = next((value for key, value in trailing or () if key == "server-timing"), "")
    return Reply("OK", reply_bytes, timing, first_ns)


async def _unary(target: Target, stack: AsyncExitStack) -> Call:
    # Without serializers the channel carries bytes: no protobuf work is in the time.
    methods: list[Any] = [channel.unary_unary(target.method) for channel in _channels(target, stack)]
    (message,) = target.messages

    async def call(connection: int) -> Reply:
        sent = methods[connection](message, timeout=target.timeout_s, metadata=target.metadata)
        try:
            return await _finished(sent, len(await sent))
        except grpc.aio.AioRpcError as error:
            return Reply(error.code().name)

    return call


async def _stream(target: Target, stack: AsyncExitStack) -> Call:
    methods: list[Any] = [channel.stream_stream(target.method) for channel in _channels(target, stack)]

    async def call(connection: int) -> Reply:
        sent = methods[connection](target.messages, timeout=target.timeout_s, metadata=target.metadata)
        reply_bytes = first_ns = 0
        try:
            async for reply in sent:
                first_ns = first_ns or time.monotonic_ns()
                reply_bytes += len(reply)
            return await _finished(sent, reply_bytes, first_ns)
        except grpc.aio.AioRpcError as error:
            return Reply(error.code().name)

    return call


async def _http(target: Target, stack: AsyncExitStack) -> Call:
    import httpx

    clients = [
        await stack.enter_async_context(
            httpx.AsyncClient(trust_env=False, timeout=target.timeout_s, headers=dict(target.metadata))
        )
        for _ in range(target.connections)
    ]
    (message,) = target.messages

    async def call(connection: int) -> Reply:
        try:
            answer = await clients[connection].post(target.address, content=message)
        except httpx.HTTPError as error:
            return Reply(type(error).__name__)
        code = "OK" if answer.is_success else f"HTTP {answer.status_code}"
        return Reply(code, len(answer.content), answer.headers.get("server-timing", ""))

    return call


async def _tcp(target: Target, stack: AsyncExitStack) -> Call:
    loop = asyncio.get_running_loop()
    host, _, port = target.address.rpartition(":")
    sockets = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(target.connections)]
    for each in sockets:
        each.setblocking(False)
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    turns = [asyncio.Lock() for _ in sockets]  # one call at a time on a connection
    buffer = memoryview(bytearray(BUFFER_BYTES))

    async def call(connection: int) -> Reply:
        each = sockets[connection]
        try:
            async with asyncio.timeout(target.timeout_s), turns[connection]:
                await loop.sock_sendall(each, TCP_HEADER.pack(sum(map(len, target.messages)), target.reply_bytes))
                for message in target.messages:
                    await loop.sock_sendall(each, message)
                left = target.reply_bytes
                while left:
                    received = await loop.sock_recv_into(each, buffer[:left])
                    if not received:
                        return Reply("UNAVAILABLE")
                    left -= received
        except (OSError, TimeoutError) as error:
            return Reply(type(error).__name__)
        return Reply("OK", target.reply_bytes)

    return call


async def _predict(target: Target, stack: AsyncExitStack) -> Call:
    model, table = load(target.address), _table(target)
    if target.encoding == "tensor":
        checked = model.schema.align(table)
        return _blocking(lambda: model.predict_aligned(checked))
    return _blocking(lambda: model.predict(table))


async def _client(target: Target, stack: AsyncExitStack) -> Call:
    limits, table = Limits(max_message_bytes=2**31 - 1), _table(target)
    client = stack.enter_context(Client(target.address, timeout_s=target.timeout_s, retry=False, limits=limits))
    return _blocking(lambda: client.predict(table, encoding=target.encoding))


async def _pandas_client(target: Target, stack: AsyncExitStack) -> Call:
    stub, table = PredictionStub(stack.enter_context(grpc.insecure_channel(target.address, OPTIONS))), _table(target)

    def predict() -> Any:
        response = stub.Predict(Request(input_data=table.to_csv(index=False)), timeout=target.timeout_s)
        return pd.read_csv(io.StringIO(response.result)).iloc[:, 0]

    return _blocking(predict)


async def _flight_client(target: Target, stack: AsyncExitStack) -> Call:
    import pyarrow as pa
    import pyarrow.flight

    client, table = stack.enter_context(pa.flight.connect(f"grpc://{target.address}")), _table(target)
    descriptor = pa.flight.FlightDescriptor.for_command(b"predict")

    def predict() -> Any:
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        writer, reader = client.do_exchange(descriptor)
        with writer:
            writer.begin(arrow.schema)
            writer.write_table(arrow)
            writer.done_writing()
            return reader.read_all().column(0).to_pandas()

    return _blocking(predict)


def _table(target: Target) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(target.messages[0]))


def _blocking(predict: Callable[[], Any]) -> Call:
    """For one caller at a time: what is called does not return to the event loop before it is done."""

    async def call(connection: int) -> Reply:
        try:
            predict()
        except (PredServerError, grpc.RpcError, OSError) as error:  # Arrow's are OSErrors
            return Reply(type(error).__name__)
        return Reply("OK")

    return call


KINDS: dict[str, Callable[[Target, AsyncExitStack], Awaitable[Call]]] = {
    "unary": _unary, "stream": _stream, "http": _http, "tcp": _tcp, "predict": _predict, "client": _client,
    "pandas_client": _pandas_client, "flight_client": _flight_client,
}  # fmt: skip
