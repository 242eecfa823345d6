"""The models that need no file: `sum`, the article's example, and `linear` and `wide`, for measuring."""

import hashlib
from collections.abc import Callable

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
    return Model("sum", "1", schema, estimator, SklearnEngine(estimator, schema), digest=_digest("sum"))


def linear_model(name: str = "linear", n_columns: int = 10) -> Model:
    """Numbers in, their weighted sum out: next to nothing to compute, for measuring what tables cost."""
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(100, n_columns))).add_prefix("x")
    estimator = LinearRegression().fit(table, table.to_numpy() @ np.arange(1.0, n_columns + 1) + 0.5)
    schema = Schema(tuple(Column(str(name), "float64") for name in table), Column("y", "float64"))
    engine = SklearnEngine(estimator, schema, table)
    return Model(name, "1", schema, estimator, engine, sample=table, digest=_digest(name))


def _digest(name: str) -> str:
    return hashlib.sha256(f"built-in {name} 1".encode()).hexdigest()[:16]


BUILT_IN: dict[str, Callable[[], Model]] = {
    "sum": sum_model,
    "linear": linear_model,
    "wide": lambda: linear_model("wide", 5_000),
}
