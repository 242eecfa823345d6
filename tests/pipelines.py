"""Random small pipelines of scikit-learn, fitted: a strategy for tests that ask whether any model is served as it is.

Hypothesis draws what a pipeline is made of; the numbers in its table come from a generator with a drawn seed.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import reject
from hypothesis import strategies as st
from sklearn import (
    cluster,
    decomposition,
    ensemble,
    feature_selection,
    linear_model,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline, make_pipeline

# How many pipelines are tried: `make fuzz` tries 1,000.
EXAMPLES = int(os.environ.get("PRED_SERVER_FUZZ", "100"))
ROWS = (20, 33, 50, 100, 100, 200, 500, 2_000)
GAPS = 0.15
WORDS = ["red", "green", "blue", "Grün", "light blue", "a,b", 'say "x"', "☃"]
Values = Callable[[np.random.Generator, int], pd.Series]


@dataclass(frozen=True, eq=False)
class Case:
    """A fitted estimator, the table that it was fitted on, and a way to draw more rows of the same making."""

    estimator: Any
    sample: pd.DataFrame | pd.Series | np.ndarray
    draw: Callable[[int, int], Any]
    """Takes a number of rows and a seed."""

    def __repr__(self) -> str:
        kinds = self.sample.dtypes if isinstance(self.sample, pd.DataFrame) else self.sample.dtype
        kinds = kinds.to_dict() if isinstance(kinds, pd.Series) else kinds
        return f"{self.estimator!r} fitted on {len(self.sample)} rows of {kinds}"


def _numbers(dtype: Any, scale: float = 1.0, shift: float = 0.0, gaps: float = 0.0) -> Values:
    def values(random: np.random.Generator, n_rows: int) -> pd.Series:
        numbers = pd.Series(random.normal(size=n_rows) * scale + shift)
        return numbers.mask(random.random(n_rows) < gaps).astype(dtype)

    return values


def _integers(dtype: Any, low: int, high: int, gaps: float = 0.0) -> Values:
    def values(random: np.random.Generator, n_rows: int) -> pd.Series:
        numbers = pd.Series(random.integers(low, high, n_rows))
        return (
            numbers.astype("Int64").mask(random.random(n_rows) < gaps).astype(dtype) if gaps else numbers.astype(dtype)
        )

    return values


def _choice(dtype: Any, words: list[Any], gaps: float = 0.0) -> Values:
    def values(random: np.random.Generator, n_rows: int) -> pd.Series:
        chosen = [words[place] for place in random.integers(0, len(words), n_rows)]
        gap = random.random(n_rows) < gaps
        return pd.Series([None if missing else word for word, missing in zip(chosen, gap, strict=True)], dtype=dtype)

    return values


def _sentences(dtype: Any) -> Values:
    def values(random: np.random.Generator, n_rows: int) -> pd.Series:
        lines = [" ".join(random.choice(WORDS, random.integers(1, 6))) for _ in range(n_rows)]
        return pd.Series(lines, dtype=dtype)

    return values


NUMBERS: dict[str, Values] = {
    "float64": _numbers("float64"),
    "float32": _numbers("float32"),
    "far from zero": _numbers("float64", 1e3, 1e6),
    "tiny": _numbers("float64", 1e-6),
    "halves": lambda random, n_rows: _integers("float64", -6, 7)(random, n_rows) / 2,
    "constant": _numbers("float64", 0.0, 3.0),
    "int8": _integers("int8", -20, 20),
    "int16": _integers("int16", -5, 5),
    "int32": _integers("int32", 0, 100_000),
    "int64": _integers("int64", -50, 50),
    "large int64": _integers("int64", 2**53, 2**53 + 9),
    "uint8": _integers("uint8", 0, 250),
    "uint16": _integers("uint16", 0, 3),
    "uint32": _integers("uint32", 2**24, 2**24 + 90),
    "uint64": _integers("uint64", 0, 9),
    "Int64": _integers("Int64", -50, 50),
    "UInt8": _integers("UInt8", 0, 250),
    "Float64": _numbers("Float64"),
    "int64[pyarrow]": _integers("int64[pyarrow]", -50, 50),
    "double[pyarrow]": _numbers("double[pyarrow]"),
    "category of integers": _choice("category", [1, 2, 5]),
    "bool": _choice("bool", [False, True]),
    "boolean": _choice("boolean", [False, True]),
    "bool[pyarrow]": _choice("bool[pyarrow]", [False, True]),
}
NUMBERS_WITH_GAPS: dict[str, Values] = {
    "float64 with gaps": _numbers("float64", gaps=GAPS),
    "float32 with gaps": _numbers("float32", gaps=GAPS),
    "Int64 with gaps": _integers("Int64", -50, 50, GAPS),
    "Float64 with gaps": _numbers("Float64", gaps=GAPS),
    "int64[pyarrow] with gaps": _integers("int64[pyarrow]", -50, 50, GAPS),
    "double[pyarrow] with gaps": _numbers("double[pyarrow]", gaps=GAPS),
    "category of numbers with gaps": _choice("category", [0.5, 2.0, 5.0], GAPS),
}
TEXTS: dict[str, Values] = {
    "str": _choice("str", WORDS),
    "object": _choice(object, WORDS),
    "string": _choice("string", WORDS),
    "string[pyarrow]": _choice("string[pyarrow]", WORDS),
    "category": _choice("category", WORDS),
    "empty texts": _choice("str", ["", " ", "x"]),
}
TEXTS_WITH_GAPS: dict[str, Values] = {
    "str with gaps": _choice("str", WORDS, GAPS),
    "string with gaps": _choice("string", WORDS, GAPS),
    "category with gaps": _choice("category", WORDS, GAPS),
}
SENTENCES: dict[str, Values] = {"sentences": _sentences("str"), "sentences as objects": _sentences(object)}

STEPS_FOR_NUMBERS: tuple[Callable[[], Any], ...] = (
    lambda: "passthrough",
    preprocessing.StandardScaler,
    preprocessing.MinMaxScaler,
    preprocessing.RobustScaler,
    preprocessing.MaxAbsScaler,
    preprocessing.Normalizer,
    partial(preprocessing.QuantileTransformer, n_quantiles=10),
    preprocessing.PowerTransformer,
    preprocessing.Binarizer,
    partial(preprocessing.KBinsDiscretizer, n_bins=3, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
    partial(preprocessing.KBinsDiscretizer, n_bins=3, encode="ordinal", quantile_method="averaged_inverted_cdf"),
    partial(preprocessing.PolynomialFeatures, degree=2),
    partial(preprocessing.SplineTransformer, n_knots=3),
)
IMPUTERS: tuple[Callable[[], Any], ...] = (
    *([SimpleImputer] * 3),
    partial(SimpleImputer, strategy="median", add_indicator=True),
    partial(SimpleImputer, strategy="most_frequent"),
    partial(SimpleImputer, strategy="constant", fill_value=-1),
    partial(KNNImputer, n_neighbors=3),
    partial(MissingIndicator, features="all"),
)
ENCODERS: tuple[Callable[[], Any], ...] = (
    preprocessing.OneHotEncoder,
    partial(preprocessing.OneHotEncoder, handle_unknown="ignore"),
    partial(preprocessing.OneHotEncoder, handle_unknown="ignore", drop="first", sparse_output=False),
    partial(preprocessing.OneHotEncoder, handle_unknown="infrequent_if_exist", min_frequency=0.1),
    partial(preprocessing.OneHotEncoder, handle_unknown="ignore", max_categories=3, dtype=np.float32),
    preprocessing.OrdinalEncoder,
    partial(preprocessing.OrdinalEncoder, handle_unknown="use_encoded_value", unknown_value=-1),
    partial(preprocessing.TargetEncoder, cv=2),
)
# A gap among texts becomes a category of its own in an encoder; or an imputer comes before it.
IMPUTERS_FOR_TEXTS: tuple[Callable[[], Any], ...] = (
    lambda: "passthrough",
    partial(SimpleImputer, strategy="most_frequent"),
    partial(SimpleImputer, strategy="constant", fill_value="none"),
)
VECTORIZERS: tuple[Callable[[], Any], ...] = (
    CountVectorizer,
    TfidfVectorizer,
    partial(TfidfVectorizer, analyzer="char_wb", ngram_range=(2, 3), max_features=50),
    partial(HashingVectorizer, n_features=32),
)
# After the columns have become numbers.
STEPS_FOR_ALL: tuple[Callable[[], Any], ...] = (
    *([lambda: "passthrough"] * 6),
    partial(preprocessing.StandardScaler, with_mean=False),
    feature_selection.VarianceThreshold,
    partial(feature_selection.SelectKBest, k=2),
    partial(feature_selection.SelectPercentile, percentile=60),
    partial(feature_selection.SelectFromModel, tree.ExtraTreeRegressor(random_state=0)),
    partial(feature_selection.SelectFromModel, linear_model.Ridge()),
    partial(decomposition.TruncatedSVD, n_components=2, random_state=0),
    partial(decomposition.PCA, n_components=0.9, random_state=0),
)
FEW = {"max_depth": 4, "random_state": 0}
REGRESSORS: tuple[Callable[[], Any], ...] = (
    linear_model.LinearRegression,
    linear_model.Ridge,
    partial(linear_model.Lasso, alpha=0.01),
    partial(linear_model.ElasticNet, alpha=0.01),
    linear_model.BayesianRidge,
    linear_model.HuberRegressor,
    partial(linear_model.SGDRegressor, random_state=0),
    linear_model.LassoLars,
    partial(tree.DecisionTreeRegressor, **FEW),
    partial(tree.ExtraTreeRegressor, random_state=0),
    partial(ensemble.RandomForestRegressor, 7, **FEW),
    partial(ensemble.ExtraTreesRegressor, 7, **FEW),
    partial(ensemble.GradientBoostingRegressor, n_estimators=9, random_state=0),
    partial(ensemble.GradientBoostingRegressor, n_estimators=9, loss="huber", subsample=0.5, random_state=0),
    partial(ensemble.HistGradientBoostingRegressor, max_iter=9, random_state=0),
    partial(ensemble.HistGradientBoostingRegressor, max_iter=9, loss="absolute_error", random_state=0),
    partial(ensemble.AdaBoostRegressor, n_estimators=5, random_state=0),
    partial(ensemble.BaggingRegressor, n_estimators=4, max_features=0.7, random_state=0),
    partial(ensemble.VotingRegressor, [("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(**FEW))]),
    partial(ensemble.StackingRegressor, [("a", linear_model.Ridge()), ("b", tree.DecisionTreeRegressor(**FEW))], cv=2),
    partial(TransformedTargetRegressor, linear_model.Ridge(), transformer=preprocessing.StandardScaler()),
    partial(neighbors.KNeighborsRegressor, 3),
    svm.SVR,
    partial(svm.LinearSVR, random_state=0),
    partial(neural_network.MLPRegressor, hidden_layer_sizes=(5,), max_iter=20, random_state=0),
)
REGRESSORS_FOR_SEVERAL: tuple[Callable[[], Any], ...] = (
    linear_model.LinearRegression,
    linear_model.Ridge,
    partial(linear_model.MultiTaskLasso, alpha=0.01),
    partial(tree.DecisionTreeRegressor, **FEW),
    partial(ensemble.RandomForestRegressor, 7, **FEW),
    partial(neighbors.KNeighborsRegressor, 3),
    partial(multioutput.MultiOutputRegressor, ensemble.HistGradientBoostingRegressor(max_iter=5, random_state=0)),
    partial(multioutput.RegressorChain, linear_model.Ridge()),
    partial(neural_network.MLPRegressor, hidden_layer_sizes=(5,), max_iter=20, random_state=0),
)
CLASSIFIERS: tuple[Callable[[], Any], ...] = (
    linear_model.LogisticRegression,
    linear_model.RidgeClassifier,
    partial(linear_model.SGDClassifier, random_state=0),
    partial(linear_model.SGDClassifier, loss="log_loss", random_state=0),
    partial(linear_model.Perceptron, random_state=0),
    partial(tree.DecisionTreeClassifier, **FEW),
    partial(tree.ExtraTreeClassifier, random_state=0),
    partial(ensemble.RandomForestClassifier, 6, **FEW),
    partial(ensemble.ExtraTreesClassifier, 7, **FEW),
    partial(ensemble.GradientBoostingClassifier, n_estimators=5, random_state=0),
    partial(ensemble.HistGradientBoostingClassifier, max_iter=5, random_state=0),
    partial(ensemble.AdaBoostClassifier, n_estimators=5, random_state=0),
    partial(ensemble.BaggingClassifier, n_estimators=4, random_state=0),
    partial(
        ensemble.VotingClassifier,
        [("a", linear_model.LogisticRegression()), ("b", tree.DecisionTreeClassifier(**FEW))],
        voting="soft",
    ),
    partial(ensemble.StackingClassifier, [("a", tree.DecisionTreeClassifier(**FEW))], cv=2),
    partial(CalibratedClassifierCV, svm.LinearSVC(random_state=0), cv=2),
    partial(neighbors.KNeighborsClassifier, 3),
    neighbors.NearestCentroid,
    naive_bayes.GaussianNB,
    naive_bayes.BernoulliNB,
    svm.SVC,
    partial(svm.LinearSVC, random_state=0),
    partial(neural_network.MLPClassifier, hidden_layer_sizes=(5,), max_iter=20, random_state=0),
)
CLASSIFIERS_FOR_SEVERAL: tuple[Callable[[], Any], ...] = (
    partial(tree.DecisionTreeClassifier, **FEW),
    partial(ensemble.RandomForestClassifier, 7, **FEW),
    partial(neighbors.KNeighborsClassifier, 3),
    partial(multioutput.MultiOutputClassifier, linear_model.LogisticRegression()),
    partial(multioutput.ClassifierChain, linear_model.LogisticRegression()),
)
WITHOUT_TARGET: tuple[Callable[[], Any], ...] = (
    partial(cluster.KMeans, 3, n_init=1, random_state=0),
    partial(cluster.MiniBatchKMeans, 3, n_init=1, random_state=0),
    partial(GaussianMixture, 2, random_state=0),
    partial(ensemble.IsolationForest, n_estimators=8, random_state=0),
    partial(svm.OneClassSVM, nu=0.1),
    partial(neighbors.LocalOutlierFactor, 5, novelty=True),
)
# Of a target: what is predicted, by which models.
TARGETS: dict[str, tuple[Callable[[], Any], ...]] = {
    "floats": REGRESSORS,
    "float32": REGRESSORS,
    "counts": REGRESSORS,
    "one column": REGRESSORS,
    "several floats": REGRESSORS_FOR_SEVERAL,
    "texts": CLASSIFIERS,
    "two texts": CLASSIFIERS,
    "integers": CLASSIFIERS,
    "booleans": CLASSIFIERS,
    "several labels": CLASSIFIERS_FOR_SEVERAL,
    "several texts": CLASSIFIERS_FOR_SEVERAL[:3],
    "none": WITHOUT_TARGET,
}


def _target(kind: str, table: pd.DataFrame, random: np.random.Generator) -> Any:
    """Return a target that depends on the table, with some noise."""
    numbers = [values.cat.codes if values.dtype == "category" else values for _, values in table.items()]
    signal = sum(np.unique(values.astype(object).map(str), return_inverse=True)[1] for values in numbers)
    signal = np.asarray(signal / np.ptp(signal) if np.ptp(signal) else signal, float) * 3
    noisy = signal + random.normal(size=len(table)) * 0.3
    ranks = np.argsort(np.argsort(noisy)) / len(table)
    places = np.digitize(ranks, [0.35, 0.7])
    return {
        "floats": noisy * 100,
        "float32": noisy.astype(np.float32),
        "counts": places * 3 + 1,
        "one column": noisy.reshape(-1, 1),
        "several floats": np.column_stack([noisy, -(noisy**2)]),
        "texts": np.array(["low", "naïve, middle", "high"], object)[places],
        "two texts": np.array(["yes", "no"])[places % 2],
        "integers": places * 7 - 3,
        "booleans": places > 0,
        "several labels": np.column_stack([places > 0, places > 1]).astype(int),
        "several texts": np.column_stack([np.array(["a", "b", "c"])[places], np.array(["x", "y", "x"])[places]]),
        "none": None,
    }[kind]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a pipeline of one of three shapes: for a mixed table, for a table of numbers, for a column of sentences."""
    shape = draw(st.sampled_from(["mixed", "mixed", "mixed", "numbers", "numbers", "sentences"]))
    steps: list[tuple[str, Any]]
    if shape == "mixed":
        columns, steps = draw(_mixed())
    elif shape == "numbers":
        columns, steps = draw(_plain())
    else:
        columns = {"text": SENTENCES[draw(st.sampled_from(sorted(SENTENCES)))]}
        steps = [("words", draw(st.sampled_from(VECTORIZERS))())]
    steps.append(("more", draw(st.sampled_from(STEPS_FOR_ALL))()))
    target = draw(st.sampled_from(sorted(TARGETS)))
    steps.append(("model", draw(st.sampled_from(TARGETS[target]))()))
    form = "series" if shape == "sentences" else draw(st.sampled_from(["frame"] * 4 + ["array", "numbered"]))
    form = "frame" if shape == "mixed" and form == "array" else form
    n_rows, seed = draw(st.sampled_from(ROWS)), draw(st.integers(0, 2**32 - 1))

    def table(n_rows: int, seed: int) -> Any:
        random = np.random.default_rng(seed)
        frame = pd.DataFrame({name: values(random, n_rows) for name, values in columns.items()})
        if form == "series":
            return frame["text"]
        if form == "array":
            return frame.to_numpy(dtype=float, na_value=np.nan)
        return frame.set_axis(range(len(columns)), axis=1) if form == "numbered" else frame

    sample, estimator = table(n_rows, seed), Pipeline([step for step in steps if step[1] != "passthrough"])
    if form == "numbered" and shape == "mixed":  # steps by places, as the columns have no names
        _by_place(estimator, list(columns))
    as_frame = pd.DataFrame(sample)
    try:
        with warnings.catch_warnings(action="ignore"):  # of convergence, on so few rows
            wanted = _target(target, as_frame, np.random.default_rng(seed))
            estimator = estimator if len(estimator) > 1 else estimator[0]
            estimator.fit(sample, wanted)
            estimator.predict(sample)
    except Exception:  # of any type, scikit-learn's own: these steps do not go together
        reject()
    return Case(estimator, sample, table)


