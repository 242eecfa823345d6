"""What a rival's process needs to be started by the lab: a free port of the loopback address, and an end."""

import os
import threading

import grpc.aio._server

Plain = grpc.aio._server.Server


def behave(name: str) -> None:
    """Have the gRPC server that this process will start listen on a free port of 127.0.0.1, and say so.

    Both rivals would listen on every address, and name no port that they chose by themselves. The process ends with
    its parent, who holds the other end of its standard input.
    """

    class Loopback(Plain):
        port = 0

        def add_insecure_port(self, address: str) -> int:
            self.port = super().add_insecure_port("127.0.0.1:0")
            return self.port

        async def start(self) -> None:
            await super().start()
            print(f"{name} ready on 127.0.0.1:{self.port} ({name})", flush=True)

    vars(grpc.aio._server)["Server"] = Loopback  # which `grpc.aio.server` makes
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)
