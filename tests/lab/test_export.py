"""The command that exports a model says in a sentence what is wrong."""

import sys
from pathlib import Path

import pytest

from pred_server.lab import export


@pytest.mark.parametrize(
    ("model", "folder", "sentence"),
    [
        ("nope", "out", "export: no model directory"),
        ("sum", "out", "export: model 'sum' does not predict one number a row"),
        ("linear", "file/out", "export: [Errno 20] Not a directory"),
    ],
)
def test_what_cannot_be_exported_is_said_in_a_sentence(
    model: str, folder: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["export", model, str(tmp_path / folder)])
    with pytest.raises(SystemExit) as ended:
        export.main()
    assert str(ended.value.code).startswith(sentence), "a text is printed to stderr, and the exit code is 1"
