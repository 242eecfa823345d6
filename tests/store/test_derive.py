"""What people have in their tables and targets: each is saved, and served as the estimator itself predicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from pred_server import load, save, serve
from pred_server.errors import InvalidInput
from pred_server.store.derive import derive
from pred_server.wire.codec import CODECS

X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)), columns=list("ab"))
Y = X["a"] + X["b"]
TEXT = pd.Series(["good day", "bad day"] * 30, name="text")
CLASSES = np.where(Y > 0, "late", "early")
TWO = np.column_stack([CLASSES, np.where(X["a"] > 0, "far", "near")])


def test_a_series_of_text_is_served_as_a_column(tmp_path: Path) -> None:
    estimator = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXT, TEXT)
    for sample in (TEXT, TEXT.to_frame(), TEXT.to_frame().head(1)):
        model = save(estimator, sample, tmp_path / "mine")
        assert model.schema.names == ["text"]
        assert load(tmp_path / "mine").predict(TEXT.to_frame()).tolist() == TEXT.tolist()
    assert save(estimator, TEXT.tolist(), tmp_path / "mine").schema.names == ["x0"]


@pytest.mark.parametrize("target", [Y.to_frame(), X, TWO, X > 0])
def test_several_targets_are_several_columns(target: Any, tmp_path: Path) -> None:
    is_number = isinstance(target, pd.DataFrame) and str(target.dtypes.iloc[0]) == "float64"
    estimator = LinearRegression() if is_number else RandomForestClassifier(5, random_state=0)
    estimator.fit(X, target)
    save(estimator, X, tmp_path / "mine")
    expected = np.asarray(estimator.predict(X))
    with serve(tmp_path / "mine") as server, server.client() as client:
        for encoding in CODECS:
            served = client.predict(X, encoding=encoding)
            assert np.array_equal(served.to_numpy().reshape(expected.shape), expected)
            if expected.shape[1] > 1:
                assert list(served.columns) == ["prediction_0", "prediction_1"]
            else:
                assert served.name == "prediction"
            if not is_number:
                probabilities = client.predict(X, encoding=encoding, output="probabilities")
                assert np.array_equal(probabilities.to_numpy(), np.hstack(estimator.predict_proba(X)))


def test_targets_have_the_names_that_they_are_given(tmp_path: Path) -> None:
    model = save(KNeighborsClassifier().fit(X, TWO), X, tmp_path / "mine", target=["delay", "distance"])
    assert model.output_names("labels") == ["delay", "distance"]
    assert model.classes == ["delay=early", "delay=late", "distance=far", "distance=near"]
    assert load(tmp_path / "mine").schema == model.schema
    with pytest.raises(InvalidInput, match="predicts values of shape"):
        save(LinearRegression().fit(X, X), X, tmp_path / "mine", target=["one", "two", "three"])


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (None, "target is None; a name is needed"),
        (5, "target is 5; a name is needed"),
        ([], r"target is \[\]; a name is needed"),
        (["a", 5], r"target is \['a', 5\]; a name is needed, or a list of names, one for each target"),
        (["a", "a"], "each target needs a name of its own"),
    ],
)
def test_a_target_that_is_no_name_is_a_sentence(target: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        save(LinearRegression().fit(X, X), X, tmp_path / "mine", target=target)


@pytest.mark.parametrize("nothing", [None, pd.NA, np.nan])
def test_a_column_without_any_value_may_be_in_the_sample(nothing: Any, tmp_path: Path) -> None:
    table = X.assign(empty=pd.Series([nothing] * len(X), dtype=object))
    chosen = make_pipeline(make_column_transformer(("passthrough", list(X.columns))), LinearRegression())
    model = save(chosen.fit(table, Y), table, tmp_path / "mine")
    assert load(tmp_path / "mine").predict(table).tolist() == model.predict(table).tolist()


@pytest.mark.parametrize(
    ("estimator", "names"),
    [
        (OneVsRestClassifier(LogisticRegression()).fit(X, (X > 0).astype(int)), ["prediction_0", "prediction_1"]),
        (ClassifierChain(LogisticRegression()).fit(X, (X > 0).astype(int)), ["prediction_0", "prediction_1"]),
        (GaussianMixture(3, random_state=0).fit(X), ["0", "1", "2"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_probabilities_without_classes_have_names(estimator: Any, names: list[str], tmp_path: Path) -> None:
    model = save(estimator, X, tmp_path / "mine")
    assert model.classes == names
    assert model.predict(X, "probabilities") == pytest.approx(estimator.predict_proba(X), rel=1e-9)


class Frames(TransformerMixin, BaseEstimator):
    """A step that knows no names of columns, and works with DataFrames only."""

    def __init__(self, column: Any = "a"):
        self.column = column

    def fit(self, table: pd.DataFrame, target: object = None) -> "Frames":
        self.fitted_ = True
        return self

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[[self.column]]


@pytest.mark.parametrize("labels", [["a", "b"], [0, 1], [20, 10]])
def test_a_step_without_names_gets_the_frame_that_it_was_fitted_on(labels: list[Any]) -> None:
    table = X.set_axis(labels, axis=1)
    estimator = make_pipeline(Frames(labels[1]), Ridge()).fit(table, Y)
    found = derive(estimator, table, "y")
    assert found.form.kind == "frame"
    assert found.form.of(found.schema.frame_to_rows(found.sample)).columns.tolist() == labels


def test_an_estimator_of_arrays_gets_arrays_though_the_sample_has_names() -> None:
    found = derive(LinearRegression().fit(X.to_numpy(), Y), X, "y")
    assert found.form.kind == "array"
    assert found.schema.names == ["a", "b"]


WITH_GAPS = [1, 2, None] * 20
DTYPES = {
    "Int64": (pd.array([1, 2, 3] * 20, "Int64"), "int64"),
    "Int64 with gaps": (pd.array(WITH_GAPS, "Int64"), "float64"),
    "Int8": (pd.array([1, 2, 3] * 20, "Int8"), "int8"),
    "Float64": (X["a"].astype("Float64"), "float64"),
    "Float32": (X["a"].astype("Float32"), "float32"),
    "boolean": (pd.array([True, False] * 30, "boolean"), "bool"),
    "Arrow's integers": (pd.array([1, 2, 3] * 20, pd.ArrowDtype(pa.int16())), "int16"),
    "Arrow's integers with gaps": (pd.array(WITH_GAPS, pd.ArrowDtype(pa.int64())), "float64"),
    "Arrow's floats": (pd.array([1.5, None, 2.5] * 20, pd.ArrowDtype(pa.float64())), "float64"),
    "Arrow's booleans": (pd.array([True, False] * 30, pd.ArrowDtype(pa.bool_())), "bool"),
    "objects": (pd.Series([1, 2, 3] * 20, dtype=object), "int64"),
    "objects with gaps": (pd.Series(WITH_GAPS, dtype=object), "float64"),
    "categories of numbers": (pd.Categorical([1, 2, 3] * 20), "int64"),
}


@pytest.mark.parametrize(("values", "dtype"), DTYPES.values(), ids=DTYPES)
def test_numbers_of_any_dtype_are_served(values: Any, dtype: str, tmp_path: Path) -> None:
    table = X.assign(b=values)
    estimator = HistGradientBoostingRegressor(max_iter=3, categorical_features=None).fit(table, Y)
    model = save(estimator, table, tmp_path / "mine")
    assert model.schema.columns[1].dtype == dtype
    assert np.array_equal(model.predict(table), estimator.predict(table))
    with serve(tmp_path / "mine") as server, server.client() as client:
        for encoding in ("csv", "columns", "arrow"):
            assert np.array_equal(client.predict(table, encoding=encoding), estimator.predict(table)), encoding


@pytest.mark.parametrize("dtype", ["str", "string", "category", "object", pd.ArrowDtype(pa.string())], ids=str)
def test_text_of_any_dtype_is_served(dtype: Any, tmp_path: Path) -> None:
    table = X.assign(b=pd.Series(["x", "y", "z"] * 20, dtype=dtype))
    encode = make_column_transformer((OneHotEncoder(), ["b"]), remainder="passthrough")
    estimator = make_pipeline(encode, Ridge()).fit(table, Y)
    model = save(estimator, table, tmp_path / "mine")
    assert model.schema.columns[1].dtype == "str"
    assert np.array_equal(model.predict(table), estimator.predict(table))


def test_categories_by_their_dtype_are_served(tmp_path: Path) -> None:
    table = X.assign(b=pd.Categorical(["x", "y", None] * 20))
    estimator = HistGradientBoostingRegressor(max_iter=3).fit(table, Y)
    assert np.array_equal(save(estimator, table, tmp_path / "mine").predict(table), estimator.predict(table))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (pd.array([True, None] * 30, "boolean"), "b: has booleans and missing values"),
        (pd.array([1, 2] * 30, pd.ArrowDtype(pa.decimal128(5, 2))), "column 'b' has dtype decimal128"),
        (pd.date_range("2013-01-01", periods=60), "column 'b' has dtype datetime64"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(values: Any, complaint: str, tmp_path: Path) -> None:
    table = X.assign(b=values)
    estimator = make_pipeline(make_column_transformer((SimpleImputer(), ["a"])), Ridge()).fit(table, Y)
    with pytest.raises(InvalidInput, match=complaint):
        save(estimator, table, tmp_path / "mine")


class Whole(RegressorMixin, BaseEstimator):
    """An estimator that needs some columns, and counts how often it is asked."""

    def __init__(self, needed: Any = ()):
        self.needed = needed

    def fit(self, table: pd.DataFrame, target: object = None) -> "Whole":
        self.feature_names_in_ = np.array(table.columns, object)
        self.asked_ = 0
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        self.asked_ += 1
        if table[list(self.needed)].isna().to_numpy().any():
            raise ValueError("a value is missing")
        return np.zeros(len(table))


@pytest.mark.parametrize("needed", [[], ["g3"], ["g0", "g77", "g199"], [f"g{number}" for number in range(200)]])
def test_each_column_that_may_be_missing_is_found(needed: list[str]) -> None:
    table = pd.DataFrame(np.zeros((2, 200))).add_prefix("g").assign(n=1, t="text")
    found = derive(Whole(needed).fit(table), table, "y")
    assert {column.name for column in found.schema.columns if not column.nullable} == {*needed, "n"}


def test_a_wide_table_is_asked_about_in_groups_and_not_column_by_column() -> None:
    table = pd.DataFrame(np.zeros((2, 4_000))).add_prefix("g")
    estimator = Whole([f"g{number}" for number in range(2_000)]).fit(table)
    found = derive(estimator, table, "y")
    assert estimator.asked_ < 60
    assert [column.nullable for column in found.schema.columns] == [False] * 2_000 + [True] * 2_000


def test_the_steps_of_a_column_transformer_are_the_groups() -> None:
    names = [f"g{number}" for number in range(2_000)]
    table = pd.DataFrame(np.zeros((2, 2_000)), columns=names)
    imputed, others = names[::3], [name for place, name in enumerate(names) if place % 3]
    columns = make_column_transformer((SimpleImputer(), imputed), (OrdinalEncoder(), others))
    found = derive(make_pipeline(columns, Ridge()).fit(table, [0, 1]), table, "y")
    assert all(column.nullable for column in found.schema.columns if column.name in set(imputed))


def test_neighbours_that_are_equally_near_are_no_reason_to_refuse_a_model(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.integers(0, 2, (1_000, 8)).astype(float)).add_prefix("x")
    estimator = KNeighborsRegressor(3, algorithm="brute").fit(table, random.random(1_000))
    model = save(estimator, table, tmp_path / "near")
    assert np.array_equal(model.predict(table)[:70], model.predict(table.head(70)))
