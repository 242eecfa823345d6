"""Ask a server for predictions: a table in, a pandas Series out."""

import asyncio
import io
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd

from pred_server.client.connection import Connection, Metadata, StreamOpener, asking_for, check_timeout
from pred_server.client.memory import Memory
from pred_server.client.prepare import FEW_ROWS, CsvText, Prepared, check_encoding, needs_description
from pred_server.client.results import concat, ignored_in, warn_ignored
from pred_server.client.security import TLS
from pred_server.client.stream import Chunk, PredictionStream, RequestStream
from pred_server.client.waterfall import Waterfall
from pred_server.errors import InvalidInput, PredServerError, SchemaChanged
from pred_server.generated.pred_pb2 import DescribeRequest, Request, Response
from pred_server.limits import MIB, Limits, check_message_bytes
from pred_server.wire.csv import split_records
from pred_server.wire.description import IDENTITY, Description
from pred_server.wire.tables import Table, as_table, count_bytes
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
    target : HOST:PORT or unix:/PATH of this project's server, or of any that speaks the contract. Calls go in
        turn to all servers of a list of IP addresses, HOST:PORT,HOST:PORT, or of a name, dns:///HOST:PORT
    timeout_s : deadline of each call in seconds, unless the call gives its own
    model, version : the model to ask for; without them, the server's first
    encoding : how tables travel unless the call says otherwise: csv, columns, tensor, arrow; or auto, which asks the
        server what it takes and chooses by the table's types and size
    retry : whether gRPC asks again, for some seconds, when the server is unavailable
    connections : how many connections to open and to use in turn
    tls : encrypt: True, with the public authorities; the path of a CA's certificate in PEM; or a `client.security.TLS`
    token : goes with each call, as `authorization: Bearer TOKEN`, and is shown nowhere; the `Path` of a file that holds
        it is read again when the file changes

    Raises
    ------
    InvalidInput
        One of these is malformed.

    A pickle of a client, and a copy, holds its target and its settings, the token too, and opens a connection of its
    own. (gRPC does not survive a fork in the middle of a call: start processes anew.) A client blocks its thread:
    docs/clients.md has a program for an event loop.
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
        tls: TLS | bool | str | Path | None = None,
        token: str | Path | None = None,
    ):
        self.target = target
        self.timeout_s = check_timeout(timeout_s)
        self.encoding = check_encoding(encoding)
        if type(connections) is not int or connections < 1:
            raise InvalidInput(f"connections is {connections!r}; a whole number from 1 on is needed")
        if type(retry) is not bool:
            raise InvalidInput(f"retry is {retry!r}; True or False is needed")
        if not isinstance(limits, Limits):
            raise InvalidInput(f"limits is {limits!r}; pred_server.limits.Limits is needed")
        asked = {"model-name": model, "model-version": version}
        metadata = {key: text for key, text in asked.items() if text is not None}
        self._connection = Connection(target, metadata, limits, retry, connections, tls, token)
        self._limits = limits
        self._memory = Memory(self._describe)
        self._settings: dict[str, Any] = {
            "model": model, "version": version, "retry": retry, "connections": connections, "limits": limits,
            "tls": tls, "token": token,
        }  # fmt: skip
        self._warned_of_loop = False

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
        InvalidInput, ModelNotFound, Unauthenticated, LimitExceeded, DeadlineExceeded, Unavailable, Cancelled,
        ServerFault, RemoteError
            As `pred_server.errors` describes them. The connection can be used again after any of them. An error that
            ends a stream has the predictions that came before it as `answered`.
        """
        self._warn_in_event_loop()
        timeout_s = self._timeout(timeout_s)
        table, encoding = _table(table), self._encoding(encoding)
        prepared = self._prepare(table, encoding, timeout_s)
        warn_ignored(prepared.ignored, stacklevel=2)
        if stream is None and (isinstance(table, str) or len(prepared.table) > FEW_ROWS):
            stream = self._is_large(count_bytes(prepared.table), timeout_s)
        watch, start_ns = Stopwatch(), time.perf_counter_ns()
        with self._memory.forgetting():
            if not stream:
                message = prepared.message(watch)
                # Of few rows the bytes are counted now: to count them earlier would take longer than to write them.
                stream = stream is None and self._is_large(len(message), timeout_s)
            if stream:
                return self._predict_in_chunks(table, prepared, output, resume, timeout_s)
            try:
                response, metadata = self._send(message, output, prepared.known.expectation, timeout_s)
            except SchemaChanged:
                left_s = timeout_s - (time.perf_counter_ns() - start_ns) / 1e9
                known = self._memory.ask_again(prepared.known, left_s)
                prepared = self._memory.prepare(table, encoding, known)
                left_s = timeout_s - (time.perf_counter_ns() - start_ns) / 1e9
                response, metadata = self._send(prepared.message(watch), output, {}, left_s)
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
        self._warn_in_event_loop()
        if isinstance(chunks, str | bytes | pd.DataFrame):
            raise InvalidInput(f"chunks is one {type(chunks).__name__}; a list or an iterator of tables is needed")
        return self._stream(map(_table, chunks), self._encoding(encoding), output, resume, check_timeout(timeout_s))

    def describe(self, *, timeout_s: float | None = None) -> Description:
        """Return what the model takes and gives. Raises as `predict` does; RemoteError where the server cannot say."""
        self._warn_in_event_loop()
        return self._memory.learn(self._timeout(timeout_s))

    def prepare(self, table: Table | CsvText, encoding: str | None = None, timeout_s: float | None = None) -> Prepared:
        """Return the table as it will be sent: without unknown columns, in the encoding that suits it."""
        return self._prepare(_table(table), self._encoding(encoding), self._timeout(timeout_s))

    def call(
        self, request: Request, *, output: str = "labels", timeout_s: float | None = None
    ) -> tuple[Response, Metadata]:
        """Send a request as it is; return the response and the reply's metadata. Raises as `predict` does."""
        return self._send(request.SerializeToString(), output, {}, self._timeout(timeout_s))

    def stream(
        self, requests: Iterable[Request], *, output: str = "labels", resume: bool = False, timeout_s: float
    ) -> RequestStream[Request]:
        """Send requests as they are, in one stream; iterate over the result for the responses."""
        metadata = asking_for(output)
        opener = StreamOpener(self._connection, lambda: metadata, check_timeout(timeout_s))
        return RequestStream(opener, requests, resume, Request.SerializeToString)

    def _timeout(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else check_timeout(timeout_s)

    def _encoding(self, encoding: str | None) -> str:
        return self.encoding if encoding is None else check_encoding(encoding)

    def _describe(self, timeout_s: float) -> Description:
        message, metadata = self._connection.call("Describe", DescribeRequest(), {}, timeout_s)
        return Description.of_message(message, metadata.get(IDENTITY, ""))

    def _prepare(self, table: Table | CsvText, encoding: str, timeout_s: float) -> Prepared:
        memory = self._memory
        known = memory.recall(timeout_s) if needs_description(table, encoding) else memory.known
        return memory.prepare(table, encoding, known)

    def _send(self, message: bytes, output: str, metadata: Metadata, timeout_s: float) -> tuple[Response, Metadata]:
        check_message_bytes(len(message), self._limits, "the message", "; stream it")
        return self._connection.call("Predict", message, {**asking_for(output), **metadata}, timeout_s)

    def _is_large(self, n_bytes: int, timeout_s: float) -> bool:
        """Whether to stream a table of so many bytes: to a server that is known to take streams."""
        return n_bytes > STREAM_BYTES and self._memory.recall(timeout_s).description is not None

    def _stream(
        self,
        tables: Iterable[Table | CsvText | Chunk],
        encoding: str,
        output: str,
        resume: bool,
        timeout_s: float,
        warned: Iterable[str] = (),
    ) -> PredictionStream:
        return PredictionStream(
            self._connection, self._memory, tables, encoding, output, resume, timeout_s, warned=warned
        )

    def _predict_in_chunks(
        self, table: Table | CsvText, whole: Prepared, output: str, resume: bool, timeout_s: float
    ) -> Any:
        """Cut a table. All chunks have the encoding that was chosen for the whole."""
        if isinstance(table, str):
            pieces: Iterator[Any] = split_records(io.BytesIO(table.encode()), CHUNK_BYTES, "the text")
        else:
            pieces = (Chunk(*piece) for piece in whole.in_chunks(table, CHUNK_BYTES))
        stream = self._stream(pieces, whole.codec.name, output, resume, timeout_s, whole.ignored)
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

    def _warn_in_event_loop(self) -> None:
        """Warn once, on behalf of the caller's caller. A notebook's cells run in a loop that they may hold up."""
        if asyncio._get_running_loop() is None or self._warned_of_loop:
            return
        self._warned_of_loop = True
        jupyter: Any = sys.modules.get("ipykernel.kernelapp")
        if jupyter is None or not jupyter.IPKernelApp.initialized():
            what = "a Client blocks the event loop that runs here; docs/clients.md shows a client for asyncio"
            warnings.warn(what, stacklevel=3)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        settings = {"timeout_s": self.timeout_s, "encoding": self.encoding, **self._settings}
        return partial(type(self), **settings), (self.target,)

    def __repr__(self) -> str:
        return f"Client({self.target!r}, timeout_s={self.timeout_s:g})"


def _table(table: Any) -> Table | CsvText:
    return table if isinstance(table, str) else as_table(table)
