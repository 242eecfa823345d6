"""Our own server, `pred-server serve`: each encoding, unary or as a stream; or from a DataFrame, by our own client."""

from contextlib import AsyncExitStack, ExitStack

from pred_server.client.client import Client
from pred_server.lab.ways.transports import PREDICT, blocking, frame_of, grpc_bytes
from pred_server.lab.ways.way import Arm, Call, Target, Way
from pred_server.limits import Limits
from pred_server.tutorial.background import serve


class Serve(Way):
    name, wire = "serve", PREDICT

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        return stack.enter_context(serve(model, *arm.flags)).address

    def connect(self, target: Target, stack: AsyncExitStack) -> Call:
        if not target.arm.frame:
            return grpc_bytes(target, stack)
        table, limits = frame_of(target), Limits(max_message_bytes=2**31 - 1)
        client = stack.enter_context(Client(target.address, timeout_s=target.timeout_s, retry=False, limits=limits))
        return blocking(lambda: client.predict(table, encoding=target.arm.encoding))
