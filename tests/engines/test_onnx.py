"""ONNX Runtime instead of scikit-learn: converted, compared, and refused where it would predict otherwise."""

import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from pred_server import Model, load, save, serve
from pred_server.checkout import ROOT
from pred_server.engines import convert
from pred_server.engines import onnx as onnx_engine
from pred_server.engines.onnx import OnnxEngine, with_onnx
from pred_server.engines.probes import Probes
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.wire.rows import Rows

X = pd.DataFrame(np.random.default_rng(0).normal(size=(600, 6))).add_prefix("x")
Y = X.to_numpy() @ np.arange(6.0)
FORESTS = (RandomForestRegressor(10, random_state=0), HistGradientBoostingRegressor(max_iter=20))


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
        assert told.engine == "onnx"
        # A busy machine compares fewer rows in its time, and so may find a smaller difference.
        number = r"[\d,]+(\.\d+)?(e-\d+)?"
        assert re.sub(number, "N", told.parity) == re.sub(number, "N", converted.parity)
        assert told.parity in told._repr_html_()


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


@pytest.mark.usefixtures("in_process")
def test_missing_values_go_where_the_trees_send_them(tmp_path: Path) -> None:
    gaps = X.mask(np.random.default_rng(1).random(X.shape) < 0.2)
    for number, estimator in enumerate(FORESTS):
        model = save(estimator.fit(gaps, Y), gaps, tmp_path / f"mine{number}")
        converted = with_onnx(model)
        assert np.abs(converted.predict(gaps) - model.predict(gaps)).max() < 1e-12
        assert " with missing values" in converted.parity
        assert "no value in" not in converted.parity


@pytest.mark.usefixtures("in_process")
def test_missing_values_that_the_graph_does_not_know_are_computed_by_scikit_learn(tmp_path: Path) -> None:
    text = pd.DataFrame({"s": pd.Series(["u", "v", None, "w"] * 20, dtype="str"), "a": X["x0"].head(80)})
    encoder = OneHotEncoder(handle_unknown="ignore")
    estimator = make_pipeline(make_column_transformer((encoder, ["s"]), remainder="passthrough"), Ridge())
    model = save(estimator.fit(text, text["a"] + text["s"].isna()), text, tmp_path / "mine")
    converted = with_onnx(model)
    assert converted.parity.endswith("or no value in s are computed by scikit-learn")
    assert np.abs(converted.predict(text) - model.predict(text)).max() < 1e-9


@pytest.mark.usefixtures("in_process")
def test_values_beside_a_threshold_fall_on_the_same_side(tmp_path: Path) -> None:
    """In float32 a threshold moves by more than the distance of these values from it."""
    wide = X * 1e3 + 1e6
    for number, estimator in enumerate(FORESTS):
        model = save(estimator.fit(wide, Y), wide.head(), tmp_path / f"mine{number}")
        converted = with_onnx(model)
        probes = Probes(model, model.sample).columns
        assert sum(len(probe.thresholds) for probe in probes.values()) > 100
        for name, probe in probes.items():
            near = probe.near_thresholds()
            table = wide.iloc[np.arange(len(near)) % len(wide)].reset_index(drop=True).assign(**{name: near})
            assert np.abs(converted.predict(table) - model.predict(table)).max() < 1e-12
        assert " beside thresholds" in converted.parity


@pytest.mark.usefixtures("in_process")
def test_a_graph_that_rounds_to_float32_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eighths = (X * 8).round() / 8  # float32 holds them: the sample alone shows nothing
    model = save(HistGradientBoostingRegressor(max_iter=20).fit(X, Y), eighths, tmp_path / "mine")
    real = onnx_engine.OnnxEngine._feeds

    def rounded(engine: OnnxEngine, rows: Rows) -> dict[str, np.ndarray]:
        return {name: values.astype(np.float32).astype(float) for name, values in real(engine, rows).items()}

    monkeypatch.setattr(onnx_engine.OnnxEngine, "_feeds", rounded)
    sentence = r"predicts up to .* beside scikit-learn, and .* is allowed \((random|beside thresholds)\); serve"
    with pytest.raises(ServerStartError, match=sentence):
        with_onnx(model)


@pytest.mark.usefixtures("in_process")
def test_whole_numbers_of_more_than_24_bits_are_told_apart(tmp_path: Path) -> None:
    ids = np.r_[np.arange(20), 2**24 + np.arange(400) % 40, 2**53 - np.arange(80) % 8]
    table = pd.DataFrame({"id": ids, "a": np.linspace(-1, 1, len(ids))})
    for number, encoder in enumerate((OneHotEncoder(handle_unknown="ignore"), OneHotEncoder(), "passthrough")):
        prepare = make_column_transformer((encoder, ["id"]), remainder="passthrough")
        estimator = make_pipeline(prepare, DecisionTreeRegressor(max_depth=30, random_state=0))
        model = save(estimator.fit(table, (ids % 2) * 10.0 + table["a"]), table.head(), tmp_path / f"mine{number}")
        converted = with_onnx(model)
        assert converted.predict(table).tobytes() == model.predict(table).tobytes()


