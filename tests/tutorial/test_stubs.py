import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pred_server.checkout import ROOT
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


def breaking(contract: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto/pred.proto").write_text(contract)
    command = [BUF, "breaking", "proto", "--against", ROOT / "tests/article"]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)


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
    found = breaking(contract.replace(old, new), tmp_path)
    assert found.returncode != 0
    assert complaint in found.stdout


def test_an_addition_is_no_break(tmp_path: Path) -> None:
    contract = (ROOT / "proto/pred.proto").read_text()
    found = breaking(contract.replace("string result = 1;", "string result = 1;\n  bytes more = 1000;"), tmp_path)
    assert found.returncode == 0, found.stdout
