"""What tests wait for, and with how much patience."""

import threading
import time
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pred_server import Client
from pred_server.errors import Cancelled, Unavailable
from pred_server.tutorial.background import Server


def comes_true(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    """Return whether a condition came true in time."""
    until_s, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        if time.monotonic() > until_s:
            return False
        pause.wait(0.02)
    return True


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fail, and name it, where it does not come true."""
    assert comes_true(condition), f"still waiting: {what}"


def refused(client: Client) -> bool:
    """Return whether a server takes no new call of a client that does not retry."""
    try:
        client.describe(timeout_s=30)
    except (Unavailable, Cancelled):  # gRPC cancels a call that arrives while it stops
        return True
    return False


def health(server: Server, name: str = "") -> str:
    """Return what a server's health service says of a service, or of the whole server."""
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        asked = health_pb2.HealthCheckRequest(service=name)
        status = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=30).status
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)
