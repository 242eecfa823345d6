"""Ends calls that would stay for ever: their time is over, or memory is short and they are half sent, or not read.

gRPC's deadline is the caller's, and nothing ends a call that has none and whose caller does not read, or does not send.
"""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from pred_server.errors import LimitExceeded
from pred_server.guard.admission import Admission, Ticket
from pred_server.guard.heap import release_unused, resident_bytes
from pred_server.limits import MIB, Limits, flag

PERIOD_S = 0.1
# A call whose time is over is told so. After so long it is cut off: an answer that nobody reads cannot be sent.
GRACE_S = 1.0
# A message that has not arrived at so many looks is half a message, and an answer that has not left is not read. Not
# after a time: where the event loop is late, the message may be there, and wait for it.
ARRIVES_LOOKS = 5
# Where memory is short but does not grow, so much of the time at most goes into giving freed memory back.
RELEASE_SHARE = 0.05
# A server that becomes idle gives memory back where it has so much more than at its start. gRPC frees some of it only
# later. So there are so many tries, after pauses that double: for a minute.
KEPT_BYTES, TRIES = 32 * MIB, 9

logger = logging.getLogger(__name__)


class Watchdog:
    """Looks at all calls in flight, several times a second."""

    def __init__(self, admission: Admission, limits: Limits) -> None:
        self._admission = admission
        self._idle_bytes = resident_bytes()
        self._most_bytes = self._idle_bytes + limits.max_bytes_in_flight
        self._n_bytes = self._idle_bytes
        self._tries, self._next_try_s = 0, 0.0
        self._limits = limits

    def expect(self, n_bytes: int) -> None:
        """Have the process hold so many bytes more, or fewer, without a call: for a model that is read."""
        self._idle_bytes += n_bytes
        self._most_bytes += n_bytes

    async def run(self) -> None:
        asyncio.get_running_loop().set_task_factory(_with_parent)  # type: ignore[arg-type]
        over = threading.Event()
        threading.Thread(target=self.hold_down_memory, args=(over,), name="memory", daemon=True).start()
        try:
            while True:
                await asyncio.sleep(PERIOD_S)
                now_s = time.monotonic()
                self._look(now_s)
                if self._n_bytes > self._most_bytes:
                    self._end_stuck(now_s)
                elif self._admission.tickets:
                    self._tries, self._next_try_s = 0, now_s
                elif (
                    self._n_bytes > self._idle_bytes + KEPT_BYTES and self._tries < TRIES and now_s >= self._next_try_s
                ):
                    gc.collect()
                    release_unused()
                    self._tries += 1
                    self._next_try_s = now_s + 2**self._tries * PERIOD_S
        finally:
            over.set()

    def hold_down_memory(self, over: threading.Event) -> None:
        """Give freed memory back to the system while the process has too much, until `over` is set.

        In a thread: gRPC copies large messages on the event loop, which may be late by seconds where many come at once.
        """
        next_release_s, least_bytes = 0.0, self._idle_bytes
        while not over.wait(PERIOD_S):
            if (n_bytes := resident_bytes()) > self._most_bytes:
                now_s = time.monotonic()
                least_bytes = min(least_bytes, n_bytes)
                # All others wait for it, and of many small pieces it takes long and gives little.
                if n_bytes > least_bytes + KEPT_BYTES or now_s >= next_release_s:
                    release_unused()
                    next_release_s = now_s + (time.monotonic() - now_s) / RELEASE_SHARE
                    least_bytes = n_bytes = resident_bytes()
            self._n_bytes = n_bytes

    def _look(self, now_s: float) -> None:
        """End the calls whose time is over; count the look for those that wait for their client."""
        # Not in `run`, whose variables stay: a ticket in one of them would keep the call, and gRPC all that it sends.
        for ticket in list(self._admission.tickets):
            if ticket.looks is not None:
                ticket.looks += 1
            if ticket.unread_looks is not None:
                ticket.unread_looks += 1
            if ticket.ends_s <= now_s:
                _end(ticket, now_s)

    def _end_stuck(self, now_s: float) -> None:
        """End what waits for its client, of the connection that has most of it.

        Nobody knows how large half a message will be. Behind an answer that is not read, gRPC collects what the client
        has sent meanwhile: as much as it would let a quick client have on its way.
        """
        stuck = {
            ticket: "the message did not arrive whole" if half else "the answers were not read"
            for ticket in self._admission.tickets
            if (half := (ticket.looks or 0) > ARRIVES_LOOKS) or (ticket.unread_looks or 0) > ARRIVES_LOOKS
        }
        limit = self._limits.max_bytes_in_flight
        if len(stuck) * self._limits.max_message_bytes <= limit:
            return  # so few cannot be what fills the memory
        peer, n_calls = Counter(ticket.peer for ticket in stuck).most_common(1)[0]
        logger.warning(
            "memory is short: %d calls of %s are ended, which have sent half a message, or do not read", n_calls, peer
        )
        for ticket, why in stuck.items():
            if ticket.peer == peer:
                message = f"{why}, and memory is short; come back later"
                ticket.why = LimitExceeded(message, "OVERLOADED", limit, flag("max_bytes_in_flight"))
                _end(ticket, now_s)


def _end(ticket: Ticket, now_s: float) -> None:
    """Have a call raise `ticket.why`; cut it off where it has answered, or has had its time to."""
    if ticket.task is None:
        return
    ticket.task.cancel()
    if ticket.is_answered or ticket.is_ending:
        logger.info("cut off a call of %s, which does not read its answer", ticket.peer)
        # The task above it waits for the caller's end, and keeps the call and all that is to be sent.
        if parent := ticket.task.parent():  # type: ignore[attr-defined]
            parent.cancel()
    ticket.is_ending = True
    ticket.ends_s = now_s + GRACE_S


def _with_parent(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **settings: Any
) -> "asyncio.Task[Any]":
    """Create a task that knows the task that created it: gRPC handles a call in one, and keeps it in another."""
    task = asyncio.Task(coroutine, loop=loop, **settings)
    # Not a reference: a cancelled task holds its traceback where the collector does not look, and so all in a cycle.
    parent = asyncio.current_task(loop)
    task.parent = weakref.ref(parent) if parent else lambda: None  # type: ignore[attr-defined]
    return task
