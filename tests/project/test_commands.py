"""What a person types: make targets and pred-server commands."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from tornado.websocket import websocket_connect

from pred_server import Model
from pred_server.checkout import ROOT
from pred_server.tutorial.background import GATEWAY, Server


def pred_server(*arguments: object, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pred_server", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=120)


def test_make_alone_lists_the_targets() -> None:
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("lab", "test", "demo", "setup", "stubs", "notebooks", "plots", "lint", "clean"):
        assert f"make {target} " in out


def test_predict_prints_the_predictions_as_csv(flights_server: Server, flights_model: Model) -> None:
    table = pd.read_csv(ROOT / "data/flights.csv")
    for file, text in ((ROOT / "data/flights.csv", None), ("-", (ROOT / "data/flights.csv").read_text())):
        done = pred_server("predict", file, "--address", flights_server.address, text=text)
        header, *values = done.stdout.split()
        assert done.returncode == 0
        assert header == "arr_delay"
        assert [float(value) for value in values] == flights_model.predict(table).tolist()


@pytest.mark.parametrize(
    ("arguments", "text", "complaint"),
    [
        (["nowhere.csv"], None, "cannot read nowhere.csv: No such file or directory"),
        (["-"], "month\n1\n", "pred-server: day: the column is missing (the table has 'month') (and 7 more)\n  hour:"),
        (["-", "--model", "none"], "a\n1\n", "no model none here; there is flights v1"),
        (["-", "--address", "127.0.0.1:1"], "a\n1\n", "pred-server: "),
    ],
)
def test_predict_tells_errors_in_sentences(
    arguments: list[str], text: str | None, complaint: str, flights_server: Server
) -> None:
    if "--address" not in arguments:
        arguments = [*arguments, "--address", flights_server.address]
    done = pred_server("predict", *arguments, text=text)
    assert done.returncode == 1
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_train_judges_and_saves(tmp_path: Path) -> None:
    done = pred_server("train", "--out", tmp_path / "model", "--iterations", 3)
    assert done.returncode == 0, done.stderr
    assert "baseline: arrives as late as it left" in done.stdout
    assert "train flights: 100%" in done.stderr
    scores = json.loads((tmp_path / "model/manifest.json").read_text())["scores"]
    assert f"{scores['baseline_mae_minutes']:.2f} minutes" in done.stdout
    assert pred_server("train", "--iterations", 0).returncode == 2


@pytest.mark.parametrize(
    "flags", [("--max-rows", "0"), ("--max-message-bytes", "-1"), ("--drain-timeout-s", "nan"), ("--max-rows", "1e3")]
)
def test_a_limit_that_makes_no_sense_is_wrong_usage(flags: tuple[str, str]) -> None:
    done = pred_server("serve", "--model", "sum", *flags)
    assert done.returncode == 2
    assert flags[0] in done.stderr


def test_the_demo_tells_the_whole_story(tmp_path: Path) -> None:
    plot = tmp_path / "latency.png"
    command = [sys.executable, "-m", "pred_server.lab.demo", "--plot", plot, "--blocks", "1", "--iterations", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "served == in process, all 10,000 of them, to the last bit: True" in done.stdout
    assert f"plot: {plot}" in done.stdout
    assert "Warning" not in done.stderr
    if GATEWAY.exists():
        assert done.stdout.endswith("by HTTP == in process, all 10,000 of them, to the last bit: True\n")
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """JupyterLab as `make lab` starts it, on a free port; yields the description that it writes when it is ready."""
    tmp_path = tmp_path_factory.mktemp("lab")
    # PORT=0 lets the system choose; a browser has no place in a test.
    process = subprocess.Popen(
        ["make", "lab", "PORT=0", "LAB_FLAGS=--no-browser"],
        cwd=ROOT,
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)},
        stdout=(log := (tmp_path / "log").open("w")),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120

        def written(pattern: str) -> str:
            """Wait until Jupyter has written a file; it is there, and empty, a moment before its text."""
            while not (text := "".join(path.read_text() for path in tmp_path.glob(pattern))):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            return text

        assert "lab/tree/notebooks/00_start_here.ipynb" in written("jpserver-*-open.html")
        yield json.loads(written("jpserver-*.json"))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def request(lab: dict[str, object], path: str, body: object = None) -> dict[str, object]:
    headers = {"Authorization": f"token {lab['token']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"{lab['url']}{path}", data=data, headers=headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def test_make_lab_offers_the_first_lesson_and_a_kernel_that_runs_it(lab: dict[str, object]) -> None:
    notebook = request(lab, "api/contents/notebooks/00_start_here.ipynb")["content"]
    assert "Start here" in notebook["cells"][0]["source"]
    assert request(lab, "api/kernelspecs")["default"] == notebook["metadata"]["kernelspec"]["name"]
    session = request(
        lab,
        "api/sessions",
        {
            "path": "notebooks/00_start_here.ipynb",
            "name": "00_start_here.ipynb",
            "type": "notebook",
            "kernel": {"name": notebook["metadata"]["kernelspec"]["name"]},
        },
    )
    cell = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    printed = asyncio.run(run_cell(lab, session["kernel"]["id"], cell["source"]))
    assert printed.startswith("Python")
    assert "grpcio" in printed


def test_make_lab_asks_nothing_about_news(lab: dict[str, object]) -> None:
    """Where nobody has chosen otherwise, JupyterLab neither asks whether to fetch news nor looks for updates."""
    settings = request(lab, "lab/api/settings/@jupyterlab/apputils-extension:notification")
    defaults = {name: setting["default"] for name, setting in settings["schema"]["properties"].items()}
    assert defaults["fetchNews"] == "false"  # "none" asks
    assert defaults["checkForUpdates"] is False


async def run_cell(lab: dict[str, object], kernel: str, source: str) -> str:
    url = f"{lab['url']}api/kernels/{kernel}/channels?token={lab['token']}".replace("http", "ws", 1)
    socket = await websocket_connect(url)
    content = {"code": source, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    header = {"msg_id": "1", "session": "test", "username": "test", "msg_type": "execute_request", "version": "5.3"}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await socket.write_message(json.dumps(message))
    printed = ""
    while True:
        answer = json.loads(await asyncio.wait_for(socket.read_message(), 60))
        if answer["parent_header"].get("msg_id") != "1":
            continue
        if answer["msg_type"] == "stream":
            printed += answer["content"]["text"]
        if answer["msg_type"] == "error":
            raise AssertionError(answer["content"])
        # Not execute_reply, which comes on another channel and may overtake what was printed.
        if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            socket.close()
            return printed


def test_the_command_line_offers_every_encoding() -> None:
    from pred_server.cli import ENCODINGS
    from pred_server.wire.codec import CODECS

    assert tuple(CODECS) == ENCODINGS