@st.composite
def _plain(draw: st.DrawFn) -> tuple[dict[str, Values], list[tuple[str, Any]]]:
    """Draw a table of numbers, and steps that take all of it."""
    gaps = draw(st.booleans())
    kinds = NUMBERS | NUMBERS_WITH_GAPS if gaps else NUMBERS
    same = draw(st.booleans())
    chosen = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=5))
    chosen = [chosen[0]] * len(chosen) if same else chosen
    columns = {f"x{place}": kinds[kind] for place, kind in enumerate(chosen)}
    steps = [("fill", draw(st.sampled_from(IMPUTERS))())] if gaps and draw(st.booleans()) else []
    return columns, [*steps, ("scale", draw(st.sampled_from(STEPS_FOR_NUMBERS))())]


@st.composite
def _mixed(draw: st.DrawFn) -> tuple[dict[str, Values], list[tuple[str, Any]]]:
    """Draw columns of several kinds, and a ColumnTransformer for them."""
    numbers = draw(st.lists(st.sampled_from(sorted(NUMBERS)), max_size=3))
    with_gaps = draw(st.lists(st.sampled_from(sorted(NUMBERS_WITH_GAPS)), max_size=2))
    texts = draw(st.lists(st.sampled_from(sorted(TEXTS)), min_size=0 if numbers or with_gaps else 1, max_size=2))
    texts_with_gaps = draw(st.lists(st.sampled_from(sorted(TEXTS_WITH_GAPS)), max_size=1))
    sentences = draw(st.lists(st.sampled_from(sorted(SENTENCES)), max_size=1)) if draw(st.booleans()) else []
    everything = NUMBERS | NUMBERS_WITH_GAPS | TEXTS | TEXTS_WITH_GAPS | SENTENCES
    names = {kind: f"{kind}{place}" for place, kind in enumerate([*numbers, *with_gaps, *texts, *texts_with_gaps])}
    names |= {kind: kind for kind in sentences}
    steps: list[tuple[str, Any, Any]] = []
    if numbers:
        steps.append(
            ("numbers", draw(st.sampled_from(STEPS_FOR_NUMBERS))(), [names[kind] for kind in dict.fromkeys(numbers)])
        )
    if with_gaps:
        filled = make_pipeline(draw(st.sampled_from(IMPUTERS))(), draw(st.sampled_from(STEPS_FOR_NUMBERS))())
        steps.append(("gaps", filled, [names[kind] for kind in dict.fromkeys(with_gaps)]))
    if texts:
        steps.append(("texts", draw(st.sampled_from(ENCODERS))(), [names[kind] for kind in dict.fromkeys(texts)]))
    if texts_with_gaps:
        fill, encode = draw(st.sampled_from(IMPUTERS_FOR_TEXTS))(), draw(st.sampled_from(ENCODERS))()
        steps.append(("texts with gaps", make_pipeline(fill, encode), [names[kind] for kind in texts_with_gaps]))
    for kind in sentences:
        steps.append((kind, draw(st.sampled_from(VECTORIZERS))(), names[kind]))
    columns = {names[kind]: everything[kind] for kind in draw(st.permutations(list(names)))}
    sparse = draw(st.sampled_from([0.0, 0.3]))
    return columns, [("columns", ColumnTransformer(sorted(steps, key=lambda step: step[0]), sparse_threshold=sparse))]


def _by_place(estimator: Pipeline, names: list[str]) -> None:
    """Have a ColumnTransformer name its columns by their places."""
    transformer = estimator.steps[0][1]
    transformer.transformers = [
        (name, step, names.index(wanted) if isinstance(wanted, str) else [names.index(each) for each in wanted])
        for name, step, wanted in transformer.transformers
    ]