@pytest.mark.usefixtures("in_process")
def test_other_columns_than_floats_and_other_labels_than_text(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"a b.(c)": random.random(300) < 0.5, "ä,[1]": random.integers(-9, 9, 300)})
    table["x"] = X["x0"]
    target = table["a b.(c)"] ^ (table["x"] > 0)
    for number, columns in enumerate((["a b.(c)"], ["a b.(c)", "ä,[1]"], list(table))):
        for labels in (target, target.astype("int8"), target.map({True: "ja", False: "nein"})):
            estimator = DecisionTreeClassifier(max_depth=4, random_state=0).fit(table[columns], labels)
            model = save(estimator, table[columns], tmp_path / f"mine{number}")
            converted = with_onnx(model)
            assert converted.predict(table).tolist() == model.predict(table).tolist()
            assert converted.predict(table).dtype == model.predict(table).dtype


@pytest.mark.usefixtures("in_process")
def test_rows_outside_of_what_was_compared_are_computed_by_scikit_learn(tmp_path: Path) -> None:
    estimator = make_pipeline(StandardScaler(), MLPRegressor(hidden_layer_sizes=(5,), max_iter=20, random_state=0))
    with warnings.catch_warnings(action="ignore"):
        model = save(estimator.fit(X, Y), X, tmp_path / "mine")
    converted = with_onnx(model)
    assert converted.parity.endswith("; rows with numbers outside of the compared ranges are computed by scikit-learn")
    far = X.mul(np.where(np.arange(len(X)) % 3 == 0, 1e6, 1.0), axis=0)
    rows = model.schema.frame_to_rows(far)
    inside = converted.engine.domain.covers(rows)
    assert 0 < np.count_nonzero(inside) < len(X)
    assert np.array_equal(converted.predict(far)[~inside], model.predict(far)[~inside])
    assert np.allclose(converted.predict(far), model.predict(far), rtol=1e-9)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "bad", [{"a": np.inf}, {"a": -np.inf}, {"b": 1e39}, {"s": "☃"}, {"s": "☃", "a": np.inf}, {"a": np.nan}]
)
def test_both_engines_refuse_the_same_and_name_the_column(bad: dict[str, object], tmp_path: Path) -> None:
    table = pd.DataFrame({"s": list("uvwx") * 50, "a": X["x0"].head(200), "b": X["x1"].head(200)})
    prepare = make_column_transformer((OneHotEncoder(), ["s"]), (StandardScaler(), ["a"]), remainder="passthrough")
    estimator = make_pipeline(prepare, ExtraTreesClassifier(5, random_state=0, ccp_alpha=0.01))
    model = save(estimator.fit(table, table["a"] > 0), table, tmp_path / "mine")
    refusals = []
    for by in (model, with_onnx(model)):
        wrong = table.iloc[[0, 1]].assign(**{name: [table[name].iloc[0], value] for name, value in bad.items()})
        try:
            refusals.append(by.predict(wrong).tolist())
        except InvalidInput as error:
            assert {violation.field for violation in error.violations} == set(bad)
            assert all("row 2 has " in violation.description for violation in error.violations)
            refusals.append(str(error))
    assert refusals[0] == refusals[1]
    assert isinstance(refusals[0], str) == (bad != {"a": np.nan})


def test_the_step_at_fault_is_named(tmp_path: Path) -> None:
    for estimator, sentence in (
        (make_pipeline(StandardScaler(), SVC()), r"'mine' \(step 'svc', SVC\) would be computed in single precision"),
        (
            make_pipeline(SplineTransformer(), Ridge()),
            r"\(step 'splinetransformer', SplineTransformer\) cannot be conv",
        ),
    ):
        model = save(estimator.fit(X, Y > 0), X, tmp_path / "mine")
        with pytest.raises(ServerStartError, match=sentence + ".*; serve it with --engine sklearn$"):
            with_onnx(model)


class Endless:
    """Takes for ever to be read back, as some conversions do."""

    def __reduce__(self) -> tuple[object, ...]:
        return time.sleep, (600,)


def test_a_conversion_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "CONVERT_S", 1)
    with pytest.raises(
        ServerStartError, match=r"'slow' \(Endless\) takes more than 1 s to be converted to ONNX; serve"
    ):
        convert.convert("slow", Endless(), [False])


