"""Row blocks: how a row gets the same prediction, to the bit, whatever rows come with it.

Matrix products take rows four or eight at a time and round the rest in another way. So the last bit of a linear model's
sum may depend on how many rows are predicted together. A model of this type is always asked for whole blocks: the last
block is filled up with copies of its last row. Trees need no blocks, and get none. What looks for neighbours is asked
for one block at a time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster._kmeans import _BaseKMeans
from sklearn.impute import KNNImputer
from sklearn.neighbors import NearestCentroid
from sklearn.neighbors._base import NeighborsBase

from pred_server.limits import ROW_BLOCK
from pred_server.model.parts import estimators
from pred_server.wire.rows import Rows

# Tables of up to so many rows are copied, to fill up the last block: to ask an estimator once more takes longer.
FEW_ROWS = 2_048
# The modules of estimators that compute each row by itself.
_BY_ITSELF = (
    "sklearn.tree", "sklearn.ensemble", "sklearn.compose", "sklearn.dummy", "sklearn.impute._base", "sklearn.pipeline",
    "sklearn.preprocessing", "sklearn.feature_selection", "sklearn._loss",
)  # fmt: skip


def predict_in_blocks(
    predict: Callable[[Rows], np.ndarray], rows: Rows, block: int, one_by_one: bool = False
) -> np.ndarray:
    """Predict whole blocks of rows, together or one by one, and drop the predictions that fill up the last one."""
    n_rows = len(rows)
    n_filled = -(-n_rows // block) * block
    if n_filled == n_rows and (n_rows == block or not one_by_one):
        return predict(rows)
    if n_filled <= (block if one_by_one else FEW_ROWS):
        return predict(rows.filled_up(n_filled))[:n_rows]
    whole = n_filled - block if n_filled > n_rows else n_rows
    step = block if one_by_one else whole
    predicted = [predict(rows.take(slice(start, start + step))) for start in range(0, whole, step)]
    if n_filled > n_rows:
        predicted.append(predict(rows.take(slice(whole, n_rows)).filled_up(block))[: n_rows - whole])
    return np.concatenate(predicted)


def is_of_trees(estimator: Any) -> bool:
    """Whether each row is computed by itself, as in trees, and in steps that take values one by one.

    Nothing else is known to: of a matrix product some rows may show no difference, and the next one does.
    """
    return all(type(part).__module__.startswith(_BY_ITSELF) for part in estimators(estimator))


def takes_the_nearest(estimator: Any) -> bool:
    """Whether a part of the estimator looks for what is nearest to a row.

    Where several are equally near, the last bit of a distance decides, and the prediction is another one. That bit
    depends on how many blocks are computed together, too.
    """
    kinds = (NeighborsBase, KNNImputer, NearestCentroid, _BaseKMeans)
    return any(isinstance(part, kinds) for part in estimators(estimator))


def find_row_block(predict: Callable[[Rows], np.ndarray], sample: Rows) -> int:
    """Return the smallest block size, 1 or `ROW_BLOCK`, for which a row's result does not depend on its neighbours.

    The same rows are predicted as one table and in pieces.
    """
    n_rows = 1_024  # as many as a large batch has, which may be computed in another way
    rows = sample.take(np.arange(n_rows) % len(sample))
    alone = np.split(np.arange(64), 64)
    together = np.split(np.arange(64), np.cumsum([1, 2, 3, 5, 7, 11, 13]))
    whole = predict(rows)[:64]
    for piece in (*together, *alone):
        if not np.array_equal(predict(rows.take(piece)), whole[piece], equal_nan=whole.dtype.kind == "f"):
            return ROW_BLOCK
    return 1
