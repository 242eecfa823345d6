"""ONNX Runtime under every estimator of scikit-learn: it serves what scikit-learn predicts, or a sentence refuses."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pred_server import Model, save
from pred_server.engines.onnx import with_onnx
from pred_server.engines.parity import TOLERANCE
from pred_server.errors import InvalidInput, ModelFileError, ServerStartError
from tests import models_page, sweep

ALL = models_page.ALL
KINDS = ("numbers", "mixed") if ALL else ("numbers",)
# What the sentences of the engine have in common.
USE_SKLEARN = "serve it with --engine sklearn"
FRESH_ROWS = 10_000
EXPECTED = {
    "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreesClassifier", "GradientBoostingRegressor",
    "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "IsolationForest", "KNeighborsClassifier",
    "LinearRegression", "LogisticRegression", "MLPRegressor", "Pipeline", "RFE", "RandomForestClassifier",
    "RandomForestRegressor", "Ridge", "StackingClassifier",
}  # fmt: skip


def assert_same(model: Model, other: Model, table: pd.DataFrame) -> None:
    expected, actual = model.predict(table), other.predict(table)
    if model.classes or expected.dtype.kind != "f":
        assert np.array_equal(expected, actual)
    if model.classes:
        expected, actual = (by.predict(table, "probabilities") for by in (model, other))
    if expected.dtype.kind == "f":
        spread = float(np.ptp(expected)) or float(np.abs(expected).max()) or 1.0
        assert np.abs(expected - actual).max() <= TOLERANCE * spread


def saved(folder: Path, kind: str) -> Iterator[tuple[str, Model | str]]:
    """Yield each class with its model, or with why there is none."""
    for name in sweep.names():
        if kind == "mixed" and name in sweep.ONE_COLUMN:
            yield name, "takes one column"
            continue
        try:
            estimator = sweep.fitted(name) if kind == "numbers" else sweep.fitted_on_mixed(name)
        except np.linalg.LinAlgError as error:
            yield name, f"scikit-learn cannot fit it: {error}"
            continue
        sample = sweep.table(name) if kind == "numbers" else sweep.mixed_table(120, seed=0)
        try:
            yield name, save(estimator, sample, folder / f"{name}-{kind}")
        except (InvalidInput, ModelFileError) as error:
            yield name, str(error)


def fresh_rows(name: str, kind: str) -> pd.DataFrame:
    return sweep.table(name, FRESH_ROWS, seed=1) if kind == "numbers" else sweep.mixed_table(FRESH_ROWS, seed=1)


@pytest.mark.timeout(7_200 if ALL else 300)
@pytest.mark.filterwarnings("ignore")  # of scikit-learn's own, about itself
@pytest.mark.usefixtures("in_process")
def test_every_estimator_is_served_as_it_predicts_or_refused(tmp_path: Path) -> None:
    found: dict[str, dict[str, str]] = {name: {} for name in sweep.names()}
    for kind, column in zip(KINDS, models_page.ONNX, strict=False):
        for name, model in saved(tmp_path, kind):
            found[name][column] = model if isinstance(model, str) else served_or_refused(model, fresh_rows(name, kind))
    print("\n".join(f"{name}: {entries}" for name, entries in found.items()))
    served = {name for name, entries in found.items() if entries[models_page.ONNX[0]] == models_page.WITHIN}
    assert set(sweep.names()) & EXPECTED <= served
    if ALL:
        assert len(served) >= 60
        models_page.check(found)
    else:
        assert len(served) > len(found) / 2
        assert served == {name for name in found if models_page.read()[name][models_page.ONNX[0]] == models_page.WITHIN}


def served_or_refused(model: Model, table: pd.DataFrame) -> str:
    """Return what stands on the page."""
    try:
        converted = with_onnx(model)
    except ServerStartError as error:
        assert "\n" not in str(error)
        assert str(error).endswith(USE_SKLEARN)
        return models_page.without_figures(str(error))
    assert " random" in converted.parity
    assert_same(model, converted, table)
    return models_page.WITHIN
