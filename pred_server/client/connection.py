"""Channels to one server: every call has a deadline, and is repeated where that is safe."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from pred_server.errors import InvalidInput, Unavailable, clip
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.limits import Limits
from pred_server.wire.status import from_call

MAX_TIMEOUT_S = 1e6  # gRPC takes a longer timeout for none

# Predicting has no side effects, so asking again is safe. Four pauses, 7 seconds in all: time to start a server anew.
_RETRY = {
    "maxAttempts": 5,  # gRPC takes more than 5 for 5
    "initialBackoff": "0.25s",
    "backoffMultiplier": 3,
    "maxBackoff": "4s",
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = {"methodConfig": [{"name": [{"service": "prediction.Prediction"}], "retryPolicy": _RETRY}]}

Metadata = dict[str, str]


class Connection:
    """Sends messages, and returns replies with their metadata. Threads may share it.

    Parameters
    ----------
    metadata : goes with each call
    retry : whether gRPC repeats a call, for some seconds, when the server is unavailable
    channels : how many to open, and to use in turn
    """

    def __init__(self, target: str, metadata: Metadata, limits: Limits, retry: bool, channels: int):
        self._metadata = as_metadata(metadata)
        self._retry = retry
        self._channels = [grpc.insecure_channel(target, _options(limits, retry)) for _ in range(channels)]
        self._stubs = itertools.cycle([PredictionStub(channel) for channel in self._channels])

    def call(self, rpc: str, request: Any, metadata: Metadata, timeout_s: float) -> tuple[Any, Metadata]:
        """Make a unary call. Raises as `pred_server.errors` describes it."""
        deadline_s = time.monotonic() + min(timeout_s, MAX_TIMEOUT_S)
        while True:
            try:
                response, call = getattr(next(self._stubs), rpc).with_call(
                    request,
                    timeout=max(0.0, deadline_s - time.monotonic()),
                    metadata=(*self._metadata, *as_metadata(metadata)),
                )
                break
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                # gRPC does not repeat a call by itself once a part of the answer has come, be it the headers; these are
                # its words for a connection that is lost then.
                if not (self._retry and (error.details() or "").startswith("Stream removed")):
                    raise from_call(error) from None
            except ValueError as error:
                raise Unavailable("this client is closed") from error
        entries = (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ()))
        return response, {key: text for key, text in entries if isinstance(text, str)}

    def opener(self, metadata: Metadata, timeout_s: float) -> Callable[[Iterator[Request]], Any]:
        """Return a function that opens a stream for requests; all streams that it opens share one deadline."""
        deadline_s = time.monotonic() + min(timeout_s, MAX_TIMEOUT_S)
        entries = (*self._metadata, *as_metadata(metadata))

        def open_stream(requests: Iterator[Request]) -> Any:
            left_s = max(0.0, deadline_s - time.monotonic())
            try:
                return next(self._stubs).PredictStream(requests, timeout=left_s, metadata=entries)
            except ValueError as error:
                raise Unavailable("this client is closed") from error

        return open_stream

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


def as_metadata(entries: Metadata) -> tuple[tuple[str, str], ...]:
    """Return entries as gRPC takes them: plain ASCII. Raises InvalidInput."""
    for key, text in entries.items():
        if not (text.isascii() and text.isprintable()):
            raise InvalidInput(f"{key} {clip(text)!r}: plain ASCII is needed")
    return tuple(entries.items())


def _options(limits: Limits, retry: bool) -> list[tuple[str, Any]]:
    return [
        ("grpc.enable_http_proxy", 0),  # or a proxy from the environment would be asked even for 127.0.0.1
        ("grpc.use_local_subchannel_pool", 1),  # or the channels of one process would share a socket
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.enable_retries", int(retry)),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG if retry else {})),
        # By default, a request of over 256 KiB is not kept, and so not sent again, without a word.
        ("grpc.per_rpc_retry_buffer_size", limits.max_message_bytes),
        # A server that comes back is found within a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 800),
    ]
