"""Result files that are damaged, foreign or older are refused in a sentence, wherever they are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pred_server.cli import main
from pred_server.errors import InvalidInput
from pred_server.lab.experiments import Experiment
from pred_server.lab.machines import RESULTS
from pred_server.lab.result_files import COLUMNS, OF_CALLS, OF_EXPERIMENT, read, write
from pred_server.lab.ways import Arm
from tests.lab.synthetic import calls_of

Change = Callable[[pd.DataFrame], pd.DataFrame]


def described(change: Callable[[dict[str, Any]], Any]) -> Change:
    def changed(calls: pd.DataFrame) -> pd.DataFrame:
        other = calls.copy()
        other.attrs = calls.attrs | {"experiment": change(calls.attrs["experiment"])}
        return other

    return changed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    arms = (Arm("one"), Arm("other", encoding="tensor"))
    experiment = Experiment(arms, (("other", "one"),), model="sum", rows=(1, 10), blocks=5, calls=4)
    path = tmp_path / "result.parquet"
    write(calls_of(experiment, lambda arm, rows: 1.0), path)
    return path


def test_every_published_result_has_what_is_needed() -> None:
    paths = sorted(RESULTS.rglob("*.parquet"))
    assert len(paths) > 10
    for path in paths:
        assert "latency_ms" in read(path), path.name


@pytest.mark.parametrize("name", [*COLUMNS, "late_ns", *OF_CALLS])
def test_a_column_that_is_missing_is_named(path: Path, name: str) -> None:
    read(path)
    pd.read_parquet(path).drop(columns=name).to_parquet(path)
    with pytest.raises(
        InvalidInput, match=f"result.parquet is damaged, or of another version: it has no column `{name}`"
    ):
        read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda calls: calls.head(0), "it has no rows"),
        (lambda calls: calls.drop(columns="arm"), "it has no column `arm`"),
        (described(lambda experiment: {}), "no ".join(f"`{name}` in its experiment, " for name in OF_EXPERIMENT)[:-2]),
        (described(lambda experiment: 3), "is not a result file of `pred-server bench`"),
    ],
)
def test_every_command_refuses_it_in_one_sentence(
    path: Path, change: Change, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = pd.read_parquet(path)
    changed = change(calls)
    changed.attrs = changed.attrs or calls.attrs
    changed.to_parquet(path)
    out = str(path.parent / "out")
    for command in (
        ["plot", str(path), "--out", out],
        ["capacity", str(path), "--rate", "1", "--p99-ms", "1"],
        ["reproduce", str(path), "--out", out],
    ):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"pred-server: {path} ")
        assert error.endswith(f"{said}\n")
        assert error.count("\n") == 1
