"""A client of HTTP/2 that may do what no library does: withhold, interrupt, repeat and flood.

It knows as much of https://www.rfc-editor.org/rfc/rfc9113 as gRPC's calls need. Headers go out uncompressed.
"""

import selectors
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE = 4
LARGEST_FRAME, FIRST_WINDOW, WIDE_WINDOW = 16_384, 65_535, 1 << 30
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREDICT, PREDICT_STREAM, DESCRIBE = (
    f"/prediction.Prediction/{name}" for name in ("Predict", "PredictStream", "Describe")
)

Metadata = Iterable[tuple[str, str]]


class Gone(Exception):
    """The server has closed the connection, or takes nothing more."""


class Connection:
    """One connection.

    Parameters
    ----------
    window : how many bytes of an answer the server may send before it is asked for more; 0 means that nothing is read
    patience_s : how long the server may take nothing, in seconds
    """

    def __init__(self, address: str, window: int = WIDE_WINDOW, patience_s: float = 2.0):
        host, _, port = address.rpartition(":")
        self.ended: set[int] = set()
        self.headers: dict[int, bytes] = {}
        """The headers and trailers of each call as they came. gRPC's server does not compress texts."""
        self.n_calls = self.n_bytes = 0
        self._patience_s = patience_s
        self._next_stream = 1
        self._received = bytearray()
        self._their_window = self._room = FIRST_WINDOW
        self._stream_room: dict[int, int] = {}
        try:
            self._socket = socket.create_connection((host, int(port)), timeout=patience_s)
        except OSError as error:
            raise Gone(str(error)) from None
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector = selectors.PollSelector()  # it needs no descriptor of its own
        self._selector.register(self._socket, selectors.EVENT_READ)
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        more = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WIDE_WINDOW)) if window else b""
        self.write(PREFACE + frame(SETTINGS, 0, 0, settings) + more)

    def close(self) -> None:
        self._selector.close()
        self._socket.close()

    def call(self, path: str, *messages: bytes, metadata: Metadata = (), end: bool = True) -> int:
        """Begin a call, send its messages, and return the number of its stream."""
        self.n_calls += 1
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        head = frame(HEADERS, END_HEADERS, stream, header_block(path, metadata))
        body = b"".join(map(framed, messages))
        if len(body) < LARGEST_FRAME and len(body) <= min(self._room, self._their_window):  # one write is quicker
            self.write(head + frame(DATA, END_STREAM if end else 0, stream, body))
            self._room -= len(body)
            self._stream_room[stream] = self._their_window - len(body)
            return stream
        self.write(head)
        self._stream_room[stream] = self._their_window
        self.send(stream, body)
        if end:
            self.end(stream)
        return stream

    def send(self, stream: int, data: bytes) -> None:
        """Send data of a call as the server's windows allow. Raises Gone where they stay shut."""
        sent, until_s = 0, time.monotonic() + self._patience_s
        while sent < len(data) and stream not in self.ended:
            size = min(self._room, self._stream_room[stream], LARGEST_FRAME, len(data) - sent)
            if size > 0:
                self.write(frame(DATA, 0, stream, data[sent : sent + size]))
                self._room -= size
                self._stream_room[stream] -= size
                sent += size
                until_s = time.monotonic() + self._patience_s
            elif time.monotonic() > until_s:
                raise Gone("the server takes no more of a message")
            self.receive(0.0 if size > 0 else 0.05)

    def end(self, stream: int) -> None:
        if stream not in self.ended:
            self.write(frame(DATA, END_STREAM, stream))

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self.write(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
        self.ended.add(stream)

    def wait(self, *streams: int, seconds: float) -> bool:
        """Take what comes until the calls have ended; False if that takes longer."""
        until_s = time.monotonic() + seconds
        while not self.ended.issuperset(streams):
            if (left_s := until_s - time.monotonic()) <= 0:
                return False
            self.receive(left_s)
        return True

    def receive(self, seconds: float) -> None:
        """Take what has come, or what comes next within some seconds. Raises Gone."""
        if not self._selector.select(seconds):
            return
        try:
            data = self._socket.recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            raise Gone("the server has closed the connection")
        self._received += data
        place, n_data = 0, 0
        while len(self._received) - place >= 9:
            head = self._received[place : place + 9]
            end = place + 9 + int.from_bytes(head[:3], "big")
            if end > len(self._received):
                break
            n_data += end - place if head[3] == DATA else 0
            self._take(head[3], head[4], int.from_bytes(head[5:], "big"), bytes(self._received[place + 9 : end]))
            place = end
        del self._received[:place]
        if n_data:
            self.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", n_data)))

    def write(self, data: bytes) -> None:
        """Send bytes as they are. Raises Gone where the server does not take them."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise Gone(str(error)) from None
        self.n_bytes += len(data)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            for key, setting in struct.iter_unpack(">HI", payload):
                if key == INITIAL_WINDOW_SIZE:
                    for known in self._stream_room:
                        self._stream_room[known] += setting - self._their_window
                    self._their_window = setting
            self.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and not stream:
            self._room += int.from_bytes(payload, "big")
        elif kind == WINDOW_UPDATE and stream in self._stream_room:
            self._stream_room[stream] += int.from_bytes(payload, "big")
        elif kind == GOAWAY:
            raise Gone("the server wants no more calls on this connection")
        if kind == HEADERS:
            self.headers[stream] = self.headers.get(stream, b"") + payload
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)
            self._stream_room.pop(stream, None)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def framed(message: bytes, is_compressed: bool = False, size: int | None = None) -> bytes:
    """Return a message as gRPC sends it, or its beginning, where `size` is the length of the whole."""
    return struct.pack(">?I", is_compressed, len(message) if size is None else size) + message


def header_block(path: str, metadata: Metadata = ()) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "attacked", "te": "trailers"}
    fields["content-type"] = "application/grpc"
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in (*fields.items(), *metadata))


def _text(text: str) -> bytes:
    """Return a text with its length in front, whose first byte holds seven bits (https://www.rfc-editor.org/rfc/rfc7541)."""
    data, length = text.encode(), bytearray()
    left = len(data) - 127
    if left < 0:
        return bytes([len(data)]) + data
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([127, *length, left]) + data


def raw(address: str, data: bytes, seconds: float) -> None:
    """Open a socket, send bytes, and close it once the server has answered or some seconds have passed."""
    host, _, port = address.rpartition(":")
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=seconds) as plain:
        plain.sendall(data)
        plain.recv(1 << 12)
