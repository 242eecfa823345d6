"""Chunks out, predictions in, in order: a stream holds few chunks in memory, and may go on after a break."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from pred_server.client.connection import CLOSED, Connection, Metadata, StreamOpener, asking_for
from pred_server.client.memory import Memory
from pred_server.client.prepare import CsvText, Known, Prepared
from pred_server.client.results import ignored_in, warn_ignored
from pred_server.client.waterfall import Waterfall
from pred_server.errors import Cancelled, InvalidInput, SchemaChanged, ServerFault, Unavailable
from pred_server.generated.pred_pb2 import Response
from pred_server.wire.tables import Table
from pred_server.wire.timing import Stopwatch

Item = TypeVar("Item")

# Chunks that were sent and not answered, at the most: enough that neither end waits for the other.
WINDOW = 8
# The pauses before a stream is opened again. With `resume` the last one goes on until it has been opened so often
# without an answer in between.
PAUSES_S = (0.25, 0.75, 2.25, 4.0)
MAX_RESUMES = 12


class RequestStream(Generic[Item]):
    """Iterate over it, once, for the responses.

    Three threads meet here: one draws the caller's items, gRPC's writes and sends them, and the caller's takes the
    answers.

    Parameters
    ----------
    open_call : starts the rpc, given the requests to send
    items : drawn from as the window allows; what it raises is raised here, once what was sent before is answered
    resume : whether to open the rpc again where it broke, with the chunks that were not answered
    write : makes a message of an item, again if the rpc is opened again
    renew : called where the first chunk is refused because the model has another schema; the rpc is then opened again
    """

    def __init__(
        self,
        open_call: StreamOpener,
        items: Iterable[Item],
        resume: bool,
        write: Callable[[Item], bytes],
        renew: Callable[[], None] | None = None,
    ):
        self._open_call = open_call
        self._items = items
        self._resume = resume
        self._write = write
        self._renew = renew
        self._changed = threading.Condition()
        self._drawn: deque[Item] = deque()
        self._unanswered: deque[Item] = deque()
        self._pause_s = 0.0
        self._attempt = 0  # which call may send; -1 when all is over
        self._exhausted = False
        self._fault: BaseException | None = None  # of the caller's iterator
        self._unwritten: Exception | None = None  # why the next item cannot be sent
        self.answered = 0
        self.metadata: dict[str, str] = {}

    def __iter__(self) -> Iterator[Response]:
        if self._attempt:
            raise RuntimeError("a stream can be iterated over once")
        threading.Thread(target=self._draw, daemon=True).start()
        breaks = 0
        try:
            while True:
                before = self.answered
                try:
                    yield from self._responses()
                    return
                # CANCELLED, sent by a server: its gRPC dropped the call unseen as it stopped.
                except (Unavailable, Cancelled) as error:
                    breaks = breaks + 1 if self.answered == before else 1
                    retries = len(PAUSES_S) if self._open_call.retry and not self.answered else 0
                    if breaks > (MAX_RESUMES if self._resume else retries) or error.args == (CLOSED,):
                        raise
                    self._pause_s = PAUSES_S[min(breaks, len(PAUSES_S)) - 1]
                except SchemaChanged as error:
                    if self.answered or self._renew is None or error is self._unwritten:
                        raise
                    self._renew()
                    self._renew = None
                except InvalidInput as error:
                    if before:
                        error.args = (f"{error} (counted from where the stream went on, after chunk {before})",)
                    raise
        finally:
            with self._changed:
                self._attempt = -1
                self._changed.notify_all()

    def _draw(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._attempt < 0:
                        return
                    self._drawn.append(item)
                    self._changed.notify_all()
        except BaseException as fault:
            self._fault = fault
        finally:
            with self._changed:
                self._exhausted = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._attempt < 0 or len(self._drawn) + len(self._unanswered) < WINDOW

    def _responses(self) -> Iterator[Response]:
        with self._changed:
            self._attempt, self._unwritten = self._attempt + 1, None
            self._changed.notify_all()  # a thread that still sends for the call before finds itself superseded
            outgoing = self._outgoing(self._attempt, list(self._unanswered))
        call = self._open_call(outgoing, self._pause_s)
        try:
            for response in call:
                if not self._unanswered:
                    raise ServerFault("more answers came than chunks were sent")
                self._note(call.initial_metadata())
                with self._changed:
                    self._unanswered.popleft()
                    self.answered += 1
                    self._changed.notify_all()
                yield response
            self._note(call.trailing_metadata())
        except grpc.RpcError:
            raise self._open_call.error_of(call) from None
        finally:
            call.cancel()
        if fault := self._unwritten or self._fault:
            raise fault
        if self._unanswered:
            raise ServerFault(f"{len(self._unanswered)} chunks were sent and not answered")

    def _outgoing(self, attempt: int, again: list[Item]) -> Iterator[bytes]:
        try:
            yield from map(self._write, again)
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._drawn or self._exhausted or attempt != self._attempt)
                    if attempt != self._attempt or not self._drawn:
                        return
                    item = self._drawn.popleft()
                    self._unanswered.append(item)
                yield self._write(item)
        except Exception as fault:  # gRPC would say only that there was one
            if attempt == self._attempt:
                self._unwritten = fault

    def _note(self, metadata: Any) -> None:
        self.metadata |= {key: value for key, value in metadata or () if isinstance(value, str)}


@dataclass(eq=False)
class Chunk:
    """One table of a stream, counted from 1, and how it was sent last, or is to be sent."""

    table: Table | CsvText
    prepared: Prepared | None = None
    number: int = 0


class PredictionStream:
    """The predictions of a stream, chunk by chunk; once all have come, `waterfall` says where the time went.

    Where the model has been replaced by one with another schema before the first chunk came, the chunks that were sent
    are prepared anew, and the stream goes on with them: an iterator need not be started again.

    Parameters
    ----------
    tables : what to predict, drawn in another thread
    warned : columns that the model ignores, of which the caller knows already
    """

    waterfall: Waterfall

    def __init__(
        self,
        connection: Connection,
        memory: Memory,
        tables: Iterable[Table | CsvText | Chunk],
        encoding: str,
        output: str,
        resume: bool,
        timeout_s: float,
        warned: Iterable[str] = (),
    ):
        self._memory = memory
        self._tables = tables
        self._encoding = encoding
        self._output = output
        self._warned = set(warned)
        self._watch = Stopwatch()
        self._sent: deque[Chunk] = deque()
        self._known = Known()
        self._changing = threading.Lock()
        self._opener = StreamOpener(connection, self._metadata, timeout_s)
        self._responses = RequestStream(self._opener, self._chunks(), resume, self._write, self._know_again)

    def _metadata(self) -> Metadata:
        return {**asking_for(self._output), **self._known.expectation}

    def _chunks(self) -> Iterator[Chunk]:
        for number, table in enumerate(self._tables, start=1):
            chunk = table if isinstance(table, Chunk) else Chunk(table)
            chunk.number = number
            self._sent.append(chunk)
            yield chunk

    def _write(self, chunk: Chunk) -> bytes:
        known, prepared = self._known, chunk.prepared
        try:
            if prepared is None or prepared.known is not known:
                prepared = self._memory.prepare(chunk.table, self._encoding, known)
            message = prepared.message(self._watch)
        except InvalidInput as error:
            error.args = (f"in chunk {chunk.number}: {error}",)
            raise
        with self._changing:
            if known is self._known:  # else the rpc is being opened again, and the chunk is prepared by that
                chunk.prepared = prepared
        return message

    def _know_again(self) -> None:
        known = self._memory.ask_again(self._known, self._opener.left_s())
        with self._changing:
            self._known = known

    def __iter__(self) -> Iterator[Any]:
        start_ns = time.perf_counter_ns()
        with self._memory.forgetting():
            self._known = self._memory.recall(self._opener.left_s())
            for response in self._responses:
                yield self._read(response, self._sent.popleft())
        wall_ms = (time.perf_counter_ns() - start_ns) / 1e6
        header = self._responses.metadata.get("server-timing", "")
        self.waterfall = Waterfall.of_call(self._watch, header, wall_ms, chunks=self._responses.answered)

    def _read(self, response: Response, chunk: Chunk) -> Any:
        prepared, metadata = chunk.prepared, self._responses.metadata
        assert prepared
        ignored = prepared.ignored or (ignored_in(metadata) if self._responses.answered == 1 else [])
        warn_ignored([name for name in ignored if name not in self._warned], stacklevel=3)
        self._warned.update(ignored)
        return prepared.read(response, metadata.get("prediction-dtype"), self._output, self._watch)
