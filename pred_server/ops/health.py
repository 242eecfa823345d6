"""The health service: balancers, orchestrators and the gateway ask it, or watch it, and look elsewhere in time.

grpcio-health-checking has the messages. Of its servicer's watchers of one name, all hear no more once one has left.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR, HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from pred_server.ops.side_streams import SideStreams


class Health(HealthServicer):  # type: ignore[misc] # it has no types
    """Says of each name that it serves; from `stop` on, that it does not.

    Parameters
    ----------
    names : the services and models; the empty name stands for the whole server
    streams : bounds how many watches a connection has
    """

    contract = DESCRIPTOR

    def __init__(self, names: Iterable[str], streams: SideStreams):
        self._names = frozenset(names)
        self._streams = streams
        self._status = HealthCheckResponse.SERVING
        self._stopping = asyncio.Event()
        self._left = asyncio.Event()

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name is served here")
        return self._answer(request)

    async def Watch(self, request: HealthCheckRequest, context: Any) -> AsyncIterator[HealthCheckResponse]:
        """Yield the status now, and again when it changes; end when the server leaves."""
        async with self._streams.open(context):
            said = self._answer(request)
            yield said
            await self._stopping.wait()
            if (now := self._answer(request)) != said:
                yield now
            await self._left.wait()

    def stop(self) -> None:
        """Say from now on that nothing is served, to watchers at once."""
        self._status = HealthCheckResponse.NOT_SERVING
        self._stopping.set()

    def leave(self) -> None:
        """End the watches: the server would wait for them as for any other call."""
        self._left.set()

    def _answer(self, request: HealthCheckRequest) -> HealthCheckResponse:
        known = request.service in self._names
        return HealthCheckResponse(status=self._status if known else HealthCheckResponse.SERVICE_UNKNOWN)
