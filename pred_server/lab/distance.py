"""A distance between callers and a server: a forwarder that delays what passes, and limits how much passes in a second.

It stands where netem would stand, which few machines allow. It ends TCP at both sides. Each direction is a link of its
own, which all connections share: a piece of data arrives when the link has had the time to carry it, and half of the
round trip later. A line holds as many bytes as are on their way, and a small buffer. When it is full the forwarder
stops reading, so the sender is stopped as it would be by a network.

Both of its TCP connections are short. So it does not imitate TCP's handshake, slow start, windows and losses over the
distance. The round trips of HTTP/2 and of the programs are real, and so are HTTP/2's windows.

It imports nothing but the standard library, since a study starts a dozen of them.
"""

import os
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

GIGABIT = 125_000_000  # bytes a second
PIECE_BYTES = 65_536
BUFFER_BYTES = 4 * PIECE_BYTES
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no second


class Link:
    """One direction, which all connections share.

    Parameters
    ----------
    delay_s : how long a byte is on its way
    rate : bytes a second
    """

    def __init__(self, delay_s: float, rate: float):
        self.delay_s, self.rate = delay_s, rate
        self._free_s = 0.0
        self._lock = threading.Lock()

    def arrival_s(self, n_bytes: int) -> float:
        """Return when bytes that come now will have arrived, on the monotonic clock."""
        with self._lock:
            self._free_s = max(self._free_s, time.monotonic()) + n_bytes / self.rate
            return self._free_s + self.delay_s


class Line:
    """Holds the data that one connection has under way in one direction. `put` waits while the line is full."""

    def __init__(self, link: Link):
        self._link = link
        self._room = link.rate * link.delay_s + BUFFER_BYTES
        self._held = 0
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._changed = threading.Condition()

    def put(self, piece: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._held < self._room)
            self._held += len(piece)
            self._pieces.append((self._link.arrival_s(len(piece)), piece))
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        """Yield every piece, none before it has arrived, until an empty one, which says that no more will come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces)
                due_s, piece = self._pieces.popleft()
            while (left_s := due_s - time.monotonic()) > 0:
                time.sleep(left_s)
            if not piece:
                return
            yield piece
            with self._changed:
                self._held -= len(piece)
                self._changed.notify_all()


def main() -> None:
    """Forward to the address in `argv`, so many milliseconds of round trip away, until standard input ends."""
    address, rtt_ms, rate = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    scheme, target = address[: -len(address.rpartition("/")[2])], address.rpartition("/")[2]
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_listen, args=(listener, target, rtt_ms / 2_000, rate), daemon=True).start()
    where = f"{scheme}127.0.0.1:{listener.getsockname()[1]}"
    print(f"distance ready on {where} ({rtt_ms:g} ms from {address})", flush=True)
    os.read(0, 1)  # whoever started it holds the other end


def _listen(listener: socket.socket, target: str, delay_s: float, rate: float) -> None:
    links = Link(delay_s, rate), Link(delay_s, rate)
    while True:
        near, _ = listener.accept()
        threading.Thread(target=_join, args=(near, target, *links), daemon=True).start()


def _join(near: socket.socket, target: str, there: Link, back: Link) -> None:
    """Carry what two ends send each other, until both have ended."""
    host, _, port = target.rpartition(":")
    with near, suppress(OSError), socket.create_connection((host, int(port))) as far:
        threads = []
        for source, sink, link in ((near, far, there), (far, near, back)):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(link)
            threads.append(threading.Thread(target=_read, args=(source, line), daemon=True))
            threads.append(threading.Thread(target=_write, args=(line, source, sink), daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _read(source: socket.socket, line: Line) -> None:
    piece = b"first"
    while piece:
        try:
            piece = source.recv(PIECE_BYTES)
        except OSError:  # the peer is gone
            piece = b""
        line.put(piece)


def _write(line: Line, source: socket.socket, sink: socket.socket) -> None:
    """Write what arrives, and pass the end on. If the sink is gone, what follows is dropped, and the source reset."""
    for piece in line:
        try:
            sink.sendall(piece)
        except OSError:
            with suppress(OSError):
                # A plain end would not reach a sender that waits for a full window to open.
                source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
                source.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
