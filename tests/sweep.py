"""Every estimator of scikit-learn that predicts, fitted on small data: for tests that sweep over all of them."""

import os
import warnings
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone, is_classifier
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import all_estimators

# PRED_SERVER_SWEEP=all sweeps over every class; else over one of six.
SAMPLE_STEP = 6
_SEARCHED = {"estimator": Ridge(), "param_grid": {"alpha": [0.1, 1.0]}}
_DRAWN = {"estimator": Ridge(), "param_distributions": {"alpha": [0.1, 1.0]}}
_TWO_CLASSIFIERS = [("linear", LogisticRegression()), ("tree", DecisionTreeClassifier(max_depth=4, random_state=0))]
_TWO_REGRESSORS = [("linear", Ridge()), ("tree", DecisionTreeRegressor(max_depth=4, random_state=0))]
_ON_A_CLASSIFIER = [
    "ClassifierChain", "FixedThresholdClassifier", "MultiOutputClassifier", "OneVsOneClassifier", "OneVsRestClassifier",
    "OutputCodeClassifier", "SelfTrainingClassifier", "TunedThresholdClassifierCV",
]  # fmt: skip
_ON_A_REGRESSOR = ["MultiOutputRegressor", "RFE", "RFECV", "RegressorChain"]
# What a class needs beyond its defaults to be made, to have `predict`, or to be fitted within a second.
_SETTINGS: dict[str, dict[str, Any]] = {
    **{name: {"estimator": LogisticRegression()} for name in _ON_A_CLASSIFIER},
    **{name: {"estimator": Ridge()} for name in _ON_A_REGRESSOR},
    "GridSearchCV": _SEARCHED,
    "HalvingGridSearchCV": _SEARCHED,
    "RandomizedSearchCV": {**_DRAWN, "n_iter": 2},
    "HalvingRandomSearchCV": _DRAWN,
    "StackingClassifier": {"estimators": _TWO_CLASSIFIERS},
    "VotingClassifier": {"estimators": _TWO_CLASSIFIERS},
    "StackingRegressor": {"estimators": _TWO_REGRESSORS},
    "VotingRegressor": {"estimators": _TWO_REGRESSORS},
    "Pipeline": {"steps": [("scale", StandardScaler()), ("linear", Ridge())]},
    "BayesianGaussianMixture": {"n_components": 2},
    "CategoricalNB": {"min_categories": 9},
    "GaussianMixture": {"n_components": 2},
    "HistGradientBoostingClassifier": {"max_iter": 20},
    "HistGradientBoostingRegressor": {"max_iter": 20},
    "LocalOutlierFactor": {"novelty": True},
    "LogisticRegressionCV": {"Cs": 3, "cv": 3},
    "MLPClassifier": {"hidden_layer_sizes": (8,), "max_iter": 50},
    "MLPRegressor": {"hidden_layer_sizes": (8,), "max_iter": 50},
    "RadiusNeighborsClassifier": {"radius": 1e3},
    "RadiusNeighborsRegressor": {"radius": 1e3},
}
_TWO_LABELS = {"FixedThresholdClassifier", "TunedThresholdClassifierCV"}
_WHOLE_NUMBERS = {"CategoricalNB"}
ONE_COLUMN = {"IsotonicRegression"}
_SEVERAL_TARGETS = {
    "CCA", "ClassifierChain", "MultiOutputClassifier", "MultiOutputRegressor", "MultiTaskElasticNet",
    "MultiTaskElasticNetCV", "MultiTaskLasso", "MultiTaskLassoCV", "PLSCanonical", "RegressorChain",
}  # fmt: skip


def table(name: str = "", n_rows: int = 120, seed: int = 0) -> pd.DataFrame:
    """Return fresh rows as the class of that name takes them: four columns of numbers above 0, some take no others."""
    rows = pd.DataFrame(np.random.default_rng(seed).gamma(3.0, 1.0, size=(n_rows, 4)), columns=list("abcd"))
    if name in _WHOLE_NUMBERS:
        rows = rows.clip(upper=8).round().astype("int64")
    return rows[["a"]] if name in ONE_COLUMN else rows


@cache
def classes() -> dict[str, type]:
    """Return every class of scikit-learn that has `predict`, by its name."""
    return {name: kind for name, kind in all_estimators() if hasattr(kind, "predict")}


def names() -> list[str]:
    """Return the names of the classes to sweep over: one of six, or all where PRED_SERVER_SWEEP is `all`."""
    return list(classes())[:: 1 if os.environ.get("PRED_SERVER_SWEEP") == "all" else SAMPLE_STEP]


def fitted(name: str) -> Any:
    """Return an estimator of that class, fitted on `table(name)`.

    A regressor predicts one number above 0; a classifier one of three labels of text, or of two where it takes no
    third. Those for several targets get two.
    """
    kind = classes()[name]
    estimator = kind(**_SETTINGS.get(name, {}))
    known = estimator.get_params()
    estimator.set_params(**{key: value for key, value in (("random_state", 0), ("n_estimators", 15)) if key in known})
    x = table(name)
    number = x["a"] * x.iloc[:, -1] - x.iloc[:, len(x.columns) // 2]
    target: Any = number - number.min() + 0.1
    if is_classifier(estimator):
        places = np.digitize(target, np.quantile(target, [0.5] if name in _TWO_LABELS else [0.4, 0.8]))
        target = places if name in _SEVERAL_TARGETS else np.array(["low", "middle", "high"], object)[places]
    if name in _SEVERAL_TARGETS:
        target = np.column_stack([target, target[::-1]])
    with warnings.catch_warnings(action="ignore"):  # of convergence, on so few rows
        return estimator.fit(x, target)


def mixed_table(n_rows: int, seed: int) -> pd.DataFrame:
    """Return numbers and text with gaps, integers, booleans. Numbers lie from 0 to 8: some estimators ask for that."""
    rng = np.random.default_rng(seed)
    numbers = rng.gamma(3.0, 1.0, size=(n_rows, 2)).clip(max=8)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "size": numbers[:, 0],
            "weight": numbers[:, 1],
            "count": rng.integers(0, 9, n_rows),
            "new": rng.random(n_rows) < 0.5,
            "colour": pd.Series(rng.choice(["red", "green", "blue", None], n_rows), dtype="str"),
        }
    )


def fitted_on_mixed(name: str) -> Any:
    """Return an estimator of that class behind a ColumnTransformer, fitted on a mixed table."""
    estimator = clone(fitted(name))
    table = mixed_table(120, seed=0)
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (SimpleImputer(add_indicator=True), ["size", "weight"]), (encode, ["colour"]), remainder="passthrough"
    )
    target: Any = table["size"].fillna(3) + table["count"] * table["new"] + 0.1
    if is_classifier(estimator):
        places = np.digitize(target, np.quantile(target, [0.5] if name in _TWO_LABELS else [0.4, 0.8]))
        target = places if name in _SEVERAL_TARGETS else np.array(["low", "middle", "high"], object)[places]
    if name in _SEVERAL_TARGETS:
        target = np.column_stack([target, target[::-1]])
    with warnings.catch_warnings(action="ignore"):
        return make_pipeline(columns, estimator).fit(table, target)
