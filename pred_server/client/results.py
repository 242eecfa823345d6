"""What a client returns: predictions that know where the time of their call went."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd

from pred_server.client.waterfall import Waterfall
from pred_server.wire.csv import result_text
from pred_server.wire.result import Result


class Predictions(pd.Series):
    """One prediction for each row, named after the target; `waterfall` says where the time of the call went."""

    _metadata = ["_name", "waterfall"]  # noqa: RUF012 - attributes that pandas keeps
    waterfall: Waterfall


class Probabilities(pd.DataFrame):
    """A column for each class or target, a row for each row of the table; `waterfall` says where the time went."""

    _metadata = ["waterfall"]  # noqa: RUF012
    waterfall: Waterfall


def to_pandas(result: Result, output: str, index: pd.Index | None) -> Predictions | Probabilities:
    """Return the predictions of a call that asked for `output`, labels or probabilities.

    Labels of several targets are a table, as probabilities are.
    """
    columns = [np.asarray(values) for values in result.columns]
    dtype = "str" if columns[0].dtype == object else None
    if output == "labels" and len(columns) == 1:
        return Predictions(result.columns[0], index=index, name=result.names[0], dtype=dtype, copy=False)
    return Probabilities(np.array(columns).T, index=index, columns=result.names, dtype=dtype)


def to_csv(predictions: Predictions | Probabilities, header: bool = True) -> str:
    """Return predictions as CSV text, as a server writes them."""
    names = [predictions.name] if isinstance(predictions, pd.Series) else list(predictions.columns)
    values = predictions.to_numpy()
    return result_text(Result(values, list(map(str, names)), str(values.dtype)), header)


def concat(parts: list[Any], keep_index: bool) -> Predictions | Probabilities:
    """Return the predictions of all chunks of a table."""
    joined = pd.concat(parts, ignore_index=not keep_index)
    return Predictions(joined) if joined.ndim == 1 else Probabilities(joined)


def ignored_in(metadata: Mapping[str, str]) -> list[str]:
    """Return the names of the columns that the model ignored, by the metadata of a reply."""
    names = metadata.get("ignored-columns")
    return [] if names is None else [unquote(name) for name in names.split(",")]


def warn_ignored(names: Sequence[str], stacklevel: int) -> None:
    """Warn of columns that the model ignored, if there are any."""
    if names:
        shown = ", ".join(name or "(without a name)" for name in names[:20]) + (", ..." if len(names) > 20 else "")
        what = f"the model does not know these columns and ignored them: {shown}"
        warnings.warn(what, stacklevel=stacklevel + 1)