@pytest.mark.usefixtures("in_process")
def test_a_runtime_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(LinearRegression().fit(X, Y), X, tmp_path / "mine")

    def fail(*_: object) -> None:
        raise RuntimeError("of the runtime's own")

    monkeypatch.setattr(onnx_engine.OnnxEngine, "_run", fail)
    with pytest.raises(ServerStartError, match="'mine' cannot be compared with ONNX Runtime; serve it with"):
        with_onnx(model)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("factor", [1e300, 1e-300, 1e37])
def test_samples_at_the_ends_of_what_numbers_can_be(factor: float, tmp_path: Path) -> None:
    far = (X * factor).assign(same=3.0, single=X["x0"].astype("float32") * np.float32(1e37))
    model = save(HistGradientBoostingRegressor(max_iter=5).fit(far, Y), far, tmp_path / "mine")
    converted = with_onnx(model)
    assert np.abs(converted.predict(far) - model.predict(far)).max() < 1e-12


def test_an_engine_that_predicts_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(RandomForestRegressor(20, random_state=0).fit(X, Y), X, tmp_path / "mine", target_unit="kg")
    assert "kg from scikit-learn" in with_onnx(model).parity
    real = onnx_engine.OnnxEngine._run
    monkeypatch.setattr(onnx_engine.OnnxEngine, "_run", lambda *all: real(*all) + 0.5)
    with pytest.raises(ServerStartError, match=r"predicts up to 0\.5 kg beside scikit-learn, and .* is allowed"):
        with_onnx(model)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("strange", ["\N{SNOWMAN}", "never seen", None])
def test_a_text_that_stands_for_unknown_ones_is_not_one_that_the_model_knows(
    strange: str | None, tmp_path: Path
) -> None:
    text = pd.DataFrame({"s": pd.Series(["\N{SNOWMAN}", "v", "w"] * 20, dtype="str"), "a": X["x0"].head(60)})
    for number, encoder in enumerate((OneHotEncoder(), OneHotEncoder(handle_unknown="ignore"))):
        steps = make_column_transformer((make_pipeline(encoder, "passthrough"), ["s"]), remainder="passthrough")
        estimator = make_pipeline(steps, Ridge()).fit(text, text["a"] + (text["s"] == "v"))
        model = save(estimator, text, tmp_path / f"mine{number}")
        converted = with_onnx(model)
        table = text.head(3).assign(s=pd.Series([strange] * 3, dtype="str"))
        if number == 0 and strange != "\N{SNOWMAN}":
            for by in (model, converted):
                with pytest.raises(InvalidInput):
                    by.predict(table)
        else:
            assert np.abs(converted.predict(table) - model.predict(table)).max() < 1e-9


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("step", [Binarizer(threshold=0.5), make_pipeline(StandardScaler(), Binarizer())])
def test_a_number_at_a_threshold_of_a_step_falls_on_the_same_side(step: object, tmp_path: Path) -> None:
    halves = (X * 2).round() / 2
    steps = make_column_transformer((step, ["x0", "x1"]), remainder="passthrough")
    model = save(make_pipeline(steps, Ridge()).fit(halves, Y), halves, tmp_path / "mine")
    converted = with_onnx(model)
    assert " beside thresholds" in converted.parity
    at = np.concatenate([probe.near_thresholds() for probe in Probes(model, model.sample).columns.values()])
    table = X.iloc[np.arange(len(at)) % len(X)].reset_index(drop=True).assign(x0=at)
    assert np.abs(converted.predict(table) - model.predict(table)).max() < 1e-9


@pytest.mark.usefixtures("in_process")
def test_rows_on_which_the_runtime_fails_are_computed_by_scikit_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = save(Ridge().fit(X, Y), X, tmp_path / "mine")
    converted = with_onnx(model)

    def fails(*_: object) -> np.ndarray:
        raise RuntimeError("the runtime's own")

    monkeypatch.setattr(OnnxEngine, "predict", fails)
    assert np.array_equal(converted.predict(X), model.predict(X))
    assert "the runtime's own" in caplog.text


@pytest.mark.usefixtures("in_process")
def test_a_missing_text_counts_even_where_it_hardly_ever_matters(tmp_path: Path) -> None:
    text = pd.DataFrame({"s": pd.Series(["u", "v", None] * 200, dtype="str"), "a": np.arange(600.0)})
    target = np.where(text["s"].isna() & (text["a"] > 580), 10.0, 0.0)
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["s"]), remainder="passthrough")
    model = save(make_pipeline(columns, DecisionTreeRegressor()).fit(text, target), text, tmp_path / "mine")
    converted = with_onnx(model)
    assert np.array_equal(converted.predict(text), target)
