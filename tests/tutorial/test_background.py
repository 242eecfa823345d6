"""A server behind a notebook: it goes when its parent goes, however that is, and minds nobody else."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import pandas as pd
import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from sklearn.linear_model import LinearRegression

from pred_server import save, serve
from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError, Unavailable
from tests.waits import wait_until

XY = pd.DataFrame({"x": [1.0], "y": [2.0]})
PARENT = (
    "from pred_server import serve; import time; s = serve('sum'); print(s.pid, s.address, flush=True); time.sleep(600)"
)


@pytest.fixture
def parent() -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_it_is_gone_within_2_s_when_its_parent_is_killed(parent: "subprocess.Popen[str]") -> None:
    server = psutil.Process(int(parent.stdout.readline().split()[0]))
    parent.kill()
    server.wait(timeout=2)  # raises TimeoutExpired


def test_it_is_gone_when_its_parent_just_ends() -> None:
    code = PARENT.replace("time.sleep(600)", "pass")
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    pid = int(out.stdout.split()[0])
    deadline = time.monotonic() + 2
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, "the server outlived its parent"


def test_it_survives_kernel_interrupt() -> None:
    manager, kernel = start_new_kernel(kernel_name="python3", cwd=str(ROOT))
    try:
        run(
            kernel,
            "import pandas as pd; from pred_server import serve; server = serve('sum'); client = server.client()",
        )
        # stop_on_error: or the kernel may answer what comes soon after the interrupt with "aborted".
        kernel.execute("import time; print('sleeping', flush=True); time.sleep(600)", stop_on_error=False)
        while kernel.get_iopub_msg(timeout=60)["msg_type"] != "stream":
            pass
        assert interrupted(manager, kernel)["ename"] == "KeyboardInterrupt"
        run(kernel, "assert client.predict(pd.DataFrame({'x': [1.0], 'y': [2.0]})).tolist() == [3.0]")
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def interrupted(manager: KernelManager, kernel: BlockingKernelClient) -> dict[str, Any]:
    """The reply of what runs. The kernel may lose an interrupt that comes while it prints: then press again."""
    for _ in range(6):
        manager.interrupt_kernel()
        with suppress(Empty):
            content: dict[str, Any] = kernel.get_shell_msg(timeout=10)["content"]
            return content
    raise AssertionError("no interrupt reached what runs")


def run(kernel: BlockingKernelClient, code: str) -> None:
    reply = kernel.execute_interactive(code, timeout=60, output_hook=lambda message: None)
    assert reply["content"]["status"] == "ok", reply["content"]


def test_a_link_to_a_model_may_lead_to_another_one_later(tmp_path: Path) -> None:
    for version, slope in (("1", 1.0), ("2", 5.0)):
        estimator = LinearRegression().fit(XY, [slope])
        save(estimator, XY, tmp_path / version, name="linked", version=version)
    (link := tmp_path / "now").symlink_to(tmp_path / "1")
    with serve(link) as server, server.client() as client:
        assert client.predict(XY).tolist() == [1.0]
        (new := tmp_path / "new").symlink_to(tmp_path / "2")
        new.replace(link)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: client.describe().version == "2", "the second version")
        assert client.predict(XY).tolist() == [5.0]


def test_two_at_once_do_not_disturb_each_other() -> None:
    with serve("sum") as one, serve("sum") as two:
        assert one.address != two.address
        one.close()
        assert not one.running
        assert two.client().predict(XY).iloc[0] == 3


def test_closing_twice_is_harmless_and_closes_the_clients() -> None:
    server = serve("sum")
    client = server.client()
    client.predict(XY)
    server.close()
    server.close()
    assert "stopped (exit code 0)" in repr(server)
    with pytest.raises(Unavailable, match="this client is closed"):
        client.predict(XY)


def test_it_shows_itself() -> None:
    with serve("sum", "--log-level", "info") as server:
        server.client().predict(XY)
        assert repr(server) == f"Server(sum v1, sklearn, {server.address}, pid {server.pid}, running)"
        assert f"<td>{server.address}</td>" in server._repr_html_()
        assert "code=OK" in server.logs()


def test_a_start_that_takes_too_long_is_ended() -> None:
    with pytest.raises(ServerStartError, match="was not ready within 0 s"):
        serve("sum", start_timeout_s=0)
