"""Ask a server for predictions: a table in, a pandas Series out."""

import itertools
import json
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Self
from urllib.parse import unquote

import grpc
import numpy as np
import pandas as pd

from pred_server.client.results import Description, Predictions, Probabilities
from pred_server.client.stream import RequestStream
from pred_server.errors import InvalidInput, LimitExceeded, PredServerError, RemoteError, ServerFault, Unavailable, clip
from pred_server.generated.pred_pb2 import DescribeRequest, Request, Response
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.limits import MIB, Limits, flag
from pred_server.model.sklearn_engine import ROW_BLOCK
from pred_server.wire.codec import CODECS
from pred_server.wire.status import from_call
from pred_server.wire.tables import Table, as_table, count_bytes, cut, to_frame
from pred_server.wire.timing import Stopwatch, Waterfall

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_STREAM_TIMEOUT_S = 3_600.0
MAX_TIMEOUT_S = 1e6  # gRPC takes more for none

# Above this size `predict` sends a table as a stream.
STREAM_BYTES = MIB
# In chunks of about this size: larger ones carry more (`bench --varies chunks`), and the first predictions come later.
CHUNK_BYTES = MIB
# Up to so many rows a table of mixed types is cheaper as columns than as Arrow.
FEW_ROWS = 64

# Predicting has no side effects, so asking again is safe. Four pauses, 7 seconds in all: time to start a server anew.
_RETRY = {
    "maxAttempts": 5,  # more than 5, gRPC takes for 5
    "initialBackoff": "0.25s",
    "backoffMultiplier": 3,
    "maxBackoff": "4s",
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = {"methodConfig": [{"name": [{"service": "prediction.Prediction"}], "retryPolicy": _RETRY}]}

Metadata = dict[str, str]


class Client:
    """A connection to a prediction server; keep one and use it for every call. It may be shared by threads.

    Parameters
    ----------
    target : HOST:PORT of this project's server, or of any that speaks the contract (the article's, say)
    timeout_s : deadline of each call in seconds, unless the call gives its own
    model, version : the model to ask for; without them, the server's first
    encoding : how tables travel unless the call says otherwise: csv, columns, tensor, arrow; or auto, which asks the
        server what it takes and chooses by the table's types and size
    retry : whether gRPC asks again, for some seconds, when the server is unavailable
    connections : how many connections to open and to use in turn
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        model: str | None = None,
        version: str | None = None,
        encoding: str = "auto",
        retry: bool = True,
        connections: int = 1,
        limits: Limits = Limits(),
    ):
        self.target = target
        self.timeout_s = timeout_s
        self.encoding = _known_encoding(encoding)
        if connections < 1:
            raise InvalidInput(f"connections is {connections}; at least one is needed")
        self._limits = limits
        self._retry = retry
        asked = (("model-name", model), ("model-version", version))
        self._metadata = tuple(_ascii(key, value) for key, value in asked if value is not None)
        self._channels = [grpc.insecure_channel(target, _channel_options(limits, retry)) for _ in range(connections)]
        self._stubs = [PredictionStub(channel) for channel in self._channels]
        self._turn = itertools.count()
        self._description: Description | None = None
        self._tells = True

    def predict(
        self,
        table: Table,
        *,
        encoding: str | None = None,
        output: str = "labels",
        stream: bool | None = None,
        resume: bool = False,
        timeout_s: float | None = None,
    ) -> Any:
        """Return one prediction for each row, with the table's index, named after the model's target.

        Parameters
        ----------
        table : DataFrame, Arrow table or array of shape (n_rows, n_columns), n_rows >= 1; columns in any order, but an
            array's in the model's
        encoding : as for the client
        output : "labels", or "probabilities" of a classifier
        stream : whether to send it in chunks; by default, if it is larger than `STREAM_BYTES`
        resume : whether a stream that breaks goes on from there once the server is back
        timeout_s : deadline in seconds of this call

        Returns
        -------
        Predictions, a Series of shape (n_rows,); or Probabilities, a DataFrame of shape (n_rows, n_classes)

        Raises
        ------
        InvalidInput, ModelNotFound, LimitExceeded, DeadlineExceeded, Unavailable, Cancelled, ServerFault, RemoteError
            As `pred_server.errors` describes them. The connection can be used again after any of them. An error that
            ends a stream has the predictions that came before it as `answered`.
        """
        table = as_table(table)
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        name = self._choose(table, encoding, timeout_s)
        table = self._only_known(table)
        if stream is None and len(table) > FEW_ROWS:
            stream = self._is_large(count_bytes(table), timeout_s)
        watch, start_ns = Stopwatch(), time.perf_counter_ns()
        if not stream:
            request = self._write(table, name, watch)
            # To count the bytes of few rows would take longer than to write them.
            stream = stream is None and self._is_large(request.ByteSize(), timeout_s)
        if stream:
            return self._gather(table, name, output, resume, timeout_s)
        response, metadata = self.call(request, output=output, timeout_s=timeout_s)
        _warn_ignored(metadata, stacklevel=3)
        result = _read(response, metadata, name, output, table, watch)
        wall_ms = (time.perf_counter_ns() - start_ns) / 1e6
        result.waterfall = Waterfall.of_call(watch, metadata.get("server-timing", ""), wall_ms)
        return result

    def predict_stream(
        self,
        chunks: Iterable[Table],
        *,
        encoding: str | None = None,
        output: str = "labels",
        resume: bool = False,
        timeout_s: float = DEFAULT_STREAM_TIMEOUT_S,
    ) -> "PredictionStream":
        """Return an iterator over the predictions of each chunk, in order, as they come. Few chunks are in memory.

        Parameters and errors are those of `predict`; `timeout_s` is for the whole stream. The chunks are drawn in
        another thread, ahead of the predictions.
        """
        return PredictionStream(self, chunks, encoding, output, resume, timeout_s)

    def describe(self, *, timeout_s: float | None = None) -> Description:
        """Return what the model takes and gives. Raises as `predict` does; RemoteError where the server cannot tell."""
        response, _ = self._unary("Describe", DescribeRequest(), (), timeout_s)
        self._description = Description.of_response(response)
        return self._description

    def call(
        self, request: Request, *, output: str = "labels", timeout_s: float | None = None
    ) -> tuple[Response, Metadata]:
        """Send a request as it is; return the response and the reply's metadata. Raises as `predict` does."""
        size = request.ByteSize()
        if size > self._limits.max_message_bytes:
            limit = self._limits.max_message_bytes
            raise LimitExceeded(
                f"the message has {size:,} bytes; stream it", limit=limit, flag=flag("max_message_bytes")
            )
        return self._unary("Predict", request, _asking_for(output), timeout_s)

    def stream(
        self, requests: Iterable[Request], *, output: str = "labels", resume: bool = False, timeout_s: float
    ) -> RequestStream:
        """Send requests as they are, in one stream; iterate over the result for the responses."""

        def open_call(outgoing: Iterator[Request]) -> Any:
            left_s = deadline_s - time.monotonic()
            metadata = (*self._metadata, *_asking_for(output))
            try:
                return self._stub().PredictStream(outgoing, timeout=max(0.0, left_s), metadata=metadata)
            except ValueError as error:
                raise Unavailable("this client is closed") from error

        deadline_s = time.monotonic() + min(timeout_s, MAX_TIMEOUT_S)
        return RequestStream(open_call, requests, resume)

    def _unary(self, rpc: str, request: Any, metadata: Any, timeout_s: float | None) -> tuple[Any, Metadata]:
        deadline_s = time.monotonic() + min(self.timeout_s if timeout_s is None else timeout_s, MAX_TIMEOUT_S)
        while True:
            try:
                response, call = getattr(self._stub(), rpc).with_call(
                    request,
                    timeout=max(0.0, deadline_s - time.monotonic()),
                    metadata=(*self._metadata, *metadata),
                )
                break
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)
                # gRPC does not try again by itself once a part of the answer has come, be it the headers; these are
                # its words for a connection that is lost then.
                if not (self._retry and (error.details() or "").startswith("Stream removed")):
                    raise from_call(error) from None
            except ValueError as error:
                raise Unavailable("this client is closed") from error
        told = (*(call.initial_metadata() or ()), *(call.trailing_metadata() or ()))
        return response, {key: value for key, value in told if isinstance(value, str)}

    def _stub(self) -> PredictionStub:
        return self._stubs[next(self._turn) % len(self._stubs)]

    def _choose(self, table: Table, encoding: str | None, timeout_s: float) -> str:
        encoding = self.encoding if encoding is None else _known_encoding(encoding)
        if encoding != "auto" and (encoding == "tensor" or not isinstance(table, np.ndarray)):
            return encoding
        about = self._known(timeout_s)
        if encoding != "auto":
            return encoding
        known = about.encodings if about else ("csv",)
        if isinstance(table, np.ndarray):
            best = "tensor"
        else:
            kinds = set(map(str, set(table.dtypes if isinstance(table, pd.DataFrame) else table.schema.types)))
            numeric = kinds <= {"float64", "double"} or kinds <= {"float32", "float"} or kinds <= {"int64"}
            best = "tensor" if numeric else "columns" if len(table) <= FEW_ROWS else "arrow"
        return best if best in known else "csv"

    def _known(self, timeout_s: float) -> Description | None:
        """What the server said of the model, which it is asked once; None for a server that cannot tell."""
        if self._description is None and self._tells:
            try:
                self.describe(timeout_s=timeout_s)
            except RemoteError as error:
                if error.code != "UNIMPLEMENTED":
                    raise
                self._tells = False
        return self._description

    def _is_large(self, n_bytes: int, timeout_s: float) -> bool:
        """Whether a table of so many bytes is to be streamed, by a server that is known to take streams."""
        return n_bytes > STREAM_BYTES and self._known(timeout_s) is not None

    def _only_known(self, table: Table) -> Table:
        """The table without the columns that the model would ignore, where the server has said which it knows."""
        if isinstance(table, np.ndarray) or not self._description:
            return table
        known = set(self._description.schema.names)
        names = [str(name) for name in (table.columns if isinstance(table, pd.DataFrame) else table.column_names)]
        ignored = [name for name in names if name not in known]
        if not ignored or len(ignored) == len(names):
            return table
        _warn(ignored, stacklevel=4)
        kept = [place for place, name in enumerate(names) if name in known]
        return table.iloc[:, kept] if isinstance(table, pd.DataFrame) else table.select(kept)

    def _write(self, table: Table, encoding: str, watch: Stopwatch) -> Request:
        request = Request()
        with watch("client encode"):
            if isinstance(table, np.ndarray) and encoding != "tensor":
                table = to_frame(table, self._description.schema.names if self._description else [])
            CODECS[encoding].write_table(table, request)
        return request

    def _gather(self, table: Table, encoding: str, output: str, resume: bool, timeout_s: float) -> Any:
        """Send the table in chunks, and put together what comes back."""
        # Whole blocks: what is left over of one would be computed by itself (engines.predict_in_blocks).
        rows = max(1, len(table) * CHUNK_BYTES // max(count_bytes(table), 1) // ROW_BLOCK) * ROW_BLOCK
        chunks = (cut(table, start, start + rows) for start in range(0, max(len(table), 1), rows))
        stream = PredictionStream(self, chunks, encoding, output, resume, timeout_s)
        parts: list[Any] = []
        try:
            parts.extend(stream)
        except PredServerError as error:
            error.answered = _join(parts, table) if parts else None
            raise
        result = _join(parts, table)
        result.waterfall = stream.waterfall
        return result

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r}, timeout_s={self.timeout_s:g})"


