"""The form in which an estimator takes its table: as it was when it was fitted, for it may take no other."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pred_server.wire.rows import Rows

FRAME, ARRAY, SERIES = "frame", "array", "series"


@dataclass(frozen=True, eq=False)
class Form:
    """A DataFrame, an array of shape (n_rows, n_columns), or the Series of the only column, as for texts.

    `labels` are a DataFrame's columns: the names, or the numbers that an estimator knows them by.
    """

    kind: str
    labels: pd.Index

    def of(self, rows: Rows) -> Any:
        """Return the rows in this form."""
        if self.kind == ARRAY and rows.array is not None:
            return rows.array
        frame = rows.to_frame(self.labels)
        if self.kind == ARRAY:
            return frame.to_numpy()
        if self.kind == SERIES:
            return frame.iloc[:, 0]
        return frame if frame.columns.dtype == self.labels.dtype else frame.set_axis(self.labels, axis=1)

    def to_json(self) -> dict[str, Any]:
        numbered = self.labels.inferred_type == "integer"
        return {"form": self.kind, "numbers": self.labels.tolist() if numbered else None}


BARE = Form(ARRAY, pd.RangeIndex(0))


def form_from_json(data: dict[str, Any], names: pd.Index) -> Form:
    """Return the form that `to_json` wrote. Raises ValueError where it is none, or is not for these columns."""
    labels = names if data["numbers"] is None else pd.Index(data["numbers"], dtype="int64")
    if data["form"] not in (FRAME, ARRAY, SERIES) or len(labels) != len(names):
        raise ValueError("not a form")
    return Form(data["form"], labels)


def known_form(estimator: Any, names: pd.Index) -> Form:
    """Return the form that an estimator of scikit-learn takes: a frame where it knows its columns' names."""
    return Form(FRAME if hasattr(estimator, "feature_names_in_") else ARRAY, names)


def possible_forms(estimator: Any, sample: Any, names: pd.Index) -> Iterator[tuple[Form, Any]]:
    """Yield the forms that may be right, best first, each with the sample in it.

    `sample` is what the caller has: a Series, an array, or a DataFrame whose columns' names are `names` as text.
    """
    if isinstance(sample, pd.Series):
        yield Form(SERIES, names), sample
    elif isinstance(sample, np.ndarray):
        yield Form(ARRAY, names), sample
    else:
        numbered = sample.columns.inferred_type == "integer"
        labels = pd.Index(sample.columns, dtype="int64") if numbered else names
        yield Form(FRAME, labels), sample
        if not hasattr(estimator, "feature_names_in_"):
            yield Form(ARRAY, names), sample.to_numpy()
            if sample.shape[1] == 1:
                yield Form(SERIES, names), sample.iloc[:, 0]


@contextmanager
def complaints_as_errors() -> Iterator[None]:
    """Raise where scikit-learn warns that a table has names and the estimator was fitted without: it wants an array."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="X has feature names")
        yield
