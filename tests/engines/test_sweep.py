"""ONNX Runtime under every estimator of scikit-learn: it serves what scikit-learn predicts, or a sentence refuses."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pred_server import Model, save
from pred_server.engines.onnx import with_onnx
from pred_server.engines.parity import TOLERANCE
from pred_server.errors import ServerStartError
from tests import sweep

ALL = os.environ.get("PRED_SERVER_SWEEP") == "all"
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


def saved(folder: Path) -> Iterator[tuple[str, Model]]:
    for name, estimator, table in sweep.estimators():
        try:
            yield name, save(estimator, table, folder / name)
        except Exception:  # what `save` takes is another test's matter
            continue


@pytest.mark.timeout(3_600 if ALL else 300)
@pytest.mark.filterwarnings("ignore")  # of scikit-learn's own, about itself
def test_every_estimator_is_served_as_it_predicts_or_refused(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not ALL:
        request.getfixturevalue("in_process")
    served, refused = set(), {}
    for name, model in saved(tmp_path):
        try:
            converted = with_onnx(model)
        except ServerStartError as error:
            assert "\n" not in str(error)
            refused[name] = str(error)
            continue
        assert " random" in converted.parity
        assert_same(model, converted, sweep.table(name, FRESH_ROWS, seed=1))
        served.add(name)
    print(f"served: {len(served)}: {', '.join(sorted(served))}")
    print("\n".join(f"refused: {name}: {sentence}" for name, sentence in sorted(refused.items())))
    assert set(sweep.names()) & EXPECTED <= served
    if ALL:
        assert len(served) >= 60
        assert all(sentence.endswith(USE_SKLEARN) for sentence in refused.values())
    else:
        assert len(served) > len(refused)
