import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pred_server.checkout import ROOT
from pred_server.errors import PredServerError
from pred_server.tutorial import stubs

BUF = Path(sys.executable).parent / "buf"


@pytest.mark.parametrize("language", ["python", "go"])
def test_the_committed_stubs_are_what_the_contract_gives(
    language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if language == "go":
        request.getfixturevalue("go")
    made = {"python": stubs.generate_python, "go": stubs.generate_go}[language](tmp_path)
    assert len(made) == {"python": 3, "go": 2}[language]
    for path in made:
        committed = ROOT / path.relative_to(tmp_path)
        assert path.read_text() == committed.read_text(), f"{committed.name} is stale: run `make stubs`"


def breaking(contract: str, against: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the line of `make lint` that compares the contract with `against`, on another contract."""
    lines = re.findall(r"^\t\$\(BIN\)/buf (breaking .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (arguments,) = (line.split() for line in lines if f"--against {against}" in line)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    for folder in ("tests/article", "tests/released"):
        shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/pred.proto").write_text(contract)
    return subprocess.run([BUF, *arguments], cwd=tmp_path, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("string input_data = 1;", "string input_data = 9;", "input_data"),
        ("string input_data = 1;", "bytes input_data = 1;", "input_data"),
        ("string input_data = 1;", "oneof payload { string input_data = 1; }", "input_data"),
        ("string result = 1;", "optional string result = 1;", "result"),
        ("string result = 1;", "string answer = 1;", "answer"),
        ("rpc Predict(Request)", "rpc Ask(Request)", "Predict"),
        ("rpc Predict(Request)", "rpc Predict(stream Request)", "Predict"),
        ("service Prediction", "service Predictions", "Prediction"),
        ("package prediction;", "package predictions;", "package"),
    ],
)
def test_a_change_that_would_break_the_articles_clients_is_caught(
    old: str, new: str, complaint: str, tmp_path: Path
) -> None:
    contract = (ROOT / "proto/pred.proto").read_text()
    assert old in contract
    found = breaking(contract.replace(old, new), "tests/article", tmp_path)
    assert found.returncode != 0
    assert complaint in found.stdout


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("  rpc PredictStream(stream Request) returns (stream Response);\n", "", "PredictStream"),
        ("bytes data = 4;", "bytes data = 14;", '"data"'),
        ("repeated int64 shape = 2;", "repeated int32 shape = 2;", '"shape"'),
        ("optional bytes arrow = 4;", "bytes arrow = 4;", '"arrow"'),
        ("repeated Column columns = 1;", "repeated Column fields = 1;", '"columns"'),
        ("ORDER_COLUMN_MAJOR = 1;", "ORDER_COLUMN_MAJOR = 2;", '"1" on enum'),
        ('java_package = "com.example', 'java_package = "org.example', "java_package"),
    ],
)
def test_a_change_that_would_break_clients_of_the_last_release_is_caught(
    old: str, new: str, complaint: str, tmp_path: Path
) -> None:
    contract = (ROOT / "proto/pred.proto").read_text()
    assert old in contract
    found = breaking(contract.replace(old, new), "tests/released", tmp_path)
    assert found.returncode != 0
    assert complaint in found.stdout


@pytest.mark.parametrize("against", ["tests/article", "tests/released"])
def test_an_addition_is_no_break(against: str, tmp_path: Path) -> None:
    contract = (ROOT / "proto/pred.proto").read_text()
    longer = contract.replace("string result = 1;", "string result = 1;\n  bytes more = 1000;")
    found = breaking(longer, against, tmp_path)
    assert found.returncode == 0, found.stdout


def test_a_published_module_has_a_path_of_its_own(go: Callable[..., str], tmp_path: Path) -> None:
    for name in ("gateway", "generated", "proto", "go.mod", "go.sum"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)  # type: ignore[operator]  # two functions that are called alike
    old = stubs.module_path()
    stubs.rename_module("github.com/you/pred.server", tmp_path)
    assert stubs.module_path(tmp_path) == "github.com/you/pred.server"
    left = [path for path in (tmp_path / "gateway").rglob("*") if path.is_file() and old.encode() in path.read_bytes()]
    assert left == []
    # The module builds under its new name, but for the stubs, which are generated anew.
    stubs.generate_go(tmp_path, tmp_path)
    go("vet", "-C", str(tmp_path), "./gateway/...")
    go("vet", "-C", str(tmp_path / "gateway/examples/gota"), "./...")
    shutil.copytree(ROOT / "generated", tmp_path / "generated", dirs_exist_ok=True)
    stubs.rename_module(old, tmp_path)  # and back, which leaves no trace
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes(), path
    with pytest.raises(PredServerError, match="begins with a host"):
        stubs.rename_module("predserver", tmp_path)
