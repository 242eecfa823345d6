"""A floor: a bare socket. The server reads as many bytes as the header announces, and sends as many as it asks for."""

import asyncio
import socket
import struct
import threading
from contextlib import AsyncExitStack

from pred_server.lab.ways.way import Call, Launch, Reply, Target, Way, listen, ready

HEADER = struct.Struct("<QQ")  # the size of the request, the size of the reply
BUFFER_BYTES = 1024 * 1024


class Tcp(Way):
    name = "tcp"

    def run(self, launch: Launch) -> None:
        with listen(launch.address) as listener:
            ready(self, launch, listener.getsockname()[1])
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=_answer, args=(connection,), daemon=True).start()

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        loop = asyncio.get_running_loop()
        host, _, port = target.address.rpartition(":")
        connection = stack.enter_context(socket.create_connection((host, int(port))))
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        turn, buffer = asyncio.Lock(), memoryview(bytearray(BUFFER_BYTES))  # one call at a time
        header = HEADER.pack(sum(map(len, target.messages)), target.reply_bytes)

        async def call() -> Reply:
            async with asyncio.timeout(target.timeout_s), turn:
                for part in (header, *target.messages):
                    await loop.sock_sendall(connection, part)
                left = target.reply_bytes
                while left:
                    received = await loop.sock_recv_into(connection, buffer[:left])
                    if not received:
                        return Reply("UNAVAILABLE")
                    left -= received
            return Reply("OK", target.reply_bytes)

        return call


def _answer(connection: socket.socket) -> None:
    """Answer one request after the other, until the peer hangs up."""
    buffer, head = memoryview(bytearray(BUFFER_BYTES)), memoryview(bytearray(HEADER.size))
    with connection:
        while connection.recv_into(head, len(head), socket.MSG_WAITALL) == len(head):
            left, wanted = HEADER.unpack(head)
            while left:
                received = connection.recv_into(buffer, min(left, BUFFER_BYTES))
                if not received:
                    return
                left -= received
            connection.sendall(bytes(wanted))
