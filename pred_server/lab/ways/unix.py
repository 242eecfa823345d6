"""Our own server over a Unix socket: gRPC without TCP, for callers on the same machine."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from pred_server.lab.ways.serve import Serve
from pred_server.lab.ways.way import Arm
from pred_server.tutorial.background import serve


class Unix(Serve):
    name = "unix"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        socket = Path(folder, "pred.sock")
        return stack.enter_context(serve(model, "--address", f"unix:{socket}", *arm.flags)).address
