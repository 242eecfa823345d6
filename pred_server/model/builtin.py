"""The models that need no file: `sum`, the article's example, and `linear`, for measuring."""

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from pred_server.model.model import Model
from pred_server.model.sklearn_engine import SklearnEngine
from pred_server.wire.schema import Column, Schema


class Sum:
    """The article's own example, as an estimator: x + y."""

    feature_names_in_ = ("x", "y")

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        return (table["x"] + table["y"]).to_numpy()


def sum_model() -> Model:
    columns = (Column("x", "float64", nullable=True), Column("y", "float64", nullable=True))
    schema, estimator = Schema(columns, Column("0", "float64")), Sum()
    return Model("sum", "1", schema, estimator, SklearnEngine(estimator, schema))


def linear_model() -> Model:
    """Ten numbers in, their weighted sum out: next to nothing to compute, for measuring what large tables cost."""
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(100, 10))).add_prefix("x")
    estimator = LinearRegression().fit(table, table.to_numpy() @ np.arange(1.0, 11.0) + 0.5)
    schema = Schema(tuple(Column(str(name), "float64") for name in table), Column("y", "float64"))
    return Model("linear", "1", schema, estimator, SklearnEngine(estimator, schema, table), sample=table)


BUILT_IN = {"sum": sum_model, "linear": linear_model}
