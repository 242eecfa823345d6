"""What computes: scikit-learn's estimators, called so that a row's prediction does not depend on its neighbours."""

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


def predict_in_blocks(estimator: Any, table: Aligned, names: pd.Index, output: str, block: int) -> np.ndarray:
    """Predict so that no row's result depends on how many rows come with it: the rest of a block is filled up."""
    n_rows = count_rows(table)
    rest = n_rows % block
    if rest == 0:
        return call_estimator(estimator, table, names, output)
    whole = n_rows - rest
    filled = take(table, np.minimum(np.arange(whole, whole + block), n_rows - 1))
    tail = call_estimator(estimator, filled, names, output)[:rest]
    if not whole:
        return tail
    return np.concatenate([call_estimator(estimator, take(table, slice(whole)), names, output), tail])


def find_row_block(estimator: Any, sample: Aligned, names: pd.Index) -> int:
    """How many rows must be predicted together for each row to be predicted as it would be among others.

    Matrix products take rows four or eight at a time, and round what is left over in another way. Found by trying: the
    same rows whole, and in pieces.
    """
    output = "probabilities" if hasattr(estimator, "predict_proba") else "labels"
    rows = take(sample, np.arange(64) % count_rows(sample))
    pieces = np.split(np.arange(64), np.cumsum([1, 2, 3, 5, 7, 11, 13]))
    apart = np.concatenate([call_estimator(estimator, take(rows, piece), names, output) for piece in pieces])
    whole = call_estimator(estimator, rows, names, output)
    return 1 if np.array_equal(apart, whole, equal_nan=whole.dtype.kind == "f") else ROW_BLOCK
