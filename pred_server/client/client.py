"""Ask a server for predictions: a table in, a pandas Series out."""

import io
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Self

from pred_server.client.connection import Connection, Metadata
from pred_server.client.prepare import FEW_ROWS, CsvText, Prepared, check_encoding, needs_description, prepare
from pred_server.client.results import concat, ignored_in, warn_ignored
from pred_server.client.stream import PredictionStream, RequestStream
from pred_server.client.waterfall import Waterfall
from pred_server.errors import InvalidInput, PredServerError, RemoteError
from pred_server.generated.pred_pb2 import DescribeRequest, Request, Response
from pred_server.limits import MIB, Limits, check_message_bytes
from pred_server.wire.csv import split_records
from pred_server.wire.description import Description
from pred_server.wire.tables import Table, as_table, count_bytes, in_chunks
from pred_server.wire.timing import Stopwatch

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_STREAM_TIMEOUT_S = 3_600.0

# Above this size `predict` sends a table as a stream.
STREAM_BYTES = MIB
# In chunks of about this size. Larger chunks have a higher throughput (`bench --varies chunks`), but the first
# predictions come later.
CHUNK_BYTES = MIB


class Client:
    """A connection to a prediction server; keep one and use it for every call. Threads may share it.

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
        self.encoding = check_encoding(encoding)
        if connections < 1:
            raise InvalidInput(f"connections is {connections}; at least one is needed")
        asked = {"model-name": model, "model-version": version}
        metadata = {key: text for key, text in asked.items() if text is not None}
        self._connection = Connection(target, metadata, limits, retry, connections)
        self._limits = limits
        self._description: Description | None = None
        self._can_describe = True

    def predict(
        self,
        table: Table | CsvText,
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
            array's in the model's. Or the text of a CSV file.
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
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        prepared = self.prepare(table, encoding, timeout_s)
        warn_ignored(prepared.ignored, stacklevel=2)
        if stream is None and (isinstance(table, str) or len(prepared.table) > FEW_ROWS):
            stream = self._is_large(count_bytes(prepared.table), timeout_s)
        watch, start_ns = Stopwatch(), time.perf_counter_ns()
        if not stream:
            request = prepared.write(watch)
            # Of few rows the bytes are counted now: to count them earlier would take longer than to write them.
            stream = stream is None and self._is_large(request.ByteSize(), timeout_s)
        if stream:
            return self._predict_in_chunks(prepared, output, resume, timeout_s)
        response, metadata = self.call(request, output=output, timeout_s=timeout_s)
        warn_ignored(ignored_in(metadata), stacklevel=2)
        result = prepared.read(response, metadata.get("prediction-dtype"), output, watch)
        wall_ms = (time.perf_counter_ns() - start_ns) / 1e6
        result.waterfall = Waterfall.of_call(watch, metadata.get("server-timing", ""), wall_ms)
        return result

    def predict_stream(
        self,
        chunks: Iterable[Table | CsvText],
        *,
        encoding: str | None = None,
        output: str = "labels",
        resume: bool = False,
        timeout_s: float = DEFAULT_STREAM_TIMEOUT_S,
    ) -> PredictionStream:
        """Return an iterator over the predictions of each chunk, in order, as they come. Few chunks are in memory.

        Parameters and errors are those of `predict`; `timeout_s` is for the whole stream. The chunks are drawn in
        another thread, ahead of the predictions.
        """

        def prepared() -> Iterator[Prepared]:
            for number, table in enumerate(chunks, start=1):
                try:
                    ready = self.prepare(table, encoding)
                except InvalidInput as error:
                    error.args = (f"in chunk {number}: {error}",)
                    raise
                yield ready

        return self._stream(prepared(), output, resume, timeout_s)

    def describe(self, *, timeout_s: float | None = None) -> Description:
        """Return what the model takes and gives. Raises as `predict` does; RemoteError where the server cannot say."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        message, _ = self._connection.call("Describe", DescribeRequest(), {}, timeout_s)
        self._description = Description.of_message(message)
        return self._description

    def prepare(self, table: Table | CsvText, encoding: str | None = None, timeout_s: float | None = None) -> Prepared:
        """Return the table as it will be sent: without unknown columns, in the encoding that suits it."""
        table = table if isinstance(table, str) else as_table(table)
        encoding = self.encoding if encoding is None else check_encoding(encoding)
        asks = needs_description(table, encoding)
        return prepare(table, encoding, self._described(timeout_s) if asks else self._description)

    def call(
        self, request: Request, *, output: str = "labels", timeout_s: float | None = None
    ) -> tuple[Response, Metadata]:
        """Send a request as it is; return the response and the reply's metadata. Raises as `predict` does."""
        check_message_bytes(request.ByteSize(), self._limits, "the message", "; stream it")
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        return self._connection.call("Predict", request, _asking_for(output), timeout_s)

    def stream(
        self, requests: Iterable[Request], *, output: str = "labels", resume: bool = False, timeout_s: float
    ) -> RequestStream:
        """Send requests as they are, in one stream; iterate over the result for the responses."""
        return RequestStream(self._connection.opener(_asking_for(output), timeout_s), requests, resume)

    def _described(self, timeout_s: float | None) -> Description | None:
        """Return what the server said of the model, which it is asked once; None for a server that cannot say."""
        if self._description is None and self._can_describe:
            try:
                self.describe(timeout_s=timeout_s)
            except RemoteError as error:
                if error.code != "UNIMPLEMENTED":
                    raise
                self._can_describe = False
        return self._description

    def _is_large(self, n_bytes: int, timeout_s: float) -> bool:
        """Whether to stream a table of so many bytes: to a server that is known to take streams."""
        return n_bytes > STREAM_BYTES and self._described(timeout_s) is not None

    def _stream(self, tables: Iterable[Prepared], output: str, resume: bool, timeout_s: float) -> PredictionStream:
        return PredictionStream(partial(self.stream, output=output, resume=resume, timeout_s=timeout_s), tables, output)

    def _predict_in_chunks(self, whole: Prepared, output: str, resume: bool, timeout_s: float) -> Any:
        table = whole.table
        pieces: Iterator[Any] = (
            split_records(io.BytesIO(table.encode()), CHUNK_BYTES, "the text")
            if isinstance(table, str)
            else in_chunks(table, CHUNK_BYTES)
        )
        prepared = (replace(whole, table=piece, ignored=[]) for piece in pieces)
        stream = self._stream(prepared, output, resume, timeout_s)
        parts: list[Any] = []
        keep_index = hasattr(table, "iloc")
        try:
            parts.extend(stream)
        except PredServerError as error:
            error.answered = concat(parts, keep_index) if parts else None
            raise
        result = concat(parts, keep_index)
        result.waterfall = stream.waterfall
        return result

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r}, timeout_s={self.timeout_s:g})"


def _asking_for(output: str) -> Metadata:
    return {} if output == "labels" else {"output": output}
