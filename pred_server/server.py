"""Build and run the server: bind, announce, wait for a signal, drain."""

import asyncio
import ipaddress
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from generated.pred_pb2_grpc import add_PredictionServicer_to_server
from pred_server.errors import ServerStartError, Unavailable
from pred_server.limits import Limits
from pred_server.model import Model
from pred_server.service import PredictionService
from pred_server.status import to_status

# How long connections stay open after the last answer. To close a socket while its peer still acknowledges what it has
# read resets the connection, and what the peer has not read yet is lost to it.
LINGER_S = 0.5


def run(models: Sequence[Model], address: str, limits: Limits, expose_to_network: bool = False) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the calls that were accepted. A second signal ends it at once.

    Parameters
    ----------
    models : the models to serve, at least one; the first answers calls that name none
    address : HOST:PORT; port 0 picks a free one, and the ready line on stdout says which

    Raises
    ------
    ServerStartError
        The address is malformed, taken, or not a loopback address.
    """
    asyncio.run(_run(models, address, limits, expose_to_network))


async def _run(models: Sequence[Model], address: str, limits: Limits, expose_to_network: bool) -> None:
    host = _host_of(address)
    if not (expose_to_network or _is_loopback(host)):
        raise ServerStartError(
            f"{address} can be reached from the network, by anyone and without encryption; "
            "use 127.0.0.1, or say --expose-to-network if that is what you want"
        )
    calls = CallsInFlight()
    server = grpc.aio.server(
        interceptors=(calls, TolerantDecoding()),
        options=(
            ("grpc.so_reuseport", 0),  # or a second server on the port would start and take half of the calls
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
        ),
    )
    add_PredictionServicer_to_server(PredictionService(models, limits), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ServerStartError(
            f"cannot listen on {address}: the port is taken, or the address is not this machine's; "
            "--address 127.0.0.1:0 picks a free one"
        ) from error

    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

    await server.start()
    served = ", ".join(f"{model.name} v{model.version}" for model in models)
    print(f"pred_server ready on {host}:{port} ({served}, sklearn)", flush=True)
    await stop.wait()
    await calls.drain(limits.drain_timeout_s)
    await server.stop(grace=None)


def _host_of(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ServerStartError(f"address {address!r}: write HOST:PORT, for example 127.0.0.1:50051")
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class CallsInFlight(grpc.aio.ServerInterceptor):
    """Counts the calls that were accepted and have no answer yet, so that the server can stop after the last."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()
        self._last_answer_s = -LINGER_S
        self._draining = False

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, and return when those that were accepted have their answers, or after `timeout_s`."""
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), timeout_s)
        await asyncio.sleep(max(0.0, self._last_answer_s + LINGER_S - time.monotonic()))

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None

        async def counted(request: Any, context: Any) -> Any:
            if self._draining:
                status = to_status(Unavailable("the server is stopping"))
                await context.abort(status.code, status.details)
            self._count += 1
            self._none.clear()
            context.add_done_callback(self._answered)
            return await handler.unary_unary(request, context)

        return handler._replace(unary_unary=counted)

    def _answered(self, _context: object) -> None:
        self._count -= 1
        self._last_answer_s = time.monotonic()
        if self._count == 0:
            self._none.set()


class TolerantDecoding(grpc.aio.ServerInterceptor):
    """Hands a message that cannot be decoded to the service as None; gRPC itself would answer UNKNOWN, and why."""

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or handler.request_deserializer is None:
            return handler

        def decode(data: bytes) -> Any:
            try:
                return handler.request_deserializer(data)
            except DecodeError:
                return None

        return handler._replace(request_deserializer=decode)
