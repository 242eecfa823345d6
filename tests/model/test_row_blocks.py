"""Whole blocks of rows: which ones the estimator is asked for, and that each row gets its own prediction."""

import numpy as np
import pytest

from pred_server.model.row_blocks import FEW_ROWS, predict_in_blocks
from pred_server.wire.rows import Rows


def asked_for(n_rows: int, block: int, one_by_one: bool = False, as_columns: bool = False) -> list[int]:
    """Return how many rows the estimator was asked for, call by call."""
    asked = []

    def predict(rows: Rows) -> np.ndarray:
        asked.append(len(rows))
        return rows.columns["x"] if as_columns else rows.array[:, 0]  # type: ignore[index]

    values = np.arange(float(n_rows))
    rows = Rows({"x": values} if as_columns else np.column_stack([values, -values]))
    assert predict_in_blocks(predict, rows, block, one_by_one).tolist() == values.tolist()
    return asked


@pytest.mark.parametrize("as_columns", [False, True])
@pytest.mark.parametrize(
    ("n_rows", "block", "one_by_one", "expected"),
    [
        (1, 1, False, [1]),
        (1_000, 1, False, [1_000]),
        (1, 16, False, [16]),
        (16, 16, False, [16]),
        (17, 16, False, [32]),
        (FEW_ROWS - 1, 16, False, [FEW_ROWS]),
        (FEW_ROWS + 1, 16, False, [FEW_ROWS, 16]),
        (FEW_ROWS + 16, 16, False, [FEW_ROWS + 16]),
        (1, 64, True, [64]),
        (64, 64, True, [64]),
        (128, 64, True, [64, 64]),
        (130, 64, True, [64, 64, 64]),
    ],
)
def test_only_whole_blocks_are_asked_for(
    n_rows: int, block: int, one_by_one: bool, expected: list[int], as_columns: bool
) -> None:
    assert asked_for(n_rows, block, one_by_one, as_columns) == expected
