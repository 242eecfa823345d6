"""Our server as another checkout of this project has it: is it slower since a change? (`bench --against DIR`)"""

from contextlib import ExitStack
from pathlib import Path

from pred_server.checkout import MODELS
from pred_server.lab.ways.serve import Serve
from pred_server.lab.ways.way import Arm
from pred_server.tutorial.background import Server

# Where modules lie may differ there, so nothing but the command is asked of it. It ends with us, who hold its stdin.
CHILD = """
import os, runpy, sys, threading
os.chdir(sys.argv.pop(1))
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
runpy.run_module("pred_server", run_name="__main__", alter_sys=True)
"""


class Checkout(Serve):
    """The first of the arm's flags is the folder, in which `make setup` has run."""

    name = "checkout"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        folder, *flags = arm.flags
        python = str(Path(folder, ".venv/bin/python").absolute())
        trained = MODELS / model
        serve = ["serve", "--model", str(trained if trained.exists() else model), "--address", "127.0.0.1:0", *flags]
        command = [python, "-c", CHILD, str(Path(folder).absolute()), *serve]
        return stack.enter_context(Server(command, start_timeout_s=60)).address
