"""The application that Ray Serve runs: our service as one deployment, with as many replicas as are asked for.

`pred-server ray` runs it (`ops.ray_cluster`), and so do `serve run` and `serve deploy`, with a file as docs/ray.yaml.
"""

import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa
from ray import serve

from pred_server.errors import InvalidInput
from pred_server.guard.heap import keep_freed_memory
from pred_server.limits import Limits
from pred_server.ops.ray_replica import Replica
from pred_server.server import logs
from pred_server.server.run import SWITCH_S

APPLICATION = "prediction"
# Calls are in our own log (`--log-level info`); Serve's would have each of them three times.
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
# How many calls in flight a replica should have, by which Serve adds replicas and takes them away.
TARGET_CALLS = 16
# What there is beside the limits: of the application, and of `Replica`.
SETTINGS = {
    "replicas", "target_calls", "model", "engine", "threads", "trust", "no_timing", "log_level", "log_format",
}  # fmt: skip


def app(settings: Mapping[str, Any]) -> serve.Application:
    """Return the application that Serve runs.

    Parameters
    ----------
    settings : `replicas`, a number, or a range as "1..8"; `target_calls`, for a range; and all that `Replica` takes

    Raises
    ------
    InvalidInput
        There is no setting of that name, or no number of replicas as is given.
    """
    own: dict[str, Any] = dict(settings)
    few, most = replicas(own.pop("replicas", 1))
    target, limits = own.pop("target_calls", TARGET_CALLS), limits_of(own)
    scale: dict[str, Any] = {"num_replicas": most}
    if few < most:
        bounds = {"min_replicas": few, "max_replicas": most, "target_ongoing_requests": target}
        scale = {"autoscaling_config": bounds}
    deployment = serve.deployment(
        OwnProcess,
        name="Replica",
        # A replica batches its calls by itself: the more it has, the better. Beyond, they wait in the proxy.
        max_ongoing_requests=limits.max_calls_in_flight,
        max_queued_requests=limits.max_calls_in_flight,
        graceful_shutdown_timeout_s=limits.drain_timeout_s,
        logging_config=LOGGING,
        **scale,
    )
    return deployment.bind(**own)


class OwnProcess(Replica):
    """A replica that has a process of its own, and sets it up as `server.run` does a server's."""

    def __init__(self, log_level: str = "warning", log_format: str = "text", **settings: Any):
        logs.set_up(log_level, log_format)
        pa.enable_signal_handlers(False)
        keep_freed_memory()
        sys.setswitchinterval(SWITCH_S)
        super().__init__(**settings)


def replicas(text: str | int) -> tuple[int, int]:
    """Return the least and the largest number of replicas. Raises InvalidInput."""
    few, dots, most = str(text).partition("..")
    counts = [int(count) for count in (few, most if dots else few) if count.isascii() and count.isdecimal()]
    if len(counts) < 2 or not 1 <= counts[0] <= counts[1] <= 1_000:
        raise InvalidInput(f"replicas is {text!r}; a number from 1 on is needed, or a range as 1..8")
    return counts[0], counts[1]


def limits_of(settings: Mapping[str, Any]) -> Limits:
    """Return the limits among the settings. Raises InvalidInput for a setting that is none, nor one of `Replica`."""
    names = {limit.name for limit in fields(Limits)}
    if unknown := set(settings) - names - SETTINGS:
        raise InvalidInput(f"there is no setting {', '.join(sorted(unknown))}")
    return Limits(**{name: value for name, value in settings.items() if name in names})
