"""`pred-server ray`: a Ray cluster on this machine, or one that runs already, with the application of `ops.ray_app`."""

import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pred_server.client.client import Client
from pred_server.errors import PredServerError, ServerStartError, clip
from pred_server.limits import MIB
from pred_server.ops.ray_proxy import HOST
from pred_server.store.loading import load
from pred_server.wire.address import Address, parse_address

SERVICER = "pred_server.ops.ray_proxy.add_to_server"
HOOK = "pred_server.ops.ray_proxy.keep_to_host"
# Ray reads these as it is imported, and its processes inherit them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nodes are at 127.0.0.1, which is Ray's way on those systems
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or each start warns that this will change
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # after 5 s, a busy machine would start proxies again and again
}
DESCRIBE_S = 60.0
REACH_S = 10.0
MOST_PATH_BYTES = 30  # of the folder for temporary files


def run(
    address: str,
    *,
    cluster: str = "",
    object_store_mib: int = 512,
    expose_to_network: bool = False,
    **settings: Any,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let the replicas finish the calls that they have.

    Parameters
    ----------
    address : HOST:PORT of the proxies; port 0 picks a free one, and the ready line on stdout says which
    cluster : HOST:PORT of a Ray cluster that runs; without it, one is started here, and ended with this process
    object_store_mib : how much shared memory a cluster of our own may take, for messages over 100 KB
    expose_to_network : whether the address may be one that others can reach
    settings : as `ops.ray_app.app` takes them

    Raises
    ------
    InvalidInput
        A setting is none, or Ray's proxies cannot have the address.
    ServerStartError
        The address is not a loopback address, or Ray or the application did not start.
    """
    there = parse_address(address)
    if not (expose_to_network or there.is_loopback):
        raise ServerStartError(
            f"{address} can be reached from the network, by anyone and without encryption; "
            "use 127.0.0.1, or say --expose-to-network if that is what you want"
        )
    there = there.with_port(there.port or free_port())
    os.environ.update(ENVIRONMENT)
    if not cluster:  # a token for this start: Ray's processes run any code for those who have it
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    with ExitStack() as stack:
        try:
            serve = _connect(cluster, settings, there, object_store_mib, stack)
            _deploy(serve, settings, there)
        except (PredServerError, ModuleNotFoundError):
            raise
        except Exception as error:  # Ray has many kinds
            raise ServerStartError(f"Ray did not start the application: {clip(str(error).strip(), 2_000)}") from None
        print(f"pred_server ready on {there} ({_described(there)})", flush=True)
        threading.Event().wait()


def _connect(cluster: str, settings: Mapping[str, Any], there: Address, object_store_mib: int, stack: ExitStack) -> Any:
    """Connect to a cluster, or start one. Returns the module `ray.serve`; the stack undoes it all."""
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)

    from pred_server.ops.ray_app import APPLICATION, limits_of, replicas

    most = replicas(settings.get("replicas", 1))[1]
    # As in `server.run`: up to here a message that is too large is refused in our words, beyond in gRPC's.
    most_bytes = str(2 * limits_of(settings).max_message_bytes)
    variables = {**ENVIRONMENT, HOST: there.host, "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": most_bytes}
    own: dict[str, Any] = {}
    if cluster:
        _check_reachable(cluster)
    else:
        for name in settings.get("model", ["flights"]):  # what is wrong with one is a sentence here
            load(name, settings.get("trust", []))
        own = {
            "num_cpus": most,  # a replica takes one
            "object_store_memory": object_store_mib * MIB,
            "include_dashboard": False,
            "_temp_dir": stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True)
            ),
            "_node_ip_address": "127.0.0.1",
        }
    ray.init(
        cluster or "local",
        namespace="serve",
        runtime_env={"env_vars": variables, "worker_process_setup_hook": HOOK},
        log_to_driver=False,
        logging_level="error",
        **own,
    )
    stack.callback(ray.shutdown)
    for number in (signal.SIGTERM, signal.SIGINT):  # in place of Ray's own
        signal.signal(number, _stop)
    if not cluster:
        stack.callback(serve.shutdown)
    stack.callback(_drain, serve, APPLICATION)
    return serve


def _drain(serve: Any, application: str) -> None:
    """Delete the application: proxies hand out no more calls, replicas finish theirs. Serve waits for a minute."""
    with suppress(TimeoutError):
        serve.delete(application)


def _check_reachable(cluster: str) -> None:
    """Raise ServerStartError where nobody listens: Ray would try for minutes."""
    there = parse_address(cluster)
    try:
        socket.create_connection((there.host, there.port), REACH_S).close()
    except OSError as error:
        raise ServerStartError(f"no Ray cluster answers at {cluster}: {error.strerror or error}") from None


def _short_folder() -> str | None:
    """Return where to put Ray's folder. The paths of its sockets may have 107 bytes, of which Ray needs some 75."""
    return None if len(tempfile.gettempdir().encode()) <= MOST_PATH_BYTES else "/tmp"


def _stop(*_: object) -> None:
    """End what the main thread does, to take all down; a second signal ends the process at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(1))
    raise SystemExit


def _deploy(serve: Any, settings: Mapping[str, Any], there: Address) -> None:
    """Start the proxies and the application, and wait until it serves."""
    from pred_server.ops.ray_app import APPLICATION, LOGGING, app

    models = [str(Path(name).resolve()) if Path(name).exists() else name for name in settings.get("model", ["flights"])]
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": "127.0.0.1", "port": free_port()},  # it cannot be left out
        grpc_options={"port": there.port, "grpc_servicer_functions": [SERVICER]},
        logging_config=LOGGING,
    )
    serve.run(app({**settings, "model": models}), name=APPLICATION)


def _described(there: Address) -> str:
    """Return what is served, as the ready line has it."""
    host = "127.0.0.1" if there.ip is not None and there.ip.is_unspecified else there.host
    with Client(str(Address(host, there.port)), timeout_s=DESCRIBE_S) as client:
        description = client.describe()
    return f"{', '.join(name.replace('/', ' v') for name in description.models)}, {description.engine}"


def free_port() -> int:
    """Return a port of this machine that is free now: Serve takes no port 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
