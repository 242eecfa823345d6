import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import CategoricalNB, GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from pred_server import Model, load, save
from pred_server.errors import InvalidInput, ModelFileError
from pred_server.limits import ROW_BLOCK
from pred_server.model.sklearn_engine import SklearnEngine
from pred_server.wire.schema import Column, Schema

IRIS = load_iris(as_frame=True)
TABLE, LABELS = IRIS.data, IRIS.target_names[IRIS.target]


class Halves(RegressorMixin, BaseEstimator):
    """An estimator whose type nobody has trusted yet."""

    def fit(self, table: pd.DataFrame, target: object) -> "Halves":
        self.fitted_ = True
        return self

    def predict(self, table: object) -> np.ndarray:
        return np.full(len(table), 0.5)


class Constant(BaseEstimator):
    """An estimator that predicts what it was given, whatever the table."""

    def __init__(self, answer: object = None):
        self.answer = answer

    def fit(self, table: pd.DataFrame) -> "Constant":
        self.fitted_ = True
        return self

    def predict(self, table: object) -> object:
        return self.answer


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save(LinearRegression().fit(TABLE, IRIS.target), TABLE, tmp_path / "iris")
    return tmp_path / "iris"


def put(directory: Path, file: str, data: bytes) -> None:
    """Replace a file as a forger does: the manifest's hash follows."""
    (directory / file).write_bytes(data)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["sha256"][file] = hashlib.sha256(data).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("estimator", "target", "dtype"),
    [
        (LinearRegression(), IRIS.target, "float64"),
        (KNeighborsRegressor(), IRIS.target, "float64"),
        (MLPRegressor(max_iter=20, tol=1e9, random_state=0), IRIS.target, "float64"),
        (RandomForestClassifier(n_estimators=5, random_state=0), IRIS.target, "int64"),
        (HistGradientBoostingClassifier(max_iter=5), LABELS, "str"),
        (RandomForestClassifier(n_estimators=5, random_state=0), IRIS.target == 1, "bool"),
    ],
)
def test_any_fitted_estimator_is_saved_and_comes_back_the_same(
    estimator: object, target: object, dtype: str, tmp_path: Path
) -> None:
    estimator.fit(TABLE, target)
    save(estimator, TABLE, tmp_path / "mine")
    model = load(tmp_path / "mine")
    assert model.schema.target.dtype == dtype
    # Whole blocks only: what is left over of one, scikit-learn rounds in another way (row_blocks.find_row_block).
    whole = TABLE.head(len(TABLE) // ROW_BLOCK * ROW_BLOCK)
    assert np.array_equal(
        model.predict(TABLE)[: len(whole)],
        estimator.predict(model.schema.frame_to_rows(whole).to_frame(model.schema.index)),
    )
    if dtype == "float64":
        assert model.predict(TABLE) == pytest.approx(estimator.predict(TABLE), rel=1e-12)
    pd.testing.assert_frame_equal(model.sample, TABLE)


def test_an_estimator_fitted_on_an_array_gets_column_names(tmp_path: Path) -> None:
    estimator = LinearRegression().fit(TABLE.to_numpy(), IRIS.target)
    save(estimator, TABLE.to_numpy(), tmp_path / "array")
    model = load(tmp_path / "array")
    assert model.schema.names == ["x0", "x1", "x2", "x3"]
    predicted = model.predict(TABLE.set_axis(model.schema.names, axis=1))
    assert predicted == pytest.approx(estimator.predict(TABLE.to_numpy()), rel=1e-12)


def test_the_manifest_says_where_the_model_takes_missing_values(tmp_path: Path, flights_model: Model) -> None:
    trees = save(HistGradientBoostingClassifier(max_iter=3).fit(TABLE, IRIS.target), TABLE, tmp_path / "trees")
    assert all(column.nullable for column in trees.schema.columns)
    linear = save(LinearRegression().fit(TABLE, IRIS.target), TABLE, tmp_path / "linear")
    assert not any(column.nullable for column in linear.schema.columns)
    assert {column.name for column in flights_model.schema.columns if column.nullable} == {
        "carrier", "origin", "dest", "dep_delay",
    }  # fmt: skip


def test_the_flights_model_beats_its_baseline_and_says_what_it_is(flights_model: Model) -> None:
    assert flights_model.scores["mae_minutes"] < flights_model.scores["baseline_mae_minutes"]
    assert flights_model.scores["baseline"] == "arrives as late as it left"
    manifest = json.loads((Path(__file__).parents[2] / "models/flights/manifest.json").read_text())
    assert manifest["training_rows"] > 200_000
    assert set(manifest["libraries"]) == {"scikit-learn", "skops", "numpy", "pandas"}
    assert flights_model.schema.target.unit == "minutes"
    assert len(flights_model.sample) == 1_000


def test_predictions_do_not_depend_on_the_order_of_columns(flights: pd.DataFrame, flights_model: Model) -> None:
    shuffled = flights[sorted(flights.columns)].assign(tail="N123")
    assert np.array_equal(flights_model.predict(shuffled), flights_model.estimator.predict(flights))


def test_a_model_that_would_predict_otherwise_when_served_is_refused(tmp_path: Path) -> None:
    """An encoder that learned None as a category does not find it again in a column of strings."""
    table = pd.DataFrame({"o": pd.Series(["a", None] * 20, dtype=object), "f": np.arange(40.0)})
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((encoder, ["o"]), remainder="passthrough")
    estimator = make_pipeline(columns, LinearRegression()).fit(table, np.where(table["o"] == "a", 10.0, -10.0))
    with pytest.raises(InvalidInput, match="predicts otherwise once the table has the dtypes"):
        save(estimator, table, tmp_path / "none")


def test_names_of_columns_need_not_be_text(tmp_path: Path) -> None:
    table = TABLE.set_axis(range(4), axis=1)
    save(LinearRegression().fit(table, IRIS.target), table, tmp_path / "numbered")
    model = load(tmp_path / "numbered")
    assert np.array_equal(model.predict(table), model.predict(table.set_axis(list("0123"), axis=1)))


def test_what_is_no_estimator_is_not_loaded(directory: Path) -> None:
    put(directory, "model.skops", skops.io.dumps("hello"))
    with pytest.raises(ModelFileError, match="the estimator does not do what the manifest says"):
        load(directory)


def test_values_that_the_estimator_refuses_are_the_callers_fault(directory: Path) -> None:
    with pytest.raises(InvalidInput, match="refused the table's values; a usual cause is an infinite"):
        load(directory).predict(TABLE.assign(**{TABLE.columns[0]: np.inf}))


class Raises(LinearRegression):
    """An estimator that raises for negative numbers, whatever `error` is, and for anything once it is `broken`."""

    def __init__(self, error: type[Exception] = ValueError, broken: bool = False) -> None:
        self.error, self.broken = error, broken
        super().__init__()

    def predict(self, X: pd.DataFrame) -> np.ndarray:  # noqa: N803 - as scikit-learn names it
        if self.broken or np.min(X) < 0:
            raise self.error("text of the estimator's own")
        return super().predict(X)


@pytest.mark.parametrize("error", [ValueError, IndexError, KeyError, TypeError, ZeroDivisionError, RuntimeError])
def test_whatever_an_estimator_raises_for_values_is_the_callers_fault(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    model = in_process(Raises(error).fit(TABLE, IRIS.target))
    with pytest.raises(InvalidInput, match="refused the table's values") as caught:
        model.predict(TABLE.assign(**{TABLE.columns[1]: -1.0}).tail(9))
    assert [violation.field for violation in caught.value.violations] == [TABLE.columns[1]]
    assert "text of the estimator's own" in caplog.text
    assert "text of the estimator's own" not in str(caught.value)


@pytest.mark.parametrize("error", [IndexError, TypeError, RuntimeError])
def test_an_estimator_that_takes_no_row_at_all_is_the_servers_fault(error: type[Exception]) -> None:
    model = in_process(Raises(error).fit(TABLE, IRIS.target))
    model.estimator.broken = True
    with pytest.raises(error):
        model.predict(TABLE)


@pytest.mark.parametrize("error", [MemoryError, OSError, RecursionError])
def test_what_the_machine_lacks_is_the_servers_fault(error: type[Exception]) -> None:
    with pytest.raises(error):
        in_process(Raises(error).fit(TABLE, IRIS.target)).predict(-TABLE)


def in_process(estimator: LinearRegression) -> Model:
    schema = Schema(tuple(Column(name, "float64") for name in TABLE.columns), Column("y", "float64"))
    return Model("mine", "1", schema, estimator, SklearnEngine(estimator, schema), sample=TABLE)


def test_a_category_that_naive_bayes_never_saw_is_the_callers_fault(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [0, 1, 2, 1] * 5, "b": [0, 1, 1, 0] * 5})
    model = save(CategoricalNB().fit(table, table["a"] > 0), table, tmp_path / "bayes")
    for strange in (7, -1):
        with pytest.raises(InvalidInput, match=f"row 3 has {strange}, which the model refuses") as caught:
            model.predict(table.assign(b=[0, 0, strange] + [1] * 17))
        assert [violation.field for violation in caught.value.violations] == ["b"]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle ran')",)


def test_a_pickle_in_disguise_is_refused_and_does_not_run(directory: Path) -> None:
    put(directory, "model.skops", pickle.dumps(Bomb()))
    with pytest.raises(ModelFileError, match=r"model.skops is not in the skops format"):
        load(directory)


def test_a_type_that_is_not_trusted_is_named_and_not_loaded(directory: Path) -> None:
    put(directory, "model.skops", skops.io.dumps(Halves().fit(TABLE, IRIS.target)))
    with pytest.raises(ModelFileError, match=r"not trusted: .*Halves; .* --trust .*Halves .in Python"):
        load(directory)
    name = skops.io.get_untrusted_types(data=(directory / "model.skops").read_bytes())[0]
    assert load(directory, trust=[name]).predict(TABLE)[0] == 0.5


def test_a_file_that_does_not_match_its_hash_is_refused(directory: Path) -> None:
    for file in ("model.skops", "sample.parquet"):
        good = (directory / file).read_bytes()
        (directory / file).write_bytes(good + b" ")
        with pytest.raises(ModelFileError, match=f"{file} is not the file that the manifest describes"):
            load(directory)
        (directory / file).write_bytes(good)
    load(directory)


@pytest.mark.parametrize("file", ["model.skops", "sample.parquet"])
def test_a_missing_or_garbled_file_is_a_sentence(directory: Path, file: str) -> None:
    put(directory, file, b"PK\x05\x06" + b"\0" * 18)
    with pytest.raises(ModelFileError, match=file):
        load(directory)
    (directory / file).unlink()
    with pytest.raises(ModelFileError, match=f"{file} is missing"):
        load(directory)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"name": 1, "version": 2, "schema": []}', "\ufffd\0"])
