"""Chunks out, predictions in, in order: a stream holds few chunks in memory, and may go on after a break."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from pred_server.client.prepare import Prepared
from pred_server.client.results import ignored_in, warn_ignored
from pred_server.client.waterfall import Waterfall
from pred_server.errors import InvalidInput, ServerFault, Unavailable
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.wire.status import from_call
from pred_server.wire.timing import Stopwatch

# Chunks that were sent and not answered, at the most: enough that neither end waits for the other.
WINDOW = 8
# How often a stream may break without an answer in between before it is given up.
MAX_RESUMES = 5


class RequestStream:
    """Iterate over it, once, for the responses.

    Three threads meet here: one draws the caller's requests, gRPC's sends them, and the caller's takes the answers.

    Parameters
    ----------
    open_call : starts the rpc, given the requests to send
    requests : drawn from as the window allows; what it raises is raised here, once what was sent before is answered
    resume : whether to open the rpc again where it broke, with the chunks that were not answered
    """

    def __init__(self, open_call: Callable[[Iterator[Request]], Any], requests: Iterable[Request], resume: bool):
        self._open_call = open_call
        self._requests = requests
        self._resume = resume
        self._changed = threading.Condition()
        self._drawn: deque[Request] = deque()
        self._unanswered: deque[Request] = deque()
        self._attempt = 0  # which call may send; -1 when all is over
        self._exhausted = False
        self._fault: BaseException | None = None
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
                except Unavailable:
                    breaks = breaks + 1 if self.answered == before else 1
                    if not self._resume or breaks > MAX_RESUMES:
                        raise
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
            for request in self._requests:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._attempt < 0:
                        return
                    self._drawn.append(request)
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
            self._attempt += 1
            self._changed.notify_all()  # a thread that still sends for the call before finds itself superseded
            outgoing = self._outgoing(self._attempt, list(self._unanswered))
        call = self._open_call(outgoing)
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
            raise from_call(call) from None
        finally:
            call.cancel()
        if self._fault:
            raise self._fault
        if self._unanswered:
            raise ServerFault(f"{len(self._unanswered)} chunks were sent and not answered")

    def _outgoing(self, attempt: int, again: list[Request]) -> Iterator[Request]:
        yield from again
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._drawn or self._exhausted or attempt != self._attempt)
                if attempt != self._attempt or not self._drawn:
                    return
                request = self._drawn.popleft()
                self._unanswered.append(request)
            yield request

    def _note(self, metadata: Any) -> None:
        self.metadata |= {key: value for key, value in metadata or () if isinstance(value, str)}


class PredictionStream:
    """The predictions of a stream, chunk by chunk; once all have come, `waterfall` says where the time went.

    Parameters
    ----------
    open_stream : starts a stream of requests
    tables : what to predict, drawn in another thread
    """

    waterfall: Waterfall

    def __init__(
        self, open_stream: Callable[[Iterable[Request]], RequestStream], tables: Iterable[Prepared], output: str
    ):
        self._tables = tables
        self._output = output
        self._watch = Stopwatch()
        self._sent: deque[Prepared] = deque()
        self._responses = open_stream(self._requests())

    def _requests(self) -> Iterator[Request]:
        for prepared in self._tables:
            self._sent.append(prepared)
            yield prepared.write(self._watch)

    def __iter__(self) -> Iterator[Any]:
        start_ns = time.perf_counter_ns()
        responses = self._responses
        for response in responses:
            prepared = self._sent.popleft()
            names = prepared.ignored or (ignored_in(responses.metadata) if responses.answered == 1 else [])
            warn_ignored(names, stacklevel=2)
            yield prepared.read(response, responses.metadata.get("prediction-dtype"), self._output, self._watch)
        wall_ms = (time.perf_counter_ns() - start_ns) / 1e6
        header = responses.metadata.get("server-timing", "")
        self.waterfall = Waterfall.of_call(self._watch, header, wall_ms, chunks=responses.answered)
