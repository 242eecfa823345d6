"""A floor: a gRPC server that sends the request's bytes back, or only as many as the call's metadata asks for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc

from pred_server.lab.ways.transports import PREDICT, grpc_bytes
from pred_server.lab.ways.way import UNLIMITED, Call, Launch, Target, Way, ready


class Echo(Way):
    name, wire = "echo", PREDICT

    def run(self, launch: Launch) -> None:
        asyncio.run(self._serve(launch))

    async def _serve(self, launch: Launch) -> None:
        handlers: dict[str, Any] = {
            "Predict": grpc.unary_unary_rpc_method_handler(_echo),  # without serializers: bytes in, bytes out
            "PredictStream": grpc.stream_stream_rpc_method_handler(_echo_stream),
        }
        server = grpc.aio.server(options=[*UNLIMITED, *launch.options])
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("prediction.Prediction", handlers),))
        port = server.add_insecure_port(launch.address)
        await server.start()
        ready(self, launch, port)
        await server.wait_for_termination()

    def metadata(self, target: Target) -> tuple[tuple[str, str], ...]:
        wanted = str(target.reply_bytes // len(target.messages))  # in each message of the reply
        return (*target.metadata, ("reply-bytes", wanted)) if target.reply_bytes else target.metadata

    def connect(self, target: Target, stack: AsyncExitStack) -> Call:
        return grpc_bytes(replace(target, metadata=self.metadata(target)), stack)


async def _echo(request: bytes, context: Any) -> bytes:
    wanted = dict(context.invocation_metadata()).get("reply-bytes")
    return request[: int(wanted)] if wanted else request


async def _echo_stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield await _echo(request, context)
