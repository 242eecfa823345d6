"""What computes: scikit-learn's estimators, called so that a row's prediction does not depend on its neighbours."""

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from threadpoolctl import ThreadpoolController

from pred_server.wire.rows import Aligned, count_rows, take, to_frame
from pred_server.wire.schema import Schema

ROW_BLOCK = 16
# From so many rows on all cores compute; below, to wake the other threads costs more than they save.
LARGE_ROWS = 512


def call_estimator(estimator: Any, table: Aligned, names: pd.Index, output: str = "labels") -> np.ndarray:
    method = estimator.predict_proba if output == "probabilities" else estimator.predict
    # An estimator that was fitted on a plain array wants one back, or it warns about names.
    if hasattr(estimator, "feature_names_in_") or not isinstance(table, np.ndarray):
        frame = to_frame(table, names)
        values: Any = frame if hasattr(estimator, "feature_names_in_") else frame.to_numpy()
    else:
        values = table
    threads = _openmp().limit(limits=1) if len(values) < LARGE_ROWS else nullcontext()
    # An infinite prediction is an answer, not a line in the log.
    with threads, np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(method(values))


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


def for_arrays(estimator: Any, sample: pd.DataFrame | None, schema: Schema) -> Any:
    """The estimator as it takes arrays: a copy without its columns' names, if that predicts the sample as it does.

    A DataFrame costs more than many models do for a row, and names have been matched before the estimator is asked.
    """
    if sample is None or schema.uniform is None:
        return estimator
    array, bare = schema.align(sample), _without_names(estimator)
    try:
        with warnings.catch_warnings(action="error"):  # an estimator inside may miss the names
            for output in ("labels", "probabilities") if hasattr(estimator, "predict_proba") else ("labels",):
                one, other = (call_estimator(each, array, schema.index, output) for each in (estimator, bare))
                if not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                    return estimator
    except Exception:  # of any kind: it asks for columns by their names
        return estimator
    return bare


def _without_names(estimator: Any) -> Any:
    bare = copy.copy(estimator)
    if isinstance(bare, Pipeline):
        bare.steps = [(name, _without_names(step)) for name, step in bare.steps]
    if hasattr(bare, "__dict__"):  # a step may be a string: passthrough
        vars(bare).pop("feature_names_in_", None)
    return bare


def predict_in_blocks(predict: Callable[[Aligned], np.ndarray], table: Aligned, block: int) -> np.ndarray:
    """Predict so that no row's result depends on how many rows come with it: the rest of a block is filled up."""
    n_rows = count_rows(table)
    rest = n_rows % block
    if rest == 0:
        return predict(table)
    whole = n_rows - rest
    tail = predict(take(table, np.minimum(np.arange(whole, whole + block), n_rows - 1)))[:rest]
    return np.concatenate([predict(take(table, slice(whole))), tail]) if whole else tail


def find_row_block(predict: Callable[[Aligned], np.ndarray], sample: Aligned) -> int:
    """How many rows must be predicted together for each row to be predicted as it would be among others.

    Matrix products take rows four or eight at a time, and round what is left over in another way. Found by trying: the
    same rows whole, and in pieces.
    """
    n_rows = 1_024  # as many as a large batch has, which may be computed in another way
    rows = take(sample, np.arange(n_rows) % count_rows(sample))
    alone = np.split(np.arange(64), 64)
    together = np.split(np.arange(64), np.cumsum([1, 2, 3, 5, 7, 11, 13]))
    whole = predict(rows)[:64]
    for pieces in (together, alone):
        apart = np.concatenate([predict(take(rows, piece)) for piece in pieces])
        if not np.array_equal(apart, whole, equal_nan=whole.dtype.kind == "f"):
            return ROW_BLOCK
    return 1
