"""Servers that are dead, and paths that go dark: what a client says of them, and how it finds the way back."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pandas as pd
import pytest

from pred_server import Client
from pred_server.errors import DeadlineExceeded
from pred_server.tutorial.background import Server

TABLE = pd.DataFrame({"x": [1.0], "y": [2.0]})
WAYS: dict[str, Callable[[Client], object]] = {
    "predict": lambda client: client.predict(TABLE, timeout_s=1),
    "csv": lambda client: client.predict("x,y\n1,2\n", timeout_s=1),
    "stream": lambda client: list(client.predict_stream([TABLE], timeout_s=1)),
    "describe": lambda client: client.describe(timeout_s=1),
}


@pytest.fixture
def dead_address() -> Iterator[str]:
    """Where nobody listens, nor will."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_that_passes_while_nobody_answers_says_so(way: str, dead_address: str) -> None:
    sentence = r"^no answer within 1 s, the caller's deadline: nobody answers at that address.*refused"
    with Client(dead_address) as client, pytest.raises(DeadlineExceeded, match=sentence):
        WAYS[way](client)


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_that_passes_while_no_connection_is_made_says_so(way: str) -> None:
    """Something listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        sentence = r"^no answer within 1 s, the caller's deadline: (nobody answers at that address|no connection)"
        with Client(address) as client, pytest.raises(DeadlineExceeded, match=sentence):
            WAYS[way](client)


def test_a_deadline_that_passes_while_the_server_works_is_the_callers(sum_server: Server) -> None:
    """A small table may be back before gRPC looks at its clock."""
    with Client(sum_server.address) as client:
        client.describe()
        with pytest.raises(DeadlineExceeded, match=r"^no answer within 1e-06 s, the caller's deadline$"):
            client.predict(pd.concat([TABLE] * 1_000_000), timeout_s=1e-6)


def test_a_client_that_is_not_closed_does_not_keep_a_program_from_its_end(dead_address: str) -> None:
    code = "import sys; from pred_server import Client; Client(sys.argv[1]).describe(timeout_s=1)"
    done = subprocess.run([sys.executable, "-c", code, dead_address], capture_output=True, text=True, timeout=60)
    assert "DeadlineExceeded" in done.stderr


# In a network of its own. `ip rule` swallows what one connection sends, in both directions.
DARK = """
import subprocess
from pathlib import Path
import pandas as pd
from pred_server import serve
from pred_server.client import connection

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

def port_of_connection_to(port):
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    for line in [*tables[0], *tables[1]]:
        _, here, there, state, *_ = line.split()
        if state == "01" and int(there.rpartition(":")[2], 16) == port:
            return int(here.rpartition(":")[2], 16)

ip("link set lo up")
ip("rule add pref 10 lookup local")
ip("rule del pref 0")
connection.DARK_PATH_MS = 500
table = pd.DataFrame({"x": [1.0], "y": [2.0]})
with serve("sum") as server:
    client = server.client(timeout_s=60)
    client.predict(table)
    dark = port_of_connection_to(int(server.address.rpartition(":")[2]))
    ip(f"rule add pref 1 ipproto tcp sport {dark} blackhole")
    ip(f"rule add pref 1 ipproto tcp dport {dark} blackhole")
    print(client.predict(table).tolist())
"""


def test_where_the_path_of_a_connection_goes_dark_the_call_goes_out_by_another() -> None:
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare and ip")
    if subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    script = ["unshare", "-rn", sys.executable, "-c", DARK]
    assert subprocess.run(script, capture_output=True, text=True, timeout=120, check=True).stdout == "[3.0]\n"
