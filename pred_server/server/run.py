"""Build and run the server: health, reflection, limits; bind, announce, wait for a signal, drain."""

import asyncio
import ctypes
import gc
import ipaddress
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import pyarrow as pa
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from pred_server.errors import LimitExceeded, PredServerError, ServerStartError, Unavailable
from pred_server.generated.pred_pb2 import DESCRIPTOR
from pred_server.generated.pred_pb2_grpc import add_PredictionServicer_to_server
from pred_server.limits import MIB, Limits, flag
from pred_server.model.model import Model
from pred_server.server.service import CHUNKS_AHEAD, PredictionService, Received
from pred_server.wire.status import to_status

# How long connections stay open after the last answer. To close a socket while its peer still acknowledges what it has
# read resets the connection, and what the peer has not read yet is lost to it.
LINGER_S = 0.5

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

# Messages up to here are taken without a look at the bytes that others hold: calls are counted as well.
SMALL_BYTES = 1024

logger = logging.getLogger(__name__)

SERVICE = DESCRIPTOR.services_by_name["Prediction"].full_name


def run(
    models: Sequence[Model], address: str, limits: Limits, *, expose_to_network: bool = False, timing: bool = True
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the calls that were accepted. A second signal ends it at once.

    Parameters
    ----------
    models : the models to serve, at least one; the first answers calls that name none
    address : HOST:PORT; port 0 picks a free one, and the ready line on stdout says which
    timing : whether replies carry `server-timing`

    Raises
    ------
    ServerStartError
        The address is malformed, taken, or not a loopback address; or two models have one name and version.
    """
    labels = [f"{model.name}/{model.version}" for model in models]
    if len(set(labels)) < len(labels):
        raise ServerStartError(f"two models have one name and version: {', '.join(labels)}")
    # pyarrow would take a signal that comes while it reads CSV for itself: the call would fail, and the stop be missed.
    pa.enable_signal_handlers(False)
    _keep_freed_memory()
    # Libraries and models are some 200,000 objects that stay: a garbage collection that looked at them all would hold
    # the event loop up for 100 ms.
    gc.freeze()
    asyncio.run(_run(models, address, limits, expose_to_network, timing))


async def _run(models: Sequence[Model], address: str, limits: Limits, expose_to_network: bool, timing: bool) -> None:
    host = _host_of(address)
    if not (expose_to_network or _is_loopback(host)):
        raise ServerStartError(
            f"{address} can be reached from the network, by anyone and without encryption; "
            "use 127.0.0.1, or say --expose-to-network if that is what you want"
        )
    calls = CallsInFlight(limits)
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),  # or a second server on the port would start and take half of the calls
            # Up to here a message that is too large is refused in our words, which name the flag; beyond, in gRPC's.
            ("grpc.max_receive_message_length", 2 * limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
        ),
    )
    handlers = Handlers(limits, calls)
    service = PredictionService(models, limits, calls.__len__, timing)
    add_PredictionServicer_to_server(service, handlers)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers.guarded()),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
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

    for name in ("", SERVICE, *(name for each in models for name in (each.name, f"{each.name}/{each.version}"))):
        await healthy.set(name, HealthCheckResponse.SERVING)
    await server.start()
    served = ", ".join(f"{model.name} v{model.version}" for model in models)
    print(f"pred_server ready on {host}:{port} ({served}, {models[0].engine_name})", flush=True)
    await stop.wait()
    await healthy.enter_graceful_shutdown()  # NOT_SERVING, so that balancers look elsewhere
    await calls.drain(limits.drain_timeout_s)
    service.predictor.give_up(Unavailable("the server has stopped"))  # what took longer than the drain
    await calls.drain(LINGER_S)
    await server.stop(grace=None)


def _keep_freed_memory() -> None:
    """Have malloc keep what a chunk of a stream took for the next: the kernel would clear each page anew."""
    with suppress(AttributeError, OSError):  # glibc has it, others do not
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 8 * MIB)
        mallopt(M_TRIM_THRESHOLD, 64 * MIB)


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


class CallsInFlight:
    """Counts the calls that were accepted and have no answer yet: refuses those over the limit, and awaits the last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: set[_Held] = set()
        self._none = asyncio.Event()
        self._none.set()
        self._last_answer_s = -LINGER_S
        self._draining = False

    def __len__(self) -> int:
        return len(self._held)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, and return when those that were accepted have their answers, or after `timeout_s`."""
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), timeout_s)
        await asyncio.sleep(max(0.0, self._last_answer_s + LINGER_S - time.monotonic()))

    def count(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """The same handler of calls, counted and kept within the limits."""

        async def counted(request: Any, context: Any) -> Any:
            is_message = isinstance(request, Received)
            held = _Held(len(request.data) if is_message else 0)
            if refusal := self._refusal(held):
                logger.info("refused code=%s: %s", refusal.code, refusal)
                status = to_status(refusal)
                await context.abort(status.code, status.details, status.trailing_metadata)
            self._held.add(held)
            self._none.clear()
            context.add_done_callback(lambda _: self._answered(held))
            return await behaviour(request if is_message else self._chunks(held, request), context)

        return counted

    async def _chunks(self, held: "_Held", requests: AsyncIterator[Received]) -> AsyncIterator[Received]:
        async for request in requests:
            n_bytes = (CHUNKS_AHEAD + 2) * len(request.data)
            if n_bytes > held.n_bytes:
                held.n_bytes = n_bytes
                if refusal := self._too_many_bytes(held):
                    raise refusal
            yield request

    def _refusal(self, held: "_Held") -> PredServerError | None:
        if self._draining:
            return Unavailable("the server is stopping")
        limits = self._limits
        if len(self._held) >= limits.max_calls_in_flight:
            message = "as many calls are in flight as may be; come back later"
            return LimitExceeded(message, "OVERLOADED", limits.max_calls_in_flight, flag("max_calls_in_flight"))
        return self._too_many_bytes(held)

    def _too_many_bytes(self, held: "_Held") -> PredServerError | None:
        if held.n_bytes <= SMALL_BYTES:
            return None
        limit = self._limits.max_bytes_in_flight
        others = sum(each.n_bytes for each in self._held if each is not held)
        if others and others + held.n_bytes > limit:
            message = f"messages of {others:,} bytes are in flight; come back later"
            return LimitExceeded(message, "OVERLOADED", limit, flag("max_bytes_in_flight"))
        return None

    def _answered(self, held: "_Held") -> None:
        self._held.discard(held)
        self._last_answer_s = time.monotonic()
        if not self._held:
            self._none.set()


@dataclass(eq=False)
class _Held:
    """What a call in flight keeps in memory: its message, or the largest chunk so far for as many as may be ahead."""

    n_bytes: int


class Handlers:
    """What protoc's `add_..._to_server` takes for a server, to have its handlers guarded before they are added to one.

    Interceptors could do the same, at the price of some tenths of a millisecond in each call.
    """

    def __init__(self, limits: Limits, calls: CallsInFlight):
        self._limits = limits
        self._calls = calls
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: the same come by name."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def guarded(self) -> dict[str, Any]:
        """The handlers with counted calls, and with messages as `Received`."""
        found: dict[str, Any] = {}
        for name, handler in self._handlers.items():
            kind = "stream_stream" if handler.request_streaming else "unary_unary"
            counted = {kind: self._calls.count(getattr(handler, kind))}
            read = self._reader(handler.request_deserializer)
            found[name] = handler._replace(request_deserializer=read, **counted)
        return found

    def _reader(self, parse: Callable[[bytes], Any]) -> Callable[[bytes], Received]:
        limit = self._limits.max_message_bytes

        def read(data: bytes) -> Received:
            return Received(data, parse) if len(data) <= limit else Received(b"", parse, too_large=len(data))

        return read
