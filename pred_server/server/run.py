"""Build and run the server: health, reflection, limits; bind, announce, wait for a signal, drain."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import pyarrow as pa
import uvloop
from grpc_health.v1 import health_pb2_grpc

from pred_server.errors import InvalidInput, ServerStartError
from pred_server.generated.pred_pb2 import DESCRIPTOR
from pred_server.guard.admission import Admission
from pred_server.guard.heap import keep_freed_memory
from pred_server.guard.refusals import UnknownMethods
from pred_server.guard.watchdog import Watchdog
from pred_server.limits import Limits
from pred_server.model.model import Model
from pred_server.ops.counts import Calls
from pred_server.ops.drain import Arrivals, drain
from pred_server.ops.health import Health
from pred_server.ops.reflection import Reflection
from pred_server.ops.reload import Reloader, Source
from pred_server.ops.security import Access, Security
from pred_server.ops.side_streams import SideStreams
from pred_server.ops.signals import address_from_supervisor, follow_supervisor, on_hangup
from pred_server.ops.socket_file import OWNER_ONLY, socket_file
from pred_server.ops.workers import warn_of_sharing
from pred_server.server.logs import use_all_descriptors, watch_descriptors
from pred_server.server.service import SERVICE, PredictionService
from pred_server.wire.address import Address, parse_address

# Calls whose headers have come and that wait for the event loop.
MAX_PENDING_CALLS = 100_000
# How long a thread may keep Python's lock while another waits for it.
SWITCH_S = 0.0005
# How long the end waits for the tasks of calls that are over.
LAST_S = 1.0
NO_SECURITY = Security()


@dataclass(frozen=True)
class Operation:
    """What the room `ops` adds to a server."""

    sources: Sequence[Source] = ()
    """Where the models come from: they are read anew at SIGHUP."""
    reload: bool = False
    """Whether they are read anew also when their files change."""
    reuse_port: bool = False
    """Whether other processes may listen on the port, too."""
    as_worker: bool = False
    """Whether a supervisor started this process, says at which address to serve, and stops it."""
    security: Security = NO_SECURITY
    """What keeps strangers out."""
    reflection: bool = True
    """Whether the server tells its contract to tools."""
    metrics: str | None = None
    """HOST:PORT at which Prometheus may read what happens; by default nowhere. A worker adds its place to the port."""
    socket_mode: int = OWNER_ONLY
    """The permissions of the file of unix:/PATH."""


def run(
    models: list[Model],
    address: str,
    limits: Limits,
    operation: Operation = Operation(),
    *,
    expose_to_network: bool = False,
    timing: bool = True,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the calls that were accepted. A second signal ends it at once.

    Parameters
    ----------
    models : the models to serve, at least one; the first answers calls that name none. The list holds what is served
        now: nothing else may keep a model that was replaced
    address : HOST:PORT, or unix:/PATH; port 0 picks a free one, and the ready line on stdout says which
    expose_to_network : whether it may be an address that others can reach, also where no `Security` keeps them out
    timing : whether replies carry `server-timing`
    socket_mode : the permissions of the file of unix:/PATH

    Raises
    ------
    ServerStartError
        The address is malformed, taken, or not a loopback address; or two models have one name and version; or a file
        of `operation.security` cannot be used.
    """
    labels = [f"{model.name}/{model.version}" for model in models]
    if len(set(labels)) < len(labels):
        raise ServerStartError(f"two models have one name and version: {', '.join(labels)}")
    # pyarrow would take a signal that comes while it reads CSV for itself: the call would fail, and the stop be missed.
    pa.enable_signal_handlers(False)
    keep_freed_memory()
    use_all_descriptors()
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_no_lost_caller)
    # Libraries and models are some 200,000 objects that stay: a garbage collection that looked at them all would hold
    # the event loop up for 100 ms.
    gc.freeze()
    # The event loop needs Python's lock some ten times for a call. Threads that decode and compute would keep it from
    # the loop for 5 ms each time.
    sys.setswitchinterval(SWITCH_S)
    uvloop.run(_run(models, address, limits, operation, expose_to_network, timing))


