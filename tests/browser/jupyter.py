"""JupyterLab and Voilà as `make lab` and `make explorer` start them: on a free port, with a copy of the notebooks."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pred_server.checkout import ROOT
from tests.processes import running
from tests.waits import comes_true, wait_until

TOKEN = "a-token-for-tests"
PATIENCE_S = 300  # for a busy machine


@dataclass(frozen=True)
class Served:
    """A server of pages: its address, and the process that was started for it."""

    url: str
    pid: int

    def processes(self) -> set[psutil.Process]:
        """Return all processes that it has started and that still run."""
        return set(running(psutil.Process(self.pid).children(recursive=True)))


@contextmanager
def make(target: str, port: int, folder: Path, **variables: str) -> Iterator[Served]:
    """Run a make target that serves pages; yield when it listens, on this machine's own address alone."""
    if not Path(sys.prefix, "ready").exists():
        raise AssertionError("run `make test`: these tests start what `make lab` and `make explorer` start")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            ["make", target, f"PORT={port}", *(f"{name}={value}" for name, value in variables.items())],
            cwd=ROOT,
            env=os.environ | {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "JUPYTER_TOKEN": TOKEN},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        served = Served(f"http://127.0.0.1:{port}", process.pid)

        def listening() -> set[str]:
            assert process.poll() is None, (folder / "log").read_text()[-4_000:]
            at = [at for one in served.processes() for at in _connections(one) if at.status == psutil.CONN_LISTEN]
            return {one.laddr.ip for one in at if one.laddr.port == port}

        assert comes_true(listening, PATIENCE_S), (folder / "log").read_text()[-4_000:]
        assert listening() <= {"127.0.0.1", "::1"}, "nobody else can reach it"
        yield served
        started = served.processes()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    wait_until(lambda: not running(started), "it ends")


def _connections(process: psutil.Process) -> Sequence[Any]:
    try:
        return process.net_connections()
    except psutil.NoSuchProcess:  # make starts commands that end at once
        return ()


def copy_of_notebooks(folder: Path) -> Path:
    """Copy the lessons, so that a browser that saves does not change the committed ones."""
    return shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns("scripts"))
