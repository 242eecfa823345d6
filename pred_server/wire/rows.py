"""A table as a model takes it: checked, in the schema's order, and as cheap for one row as for a million.

Where all columns have one numeric dtype it is one array of shape (n_rows, n_columns), column-major: matrix products
round by memory layout, so there is only one. Else it is a dict of the columns' names and values: numbers and booleans
as NumPy arrays, text as pandas' str arrays or as arrays of Python strings, with None or NaN where there is none.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

Aligned: TypeAlias = "np.ndarray | dict[str, Any]"


def count_rows(table: Aligned) -> int:
    return len(table) if isinstance(table, np.ndarray) else len(next(iter(table.values())))


def take(table: Aligned, rows: np.ndarray | slice) -> Aligned:
    """Some of the rows, by their places."""
    if isinstance(table, np.ndarray):
        return np.asfortranarray(table[rows])
    return {name: values[rows] for name, values in table.items()}


def concat(tables: Sequence[Aligned]) -> Aligned:
    """The rows of tables of one schema, one below the other."""
    first = tables[0]
    if len(tables) == 1:
        return first
    if isinstance(first, np.ndarray):
        # Column-major is what one gets by putting the transposed ones, row-major, side by side.
        return np.concatenate([np.ascontiguousarray(np.asarray(table).T) for table in tables], axis=1).T
    return {name: _join([table[name] for table in tables]) for name in first}


def to_frame(table: Aligned, names: pd.Index) -> pd.DataFrame:
    """The same table as pandas has it; text becomes its str dtype."""
    if isinstance(table, np.ndarray):
        return pd.DataFrame(table, columns=names, copy=False)
    text = [name for name, values in table.items() if values.dtype == object]
    return pd.DataFrame(table | {name: pd.array(table[name], dtype=pd.StringDtype(na_value=np.nan)) for name in text})


def _join(parts: list[Any]) -> Any:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return pd.concat([pd.Series(part, dtype="str") for part in parts]).array
