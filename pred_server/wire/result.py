"""Predictions on their way: what a model gives, what a codec writes and reads, what a client shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pred_server.errors import ServerFault


@dataclass(frozen=True)
class Result:
    """One prediction for each row.

    Parameters
    ----------
    values : array of shape (n_rows,), or (n_rows, n_columns) for probabilities and for several targets
    names : the columns' names: the target or targets, or the classes
    dtype : of the values, as NumPy names it, or str
    """

    values: Any
    names: list[str]
    dtype: str

    @classmethod
    def of_columns(cls, columns: Sequence[Any], names: Sequence[str], dtype: str | None) -> "Result":
        """Return the result that a reply holds, in the dtype that the server named, if it did.

        Raises
        ------
        ServerFault
            There are no columns, or not all have the same number of rows and a name.
        """
        if not columns or len(columns) != len(names) or len({len(column) for column in columns}) > 1:
            raise ServerFault("the server's answer is not one prediction for each row")
        try:
            columns = [column.astype(dtype) for column in columns] if dtype and dtype != "str" else columns
        except (TypeError, ValueError) as error:
            raise ServerFault(f"the server's answer is not of the type that it names: {dtype}") from error
        values = columns[0] if len(columns) == 1 else np.array([np.asarray(column) for column in columns]).T
        return cls(values, list(names), dtype or str(values.dtype))

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: slice) -> "Result":
        """Return the predictions of some of the rows."""
        return Result(self.values[rows], self.names, self.dtype)

    @property
    def columns(self) -> list[np.ndarray]:
        """The values of each column; text as objects, whose NUL characters pyarrow keeps."""
        values = self.values.astype(object) if self.values.dtype.kind == "U" else self.values
        return [values] if values.ndim == 1 else list(values.T)