class PredictionStream:
    """The predictions of a stream, chunk by chunk; once they have all come, `waterfall` tells where the time went."""

    waterfall: Waterfall

    def __init__(
        self, client: Client, chunks: Iterable[Table], encoding: str | None, output: str, resume: bool, timeout_s: float
    ):
        self._client = client
        self._chunks = chunks
        self._encoding = encoding
        self._output = output
        self._watch = Stopwatch()
        self._sent: list[tuple[Table, str]] = []
        self._responses = client.stream(self._requests(), output=output, resume=resume, timeout_s=timeout_s)

    def _requests(self) -> Iterator[Request]:
        for chunk in self._chunks:
            table = as_table(chunk)
            name = self._client._choose(table, self._encoding, self._client.timeout_s)
            table = self._client._only_known(table)
            self._sent.append((table, name))
            yield self._client._write(table, name, self._watch)

    def __iter__(self) -> Iterator[Any]:
        start_ns = time.perf_counter_ns()
        for response in self._responses:
            if self._responses.answered == 1:
                _warn_ignored(self._responses.metadata, stacklevel=3)
            table, name = self._sent.pop(0)
            yield _read(response, self._responses.metadata, name, self._output, table, self._watch)
        wall_ms = (time.perf_counter_ns() - start_ns) / 1e6
        header = self._responses.metadata.get("server-timing", "")
        self.waterfall = Waterfall.of_call(self._watch, header, wall_ms, chunks=self._responses.answered)


