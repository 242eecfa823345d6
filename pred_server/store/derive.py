"""What a fitted estimator and some rows of its table say of a model: columns, targets, the form of the table."""

import warnings
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from pred_server.errors import InvalidInput
from pred_server.limits import SAMPLE_BYTES, SAMPLE_ROWS, check_columns
from pred_server.model.form import BARE, Form, complaints_as_errors, possible_forms
from pred_server.model.parts import parts
from pred_server.model.row_blocks import predict_in_blocks, takes_the_nearest
from pred_server.model.sklearn_engine import NEAREST_ROWS, call_estimator, flat, for_arrays
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Column, Schema, infer_column
from pred_server.wire.tables import count_bytes

Sample = pd.DataFrame | pd.Series | np.ndarray


@dataclass(frozen=True, eq=False)
class Derived:
    """`sample` has the schema's dtypes; `predicted` is what the estimator makes of it."""

    schema: Schema
    form: Form
    sample: pd.DataFrame
    predicted: np.ndarray


def derive(estimator: Any, sample: Any, target: str | Sequence[str], unit: str = "") -> Derived:
    """Ask a fitted estimator for predictions of a sample, and return what a server must know of it.

    Raises
    ------
    InvalidInput
        The estimator is not fitted, cannot predict the sample, or predicts otherwise in the dtypes that are served.
    """
    sample = _known_columns(estimator, sample)
    is_array = isinstance(sample, np.ndarray)
    table = pd.DataFrame(sample).add_prefix("x") if is_array else pd.DataFrame(sample)
    names = [str(name) for name in table.columns]
    n_rows = min(len(table), SAMPLE_ROWS, max(1, SAMPLE_BYTES * len(table) // max(count_bytes(table), 1)))
    # At least two rows: what takes the names of a table for its rows would seem right with one row of one column.
    places = np.arange(max(n_rows, 2)) % len(table)
    form, predicted = _ask(estimator, sample[places] if is_array else sample.iloc[places], names)
    table = table.iloc[places].set_axis(names, axis=1)
    columns = tuple(infer_column(table[name], bool(table[name].isna().any())) for name in names)
    schema = Schema(columns, *_targets(predicted, target, unit))
    rows = schema.frame_to_rows(table)
    try:
        same = is_same(call_estimator(estimator, rows, form), predicted)
    except Exception as error:  # of any type: the estimator raises it
        raise InvalidInput(
            f"the estimator cannot predict the sample once it has the dtypes that are served, which are those of NumPy "
            f"and text: {error}"
        ) from error
    if not same:
        raise InvalidInput(
            "the estimator predicts otherwise once the table has the dtypes that it is served with; a usual cause is a "
            "column of objects with None among them: fit with pandas' str dtype"
        )
    if takes_the_nearest(estimator):  # of several that are equally near, as they will be found
        predicted = predict_in_blocks(lambda part: call_estimator(estimator, part, form), rows, NEAREST_ROWS, True)
    missing = _takes_missing(estimator, schema, form, rows)
    columns = tuple(replace(column, nullable=column.nullable or column.name in missing) for column in columns)
    schema = replace(schema, columns=columns)
    return Derived(schema, form, rows.to_frame(schema.index).head(n_rows), predicted[:n_rows])


def is_same(predicted: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two predictions are the same, but for the last digits of a sum."""
    if predicted.shape == expected.shape and predicted.dtype.kind == "f":
        return bool(np.allclose(predicted, expected.astype(float), rtol=1e-6, equal_nan=True))
    return np.array_equal(predicted, expected)


def _known_columns(estimator: Any, sample: Any) -> Sample:
    """Return the sample as a Series, an array of two dimensions or a DataFrame, with the columns that were fitted."""
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise InvalidInput(
            f"the estimator is not a fitted scikit-learn estimator: {type(estimator).__name__}"
        ) from error
    if isinstance(sample, pd.Series) or np.ndim(sample) == 1:
        sample = pd.Series(sample)
        return sample.rename("x0" if sample.name is None else sample.name)
    names = getattr(estimator, "feature_names_in_", None)
    if not isinstance(sample, pd.DataFrame):
        table = pd.DataFrame(sample).add_prefix("x")
        sample = np.asarray(sample) if names is None else table
    else:
        table = sample
    if len({str(name) for name in table.columns}) < table.shape[1]:
        raise InvalidInput("the sample has two columns of one name")
    check_columns(table.shape[1])
    missing = [name for name in (table.columns if names is None else names) if name not in table.columns]
    if missing or table.size == 0:
        raise InvalidInput(f"the sample needs at least one row and every column; missing: {missing or 'rows'}")
    return sample if names is None else sample[list(names)]


def _ask(estimator: Any, sample: Sample, names: list[str]) -> tuple[Form, np.ndarray]:
    """Return the first form in which the estimator predicts one row for each row, and what it predicts."""
    problem: Exception | None = None
    for form, given in possible_forms(estimator, sample, pd.Index(names)):
        try:
            with complaints_as_errors():
                predicted = flat(np.asarray(estimator.predict(given)))
            if len(predicted) == len(sample):
                return form, predicted
            raise InvalidInput(f"{len(predicted)} predictions came back for {len(sample)} rows")
        except Exception as error:  # of any type: the estimator raises it
            problem = problem or error
    raise InvalidInput(f"the estimator cannot predict the sample: {problem}") from problem


def _targets(predicted: np.ndarray, target: str | Sequence[str], unit: str) -> tuple[Column, tuple[str, ...]]:
    kind = pd.api.types.infer_dtype(predicted.ravel()) if predicted.dtype.kind in "UOT" else str(predicted.dtype)
    dtype = {"string": "str", "boolean": "bool", "integer": "int64", "floating": "float64"}.get(kind, kind)
    names = [target] if isinstance(target, str) else list(target) if isinstance(target, Iterable) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInput(f"target is {target!r:.80}; a name is needed, or a list of names, one for each target")
    n_targets = 1 if predicted.ndim == 1 else predicted.shape[1]
    if len(names) == 1 < n_targets:
        names = [f"{names[0]}_{number}" for number in range(n_targets)]
    if predicted.ndim > 2 or len(names) != n_targets or len(set(names)) < n_targets:
        raise InvalidInput(
            f"the estimator predicts values of shape {predicted.shape[1:]} for a row, and each target needs a name of "
            f"its own; targets: {names}"
        )
    return Column(", ".join(names), dtype, unit=unit), tuple(names) if n_targets > 1 else ()


# How often an estimator is asked whether it takes missing values: for few columns, and at least.
MOST_TRIES, FEW_TRIES = 512, 48


def _takes_missing(estimator: Any, schema: Schema, form: Form, rows: Rows) -> set[str]:
    """Return the columns without which the estimator predicts.

    It is tried with all columns of a group missing, then with halves, quarters and so on of those that it refused
    together. In a table of more than some 250 columns that is not enough to try each by itself: those that were refused
    together last count as needed.
    """
    columns = {column.name: column for column in schema.columns if column.dtype == "str" or column.is_float}
    places = {name: place for place, name in enumerate(schema.names)}
    row, taken, groups = rows.take(slice(1)), set[str](), deque(_groups(estimator, schema.names, columns))
    asked = estimator if row.array is None else for_arrays(estimator, rows, form)
    form = form if asked is estimator else BARE
    for _ in range(max(FEW_TRIES, MOST_TRIES * 250 // max(len(columns), 250))):
        if not groups:
            break
        group = groups.popleft()
        if row.array is None:
            gaps = Rows(row.columns | {name: np.array([np.nan if columns[name].is_float else None]) for name in group})
        else:
            array = row.array.copy(order="F")
            array[:, [places[name] for name in group]] = np.nan
            gaps = Rows(array)
        try:
            with warnings.catch_warnings(action="ignore"):
                call_estimator(asked, gaps, form)
            taken.update(group)
        except Exception:  # of any type: the estimator raises it
            half = len(group) // 2
            groups.extend([group[:half], group[half:]] if half else [])
    return taken


def _groups(estimator: Any, names: list[str], wanted: Container[str]) -> list[list[str]]:
    """Return the wanted columns by the step of a ColumnTransformer that takes them: a step takes all or none."""
    for part in parts(estimator):
        steps = getattr(part, "_transformer_to_input_indices", {})
        if isinstance(part, ColumnTransformer) and sorted(np.concatenate([*steps.values()])) == list(range(len(names))):
            groups = [[names[place] for place in places] for places in steps.values()]
            break
    else:
        groups = [names]
    kept = [[name for name in group if name in wanted] for group in groups]
    return [group for group in kept if group]