def test_a_manifest_that_is_none_is_a_sentence(directory: Path, text: str) -> None:
    (directory / "manifest.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"manifest.json is not a model's manifest"):
        load(directory)


def test_a_model_that_is_not_there_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model directory 'nowhere'"):
        load("nowhere")
    monkeypatch.setattr("pred_server.store.loading.MODELS", tmp_path)
    with pytest.raises(ModelFileError, match="run `pred-server train` first"):
        load("flights")


@pytest.mark.parametrize(
    ("estimator", "complaint"),
    [
        (LinearRegression(), "not a fitted scikit-learn estimator"),
        (object(), "not a fitted scikit-learn estimator"),
        (Constant(np.zeros((len(TABLE), 2, 2))).fit(TABLE), "predicts values of shape .* for a row"),
        (StandardScaler().fit(TABLE), "cannot predict the sample"),
    ],
)
def test_what_cannot_be_served_is_not_saved(estimator: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        save(estimator, TABLE, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_names_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="model name 'a b': use 1 to 64"):
        save(LinearRegression().fit(TABLE, IRIS.target), TABLE, tmp_path / "a b")
    with pytest.raises(InvalidInput, match=r"missing: .'petal width"):
        save(LinearRegression().fit(TABLE, IRIS.target), TABLE.iloc[:, :3], tmp_path / "x")


def test_a_model_shows_itself_escaped() -> None:
    model = load("sum")
    assert repr(model) == "Model('sum', version 1: x, y -> 0)"
    assert "<b>Model sum v1</b>" in model._repr_html_()
    assert "<script" not in Model("<script>", "1", model.schema, None, model.engine)._repr_html_()


@pytest.mark.parametrize("n_features", [3, 10])
@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(max_iter=200),
        LinearDiscriminantAnalysis(),
        GaussianNB(),
        make_pipeline(PCA(2), LinearRegression()),
        RandomForestClassifier(n_estimators=5, random_state=0),
    ],
)
def test_a_prediction_does_not_depend_on_its_neighbours(estimator: object, n_features: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(300, n_features))).add_prefix("x")
    model = save(estimator.fit(table, (table["x0"] > 0).astype(int)), table, tmp_path / "mine")
    output = "probabilities" if model.classes else "labels"
    whole = model.predict(table, output)
    for size in (1, 2, 5, 64, 299):
        parts = [model.predict(table.iloc[start : start + size], output) for start in range(0, 300, size)]
        assert np.concatenate(parts).tobytes() == whole.tobytes()