def _channel_options(limits: Limits, retry: bool) -> list[tuple[str, Any]]:
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


def _known_encoding(name: str) -> str:
    if name not in ("auto", *CODECS):
        raise InvalidInput(f"encoding {clip(name)!r}: use auto, {', '.join(CODECS)}")
    return name


def _asking_for(output: str) -> tuple[tuple[str, str], ...]:
    return () if output == "labels" else (_ascii("output", output),)


def _ascii(key: str, value: str) -> tuple[str, str]:
    """An entry of metadata: gRPC takes no other characters."""
    if not (value.isascii() and value.isprintable()):
        raise InvalidInput(f"{key} {clip(value)!r}: plain ASCII is needed")
    return key, value


def _warn_ignored(metadata: Metadata, stacklevel: int) -> None:
    if "ignored-columns" in metadata:
        _warn([unquote(name) for name in metadata["ignored-columns"].split(",")], stacklevel + 1)


def _warn(ignored: list[str], stacklevel: int) -> None:
    names = ", ".join(ignored[:20]) + (", ..." if len(ignored) > 20 else "")
    warnings.warn(f"the model does not know these columns and ignored them: {names}", stacklevel=stacklevel)


def _read(
    response: Response, metadata: Metadata, encoding: str, output: str, table: Table, watch: Stopwatch
) -> Predictions | Probabilities:
    with watch("client decode"):
        columns, names = CODECS[encoding].read_result(response, metadata.get("prediction-dtype"))
        counts = {len(column) for column in columns}
        if counts != {len(table)}:
            raise ServerFault(f"{len(table)} rows were sent and {sum(counts)} predictions came back")
        index = table.index if isinstance(table, pd.DataFrame) else None
        if output == "labels":
            dtype = "str" if columns[0].dtype == object else None
            return Predictions(columns[0], index=index, name=names[0], dtype=dtype, copy=False)
        return Probabilities(np.array(columns).T, index=index, columns=names)


def _join(parts: list[Any], table: Table) -> Any:
    joined = pd.concat(parts, ignore_index=not isinstance(table, pd.DataFrame))
    return Predictions(joined) if joined.ndim == 1 else Probabilities(joined)
