"""What computes: scikit-learn's estimators, called so that a row's prediction does not depend on its neighbours."""

from typing import Any

import numpy as np
import pandas as pd

ROW_BLOCK = 16


def call_estimator(estimator: Any, table: pd.DataFrame, output: str = "labels") -> np.ndarray:
    method = estimator.predict_proba if output == "probabilities" else estimator.predict
    table = _column_major(table)
    # An estimator that was fitted on a plain array wants one back, or it warns about names.
    values = table if hasattr(estimator, "feature_names_in_") else table.to_numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite prediction is an answer, not a line in the log
        return np.asarray(method(values))


def _column_major(table: pd.DataFrame) -> pd.DataFrame:
    """The same table in the one memory layout that estimators see: matrix products round by layout, and which layout
    pandas leaves behind depends on what was done to the table before. Of mixed types it makes this one itself.
    """
    if table.dtypes.nunique() > 1 or not isinstance(table.dtypes.iloc[0], np.dtype):
        return table
    return pd.DataFrame(np.asfortranarray(table.to_numpy()), columns=table.columns, copy=False)


def predict_in_blocks(estimator: Any, table: pd.DataFrame, output: str, block: int) -> np.ndarray:
    """Predict so that no row's result depends on how many rows come with it: the rest of a block is filled up."""
    rest = len(table) % block
    if rest == 0:
        return call_estimator(estimator, table, output)
    whole = len(table) - rest
    filled = table.iloc[np.minimum(np.arange(whole, whole + block), len(table) - 1)]
    tail = call_estimator(estimator, filled, output)[:rest]
    return np.concatenate([call_estimator(estimator, table.iloc[:whole], output), tail]) if whole else tail


def find_row_block(estimator: Any, sample: pd.DataFrame) -> int:
    """How many rows must be predicted together for each row to be predicted as it would be among others.

    Matrix products take rows four or eight at a time, and round what is left over in another way. Found by trying: the
    same rows whole, and in pieces.
    """
    output = "probabilities" if hasattr(estimator, "predict_proba") else "labels"
    rows = sample.iloc[np.arange(64) % len(sample)]
    pieces = np.split(np.arange(64), np.cumsum([1, 2, 3, 5, 7, 11, 13]))
    apart = np.concatenate([call_estimator(estimator, rows.iloc[piece], output) for piece in pieces])
    whole = call_estimator(estimator, rows, output)
    return 1 if np.array_equal(apart, whole, equal_nan=whole.dtype.kind == "f") else ROW_BLOCK
