"""Our server behind the gRPC proxy of Ray Serve, by our own client or from ready bytes: what the proxy costs."""

from contextlib import ExitStack
from typing import Any

from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.lab.ways.serve import Serve
from pred_server.lab.ways.way import Arm
from pred_server.tutorial.background import Server, child

PYTHON = ROOT / ".venv-ray" / "bin" / "python"
START_TIMEOUT_S, STOP_TIMEOUT_S = 180.0, 120.0


class Ray(Serve):
    name = "ray"

    def missing(self) -> str:
        return "" if PYTHON.exists() else "Ray Serve is not installed: run `make ray`"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        return stack.enter_context(start_ray(model, flags=arm.flags)).address


class RayServer(Server):
    """`pred-server ray`. To end its cluster takes some seconds, and cut short it would leave its files."""

    def close(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        super().close(timeout_s)


def start_ray(*models: Any, flags: tuple[str, ...] = (), start_timeout_s: float = START_TIMEOUT_S) -> Server:
    """Start `pred-server ray` on a free port, in Ray's own environment. Close it, or use it in `with`.

    Raises ServerStartError where it is not installed, or does not start.
    """
    if missing := Ray().missing():
        raise ServerStartError(missing)
    named = [word for model in models for word in ("--model", str(model))]
    command = child("pred_server", "ray", *named, "--address", "127.0.0.1:0", *flags, python=str(PYTHON))
    return RayServer(command, start_timeout_s)
