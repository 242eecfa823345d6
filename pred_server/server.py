"""Build and run the server: bind, announce, wait for a signal, drain."""

import asyncio
import ipaddress
import os
import signal
from collections.abc import Sequence

import grpc

from generated.pred_pb2_grpc import add_PredictionServicer_to_server
from pred_server.errors import ServerStartError
from pred_server.limits import Limits
from pred_server.model import Model
from pred_server.service import PredictionService, TolerantDecoding


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
    server = grpc.aio.server(
        interceptors=(TolerantDecoding(),),
        options=(
            ("grpc.so_reuseport", 0),  # or a second server on the port would start and take half of the calls
            ("grpc.max_receive_message_length", limits.max_message_bytes),
            ("grpc.max_send_message_length", limits.max_message_bytes),
        ),
    )
    service = PredictionService(models, limits)
    add_PredictionServicer_to_server(service, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ServerStartError(f"cannot listen on {address}: the port is taken, or the address is not ours") from error

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
    await service.drain(limits.drain_timeout_s)
    await server.stop(grace=None)


def _host_of(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) <= 65535):
        raise ServerStartError(f"address {address!r}: write HOST:PORT, for example 127.0.0.1:50051")
    return host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
