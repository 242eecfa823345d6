"""Channels to one server, or to several: every call has a deadline, and is repeated where that is safe."""

import itertools
import json
import math
import numbers
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from pred_server.client.security import TLS, authorization
from pred_server.errors import DeadlineExceeded, InvalidInput, PredServerError, Unavailable, clip
from pred_server.generated.pred_pb2 import Response
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.limits import Limits
from pred_server.wire.address import parse_target
from pred_server.wire.status import from_call

MAX_TIMEOUT_S = 1e6  # gRPC takes a longer timeout for none

# After so long without an acknowledgement of what was sent, a connection is given up, and the next call opens another.
# The kernel by itself would try for a quarter of an hour. (It is the socket's TCP_USER_TIMEOUT, which Linux has.)
DARK_PATH_MS = 10_000
# gRPC sets that timeout where it may ping. But no ping is ever due: servers close connections that ping often.
NEVER_MS = 48 * 3_600_000

# Predicting has no side effects, so asking again is safe. Four pauses, 7 seconds in all: time to start a server anew.
_RETRY = {
    "maxAttempts": 5,  # gRPC takes more than 5 for 5
    "initialBackoff": "0.25s",
    "backoffMultiplier": 3,
    "maxBackoff": "4s",
    # CANCELLED, sent by a server: a call that its gRPC dropped unseen as it stopped. A caller who cancels is obeyed.
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
# Not streams: where gRPC repeats one, a message that is being sent may be lost, or the process ends ("ILLEGAL STATE" in
# grpcio 1.85). `RequestStream` repeats them.
_REPEATED = [{"service": "prediction.Prediction", "method": method} for method in ("Predict", "Describe")]
_RETRYING = {"methodConfig": [{"name": _REPEATED, "retryPolicy": _RETRY}]}
CLOSED = "this client is closed"
# Calls go to all servers in turn, but to none whose health says that it does not serve.
_BALANCING = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}

Metadata = dict[str, str]


class Stub(PredictionStub):
    """The generated stub, but for requests: it takes them serialized."""

    def __init__(self, channel: grpc.Channel):
        super().__init__(channel)
        self.Predict = channel.unary_unary("/prediction.Prediction/Predict", None, Response.FromString)
        self.PredictStream = channel.stream_stream("/prediction.Prediction/PredictStream", None, Response.FromString)


