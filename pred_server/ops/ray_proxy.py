"""What a gRPC proxy of Ray Serve does with a call beside handing it to a replica (`ops.ray_replica` is the other end).

A replica gets a copy of the call's context. It lacks the deadline, and nothing that the replica says in it arrives but
with a message, or with an error that has neither trailers nor initial metadata. So proxy and replica agree on this:

- The proxy writes the time that is left into the call's metadata, `TIME_LEFT`.
- A replica marks initial metadata with `INITIAL`. The proxy sends it ahead of the first message.
- A stream's last message is empty, which no `Response` is. It carries the trailers and the status, and goes no further.
- A call that ends without a word of the replica has lost it: that is UNAVAILABLE, so that it is asked again.

Serve runs `add_to_server` in each proxy, since its name stands in the option `grpc_servicer_functions`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio._server
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from pred_server.generated.pred_pb2 import DESCRIPTOR

SERVICE = DESCRIPTOR.services_by_name["Prediction"]
HEALTH_SERVICE = HEALTH.services_by_name["Health"].full_name
# Serve's own question, which applications this proxy has; an error where it takes no calls.
APPLICATIONS = "/ray.serve.RayServeAPIService/ListApplications"

# The variable of the environment that says where the servers of Ray's processes listen.
HOST = "PRED_SERVER_HOST"
TIME_LEFT = "pred-server-time-left-s"
INITIAL = "pred-server-initial-"
NOTHING = "nothing is served here yet, or no longer; ask again"
LOST = "the replica was lost before it had answered; ask again"
# What Serve says by itself in a sentence: too many calls wait, `request_timeout_s`, no replica can be had.
SERVES_OWN = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
# How often a watch of the health looks.
LOOK_S = 0.5

Context = Any  # grpc.aio.ServicerContext, whose published types lack half of its methods
Unary = Callable[[Any, Context], Awaitable[bytes]]
Stream = Callable[[Any, Context], AsyncIterator[bytes]]


def add_to_server(_: object, server: Any) -> None:
    """Add the contract and the health service to a proxy's server, which is ray's `gRPCGenericServer`."""
    server.add_generic_rpc_handlers((Rpcs(),))
    health = Health(server.generic_rpc_handlers[0][0]._method_handlers[APPLICATIONS].unary_unary)
    server.add_passthrough_service(HEALTH_SERVICE)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)


def keep_to_host() -> None:
    """Have the gRPC servers of this process listen on one address, which `HOST` of the environment says.

    Serve has no option for it: its servers listen on every address of the machine. Ray runs this in each of its
    processes as it starts (`worker_process_setup_hook`).
    """
    plain = grpc.aio._server.Server.add_insecure_port
    host = os.environ.get(HOST, "127.0.0.1")

    def add_insecure_port(self: grpc.aio._server.Server, address: str) -> int:
        return plain(self, address.replace("[::]:", f"[{host}]:" if ":" in host else f"{host}:"))

    vars(grpc.aio._server)["Server"].add_insecure_port = add_insecure_port


class Rpcs(grpc.GenericRpcHandler):
    """The rpcs of the contract. Their messages pass as bytes: a replica reads them, and may refuse them before.

    Serve looks for `_method_handlers`, and puts functions of its own there. `service` wraps these.
    """

    def __init__(self) -> None:
        self._method_handlers: dict[str, Any] = {
            f"/{SERVICE.full_name}/{method.name}": grpc.stream_stream_rpc_method_handler(None)  # type: ignore[arg-type]
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler(None)  # type: ignore[arg-type]
            for method in SERVICE.methods
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        if handler.response_streaming:
            return handler._replace(stream_stream=stream(handler.stream_stream))
        return handler._replace(unary_unary=unary(handler.unary_unary))


def unary(serve: Unary) -> Unary:
    """Return Serve's function for an rpc with what it lacks."""

    async def call(request: bytes, context: Context) -> bytes:
        ours = ProxyContext(context)
        reply = await serve(request, ours)
        await ours.end(is_answered=ours.has_heard)
        return reply

    return call


def stream(serve: Stream) -> Stream:
    """Return Serve's function for a stream with what it lacks."""

    async def call(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        ours, is_first, is_whole = ProxyContext(context), True, False
        async for message in serve(requests, ours):
            if not message:
                is_whole = True
                continue
            if is_first and ours.initial:
                await context.send_initial_metadata(ours.initial)
            is_first = False
            yield message
        await ours.end(is_answered=is_whole)

    return call


class ProxyContext:
    """A call's context as Serve is given it."""

    def __init__(self, context: Context):
        self._context = context
        self.initial: tuple[tuple[str, str], ...] = ()
        self.has_heard = False
        """Whether the replica has said anything."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        entries = [(key, value) for key, value in self._context.invocation_metadata() or () if key != TIME_LEFT]
        left_s = self._context.time_remaining()
        return entries if left_s is None else [*entries, (TIME_LEFT, f"{left_s:.6f}")]

    def set_trailing_metadata(self, entries: list[tuple[str, str | bytes]]) -> None:
        """Take what a replica says beside its message."""
        self.has_heard = True
        self.initial = tuple((key[len(INITIAL) :], str(value)) for key, value in entries if key.startswith(INITIAL))
        self._context.set_trailing_metadata([entry for entry in entries if not entry[0].startswith(INITIAL)])

    async def end(self, is_answered: bool) -> None:
        """Send the status where it is an error, and no message with it: after one, clients do not repeat a call."""
        code, details = status_of(self._context), self._context.details()
        if not is_answered and code not in SERVES_OWN:  # made up by Serve, and perhaps with a traceback
            names_application = any(key == "application" for key, _ in self._context.invocation_metadata() or ())
            if code != grpc.StatusCode.NOT_FOUND or not names_application:
                details = NOTHING if code == grpc.StatusCode.NOT_FOUND else LOST
                code = grpc.StatusCode.UNAVAILABLE
        if code != grpc.StatusCode.OK:
            await self._context.abort(code, details)


def status_of(context: Context) -> grpc.StatusCode:
    """Return the status that was set, OK where none was. gRPC keeps its number, or what was set."""
    code = context.code()
    return next((status for status in grpc.StatusCode if code in (status, status.value[0])), grpc.StatusCode.OK)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it has no types
    """The standard health service: SERVING while the proxy takes calls, and there is an application to take them.

    Parameters
    ----------
    applications : Serve's function for the rpc `APPLICATIONS`
    """

    def __init__(self, applications: Unary):
        self._applications = applications

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        status = await self._status(request.service, context)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing of that name is served here")
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> AsyncIterator[HealthCheckResponse]:
        """Yield the status now, and again when it changes."""
        said = None
        with suppress(asyncio.CancelledError):
            while True:
                if (status := await self._status(request.service, context)) != said:
                    yield HealthCheckResponse(status=status)
                said = status
                await asyncio.sleep(LOOK_S)

    async def _status(self, name: str, context: Context) -> Any:
        if name not in ("", SERVICE.full_name):
            return HealthCheckResponse.SERVICE_UNKNOWN
        names = await self._applications(None, answer := Answer(context))
        serves = bool(names) and answer.status == grpc.StatusCode.OK
        return HealthCheckResponse.SERVING if serves else HealthCheckResponse.NOT_SERVING


class Answer:
    """The context of a question that the proxy asks itself: the status stays here."""

    status = grpc.StatusCode.UNKNOWN

    def __init__(self, context: Context):
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def code(self) -> None:
        return None

    def details(self) -> str:
        return ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.status = code

    def set_details(self, details: str) -> None:
        pass
