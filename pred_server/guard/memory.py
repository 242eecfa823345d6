"""The memory that large tables take while they are worked on, shared out in the order in which they came."""

import asyncio
import threading
from collections import deque
from contextlib import suppress

from pred_server.errors import DeadlineExceeded


class Reservation:
    """So many bytes. They are free again once nothing refers to this: a thread that nobody waits for still does."""

    def __init__(self, memory: "Memory", n_bytes: int):
        self._memory = memory
        self.n_bytes = n_bytes

    def __del__(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            # Not at once: the collector may run this anywhere, even where the lock is held.
            self._memory.loop.call_soon_threadsafe(self._memory.give_back, self.n_bytes)


class Memory:
    """Lets tables be read that take up to so many bytes together; one that takes more is read alone."""

    def __init__(self, most_bytes: int):
        self.loop = asyncio.get_running_loop()
        self._most = self._free = most_bytes
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._lock = threading.Lock()

    def take(self, n_bytes: int) -> Reservation | None:
        """Return a reservation if there is room for it now; in any thread."""
        n_bytes = min(n_bytes, self._most)
        with self._lock:
            if self._waiting or n_bytes > self._free:
                return None
            self._free -= n_bytes
        return Reservation(self, n_bytes)

    async def reserve(self, n_bytes: int, deadline_s: float) -> Reservation:
        """Wait for room until a moment on the clock of the loop. Raises DeadlineExceeded."""
        n_bytes = min(n_bytes, self._most)
        turn: asyncio.Future[None] = self.loop.create_future()
        with self._lock:
            self._waiting.append((turn, n_bytes))
        self.give_back(0)
        try:
            async with asyncio.timeout_at(deadline_s):
                await turn
        except BaseException as error:
            came = turn.done() and not turn.cancelled()  # the turn came as the caller went
            turn.cancel()
            self.give_back(n_bytes if came else 0)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded("there was no memory for the table in time") from None
            raise
        return Reservation(self, n_bytes)

    def give_back(self, n_bytes: int) -> None:
        """Free so many bytes, and let in whose turn it is; on the event loop."""
        with self._lock:
            self._free += n_bytes
            while self._waiting and (self._waiting[0][0].done() or self._waiting[0][1] <= self._free):
                turn, n_bytes = self._waiting.popleft()
                if not turn.done():
                    self._free -= n_bytes
                    turn.set_result(None)
