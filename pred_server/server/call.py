"""One call from its beginning to its end: errors become statuses, times become metadata, and the log gets a line."""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import grpc

from pred_server.errors import (
    DeadlineExceeded,
    InvalidInput,
    LimitExceeded,
    PredServerError,
    ServerFault,
    clip,
)
from pred_server.guard.admission import LINGER_S, Admission, Ticket
from pred_server.guard.callers import caller_of
from pred_server.limits import MAX_IGNORED_BYTES, Limits, flag, took_too_long
from pred_server.server.logs import as_text, trace_id
from pred_server.wire.description import IDENTITY
from pred_server.wire.status import to_status
from pred_server.wire.timing import Stopwatch

logger = logging.getLogger(__name__)

# A connection that gets many of these, or sends too much at once, is slowed down. Not one whose calls are refused since
# the server is busy.
CALLERS_FAULTS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"}
# The predictions of so many rows leave at once.
FEW_ROWS = 1_000

# What operators have done at the end of each call: gets the call, the name of its status code, and what it failed with.
Observer = Callable[["Call", str, BaseException | None], None]
Context = Any  # grpc.aio.ServicerContext, whose published types lack half of its methods
Metadata = tuple[tuple[str, str], ...]


class Call:
    """A context around the work of a call.

    Parameters
    ----------
    timing : whether the reply carries `server-timing`
    observer : is called at the end of the call, on the event loop; by default nobody
    """

    ticket: Ticket | None = None
    identity = ""

    def __init__(
        self,
        rpc: str,
        context: Context,
        admission: Admission,
        limits: Limits,
        timing: bool,
        observer: Observer | None = None,
    ):
        self.rpc = rpc
        self.metadata = {key: text for key, text in context.invocation_metadata() or () if isinstance(text, str)}
        self.output = self.metadata.get("output", "labels")
        self.watch = Stopwatch()
        self.encoding = ""
        self.rows = 0
        self.trailers: Metadata = ()
        self.peer: str = context.peer()
        self._context = context
        self._admission = admission
        self._limits = limits
        self._has_callers_deadline = self._left_s() < limits.max_deadline_s
        self._timing = timing
        self._observer = observer
        self.start_ns = time.perf_counter_ns()

    def admit(self) -> Ticket:
        """Count the call until its answer has left. Raises as `Admission.enter` does."""
        self.ticket = ticket = self._admission.enter(self.peer)
        assert ticket.task
        # Not the context's callbacks, which hold it in a cycle: gRPC ends a call once nothing refers to it.
        ticket.task.add_done_callback(lambda _: self._admission.leave(ticket, self.rows > FEW_ROWS))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s %s accepted", self.rpc, as_text({"request_id": self.request_id}))
        return ticket

    async def read(self) -> bytes:
        """Return the message of a call with one. Raises LimitExceeded where it is too large, or too much at once."""
        self.admit().ends_s = time.monotonic() + self._limits.max_deadline_s
        data = await self.receive()
        if data is None:
            raise InvalidInput("the call ended without a message")
        return data

    async def receive(self, times: int = 1) -> bytes | None:
        """Return the next message, None after the last. Its bytes count so many times; raises as `Admission.hold`."""
        assert self.ticket is not None
        self.ticket.looks = 0
        # Never cancelled: gRPC would not free a message that arrives at that moment.
        reading = asyncio.ensure_future(self._context.read())
        reading.add_done_callback(take_error)
        try:
            data: Any = await asyncio.shield(reading)
        finally:
            del reading  # this frame may stay for a while where the call is ended, and would keep what arrives later
        self.ticket.looks = None
        if data is grpc.aio.EOF:
            return None
        self._admission.hold(self.ticket, len(data), times)
        return data

    async def send(self, data: bytes) -> None:
        """Send an answer of a stream, and wait until the client takes it; the watchdog counts how long that is."""
        assert self.ticket is not None
        self.ticket.unread_looks = 0
        await self._context.write(data)
        self.ticket.unread_looks = None

    @cached_property
    def request_id(self) -> str:
        return clip(self.metadata.get("x-request-id") or uuid.uuid4().hex, 128)

    def wait_for_client(self, what: str) -> None:
        """From here on a stream waits for its client, which may be gone: for so long and no longer."""
        assert self.ticket is not None
        limit, idle_s = self._idle_limit
        self.ticket.ends_s = time.monotonic() + idle_s
        self.ticket.why = DeadlineExceeded(f"{what} in time ({flag(limit)} is {idle_s:g})")

    @cached_property
    def _idle_limit(self) -> tuple[str, float]:
        return min(
            ((name, getattr(self._limits, name)) for name in ("idle_stream_s", "max_deadline_s")),
            key=lambda limit: limit[1],
        )

    def take_time(self) -> None:
        """From here on the client waits for a stream's next answer; the predictor looks at the deadline."""
        assert self.ticket is not None
        self.ticket.ends_s = math.inf

    def deadline_s(self) -> float:
        """Return the moment, on the clock of time.monotonic, at which the caller or the server stops waiting."""
        return time.monotonic() + min(self._left_s(), self._limits.max_deadline_s)

    def late(self) -> DeadlineExceeded:
        """Return the error of a call that was not answered in time: it says whose limit that was."""
        if self._has_callers_deadline:
            return DeadlineExceeded("the caller's deadline passed before the answer was there")
        return took_too_long(self._limits)

    def _left_s(self) -> float:
        left_s: float | None = self._context.time_remaining()
        return math.inf if left_s is None else left_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del traceback  # this frame may stay for a while, and with it the message and its tables (`let_go`)
        code = "OK"
        if isinstance(error, asyncio.CancelledError) and self.ticket and self.ticket.is_ending:
            let_go(error)
            error = self.ticket.why or self.late()
        try:
            if error is None:
                if self._admission.is_stopping and self.rpc == "PredictStream" and self.rows > FEW_ROWS:
                    await asyncio.sleep(LINGER_S)
                self._context.set_trailing_metadata(self._trailing())
            elif not isinstance(error, Exception):  # the task is cancelled, or the process ends
                code = "CANCELLED"
            elif self._context.done() or isinstance(error, grpc.aio.InternalError):  # the write failed: nobody is left
                code = "CANCELLED"
                raise asyncio.CancelledError from error
            else:
                public = self._public(error)
                status = to_status(public)
                code = status.code.name
                let_go(error)  # before the wait, not to hold the message meanwhile
                if code in CALLERS_FAULTS or getattr(public, "reason", "") == "TOO_LARGE":
                    await self._admission.refusals.wait(self.peer)
                await self._abort(status.code, status.details, (*status.trailing_metadata, *self._trailing()))
        finally:
            if error:
                let_go(error)
            if self.ticket:
                self.ticket.is_answered = error is None
            if self._observer:
                self._observer(self, code, error)
            if self.ticket and logger.isEnabledFor(logging.INFO):  # admission has logged a refusal
                self._log(code)

    async def _abort(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str | bytes], ...]) -> None:
        try:
            await self._context.abort(code, details, trailers)
        except grpc.aio.InternalError:  # nobody is left
            raise asyncio.CancelledError from None

    def _public(self, error: BaseException) -> PredServerError:
        """Return the error that the caller may see: its own text if it is one of ours."""
        # NumPy's and Arrow's are, too. A reader of tables may have taken Arrow's for a fault of the table.
        if isinstance(out := error.__cause__ or error, MemoryError):
            logger.error("request %s: out of memory: %s", self.request_id, out)
            return LimitExceeded("the server has no memory for this; send fewer rows, or come back later", "OVERLOADED")
        if isinstance(error, PredServerError):
            return error
        logger.error("request %s failed", self.request_id, exc_info=error)
        return ServerFault(f"the server failed; its log has the reason under request id {self.request_id}")

    def _trailing(self) -> Metadata:
        header = self.watch.header() if self._timing else ""
        said = (*self.trailers, (IDENTITY, self.identity)) if self.identity else self.trailers
        return (*said, ("server-timing", header)) if header else said

    def _log(self, code: str) -> None:
        fields = {
            "rpc": self.rpc,
            "request_id": self.request_id,
            **({"caller": name} if (name := caller_of(self._context)) else {}),
            **({"trace_id": trace} if (trace := trace_id(self.metadata.get("traceparent", ""))) else {}),
            "model_identity": self.identity,
            "code": code,
            "encoding": self.encoding,
            "rows": self.rows,
            "duration_ms": round((time.perf_counter_ns() - self.start_ns) / 1e6, 3),
            **{f"{phase}_ms": round(ms, 3) for phase, ms in list(self.watch.phases_ms.items())},
        }
        text = as_text({key: value for key, value in fields.items() if key != "rpc"})
        logger.info("%s %s", self.rpc, text, extra=fields)


