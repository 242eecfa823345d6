"""Server processes behind a notebook or a test: started, waited for, read, and never left behind."""

import html
import os
import re
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from pred_server.checkout import ROOT
from pred_server.client.client import Client
from pred_server.errors import ServerStartError

GATEWAY = ROOT / "bin" / "gateway"

_CHILD = "from pred_server.tutorial.background import run_child; run_child()"


def serve(
    model: str | Path = "flights", *flags: str, module: str = "pred_server", start_timeout_s: float = 60.0
) -> "Server":
    """Start `pred-server serve` in a process of its own, on a free loopback port, and wait until it is ready.

    Parameters
    ----------
    model : `sum`, `flights`, or a model directory
    flags : further flags of the server's command line
    module : what to run; `pred_server.tutorial.article` is the article's server
    start_timeout_s : how long the server may take to become ready, in seconds

    Raises
    ------
    ServerStartError
        The server did not become ready; the message ends with the last lines of its log.
    """
    subcommand = ["serve"] if module == "pred_server" else []
    if Path(model).exists():
        model = Path(model).absolute()  # a link stays one, so that it may lead to another version later
    command = child(module, *subcommand, "--model", str(model), "--address", "127.0.0.1:0", *flags)
    return Server(command, start_timeout_s)


def child(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command that runs a module as `run_child` says."""
    return [python, "-c", _CHILD, str(Path.cwd()), module, *arguments]


def gateway(backend: str, *flags: str, start_timeout_s: float = 10.0) -> "Gateway":
    """Start the HTTP gateway (`make gateway` builds it) on a free loopback port, in front of the server at `backend`.

    Raises
    ------
    ServerStartError
        The gateway is not built, or did not become ready.
    """
    if not GATEWAY.exists():
        raise ServerStartError("the gateway is not built: run `make gateway` (it needs Go, and modules from its proxy)")
    command = [str(GATEWAY), "-listen", "127.0.0.1:0", "-backend", backend, "-until-stdin-closes", *flags]
    return Gateway(command, start_timeout_s)


class Process:
    """A program behind a notebook, running and ready; close it, or use it in a `with` statement.

    It is deaf to Kernel -> Interrupt (a session of its own), and ends by itself when the process that started it
    ends, however that ends: it watches its standard input, a pipe that the system closes for the dead.
    """

    def __init__(self, command: list[str], start_timeout_s: float):
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        self._logged = ""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
        )
        try:
            self.address, self.serves = self._wait_until_ready(start_timeout_s)
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self, timeout_s: float) -> tuple[str, str]:
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self._process.poll() is not None
            ready = re.search(r"ready on (\S+) \((.*)\)$", self.logs(), re.MULTILINE)
            if ready:
                return ready[1], ready[2]
            if ended or time.monotonic() > deadline:
                why = (
                    f"ended with code {self._process.returncode}" if ended else f"was not ready within {timeout_s:g} s"
                )
                name = type(self).__name__.lower()
                raise ServerStartError(f"the {name} {why}; its last words:\n{self.logs()[-2000:].strip()}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def logs(self) -> str:
        """All that the process has printed."""
        if not self._log.closed:
            size = os.fstat(self._log.fileno()).st_size
            self._logged = os.pread(self._log.fileno(), size, 0).decode(errors="replace")
        return self._logged

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop the process: it finishes what it has accepted, and is ended if that takes longer than `timeout_s`."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self.logs()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self) -> str:
        return "running" if self.running else f"stopped (exit code {self._process.returncode})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.serves}, {self.address}, pid {self.pid}, {self._state()})"

    def _repr_html_(self) -> str:
        facts = {"serves": self.serves, "address": self.address, "process": str(self.pid), "state": self._state()}
        rows = "".join(f"<tr><td><b>{name}</b></td><td>{html.escape(fact)}</td></tr>" for name, fact in facts.items())
        return f"<table>{rows}</table>"


class Server(Process):
    """A prediction server."""

    def __init__(self, command: list[str], start_timeout_s: float):
        self._clients: list[Client] = []
        super().__init__(command, start_timeout_s)

    def client(self, **options: Any) -> Client:
        """A client of this server, closed with it. Options are those of `Client`."""
        client = Client(self.address, **options)
        self._clients.append(client)
        return client

    def close(self, timeout_s: float = 10.0) -> None:
        for client in self._clients:
            client.close()
        super().close(timeout_s)


class Gateway(Process):
    """The HTTP gateway; its `address` is the URL to post to, without the path."""


def run_child() -> None:
    """In the child: run a module as a program, and end with the parent, who holds the other end of stdin.

    The child works in the checkout. The modules of the caller's folder can be imported all the same, for `--trust`.
    """

    def end_with_parent() -> None:
        os.read(0, 1)
        os._exit(1)  # there is nobody left to answer

    threading.Thread(target=end_with_parent, daemon=True).start()
    _, folder, *sys.argv = sys.argv
    sys.path.append(folder)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
