"""The programs of docs/clients.md, run as they stand there: only address, table, deadline and limit change."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from pred_server import serve
from pred_server.checkout import ROOT
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.tutorial import stubs
from pred_server.tutorial.background import Server
from tests.waits import wait_until

PAGE = (ROOT / "docs/clients.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PROGRAMS = {language: code for language, code in BLOCKS if language in ("go", "js", "python")}
COMMANDS = [command.replace("\\\n", " ") for language, command in BLOCKS if language == "sh"]
(SERVICE_CONFIG,) = [text for language, text in BLOCKS if language == "json"]
(OUTPUT,) = [text for language, text in BLOCKS if language == "text"]

Build = Callable[[str, Path], list[str | Path]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command_of(start: str) -> list[str]:
    (command,) = [command for command in COMMANDS if command.startswith(start)]
    return shlex.split(command)


def run_protoc(arguments: list[str], folder: Path) -> None:
    shutil.copy(ROOT / "proto/pred.proto", folder)
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], cwd=folder, check=True, timeout=60)


def build_go(code: str, folder: Path) -> list[str | Path]:
    (folder / "main.go").write_text(code)
    stubs.go("build", "-o", str(folder / "client"), str(folder / "main.go"))
    return [folder / "client"]


def build_python(code: str, folder: Path) -> list[str | Path]:
    run_protoc(command_of("python -m grpc_tools.protoc")[3:], folder)
    (folder / "client.py").write_text(code)
    return [sys.executable, "client.py"]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("node"):
        pytest.skip("Node is not installed")
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    (packages,) = re.findall(r"`npm install ([^`]+)`", PAGE)
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    flags = ["--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=20000"]
    command = ["npm", "install", *flags, *packages.split()]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"npm cannot install {packages}: {(error.stderr.strip().splitlines() or ['no message'])[0]}")
    return folder / "node_modules"


@pytest.fixture(params=list(PROGRAMS))
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs one language's program: `run(address)`, with further `(pattern, replacement)` pairs for its text."""
    builders: dict[str, Build] = {"go": build_go, "python": build_python}
    if request.param == "go":
        request.getfixturevalue("go")
    if request.param == "js":
        modules = request.getfixturevalue("node_modules")

        def build_js(code: str, folder: Path) -> list[str | Path]:
            (folder / "node_modules").symlink_to(modules)
            shutil.copy(ROOT / "proto/pred.proto", folder)
            (folder / "client.mjs").write_text(code)
            return ["node", "client.mjs"]

        builders["js"] = build_js

    def run_program(address: str, *changes: tuple[str, str]) -> "subprocess.CompletedProcess[str]":
        code = PROGRAMS[request.param]
        for pattern, replacement in (("127.0.0.1:50051", address), *changes):
            code, count = re.subn(pattern, lambda _, new=replacement: new, code)
            assert count == 1, f"{pattern!r} stands {count} times in the {request.param} program"
        command = builders[request.param](code, tmp_path)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return run_program


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Where connections are taken and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_program_has_at_most_20_lines() -> None:
    assert set(PROGRAMS) == {"go", "js", "python"}
    assert len([language for language, _ in BLOCKS if language in PROGRAMS]) == 3, "one program a language"
    for language, code in PROGRAMS.items():
        body = re.sub(r"\Apackage main\n\nimport \(\n.*?^\)\n", "", code, flags=re.DOTALL | re.MULTILINE)
        assert len(body.strip().splitlines()) <= 20, language


def test_it_prints_the_predictions(run: Run, sum_server: Server) -> None:
    done = run(sum_server.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, OUTPUT, "")


def test_it_says_that_the_table_is_at_fault(run: Run, sum_server: Server) -> None:
    done = run(sum_server.address, (r"x,y\\n1,2", r"x,z\n1,2"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "the table is at fault: y: the column is missing" in done.stderr


def test_it_gives_up_at_its_deadline(run: Run, silent_address: str) -> None:
    done = run(silent_address, (r"(?<=\+ )5000|5(?=\*time\.Second)|(?<=timeout=)5", "1"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "deadlineexceeded" in done.stderr.lower().replace("_", "")


def test_its_limit_for_replies_is_the_one_that_the_page_names(run: Run, sum_server: Server) -> None:
    done = run(sum_server.address, ("64 ?<< ?20", "1"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "resourceexhausted" in done.stderr.lower().replace("_", "")


def test_go_stubs_for_a_module_of_ones_own(go: Callable[..., str], sum_server: Server, tmp_path: Path) -> None:
    plugins = [f"--plugin={name}={go('tool', '-n', name).strip()}" for name in stubs.GO_PLUGINS]
    run_protoc([*plugins, *command_of("protoc ")[1:]], tmp_path)
    module = (ROOT / "go.mod").read_text().replace("module example.com/predserver", "module example.com/yours")
    (tmp_path / "go.mod").write_text(module)
    shutil.copy(ROOT / "go.sum", tmp_path)
    code = PROGRAMS["go"].replace("example.com/predserver/generated/predpb", "example.com/yours/predpb")
    (tmp_path / "main.go").write_text(code.replace("127.0.0.1:50051", sum_server.address))
    assert go("run", "-C", str(tmp_path), ".") == OUTPUT


def test_the_service_config_of_the_page_deals_calls_out_and_sends_those_of_a_lost_server_again() -> None:
    request = Request(input_data="x,y\n1,2\n")
    with serve("sum", "--workers", "2", "--log-level", "info") as server:
        options = [("grpc.service_config", SERVICE_CONFIG), ("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(f"ipv4:{server.address}", options) as channel:
            stub = PredictionStub(channel)

            def both_answer() -> bool:
                stub.Predict(request, timeout=60)
                return len(set(re.findall(r" INFO (\d+) \S+ Predict ", server.logs()))) == 2

            wait_until(both_answer, "both to be asked")
            os.kill(int(re.findall(r" INFO (\d+) \S+ Predict ", server.logs())[-1]), signal.SIGKILL)
            for _ in range(20):
                assert stub.Predict(request, timeout=60).result == OUTPUT.replace("\n7", "")
