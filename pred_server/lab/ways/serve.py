"""Our own server, `pred-server serve`: by our own client, or from ready bytes in any encoding, whole or as a stream."""

from contextlib import AsyncExitStack, ExitStack

from pred_server.client.client import Client
from pred_server.lab.ways.transports import PREDICT, grpc_bytes
from pred_server.lab.ways.way import Arm, Call, Caller, Target, Way
from pred_server.limits import Limits
from pred_server.tutorial.background import serve


class Serve(Way):
    name, wire = "serve", PREDICT

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        return stack.enter_context(serve(model, *arm.flags)).address

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        limits = Limits(max_message_bytes=2**31 - 1)
        client = stack.enter_context(Client(target.address, timeout_s=target.timeout_s, retry=False, limits=limits))
        return lambda table: client.predict(table, encoding=target.arm.encoding)

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return grpc_bytes(target, stack)
