"""Requests out, responses in, in order: a stream that holds few chunks in memory, and may go on after a break."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from generated.pred_pb2 import Request, Response
from pred_server.errors import ServerFault, Unavailable
from pred_server.status import from_call

# Chunks that were sent and not answered, at the most: enough that neither end waits for the other.
WINDOW = 8
# How often a stream may break without an answer in between before it is given up.
MAX_RESUMES = 5


class RequestStream:
    """Iterate over it for the responses.

    Parameters
    ----------
    open_call : starts the rpc, given the requests to send
    requests : drawn from as the window allows, in a thread of gRPC's; what it raises ends the stream and is raised here
    resume : whether to open the rpc again where it broke, with the chunks that were not answered
    """

    def __init__(self, open_call: Callable[[Iterator[Request]], Any], requests: Iterable[Request], resume: bool):
        self._open_call = open_call
        self._requests = iter(requests)
        self._resume = resume
        self._unanswered: deque[Request] = deque()
        self._room = threading.Semaphore(WINDOW)
        self._lock = threading.Lock()
        self._attempt = 0
        self._fault: BaseException | None = None
        self.answered = 0
        self.metadata: dict[str, str] = {}

    def __iter__(self) -> Iterator[Response]:
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
        finally:
            self._attempt += 1  # a thread that still sends finds itself superseded
            self._room.release()

    def _responses(self) -> Iterator[Response]:
        with self._lock:
            self._attempt += 1
            again = list(self._unanswered)
        call = self._open_call(self._outgoing(self._attempt, again))
        try:
            for response in call:
                if not self._unanswered:
                    raise ServerFault("more answers came than chunks were sent")
                self._note(call.initial_metadata())
                self._unanswered.popleft()
                self.answered += 1
                self._room.release()
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
            self._room.acquire()
            # The lock: where a call broke, its thread must not take a chunk that the next call would then not know of.
            with self._lock:
                if attempt != self._attempt:
                    self._room.release()
                    return
                try:
                    request = next(self._requests)
                except StopIteration:
                    return
                except BaseException as fault:  # raised in the caller's thread, once what was sent has its answers
                    self._fault = fault
                    return
                self._unanswered.append(request)
            yield request

    def _note(self, metadata: Any) -> None:
        self.metadata |= {key: value for key, value in metadata or () if isinstance(value, str)}
