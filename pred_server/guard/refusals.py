"""Slows down who is refused again and again: to refuse a call takes about as long as to answer a small one.

A caller who sends a hundred bad calls at once, and again as soon as they are refused, would keep the event loop busy,
and each good call would wait behind a hundred of them.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from pred_server.errors import clip

# A refusal waits no longer, so callers need no longer deadlines.
LONGEST_S = 1.0
# So many connections are remembered. Of more, the oldest are let off.
MOST_PEERS = 10_000


class Refusals:
    """Lets a connection have so many refusals a second, and as many more at once after a pause of a second.

    Parameters
    ----------
    per_s : 0 for any number
    """

    def __init__(self, per_s: int):
        self._per_s = per_s
        self._next_s: dict[str, float] = {}

    def delay_s(self, peer: str, now_s: float) -> float:
        """Count a refusal for a connection, and return how long it has to wait, in seconds."""
        if not self._per_s:
            return 0.0
        next_s = max(self._next_s.pop(peer, 0.0), now_s - 1.0) + 1.0 / self._per_s
        self._next_s[peer] = next_s = min(next_s, now_s + LONGEST_S)
        if len(self._next_s) > MOST_PEERS:
            del self._next_s[next(iter(self._next_s))]
        return max(0.0, next_s - now_s)

    async def wait(self, peer: str) -> None:
        """Wait until the connection may have a further refusal."""
        if delay_s := self.delay_s(peer, time.monotonic()):
            await asyncio.sleep(delay_s)

    def handler(self, code: grpc.StatusCode, details: str, note: Callable[[str], None] = lambda peer: None) -> Any:
        """Return a handler for any kind of rpc that reads nothing, and refuses the call; it notes the peer first."""

        async def refuse(_: Any, context: Any) -> None:
            note(context.peer())
            await self.wait(context.peer())
            await context.abort(code, details)

        return grpc.stream_stream_rpc_method_handler(refuse)


class UnknownMethods(grpc.GenericRpcHandler):
    """Refuses methods that nobody else handles: gRPC by itself would refuse as many as come. To be added last."""

    def __init__(self, refusals: Refusals):
        self._refusals = refusals

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = clip(str(handler_call_details.method))
        return self._refusals.handler(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {method} here")