async def _run(
    models: list[Model],
    address: str,
    limits: Limits,
    operation: Operation,
    expose_to_network: bool,
    timing: bool,
) -> None:
    admission = Admission(limits)
    guard = Watchdog(admission, limits)
    streams = SideStreams()
    health = Health(_names(models), streams)
    reloader = Reloader(models, operation.sources, lambda _: health.serve(_names(models)), guard.expect)
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    loop = asyncio.get_running_loop()
    on_hangup(loop, on_signal, reloader.ask)
    reloading = asyncio.create_task(reloader.run(operation.reload))
    place = 0
    if operation.as_worker:
        # While it waits it reads models anew as the others do, so that it has what they have.
        address, place = await address_from_supervisor()
        if not address:
            return
        await reloader.look()  # or files may have changed before it began
    there = _address(address)
    if not (expose_to_network or there.is_loopback or operation.security.is_enough):
        raise ServerStartError(
            f"{address} can be reached from the network, by anyone and without encryption; "
            "use 127.0.0.1, or say --expose-to-network if that is what you want; or serve with --tls-cert, --tls-key, "
            "and --token-file or --tls-client-ca"
        )
    calls = Calls()
    access = Access(operation.security, admission.refusals, calls.refused)
    service = PredictionService(models, limits, admission, timing, calls.observe if operation.metrics else None)
    watchdog = asyncio.create_task(guard.run())
    if operation.reuse_port and not operation.as_worker:
        warn_of_sharing()
    server = grpc.aio.server(
        interceptors=access.interceptors,
        options=(
            # Or a second server on the port would start and take half of the calls.
            ("grpc.so_reuseport", int(operation.reuse_port)),
            # Up to here a message that is too large is refused in our words, which name the flag; beyond, in gRPC's.
            ("grpc.max_receive_message_length", 2 * limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
            # gRPC by itself drops calls without a word where a thousand have come that nobody has looked at.
            ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
            ("grpc.max_concurrent_streams", limits.max_streams_per_connection),
            ("grpc.keepalive_time_ms", round(1_000 * limits.keepalive_s)),
            ("grpc.max_connection_idle_ms", round(1_000 * limits.max_connection_idle_s)),
            ("grpc.max_connection_age_ms", round(1_000 * limits.max_connection_age_s)),
            # Clients and balancers may ask as often as they like whether we are there.
            ("grpc.http2.max_ping_strikes", 0),
        ),
    )
    arrivals = Arrivals(service.handlers())
    server.add_generic_rpc_handlers((arrivals,))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if operation.reflection:
        server.add_generic_rpc_handlers(tuple(Reflection((DESCRIPTOR, Health.contract), streams).handlers()))
    server.add_generic_rpc_handlers((UnknownMethods(admission.refusals),))
    try:
        with socket_file(there.path, operation.socket_mode):
            port = access.add_port(server, str(there))
    except RuntimeError as error:
        raise ServerStartError(
            f"cannot listen on {address}: the port is taken, or the address is not this machine's; "
            "--address 127.0.0.1:0 picks a free one"
        ) from error
    if operation.metrics:
        from pred_server.ops.metrics import Metrics, publish

        where = _address(operation.metrics)
        if not (expose_to_network or where.is_loopback):
            raise ServerStartError(
                f"--metrics {where}: anyone in the network could read it, since it is neither encrypted nor closed; "
                "use 127.0.0.1, or say --expose-to-network if that is what you want"
            )
        told = Metrics(calls, limits, admission, access, service, operation.sources)
        print(f"metrics on http://{publish(told, where, place)}/metrics", flush=True)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    if operation.as_worker:
        follow_supervisor(loop, on_signal)

    await server.start()
    served = ", ".join(f"{model.name} v{model.version}" for model in models)
    print(f"pred_server ready on {there.with_port(port)} ({served}, {models[0].engine.name})", flush=True)
    watching = [asyncio.create_task(look) for look in (watch_descriptors(), access.watch())]
    await stop.wait()
    await drain(server, arrivals, health, admission, service.give_up, limits)
    for task in (*watching, watchdog, reloading):
        task.cancel()
    # gRPC has ended all calls, but its tasks may not know it yet. Cut off, they would fill the log with tracebacks.
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=LAST_S)


def _names(models: Sequence[Model]) -> list[str]:
    """Return what health may be asked for: the whole server, its service, and each model with and without version."""
    return ["", SERVICE, *(name for model in models for name in (model.name, f"{model.name}/{model.version}"))]


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except InvalidInput as error:
        raise ServerStartError(str(error)) from None


def _is_no_lost_caller(record: logging.LogRecord) -> bool:
    """Whether a line of gRPC's log is none of a caller who left before the answer: those have a traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))
