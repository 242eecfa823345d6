"""Who may come in: the calls in flight by connection, and the bytes that they hold."""

import asyncio
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, field

from pred_server.errors import LimitExceeded, PredServerError, Unavailable
from pred_server.guard.refusals import Refusals
from pred_server.limits import KIB, Limits, check_message_bytes, flag

# While the server stops, a connection closes with its last call. To close a socket while its peer still acknowledges
# what it has read resets the connection, and what the peer has not read yet is lost to it. So a stream of many rows
# ends so long after its last answer. (A single call has no such pause, but its caller may ask again.)
LINGER_S = 1.0
# Messages up to this size come in without a look at the bytes that other calls hold: the number of calls bounds them.
SMALL_BYTES = 16 * KIB

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """One accepted call, and the bytes that it holds: a message, or as many chunks of a stream as may be under way."""

    peer: str = ""
    n_bytes: int = 0
    ends_s: float = math.inf
    """When the watchdog ends it, on the clock of time.monotonic, whatever it waits for."""
    why: PredServerError | None = None
    """What its caller is told then; None: that the time is over."""
    looks: int | None = None
    """How often the watchdog has looked since a message began to be received; None where none is."""
    unread_looks: int | None = None
    """The same since an answer of a stream began to be sent."""
    is_answered: bool = False
    is_ending: bool = False
    task: "asyncio.Task[object] | None" = field(default_factory=asyncio.current_task)


class Admission:
    """Counts the calls that were accepted and have no answer yet, and refuses those over a limit.

    Where as many calls or bytes are in flight as may be, a connection is refused that has its share of them: the limit
    divided by the number of connections. One that has less is let in. So a single connection may take all that nobody
    else wants, and others come in beside it: of calls, n connections together may have 1 + 1/2 + … + 1/n times the
    limit, which is 7.5 times for a thousand; of bytes, twice the limit.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._calls_of: Counter[str] = Counter()
        self._draining = False
        self.refusals = Refusals(limits.max_refusals_per_s)
        self.is_stopping = False
        self.last_large_s = -math.inf
        self.tickets: set[Ticket] = set()

    def __len__(self) -> int:
        return len(self.tickets)

    def enter(self, peer: str) -> Ticket:
        """Accept a call, before its message is read. `peer` is the connection that it came by.

        Raises
        ------
        Unavailable
            The server is stopping.
        LimitExceeded
            Too many calls are in flight.
        """
        try:
            if self._draining:
                raise Unavailable("the server is stopping")
            most = self._limits.max_calls_in_flight
            if len(self.tickets) >= most and self._calls_of[peer] >= most // self._n_peers(peer):
                message = "as many calls are in flight as may be; come back later"
                raise LimitExceeded(message, "OVERLOADED", most, flag("max_calls_in_flight"))
        except PredServerError as error:
            logger.info("refused code=%s: %s", error.code, error)
            raise
        self.tickets.add(ticket := Ticket(peer))
        self._calls_of[peer] += 1
        return ticket

    def _n_peers(self, peer: str) -> int:
        return len(self._calls_of) + (peer not in self._calls_of)

    def hold(self, ticket: Ticket, n_bytes: int, times: int = 1) -> None:
        """Count the bytes of a message for a call, so many times, if that is more than before. Raises LimitExceeded."""
        check_message_bytes(n_bytes, self._limits, "the message")
        n_bytes *= times
        if n_bytes > max(ticket.n_bytes, SMALL_BYTES):
            limit = self._limits.max_bytes_in_flight
            others = [other for other in self.tickets if other is not ticket]
            total = sum(other.n_bytes for other in others)
            own = sum(other.n_bytes for other in others if other.peer == ticket.peer)
            if not has_room(n_bytes, total, own, self._n_peers(ticket.peer), limit):
                message = f"messages of {total:,} bytes are in flight; come back later"
                raise LimitExceeded(message, "OVERLOADED", limit, flag("max_bytes_in_flight"))
        ticket.n_bytes = max(ticket.n_bytes, n_bytes)

    def leave(self, ticket: Ticket, is_large: bool = False) -> None:
        """Forget a call that has its answer, which may still be on its way where it is large."""
        self.tickets.discard(ticket)
        self._calls_of[ticket.peer] -= 1
        if not self._calls_of[ticket.peer]:
            del self._calls_of[ticket.peer]
        if is_large:
            self.last_large_s = time.monotonic()

    def refuse(self) -> None:
        """Refuse all further calls."""
        self._draining = True


def has_room(more: int, total: int, own: int, n_peers: int, limit: int) -> bool:
    """Return whether a connection may take so much more of something that has a limit.

    Parameters
    ----------
    total, own : what all connections have, and this one
    n_peers : how many connections there are. Beyond the limit, up to twice as much, each may have its share of it
    """
    return not total or total + more <= limit or (own + more <= limit // n_peers and total + more <= 2 * limit)
