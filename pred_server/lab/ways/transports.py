"""How ready bytes travel, for several ways: over gRPC or HTTP.

Each function connects to a target and returns the function that makes one call. A failed call raises an exception.
"""

import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from pred_server.lab.ways.way import Call, OverGrpc, OverHttp, Reply, Target
from pred_server.wire.address import parse_target

PREDICT = OverGrpc("/prediction.Prediction/Predict")
OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # or equal channels would share one socket
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
ROUND_ROBIN = ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]}))


def grpc_bytes(target: Target, stack: AsyncExitStack) -> Call:
    """Call Predict with the target's message, or PredictStream with its chunks."""
    if target.arm.chunk_rows:
        return stream(target, stack, PREDICT.in_chunks().method)
    return unary(target, stack, PREDICT.method)


def unary(target: Target, stack: AsyncExitStack, method: str) -> Call:
    """Call a gRPC method with one message."""
    # Without serializers a channel carries bytes: no protobuf work is in the measured time.
    send: Any = _channel(target, stack).unary_unary(method)
    (message,) = target.messages

    async def call() -> Reply:
        sent = send(message, timeout=target.timeout_s, metadata=target.metadata)
        reply_bytes = len(await sent)
        return Reply("OK", reply_bytes, await _timing(sent))

    return call


def stream(target: Target, stack: AsyncExitStack, method: str) -> Call:
    """Call a gRPC method with a stream of messages, and read its replies to the end."""
    send: Any = _channel(target, stack).stream_stream(method)

    async def call() -> Reply:
        sent = send(target.messages, timeout=target.timeout_s, metadata=target.metadata)
        reply_bytes = first_ns = 0
        async for reply in sent:
            first_ns = first_ns or time.monotonic_ns()
            reply_bytes += len(reply)
        return Reply("OK", reply_bytes, await _timing(sent), first_ns)

    return call


def _channel(target: Target, stack: AsyncExitStack) -> grpc.aio.Channel:
    address, options = target.address, list[tuple[str, Any]](OPTIONS)
    if "," in address:
        address, options = parse_target(address)[0], [*options, ROUND_ROBIN]
    if target.ca:
        credentials = grpc.ssl_channel_credentials(Path(target.ca).read_bytes())
        channel = grpc.aio.secure_channel(address, credentials, options)
    else:
        channel = grpc.aio.insecure_channel(address, options)
    stack.push_async_callback(channel.close)
    return channel


async def _timing(sent: Any) -> str:
    trailing = await sent.trailing_metadata()
    return next((value for key, value in trailing or () if key == "server-timing"), "")


def http(target: Target, stack: AsyncExitStack, wire: OverHttp) -> Call:
    """Post the message to an HTTP server."""
    import httpx

    headers = {"content-type": wire.content_type}
    client = httpx.AsyncClient(trust_env=False, timeout=target.timeout_s, headers=headers)
    stack.push_async_callback(client.aclose)
    (message,), url = target.messages, target.address + wire.path

    async def call() -> Reply:
        answer = await client.post(url, content=message)
        code = "OK" if answer.is_success else f"HTTP {answer.status_code}"
        return Reply(code, len(answer.content), answer.headers.get("server-timing", ""))

    return call