def take_error(task: "asyncio.Future[Any]") -> None:
    """Take the error of a task that nobody may ask for it: asyncio would complain."""
    if not task.cancelled():
        task.exception()


def let_go(error: BaseException) -> None:
    """Take the traceback off an error that has been dealt with: it holds the message and its tables, in a cycle."""
    waiting, seen = [error], set[int]()
    while waiting:
        if (error := waiting.pop()) and id(error) not in seen:
            seen.add(id(error))
            error.__traceback__ = None
            waiting += [other for other in (error.__cause__, error.__context__) if other]


def result_metadata(dtype: str, ignored: Iterable[str]) -> Metadata:
    """Return what a reply says beside the predictions: their dtype, and the columns that the model ignored."""
    names = ",".join(_quoted(ignored))
    return (("prediction-dtype", dtype), *((("ignored-columns", names),) if ignored else ()))


def _quoted(names: Iterable[str]) -> Iterator[str]:
    """Yield the names, percent-encoded, as many as `MAX_IGNORED_BYTES` have room for; `...` stands for the rest."""
    room = MAX_IGNORED_BYTES
    for name in names:
        text = quote(name, safe="") if len(name) < room else ""  # a name may have any length
        room -= max(len(name), len(text)) + 1
        if room < 0:
            yield "..."
            return
        yield text
