"""Makes rows on which a converted model is likely to be wrong, from the model itself and from its sample."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Binarizer, KBinsDiscretizer

from pred_server.model.form import BARE
from pred_server.model.model import Model
from pred_server.model.parts import estimators
from pred_server.wire.schema import Column

# The integers that float64 holds exactly lie between this and its negative.
EXACT = 2**53
# A model may have a million thresholds and categories; so many are tried, spread over all.
MOST_THRESHOLDS, MOST_CATEGORIES = 1_000, 500


@dataclass
class ColumnProbe:
    """What is tried in one column, and what has been shown to hold there.

    Attributes
    ----------
    observed : the sample's values, without missing ones
    thresholds : where a tree or another step splits, as values of this column
    categories : what an encoder knows
    low, high : between these a number is served
    unseen_text : one that no encoder knows
    only_known : whether other values than `observed` and `categories` differ or are refused
    missing : whether a missing value is served
    """

    column: Column
    observed: np.ndarray
    thresholds: np.ndarray
    categories: np.ndarray
    unseen_text: str
    low: float = 0.0
    high: float = 1.0
    only_known: bool = False
    missing: bool = False
    known: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        if self.column.is_float:
            self.observed = self.observed[np.isfinite(self.observed)]
        self.learn(self.categories)
        if self.is_number:
            numbers = np.concatenate([self.known, self.thresholds])
            low, high = self.hold(np.array([numbers.min(initial=np.inf), numbers.max(initial=-np.inf)]))
            span = high - low or max(1.0, abs(low))
            self.low, self.high = self.hold(np.array([low - span, high + span]))

    def learn(self, categories: np.ndarray) -> None:
        """Take the sample's values and these for those that are known."""
        if self.column.dtype == "bool":
            self.known = np.array([False, True])
        else:
            kind: type = str if self.is_text else float
            self.known = np.unique(np.concatenate([self.observed.astype(kind), categories.astype(kind)]))

    def stay_within_sample(self) -> None:
        """Serve only values between the sample's, and only its texts: the column is not tried by itself."""
        self.only_known, self.missing = self.is_text, self.column.nullable and not self.is_text
        if self.is_number:
            self.low, self.high = self.known[0], self.known[-1]

    @property
    def is_text(self) -> bool:
        return self.column.dtype == "str"

    @property
    def is_number(self) -> bool:
        return self.column.dtype not in ("str", "bool")

    def hold(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers as the column's dtype can hold them, as float64."""
        if self.column.is_integer:
            info = np.iinfo(self.column.dtype)
            return np.clip(np.round(numbers), max(info.min, -EXACT), min(info.max, EXACT))
        limit = np.finfo(self.column.dtype).max / 4  # so that a range has a length
        return np.clip(numbers, -limit, limit).astype(self.column.dtype).astype(float)

    def draw(self, random: np.random.Generator, n_rows: int) -> Any:
        """Return values as they may come: half of them the sample's or an encoder's, half anywhere in the range.

        One row of 16 has zeros in all columns, or what is nearest to zero in its range: steps divide by lengths.
        """
        known = random.choice(self.known, n_rows)
        if not self.is_number or self.only_known:
            return known
        anywhere = np.clip(self.hold(random.uniform(self.low, self.high, n_rows)), self.low, self.high)
        drawn = np.where(random.random(n_rows) < 0.5, known, anywhere)
        drawn[::16] = np.clip(0.0, self.low, self.high)
        return drawn

    def near_thresholds(self) -> np.ndarray:
        """Return values at, just below and just above the thresholds, by steps of float64 and of float32."""
        if self.only_known or not self.is_number:
            return np.zeros(0)
        exact, rounded = self.thresholds, self.thresholds.astype(np.float32)
        around = [exact, np.nextafter(exact, -np.inf), np.nextafter(exact, np.inf), np.floor(exact), np.ceil(exact)]
        for far in (np.float32(-np.inf), np.float32(np.inf)):
            beside = np.nextafter(rounded, far)
            middle = (rounded.astype(float) + beside) / 2  # where values begin to be rounded to another float32
            around += [beside, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)]
        values = self.hold(np.concatenate([*around, rounded]).astype(float))
        return values[(values >= self.low) & (values <= self.high)]

    def unseen(self) -> np.ndarray:
        """Return values that no encoder knows, within the range."""
        if self.is_text:
            return np.array([self.unseen_text])
        beside = np.concatenate([self.known + 1, self.known - 1, self.known + 0.5]).astype(float)
        other = np.setdiff1d(self.hold(np.clip(beside, self.low, self.high)), self.known)
        return some(other, MOST_CATEGORIES)


