"""One call from its beginning to its end: errors become statuses, times become metadata, and the log gets a line."""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pred_server.errors import PredServerError, ServerFault, clip
from pred_server.limits import MAX_IGNORED_BYTES, Limits
from pred_server.server.admission import Admission, Ticket
from pred_server.wire.status import to_status
from pred_server.wire.timing import Stopwatch

logger = logging.getLogger(__name__)

Context = Any  # grpc.aio.ServicerContext, whose published types lack half of its methods
Metadata = tuple[tuple[str, str], ...]


class Call:
    """A context around the work of a call.

    Parameters
    ----------
    timing : whether the reply carries `server-timing`
    """

    ticket: Ticket | None = None

    def __init__(self, rpc: str, context: Context, admission: Admission, limits: Limits, timing: bool):
        self.rpc = rpc
        self.metadata = {key: text for key, text in context.invocation_metadata() or () if isinstance(text, str)}
        self.output = self.metadata.get("output", "labels")
        self.watch = Stopwatch()
        self.encoding = ""
        self.rows = 0
        self.trailers: Metadata = ()
        self._context = context
        self._admission = admission
        self._max_deadline_s = limits.max_deadline_s
        self._timing = timing
        self._start_ns = time.perf_counter_ns()

    def admit(self, message_bytes: int) -> None:
        """Count the call until its answer has left. Raises as `Admission.enter` does."""
        self.ticket = ticket = self._admission.enter(message_bytes)
        self._context.add_done_callback(lambda _: self._admission.leave(ticket))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s request_id=%s accepted", self.rpc, self.request_id)

    @cached_property
    def request_id(self) -> str:
        return clip(self.metadata.get("x-request-id") or uuid.uuid4().hex, 128)

    def hold(self, n_bytes: int) -> None:
        """Count so many bytes for the call. Raises LimitExceeded."""
        assert self.ticket is not None
        self._admission.hold(self.ticket, n_bytes)

    def deadline_s(self) -> float:
        """Return the moment, on the clock of time.monotonic, at which the caller or the server stops waiting."""
        left_s = self._context.time_remaining()
        return time.monotonic() + (self._max_deadline_s if left_s is None else min(left_s, self._max_deadline_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        code = "OK"
        try:
            if error is None:
                self._context.set_trailing_metadata(self._trailing())
            elif not isinstance(error, Exception):  # the task is cancelled, or the process ends
                code = "CANCELLED"
            elif self._context.done():  # nobody is left to answer: the write has failed
                code = "CANCELLED"
                raise asyncio.CancelledError from error
            else:
                status = to_status(self._public(error))
                code = status.code.name
                await self._context.abort(status.code, status.details, (*status.trailing_metadata, *self._trailing()))
        finally:
            if self.ticket and logger.isEnabledFor(logging.INFO):  # admission has logged a refusal
                self._log(code)

    def _public(self, error: BaseException) -> PredServerError:
        """Return the error that the caller may see: its own text if it is one of ours."""
        if isinstance(error, PredServerError):
            return error
        logger.error("request %s failed", self.request_id, exc_info=error)
        return ServerFault(f"the server failed; its log has the reason under request id {self.request_id}")

    def _trailing(self) -> Metadata:
        header = self.watch.header() if self._timing else ""
        return (*self.trailers, ("server-timing", header)) if header else self.trailers

    def _log(self, code: str) -> None:
        fields = {
            "rpc": self.rpc,
            "request_id": self.request_id,
            "code": code,
            "encoding": self.encoding,
            "rows": self.rows,
            "duration_ms": round((time.perf_counter_ns() - self._start_ns) / 1e6, 3),
            **{f"{phase}_ms": round(ms, 3) for phase, ms in list(self.watch.phases_ms.items())},
        }
        text = " ".join(f"{key}={value}" for key, value in fields.items() if key != "rpc")
        logger.info("%s %s", self.rpc, text, extra=fields)


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
