"""What computes: scikit-learn's estimators, called so that a row's prediction does not depend on its neighbours."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from pred_server.aligned import Aligned, count_rows, take, to_frame

ROW_BLOCK = 16


def call_estimator(estimator: Any, table: Aligned, names: pd.Index, output: str = "labels") -> np.ndarray:
    method = estimator.predict_proba if output == "probabilities" else estimator.predict
    # An estimator that was fitted on a plain array wants one back, or it warns about names.
    if hasattr(estimator, "feature_names_in_") or not isinstance(table, np.ndarray):
        frame = to_frame(table, names)
        values: Any = frame if hasattr(estimator, "feature_names_in_") else frame.to_numpy()
    else:
        values = table
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite prediction is an answer, not a line in the log
        return np.asarray(method(values))


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
