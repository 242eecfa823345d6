"""Streams beside the predictions, which stay open for as long as their caller likes: so many for a connection."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

# A tool asks for the contract on one stream, and a client watches the health of a server on one.
MOST_STREAMS = 16


class SideStreams:
    """Counts the open streams of each connection."""

    def __init__(self) -> None:
        self._streams_of: Counter[str] = Counter()

    @asynccontextmanager
    async def open(self, context: Any) -> AsyncIterator[None]:
        """Count a stream while the `with` block lasts. Aborts with RESOURCE_EXHAUSTED where that is too many."""
        peer = context.peer()
        if self._streams_of[peer] >= MOST_STREAMS:
            message = f"this connection has {MOST_STREAMS} streams for health and reflection, which is the most"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self._streams_of[peer] += 1
        try:
            yield
        finally:
            self._streams_of[peer] -= 1
            if not self._streams_of[peer]:
                del self._streams_of[peer]
