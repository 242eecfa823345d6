"""Our own server, `pred-server serve`: by our own client, or from ready bytes in any encoding, whole or as a stream."""

from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace

from pred_server.client.client import Client
from pred_server.lab.ways.transports import PREDICT, grpc_bytes
from pred_server.lab.ways.way import Arm, Call, Caller, StreamCaller, Target, Way
from pred_server.limits import Limits
from pred_server.tutorial.background import serve


class Serve(Way):
    name, wire, hand = "serve", PREDICT, "grpc"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        return stack.enter_context(serve(model, *arm.flags)).address

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        client = _client(target, stack)
        return lambda table: client.predict(table)

    def stream_client(self, target: Target, stack: AsyncExitStack) -> StreamCaller:
        client = _client(target, stack)
        return lambda chunks: sum(map(len, client.predict_stream(chunks, timeout_s=target.timeout_s)))

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return grpc_bytes(replace(target, metadata=self.metadata(target)), stack)


def _client(target: Target, stack: AsyncExitStack) -> Client:
    limits, encoding = Limits(max_message_bytes=2**31 - 1), target.arm.encoding
    client = Client(target.address, timeout_s=target.timeout_s, encoding=encoding, retry=False, limits=limits)
    return stack.enter_context(client)
