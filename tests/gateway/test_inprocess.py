"""ONNX Runtime inside a Go process predicts what scikit-learn predicts: `gateway/examples/inprocess`."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pred_server import Model, load
from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput
from pred_server.lab.arms import TRAINED, trained
from pred_server.lab.experiments import sample, table_of
from pred_server.lab.export import export

EXAMPLE = ROOT / "gateway/examples/inprocess"
# A difference in the last digits of sums of 200 trees. The predictions' own unit is minutes; those of others, ones.
CLOSE = 1e-9
Predict = Callable[[Path, pd.DataFrame], "np.ndarray[tuple[int], np.dtype[np.float64]]"]


@pytest.fixture(scope="module")
def program(go: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    if go("env", "CGO_ENABLED").strip() != "1":
        pytest.skip("inprocess is built without cgo; it needs a C compiler, and CGO_ENABLED=1")
    path = tmp_path_factory.mktemp("inprocess") / "predict"
    go("build", "-C", str(EXAMPLE), "-o", str(path), "./predict")
    return path


@pytest.fixture
def predict(program: Path, tmp_path: Path) -> Predict:
    def predict(folder: Path, table: pd.DataFrame) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        file = tmp_path / "table.csv"
        table.to_csv(file, index=False)
        command = [program, "-model", folder, "-csv", file]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
        assert ended.returncode == 0, ended.stderr
        return np.array(ended.stdout.split(), float)

    return predict


def with_gaps(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return a table without a value in a twentieth of the rows of these columns."""
    rng = np.random.default_rng(0)
    return table.assign(**{name: table[name].mask(rng.random(len(table)) < 0.05) for name in columns})


def test_10000_flights_with_gaps_and_unknown_carriers_are_as_scikit_learn_has_them(
    flights: pd.DataFrame, flights_model: Model, predict: Predict, tmp_path: Path
) -> None:
    export(flights_model, tmp_path / "flights")
    table = with_gaps(flights, ["carrier", "origin", "dest", "dep_delay"])
    table.iloc[:100, table.columns.get_loc("carrier")] = "??"
    assert table.isna().sum().sum() > 1_500
    differences = np.abs(predict(tmp_path / "flights", table) - flights_model.predict(table))
    assert len(differences) == 10_000
    assert differences.max() < CLOSE, f"the largest difference is {differences.max():g} minutes"


@pytest.mark.parametrize("name", ["linear", *TRAINED])
def test_10000_rows_of_numbers_are_as_scikit_learn_has_them(name: str, predict: Predict, tmp_path: Path) -> None:
    model = load(trained(name) if name in TRAINED else name)
    export(model, tmp_path / name)
    table = sample(table_of(model), 10_000, seed=1)
    table = with_gaps(table, ["x0", "x9"]) if name == "boosting" else table
    assert np.abs(predict(tmp_path / name, table) - model.predict(table)).max() < CLOSE


def test_the_graph_has_the_models_columns_in_its_order(flights_model: Model, tmp_path: Path) -> None:
    export(flights_model, tmp_path)
    columns = json.loads((tmp_path / "columns.json").read_text())
    assert [column["name"] for column in columns] == flights_model.schema.names
    assert [column["name"] for column in columns if column["is_text"]] == ["carrier", "origin", "dest"]


def test_what_predicts_no_number_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not predict one number a row"):
        export(load("sum"), tmp_path)


def test_a_library_that_is_missing_is_one_line(program: Path, tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "ONNXRUNTIME_LIBRARY"}
    ended = subprocess.run([program], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "no libonnxruntime in any .venv above; `make setup` installs it" in ended.stderr
