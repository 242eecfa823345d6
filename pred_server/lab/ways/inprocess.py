"""ONNX Runtime in the caller's own process, in Go: no server and no message. It is gateway/examples/inprocess.

What starts in place of a server is a process that loads the model and holds it: it has the start and the memory of a
program that predicts by itself. The calls are computed in the generator, `bin/loadgen-inprocess`.
"""

import functools
import tempfile
from contextlib import ExitStack
from pathlib import Path

from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.lab.export import export
from pred_server.lab.ways.way import Arm, Way
from pred_server.store.loading import load
from pred_server.tutorial.background import Process

HOLDER = ROOT / "bin" / "loadgen-inprocess"


class InProcess(Way):
    name, hand, program = "inprocess", "inprocess", "-inprocess"

    def missing(self) -> str:
        if HOLDER.exists():
            return ""
        return f"{self.name} needs bin/{HOLDER.name}: run `make gateway` (it needs Go, and a C compiler for cgo)"

    def prepare(self, model: str) -> None:
        exported(model)

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        if missing := self.missing():
            raise ServerStartError(missing)
        command = [str(HOLDER), "-hold", str(exported(model))]
        return stack.enter_context(Process(command, start_timeout_s=60)).address


@functools.cache
def exported(model: str) -> Path:
    """Return the folder of an exported model, which this process has made once. Raises as `export` does."""
    folder = Path(tempfile.mkdtemp(dir=_exports().name))
    export(load(model), folder)
    return folder


@functools.cache
def _exports() -> tempfile.TemporaryDirectory[str]:
    """Make the folder that holds them until this process ends. Most that import this module export nothing."""
    return tempfile.TemporaryDirectory()
