"""Build and run the server: health, reflection, limits; bind, announce, wait for a signal, drain."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

import grpc
import pyarrow as pa
from grpc_health.v1 import health_pb2_grpc

from pred_server.errors import InvalidInput, ServerStartError
from pred_server.generated.pred_pb2 import DESCRIPTOR
from pred_server.guard.admission import Admission
from pred_server.guard.heap import keep_freed_memory
from pred_server.guard.watchdog import Watchdog
from pred_server.limits import Limits
from pred_server.model.model import Model
from pred_server.ops.drain import Arrivals, drain
from pred_server.ops.health import Health
from pred_server.ops.reflection import Reflection
from pred_server.ops.side_streams import SideStreams
from pred_server.server.logs import is_no_lost_caller, use_all_descriptors, watch_descriptors
from pred_server.server.service import SERVICE, PredictionService
from pred_server.wire.address import parse_address

# Calls whose headers have come and that wait for the event loop.
MAX_PENDING_CALLS = 100_000
# How long a thread may keep Python's lock while another waits for it.
SWITCH_S = 0.0005
# How long the end waits for the tasks of calls that are over.
LAST_S = 1.0


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
    keep_freed_memory()
    use_all_descriptors()
    logging.getLogger("grpc._cython.cygrpc").addFilter(is_no_lost_caller)
    # Libraries and models are some 200,000 objects that stay: a garbage collection that looked at them all would hold
    # the event loop up for 100 ms.
    gc.freeze()
    # The event loop needs Python's lock some ten times for a call. Threads that decode and compute would keep it from
    # the loop for 5 ms each time.
    sys.setswitchinterval(SWITCH_S)
    asyncio.run(_run(models, address, limits, expose_to_network, timing))


async def _run(models: Sequence[Model], address: str, limits: Limits, expose_to_network: bool, timing: bool) -> None:
    try:
        there = parse_address(address)
    except InvalidInput as error:
        raise ServerStartError(str(error)) from None
    if not (expose_to_network or there.is_loopback):
        raise ServerStartError(
            f"{address} can be reached from the network, by anyone and without encryption; "
            "use 127.0.0.1, or say --expose-to-network if that is what you want"
        )
    admission = Admission(limits)
    service = PredictionService(models, limits, admission, timing)
    watchdog = asyncio.create_task(Watchdog(admission, limits).run())
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),  # or a second server on the port would start and take half of the calls
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
    streams = SideStreams()
    names = ("", SERVICE, *(name for model in models for name in (model.name, f"{model.name}/{model.version}")))
    health = Health(names, streams)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_generic_rpc_handlers(tuple(Reflection((DESCRIPTOR, Health.contract), streams).handlers()))
    try:
        port = server.add_insecure_port(str(there))
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
    print(f"pred_server ready on {there.with_port(port)} ({served}, {models[0].engine.name})", flush=True)
    watching = asyncio.create_task(watch_descriptors())
    await stop.wait()
    await drain(server, arrivals, health, admission, service.give_up, limits)
    watching.cancel()
    watchdog.cancel()
    # gRPC has ended all calls, but its tasks may not know it yet. Cut off, they would fill the log with tracebacks.
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=LAST_S)
