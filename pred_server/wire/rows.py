"""A table as a model takes it: checked, in the schema's order, and as cheap for one row as for a million."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


class Rows:
    """Rows of a table that fits a schema (`Schema.to_rows` makes them).

    Attributes
    ----------
    array : ndarray of shape (n_rows, n_columns), or None
        All values, where the columns have one numeric dtype. Column-major: a matrix product rounds by memory layout, so
        there is only one layout.
    columns : dict of the columns' names and values, where there is no array
        Numbers and booleans are NumPy arrays. Text is a str array of pandas, or an array of Python strings with None or
        NaN for a missing one.
    keeps : whatever is to live as long as these rows do; None at first
    """

    __slots__ = ("array", "columns", "keeps")

    keeps: Any

    def __init__(self, values: np.ndarray | dict[str, Any]):
        self.keeps = None
        self.array = values if isinstance(values, np.ndarray) else None
        self.columns: dict[str, Any] = {} if isinstance(values, np.ndarray) else values

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())) if self.array is None else self.array)

    def take(self, places: np.ndarray | slice) -> "Rows":
        """Return some of the rows, by their places."""
        if self.array is not None:
            return Rows(np.asfortranarray(self.array[places]))
        return Rows({name: values[places] for name, values in self.columns.items()})

    def filled_up(self, n_rows: int) -> "Rows":
        """Return so many rows: these, and as many copies of the last one as it takes."""
        if self.array is not None:
            array = np.empty((n_rows, self.array.shape[1]), self.array.dtype, order="F")
            array[: len(self)], array[len(self) :] = self.array, self.array[-1]
            return Rows(array)
        return self.take(np.minimum(np.arange(n_rows), len(self) - 1))

    @staticmethod
    def concat(parts: "Sequence[Rows]") -> "Rows":
        """Return the rows of several tables of one schema, one below the other."""
        if len(parts) == 1:
            return parts[0]
        arrays = [part.array for part in parts if part.array is not None]
        if arrays:
            # The transposed arrays are row-major; side by side and transposed back, they are column-major.
            return Rows(np.concatenate([np.ascontiguousarray(array.T) for array in arrays], axis=1).T)
        return Rows({name: _concat([part.columns[name] for part in parts]) for name in parts[0].columns})

    def to_frame(self, names: pd.Index) -> pd.DataFrame:
        """Return the rows as a DataFrame; text becomes pandas' str dtype."""
        if self.array is not None:
            return pd.DataFrame(self.array, columns=names, copy=False)
        text = [name for name, values in self.columns.items() if values.dtype == object]
        strings = {name: pd.array(self.columns[name], dtype=pd.StringDtype(na_value=np.nan)) for name in text}
        return pd.DataFrame(self.columns | strings)


def _concat(parts: list[Any]) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return pd.concat([pd.Series(part, dtype="str") for part in parts]).array
