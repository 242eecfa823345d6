"""The stop of a server that another one replaces: no call is lost, and callers go elsewhere before they must.

1. Health says NOT_SERVING: balancers, and everybody else who asks or watches, look elsewhere.
2. For `--drain-delay-s`, calls are still taken: to hear of it and to act takes others some time.
3. GOAWAY on all connections: clients open no further call on them, and connect anew, to another server. The port is
   closed. Calls and streams that were taken go on, for `--drain-timeout-s` at the most.
4. The end: what still goes on is answered with UNAVAILABLE, so that it is asked for elsewhere.

At the moment of the GOAWAY gRPC's core drops the calls that it has received and not handed over, and the few that reach
it before the GOAWAY reaches their callers, with CANCELLED. So the moment is chosen: one at which no call comes.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from pred_server.errors import PredServerError, Unavailable
from pred_server.guard.admission import LINGER_S, Admission
from pred_server.limits import Limits
from pred_server.ops.health import Health

# No call comes: none has come for so long. How long to look for such a moment; and how long again, while calls are
# refused, so that their callers pause.
QUIET_S = 0.02
LOOK_S, REFUSE_S = 0.1, 0.25


class Arrivals(grpc.GenericRpcHandler):
    """Counts the calls that come."""

    def __init__(self, handlers: grpc.GenericRpcHandler):
        self.count = 0
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        self.count += 1
        return self._handlers.service(handler_call_details)

    async def pause(self, timeout_s: float) -> bool:
        """Wait until no call has come for a while, or for `timeout_s`. Returns whether that was so."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while loop.time() < end_s:
            before = self.count
            await asyncio.sleep(QUIET_S)
            if self.count == before:
                return True
        return False


async def drain(
    server: grpc.aio.Server,
    arrivals: Arrivals,
    health: Health,
    admission: Admission,
    give_up: Callable[[PredServerError], None],
    limits: Limits,
) -> None:
    """Stop the server as the module says. `give_up` ends the calls that wait for predictions."""
    health.stop()
    await asyncio.sleep(limits.drain_delay_s)
    admission.is_stopping = True  # from here on streams linger; those before have this time
    await asyncio.sleep(max(0.0, admission.last_large_s + LINGER_S - time.monotonic()))
    if not await arrivals.pause(LOOK_S):
        admission.refuse()
        await arrivals.pause(REFUSE_S)
    stopping = asyncio.create_task(server.stop(grace=limits.drain_timeout_s + LINGER_S))  # sends GOAWAY
    health.leave()
    admission.refuse()  # what has only begun to arrive
    await asyncio.wait([stopping], timeout=limits.drain_timeout_s)
    give_up(Unavailable("the server has stopped"))
    await stopping