class Connection:
    """Sends messages, and returns replies with their metadata. Threads may share it, and forked processes.

    Parameters
    ----------
    target : as `wire.address.parse_target` takes it
    metadata : goes with each call
    retry : whether gRPC repeats a call, for some seconds, when the server is unavailable
    channels : how many to open, and to use in turn
    tls, token : as `Client` takes them
    """

    def __init__(
        self,
        target: str,
        metadata: Metadata,
        limits: Limits,
        retry: bool,
        channels: int,
        tls: TLS | bool | str | Path | None = None,
        token: str | Path | None = None,
    ):
        self._metadata = as_metadata(metadata)
        self.retry = retry
        self._target, several = parse_target(target)
        tls = TLS.of(tls)
        self._authorization = authorization(token, target, tls)
        self._settings = _options(limits, retry, several)
        self._credentials = None
        if tls:
            self._credentials = tls.credentials()
            self._settings += tls.options("," in self._target)
        self._count = channels
        self._inherited: list[Any] = []
        self._open()

    def _open(self) -> None:
        channels = [self._channel() for _ in range(self._count)]
        self._channels = {Stub(channel): channel for channel in channels}
        self._stubs = itertools.cycle(self._channels)
        self._pid = os.getpid()

    def _channel(self) -> grpc.Channel:
        if self._credentials:
            return grpc.secure_channel(self._target, self._credentials, self._settings)
        return grpc.insecure_channel(self._target, self._settings)

    def next_stub(self) -> Stub:
        """Return the stub whose turn it is. In a forked process it is a new one.

        There the parent's would wait for threads that were not forked; to destroy it would, too, so it is kept.
        """
        if self._pid != os.getpid():
            self._inherited.append(self._channels)
            self._open()
        return next(self._stubs)

    def entries(self, metadata: Metadata) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call as gRPC takes it, with that of each call. Raises InvalidInput."""
        return (*self._metadata, *self._authorization(), *as_metadata(metadata))

    def call(self, rpc: str, request: Any, metadata: Metadata, timeout_s: float) -> tuple[Any, Metadata]:
        """Make a unary call. Raises as `pred_server.errors` describes it."""
        deadline_s = deadline_in(timeout_s)
        entries = self.entries(metadata)
        while True:
            stub = self.next_stub()
            try:
                left_s = max(0.0, deadline_s - time.monotonic())
                response, call = getattr(stub, rpc).with_call(request, timeout=left_s, metadata=entries)
                break
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                # gRPC does not repeat a call by itself once a part of the answer has come, be it the headers; these are
                # its words for a connection that is lost then.
                if not (self.retry and (error.details() or "").startswith("Stream removed")):
                    raise self.error_of(error, stub, timeout_s, deadline_s) from None
            except ValueError as error:
                raise Unavailable(CLOSED) from error
        received = (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ()))
        return response, {key: text for key, text in received if isinstance(text, str)}

    def error_of(self, call: grpc.Call, stub: Stub, timeout_s: float, deadline_s: float) -> PredServerError:
        """Return the error of a failed call. A deadline says whose it was, and whether the server was reached."""
        error, is_late = from_call(call), time.monotonic() >= deadline_s  # a server may be first to notice
        if isinstance(error, DeadlineExceeded) and (is_late or call.details() == "Deadline Exceeded"):
            why = _unreached(self._channels[stub])
            return DeadlineExceeded(f"no answer within {timeout_s:.3g} s, the caller's deadline{why}")
        return error

    def close(self) -> None:
        if self._pid == os.getpid():
            for channel in self._channels.values():
                channel.close()


class StreamOpener:
    """Opens a stream for requests, and opens it again: all under one deadline, each with the metadata of the moment.

    `retry` says whether to open it again where a server was unavailable and nothing has been answered.
    """

    def __init__(self, connection: Connection, metadata: Callable[[], Metadata], timeout_s: float):
        self.retry = connection.retry
        self._connection = connection
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._deadline_s = deadline_in(timeout_s)

    def left_s(self) -> float:
        """Return how many seconds are left: some, so that a call can say that there are none."""
        return max(1e-3, self._deadline_s - time.monotonic())

    def __call__(self, requests: Iterator[bytes], pause_s: float) -> Any:
        """Open the stream, after a pause."""
        time.sleep(min(pause_s, self.left_s()))
        self._stub = self._connection.next_stub()
        metadata = self._connection.entries(self._metadata())
        try:
            return self._stub.PredictStream(requests, timeout=self.left_s(), metadata=metadata)
        except ValueError as error:
            raise Unavailable(CLOSED) from error

    def error_of(self, call: grpc.Call) -> PredServerError:
        return self._connection.error_of(call, self._stub, self._timeout_s, self._deadline_s)


def deadline_in(timeout_s: float) -> float:
    """Return the moment, on the clock of time.monotonic, that is so many seconds away."""
    return time.monotonic() + min(timeout_s, MAX_TIMEOUT_S)


def check_timeout(timeout_s: object) -> float:
    """Return a deadline in seconds as it is. Raises InvalidInput where it is none."""
    seconds = float(timeout_s) if isinstance(timeout_s, numbers.Real) and not isinstance(timeout_s, bool) else math.nan
    if not seconds > 0:
        raise InvalidInput(f"timeout_s is {clip(repr(timeout_s))}; a number of seconds above 0 is needed")
    return seconds


def asking_for(output: str) -> Metadata:
    """Return the metadata of a call that asks for labels or probabilities."""
    return {} if output == "labels" else {"output": output}


def as_metadata(entries: Metadata) -> tuple[tuple[str, str], ...]:
    """Return entries as gRPC takes them: plain ASCII. Raises InvalidInput."""
    for key, text in entries.items():
        if not isinstance(text, str):
            raise InvalidInput(f"{key} is {clip(repr(text))}; text is needed")
        if not (text.isascii() and text.isprintable()):
            raise InvalidInput(f"{key} {clip(text)!r}: plain ASCII is needed")
    return tuple(entries.items())


def _unreached(channel: Any) -> str:
    """Return why a channel has no connection, for the end of a sentence; nothing where it has one."""
    try:
        # gRPC's public way to ask, `subscribe`, starts a thread that may keep the interpreter from its end.
        state = channel._channel.check_connectivity_state(False)
        if state == grpc.ChannelConnectivity.READY.value[0]:
            return ""
        # It fails by itself without a connection, and at once where the last attempt failed: nothing repeats this call.
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=0.05)
    except grpc.RpcError as error:
        reason = from_call(error)  # type: ignore[arg-type]
        return f": {reason}" if isinstance(reason, Unavailable) else ": no connection to the server could be made"
    except (AttributeError, ValueError):  # another release of gRPC, or a channel that was closed meanwhile
        return ""
    return ": the server was reached too late"


def _options(limits: Limits, retry: bool, several: bool) -> list[tuple[str, Any]]:
    service_config = (_RETRYING if retry else {}) | (_BALANCING if several else {})
    return [
        ("grpc.enable_http_proxy", 0),  # or a proxy from the environment would be asked even for 127.0.0.1
        ("grpc.use_local_subchannel_pool", 1),  # or the channels of one process would share a socket
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.enable_retries", int(retry)),
        ("grpc.service_config", json.dumps(service_config)),
        ("grpc.service_config_disable_resolution", 1),  # the name service gives addresses, and nothing else
        # By default, a request of over 256 KiB is not kept, and so not sent again, without a word.
        ("grpc.per_rpc_retry_buffer_size", limits.max_message_bytes),
        # A server that comes back is found within a second.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 800),
        ("grpc.keepalive_time_ms", NEVER_MS),
        ("grpc.keepalive_timeout_ms", DARK_PATH_MS),
    ]
