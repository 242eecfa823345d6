"""Who may come in: the calls in flight, the bytes that they hold, and the drain that waits for their ends."""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from pred_server.errors import LimitExceeded, PredServerError, Unavailable
from pred_server.limits import Limits, check_message_bytes, flag

# How long connections stay open after the last answer. To close a socket while its peer still acknowledges what it has
# read resets the connection, and what the peer has not read yet is lost to it.
LINGER_S = 0.5
# Messages up to this size come in without a look at the bytes that other calls hold: the number of calls bounds them.
SMALL_BYTES = 1024

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """What one accepted call holds in memory: its message, or as many chunks of a stream as may be under way."""

    n_bytes: int = 0


class Admission:
    """Counts the calls that were accepted and have no answer yet, and refuses those over a limit."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tickets: set[Ticket] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._last_answer_s = -LINGER_S
        self._draining = False

    def __len__(self) -> int:
        return len(self._tickets)

    def enter(self, message_bytes: int) -> Ticket:
        """Accept a call with a message of so many bytes, 0 for a stream.

        Raises
        ------
        Unavailable
            The server is stopping.
        LimitExceeded
            The message is too large, or too many calls or bytes are in flight.
        """
        ticket = Ticket()
        try:
            if self._draining:
                raise Unavailable("the server is stopping")
            check_message_bytes(message_bytes, self._limits, "the message")
            most = self._limits.max_calls_in_flight
            if len(self._tickets) >= most:
                message = "as many calls are in flight as may be; come back later"
                raise LimitExceeded(message, "OVERLOADED", most, flag("max_calls_in_flight"))
            self.hold(ticket, message_bytes)
        except PredServerError as error:
            logger.info("refused code=%s: %s", error.code, error)
            raise
        self._tickets.add(ticket)
        self._empty.clear()
        return ticket

    def hold(self, ticket: Ticket, n_bytes: int) -> None:
        """Count so many bytes for a call, if that is more than before. Raises LimitExceeded."""
        if n_bytes > max(ticket.n_bytes, SMALL_BYTES):
            limit = self._limits.max_bytes_in_flight
            others = sum(other.n_bytes for other in self._tickets if other is not ticket)
            if others and others + n_bytes > limit:
                message = f"messages of {others:,} bytes are in flight; come back later"
                raise LimitExceeded(message, "OVERLOADED", limit, flag("max_bytes_in_flight"))
        ticket.n_bytes = max(ticket.n_bytes, n_bytes)

    def leave(self, ticket: Ticket) -> None:
        """Forget a call that has its answer."""
        self._tickets.discard(ticket)
        self._last_answer_s = time.monotonic()
        if not self._tickets:
            self._empty.set()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls, and return when all accepted calls have their answers, or after `timeout_s`."""
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        await asyncio.sleep(max(0.0, self._last_answer_s + LINGER_S - time.monotonic()))