class Probes:
    """The columns' probes, and tables of rows made of them; the sample must have a value in every column."""

    def __init__(self, model: Model, sample: pd.DataFrame):
        self._random = np.random.default_rng(0)
        split = _thresholds(model, sample)
        categories, other_text = _categories(model), unseen_text(model)
        self.columns = {
            column.name: ColumnProbe(
                column,
                sample[column.name].dropna().to_numpy(object if column.dtype == "str" else column.dtype),
                some(np.unique(split.get(column.name, [])), MOST_THRESHOLDS),
                some(categories.get(column.name, np.zeros(0)), MOST_CATEGORIES),
                other_text,
            )
            for column in model.schema.columns
        }

    def rows(self, n_rows: int) -> pd.DataFrame:
        """Return random rows without missing values."""
        return self.table({name: probe.draw(self._random, n_rows) for name, probe in self.columns.items()})

    def complete(self, sample: pd.DataFrame) -> pd.DataFrame:
        """Return the sample with its gaps filled by its own values."""
        filled = {}
        for name, probe in self.columns.items():
            gaps = sample[name].isna().to_numpy()
            filled[name] = np.where(gaps, self._random.choice(probe.known, len(sample)), sample[name].to_numpy(object))
        return self.table(filled)

    def with_gaps(self, table: pd.DataFrame, names: list[str], share: float = 1.0) -> pd.DataFrame:
        """Return the table with some values missing in these columns."""
        gaps = {name: self._random.random(len(table)) < share for name in names}
        return table.assign(**{name: table[name].mask(gaps[name]) for name in names})

    def table(self, values: dict[str, Any]) -> pd.DataFrame:
        """Return columns as a table of the schema's dtypes."""
        return pd.DataFrame({name: self.column(name, values[name]) for name in self.columns})

    def column(self, name: str, values: Any) -> pd.Series:
        """Return values as a column of the schema's dtype."""
        dtype: Any = self.columns[name].column.dtype
        return pd.Series(values).astype(dtype)


def some(values: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the values, spread evenly over them."""
    values = np.asarray(values)
    return values[np.unique(np.linspace(0, len(values) - 1, most).astype(int))] if len(values) > most else values


def unseen_text(model: Model) -> str:
    """Return a text that no encoder of the model knows."""
    known = {value for categories in _categories(model).values() for value in categories.tolist()}
    if model.sample is not None:
        known.update(*(model.sample[column.name] for column in model.schema.columns if column.dtype == "str"))
    text = "\N{SNOWMAN}"
    while text in known:
        text += "\N{SNOWMAN}"
    return text


def _categories(model: Model) -> dict[str, np.ndarray]:
    """Return the categories that encoders know, by column; those of an encoder without names go to each that fits."""
    known: dict[str, list[np.ndarray]] = {}
    for part in estimators(model.estimator):
        for place, categories in enumerate(getattr(part, "categories_", ())):
            present = np.array([value for value in categories if value is not None and value == value])
            names = list(getattr(part, "feature_names_in_", ()))[place : place + 1]
            for column in model.schema.columns:
                fits = (column.dtype == "str") == (present.dtype.kind in "OUT")
                if fits and column.dtype != "bool" and (not names or column.name == str(names[0])):
                    known.setdefault(column.name, []).append(present)
    return {name: np.unique(np.concatenate(values)) for name, values in known.items()}


def _thresholds(model: Model, sample: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return where steps split, by column: on a column itself, or on one that was only shifted and scaled."""
    numeric = [column.name for column in model.schema.columns if column.dtype not in ("str", "bool")]
    columns = sample.head(50)[numeric].to_numpy(float)
    found: dict[str, list[np.ndarray]] = {}
    form = getattr(model.engine, "form", BARE)
    table = form.of(model.schema.frame_to_rows(sample.head(50)))
    for step, seen in _inputs(model.estimator, table):
        splits = [split for part in estimators(step) for split in _splits(part)]
        if not splits:
            continue
        seen = pd.DataFrame(seen.toarray() if hasattr(seen, "toarray") else seen)
        for feature in np.unique(np.concatenate([features for features, _ in splits])):
            at = np.concatenate([thresholds[features == feature] for features, thresholds in splits])
            values = pd.to_numeric(seen.iloc[:, feature], errors="coerce").to_numpy(float, na_value=np.nan)
            for place, name in enumerate(numeric):
                if line := _line(columns[:, place], values):
                    found.setdefault(name, []).append((at[np.isfinite(at)] - line[1]) / line[0])
    return {name: np.concatenate(values) for name, values in found.items()}


def _inputs(estimator: Any, table: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the steps that split columns or hold such steps, each with what it is given of a table."""
    try:
        if isinstance(estimator, Pipeline):
            for _, step in estimator.steps:
                yield from _inputs(step, table)
                table = step.transform(table) if hasattr(step, "transform") else table
        elif isinstance(estimator, ColumnTransformer):
            for name, step, _ in estimator.transformers_:
                places = estimator._transformer_to_input_indices[name]
                yield from _inputs(step, table.iloc[:, places] if isinstance(table, pd.DataFrame) else table[:, places])
        elif isinstance(estimator, BaseEstimator):
            yield estimator, table
    except Exception:  # of many kinds: a step that takes no table; it is then tried by random rows alone
        return


def _splits(part: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the features and thresholds of a tree, or of a step that cuts numbers into classes."""
    if hasattr(part, "tree_"):
        inner = part.tree_.children_left != -1
        return [(part.tree_.feature[inner], part.tree_.threshold[inner])]
    if isinstance(part, Binarizer):
        return [(np.arange(part.n_features_in_), np.full(part.n_features_in_, float(part.threshold)))]
    if isinstance(part, KBinsDiscretizer):
        return [(np.full(len(edges), feature), edges) for feature, edges in enumerate(part.bin_edges_)]
    nodes = [
        tree.nodes[~tree.nodes["is_leaf"].astype(bool)] for trees in getattr(part, "_predictors", []) for tree in trees
    ]
    return [(each["feature_idx"].astype(int), each["num_threshold"]) for each in nodes]


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float] | None:
    """Return slope and intercept where y is a line of x, and None elsewhere."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 2 or (span := np.ptp(x)) == 0:
        return None
    slope = float((y[x.argmax()] - y[x.argmin()]) / span)
    intercept = float(y[x.argmin()] - slope * x.min())
    near = np.allclose(slope * x + intercept, y, rtol=1e-9, atol=1e-9 * max(float(np.ptp(y)), 1e-300))
    return (slope, intercept) if slope and near else None
