"""scikit-learn asked with arrays in place of DataFrames, where that is the same."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from pred_server.model.form import FRAME, Form, known_form
from pred_server.model.sklearn_engine import SklearnEngine, call_estimator, for_arrays
from pred_server.wire.schema import Column, Schema

TABLE = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 3)), columns=["a", "b", "c"])
TARGET = TABLE["a"] - 2 * TABLE["b"]
SCHEMA = Schema(tuple(Column(name, "float64") for name in TABLE), Column("y", "float64"))
FORM = Form(FRAME, SCHEMA.index)


@pytest.mark.parametrize(
    ("estimator", "takes_arrays"),
    [
        (LinearRegression(), True),
        (HistGradientBoostingRegressor(max_iter=5), True),
        (make_pipeline(StandardScaler(), "passthrough", Ridge()), True),
        (TransformedTargetRegressor(Ridge(), func=np.cbrt, inverse_func=lambda y: y**3), False),
        (make_pipeline(ColumnTransformer([("some", StandardScaler(), ["a", "c"])]), Ridge()), False),
        (make_pipeline(FunctionTransformer(lambda table: table[["b"]]), Ridge()), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_estimator_is_asked_with_arrays_where_it_predicts_the_same(estimator: Any, takes_arrays: bool) -> None:
    estimator.fit(TABLE, TARGET)
    asked = for_arrays(estimator, SCHEMA.frame_to_rows(TABLE.head(50)), FORM)
    assert hasattr(asked, "feature_names_in_") is not takes_arrays
    assert list(estimator.feature_names_in_) == ["a", "b", "c"], "the caller's own estimator is left as it was"
    with warnings.catch_warnings(action="error"):
        for rows in (1, 7, 200):
            sent = SCHEMA.frame_to_rows(TABLE.head(rows))
            predicted = call_estimator(asked, sent, known_form(asked, SCHEMA.index))
            assert np.array_equal(predicted, estimator.predict(TABLE.head(rows)))


def test_probabilities_are_compared_where_labels_would_hide_a_difference() -> None:
    def doubled(table: Any) -> np.ndarray:
        return 2 * table.to_numpy() if hasattr(table, "columns") else table

    estimator = make_pipeline(FunctionTransformer(doubled), LogisticRegression(fit_intercept=False))
    estimator.fit(TABLE, TARGET > 0)
    rows = SCHEMA.frame_to_rows(TABLE)
    bare = make_pipeline(*(step for _, step in estimator.steps[1:]))
    assert np.array_equal(bare.predict(rows.array), estimator.predict(TABLE)), "the labels do not tell"
    assert for_arrays(estimator, rows, FORM) is estimator


@pytest.mark.parametrize("wrapped", [False, True])
def test_of_neighbours_that_are_equally_near_the_same_are_found_whatever_rows_come_along(wrapped: bool) -> None:
    """Of zeros and ones many rows are equally far from another; which are taken, threads and matrix products decide."""
    random = np.random.default_rng(2)
    table = pd.DataFrame((random.random((1_024, 8)) < 0.3).astype(float)).add_prefix("x")
    schema = Schema(tuple(Column(name, "float64") for name in table), Column("y", "float64"))
    estimator = KNeighborsRegressor(3, algorithm="brute").fit(table.head(40), random.random(40))
    estimator = TransformedTargetRegressor(estimator).fit(table.head(40), random.random(40)) if wrapped else estimator
    engine, rows = SklearnEngine(estimator, schema, table.head(40)), schema.frame_to_rows(table)
    together = engine.predict(rows, "labels")
    for start, stop in ((0, 1), (19, 37), (0, 16), (16, 48), (64, 200), (5, 900), (1_023, 1_024)):
        assert np.array_equal(engine.predict(rows.take(slice(start, stop)), "labels"), together[start:stop])
