"""What computes predictions: the engine of scikit-learn, and the interface that every engine has."""

import copy
import warnings
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from pred_server.limits import ROW_BLOCK
from pred_server.model.form import BARE, FRAME, Form, known_form
from pred_server.model.row_blocks import find_row_block, is_of_trees, predict_in_blocks, takes_the_nearest
from pred_server.model.threads import threads_for
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema

# So many rows are predicted at a time where neighbours are looked for. More would cost one row more, and fewer a table.
NEAREST_ROWS = 64
# Tables of more columns are always predicted in blocks: to find out whether they need it takes too long.
WIDE = 1_000


class Engine(Protocol):
    """Computes `predict` for a model."""

    name: str

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        """Return values of shape (n_rows,) or (n_rows, n_targets), or (n_rows, n_classes) for "probabilities".

        Where the estimator refuses the values it raises ValueError, or whatever else it has for that (`refusals`).
        """


class SklearnEngine:
    """Calls a fitted estimator so that the prediction of a row does not depend on its neighbours.

    Parameters
    ----------
    sample : some training rows; without them the estimator is always asked with a DataFrame, row by row as it comes
    form : how the estimator takes its table; without it, as its attribute feature_names_in_ says
    """

    name = "sklearn"

    def __init__(self, estimator: Any, schema: Schema, sample: pd.DataFrame | None = None, form: Form | None = None):
        self._estimator = self._for_arrays = estimator
        self.form = form or known_form(estimator, schema.index)
        self.row_block, self.one_by_one = 1, False
        if sample is None:
            return
        rows = schema.frame_to_rows(sample)
        if rows.array is not None:
            self._for_arrays = for_arrays(estimator, rows, self.form)
        self.row_block = ROW_BLOCK
        self.one_by_one = takes_the_nearest(estimator)
        if self.one_by_one:
            self.row_block = NEAREST_ROWS
        elif len(schema.columns) <= WIDE and is_of_trees(estimator):
            output = "probabilities" if self._has_probabilities(rows) else "labels"
            self.row_block = find_row_block(lambda part: self._predict(part, output), rows)

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        return predict_in_blocks(lambda part: self._predict(part, output), rows, self.row_block, self.one_by_one)

    def _has_probabilities(self, rows: Rows) -> bool:
        try:  # a chain of classifiers with three classes has the method, and it fails
            return len(self._predict(rows.take(slice(1)), "probabilities")) == 1
        except Exception:  # of any type: the estimator raises it
            return False

    def _predict(self, rows: Rows, output: str) -> np.ndarray:
        if rows.array is None or self._for_arrays is self._estimator:
            return call_estimator(self._estimator, rows, self.form, output)
        return call_estimator(self._for_arrays, rows, BARE, output)


def call_estimator(estimator: Any, rows: Rows, form: Form, output: str = "labels") -> np.ndarray:
    """Return what the estimator predicts; probabilities of several targets side by side."""
    method = estimator.predict_proba if output == "probabilities" else estimator.predict
    values = form.of(rows)
    # An infinite prediction is an answer, not a line in the log.
    with threads_for(len(values)), np.errstate(over="ignore", invalid="ignore"):
        result = method(values)
    if output == "probabilities":
        return np.hstack(result) if isinstance(result, list) else np.asarray(result)
    return flat(np.asarray(result))


def flat(values: np.ndarray) -> np.ndarray:
    """Return a table of one column as a flat array, and any other as it is."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def for_arrays(estimator: Any, sample: Rows, form: Form) -> Any:
    """Return a copy of the estimator without its columns' names, if it predicts the sample as before with an array.

    To make a DataFrame of a row costs more than many models do, and the names have been checked.
    """
    if form.kind != FRAME:
        return estimator
    bare = _without_names(estimator)
    try:
        with warnings.catch_warnings(action="error"):  # an estimator inside may miss the names
            for output in ("labels", "probabilities") if hasattr(estimator, "predict_proba") else ("labels",):
                expected = call_estimator(estimator, sample, form, output)
                predicted = call_estimator(bare, sample, BARE, output)
                if not np.array_equal(expected, predicted, equal_nan=expected.dtype.kind == "f"):
                    return estimator
    except Exception:  # of any type: it asks for columns by their names
        return estimator
    return bare


def _without_names(estimator: Any) -> Any:
    bare = copy.copy(estimator)
    if isinstance(bare, Pipeline):
        bare.steps = [(name, _without_names(step)) for name, step in bare.steps]
    if hasattr(bare, "__dict__"):  # a step may be a string: passthrough
        vars(bare).pop("feature_names_in_", None)
    return bare
