"""ONNX Runtime instead of scikit-learn: converted, compared, and refused where it would predict otherwise."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pred_server import Model, load, save, serve
from pred_server.checkout import ROOT
from pred_server.engines import onnx as onnx_engine
from pred_server.engines.onnx import with_onnx
from pred_server.errors import InvalidInput, ServerStartError

X = pd.DataFrame(np.random.default_rng(0).normal(size=(600, 6))).add_prefix("x")
Y = X.to_numpy() @ np.arange(6.0)


class KernelDensityLike(LinearRegression):
    """An estimator that no converter knows."""


def test_the_flights_pipeline_converts_text_and_all(flights: pd.DataFrame, flights_model: Model) -> None:
    converted = with_onnx(flights_model)
    assert "minutes from scikit-learn, on " in converted.parity
    strange = flights.assign(carrier="☃").head(50)
    gaps = flights.assign(dep_delay=np.nan, origin=pd.Series([None] * len(flights), dtype=str)).head(50)
    for table in (flights, strange, gaps):
        assert np.abs(converted.predict(table) - flights_model.predict(table)).max() < 0.01
    with serve("flights", "--engine", "onnx") as server:
        assert server.serves == "flights v1, onnx"
        client = server.client()
        for encoding in ("csv", "columns", "arrow"):
            assert (
                client.predict(flights, encoding=encoding).to_numpy().tobytes() == converted.predict(flights).tobytes()
            )
        told = client.describe()
        assert (told.engine, told.parity) == ("onnx", converted.parity)
        assert converted.parity in told._repr_html_()


@pytest.mark.parametrize(
    "estimator", [RandomForestRegressor(20, random_state=0), HistGradientBoostingRegressor(max_iter=20)]
)
def test_a_prediction_does_not_depend_on_its_neighbours(estimator: object, tmp_path: Path) -> None:
    converted = with_onnx(save(estimator.fit(X, Y), X, tmp_path / "mine"))
    whole = converted.predict(X)
    for size in (1, 7, 100, 513):
        parts = [converted.predict(X.iloc[start : start + size]) for start in range(0, len(X), size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(20, random_state=0), make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))],
)
def test_a_classifier_has_its_labels_and_probabilities(estimator: object, tmp_path: Path) -> None:
    wine = load_wine(as_frame=True)
    labels = wine.target_names[wine.target]
    save(estimator.fit(wine.data, labels), wine.data, tmp_path / "wine")
    model = load(tmp_path / "wine")
    with serve(tmp_path / "wine", "--engine", "onnx") as server:
        client = server.client()
        assert client.predict(wine.data).tolist() == model.predict(wine.data).tolist()
        given = client.predict(wine.data, output="probabilities")
    assert list(given.columns) == list(wine.target_names)
    assert np.abs(given.to_numpy() - model.predict(wine.data, "probabilities")).max() < 1e-5


def test_what_cannot_be_converted_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pred_server", "serve", "--engine", "onnx", "--address", "127.0.0.1:0", "--model"]
    done = subprocess.run([*command, "sum"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert sentence == "pred-server: model 'sum' is not a scikit-learn estimator; serve it with --engine sklearn"
    model = save(KernelDensityLike().fit(X, Y), X, tmp_path / "mine")
    with pytest.raises(ServerStartError, match=r"'mine' \(KernelDensityLike\) cannot be converted to ONNX; serve"):
        with_onnx(model)


def test_missing_values_are_refused_where_the_converter_does_not_know_them(tmp_path: Path) -> None:
    model = save(RandomForestRegressor(5, random_state=0).fit(X, Y), X, tmp_path / "mine")
    converted = with_onnx(model)
    assert converted.parity.endswith("; takes no missing values where the other does")
    assert len(model.predict(X.assign(x3=np.nan))) == len(X)
    with pytest.raises(InvalidInput, match="x3: row 1 has no value"):
        converted.predict(X.assign(x3=np.nan))


def test_an_engine_that_predicts_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(RandomForestRegressor(20, random_state=0).fit(X, Y), X, tmp_path / "mine", target_unit="kg")
    assert "kg from scikit-learn" in with_onnx(model).parity
    real = onnx_engine.OnnxEngine._run
    monkeypatch.setattr(onnx_engine.OnnxEngine, "_run", lambda *all: real(*all) + 0.5)
    with pytest.raises(ServerStartError, match=r"predicts up to 0\.5 kg beside scikit-learn, and .* is allowed"):
        with_onnx(model)
