"""Compares a converted model with scikit-learn, and says on which rows it may take scikit-learn's place."""

import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from pred_server.engines.probes import ColumnProbe, Probes, some
from pred_server.errors import ServerStartError
from pred_server.model.model import Model
from pred_server.model.sklearn_engine import Engine
from pred_server.wire.rows import Rows

# The largest difference that is allowed, as a share of the predictions' spread. Labels must be equal.
TOLERANCE = 1e-5
# So many random rows are compared, or as many as a slow model predicts within so many seconds.
RANDOM_ROWS, RANDOM_S = 10_000, 4.0
# So many rows are compared for one property of one column: that it may be missing, or lie at the end of its range.
FEW_ROWS = 16
# Of wider tables the columns are not tried one by one: ranges end where the sample's do.
MOST_COLUMNS = 200
MOST_CELLS = 5_000_000


class Domain:
    """The rows on which the engines have been shown to agree: ranges, categories, missing values."""

    def __init__(self, probes: list[ColumnProbe]):
        self._probes = probes
        self._low = np.array([probe.low if probe.is_number else -np.inf for probe in probes])
        self._high = np.array([probe.high if probe.is_number else np.inf for probe in probes])
        self._missing = np.array([probe.missing for probe in probes])
        self._known = [(place, set(probe.known.tolist())) for place, probe in enumerate(probes) if probe.only_known]

    def covers(self, rows: Rows) -> Any:
        """Return which rows lie inside, as booleans of shape (n_rows,)."""
        if rows.array is not None:
            inside = (rows.array >= self._low) & (rows.array <= self._high)
            if self._missing.any():
                inside |= np.isnan(rows.array) & self._missing
            covered: Any = inside.all(axis=1)
        else:
            covered = np.ones(len(rows), bool)
            for place, probe in enumerate(self._probes):
                values = rows.columns[probe.column.name]
                if probe.is_number:
                    inside = (values >= self._low[place]) & (values <= self._high[place])
                    covered &= (inside | np.isnan(values)) if probe.missing else inside
                elif probe.is_text and not probe.missing:
                    covered &= ~np.asarray(pd.isna(values))
        for place, known in self._known:
            values = rows.columns[self._probes[place].column.name] if rows.array is None else rows.array[:, place]
            missing = np.asarray(pd.isna(values))  # judged above
            covered &= missing | np.fromiter((value in known for value in values), bool, len(values))
        return covered

    def limits(self) -> str:
        """Say which rows lie outside, for Describe."""
        outside = ["numbers outside of the compared ranges"] if any(probe.is_number for probe in self._probes) else []
        unknown = [probe.column.name for probe in self._probes if probe.only_known]
        missing = [probe.column.name for probe in self._probes if probe.column.nullable and not probe.missing]
        for what, names in (("unknown categories of ", unknown), ("no value in ", missing)):
            if names:
                outside.append(what + ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else ""))
        return f"; rows with {' or '.join(outside)} are computed by scikit-learn" if outside else ""


class Comparison:
    """Compares two engines for one model, and counts what it compared."""

    def __init__(self, model: Model, engine: Engine):
        self._model, self._engine = model, engine
        self._outputs = ["labels", "probabilities"] if model.classes else ["labels"]
        self._numeric = model.schema.target.dtype.startswith("float") and not model.classes
        self.limit = TOLERANCE
        self.largest = 0.0
        self.rows: Counter[str] = Counter()

    def set_limit(self, table: pd.DataFrame) -> None:
        """Take the spread of the predictions for this table: of a regressor's numbers, a classifier's probabilities."""
        if not (self._numeric or self._model.classes):
            return  # labels alone have no spread
        with warnings.catch_warnings(action="ignore"):
            values = self._model.engine.predict(self._model.schema.frame_to_rows(table), self._outputs[-1]).ravel()
        numbers = values[np.isfinite(values)]
        spread = float(np.ptp(numbers)) if len(numbers) else 0.0
        size = float(np.abs(numbers).max(initial=0.0))
        self.limit = TOLERANCE * (spread or size or 1.0)

    def agree(self, what: str, table: pd.DataFrame) -> np.ndarray:
        """Return for each row whether scikit-learn takes it and the other engine gives the same, within the limit."""
        differences = self.differences(table)
        good = differences <= self.limit
        self._count(what, differences[good])
        return good

    def require(self, what: str, table: pd.DataFrame) -> None:
        """Raise ServerStartError unless the engines agree on all rows."""
        differences = self.differences(table)
        if (differences <= self.limit).all():
            return self._count(what, differences)
        name, unit = self._model.name, self._model.schema.target.unit
        worst = float(np.nanmax(differences, initial=0.0))
        if np.isnan(differences).any():
            problem = "scikit-learn refuses rows that lie between those of the sample"
        elif np.isinf(worst):
            n_wrong = np.count_nonzero(np.isinf(differences))
            problem = f"ONNX Runtime predicts otherwise than scikit-learn for {n_wrong:,} of {len(table):,} rows"
        else:
            worst_text, limit = f"{worst:.2g}{f' {unit}' if unit else ''}", f"{self.limit:.2g}"
            problem = f"ONNX Runtime predicts up to {worst_text} beside scikit-learn, and {limit} is allowed"
        raise ServerStartError(f"model {name!r}: {problem} ({what}); serve it with --engine sklearn")

    def differences(self, table: pd.DataFrame) -> np.ndarray:
        """Return how far apart the engines are, by row: inf for other labels, NaN if scikit-learn refuses the row."""
        with warnings.catch_warnings(action="ignore"):
            return self._differences(self._model.schema.frame_to_rows(table))

    def _differences(self, rows: Rows) -> np.ndarray:
        n_rows = len(rows)
        try:
            expected = [self._model.engine.predict(rows, output) for output in self._outputs]
        except Exception:  # of many kinds; it may be for one row among many
            if n_rows == 1:
                return np.array([np.nan])
            halves = (slice(0, n_rows // 2), slice(n_rows // 2, n_rows))
            return np.concatenate([self._differences(rows.take(half)) for half in halves])
        try:
            actual = [self._engine.predict(rows, output) for output in self._outputs]
        except Exception:  # of many kinds: the runtime's own
            return np.full(n_rows, np.inf)
        return np.max([self._apart(*pair) for pair in zip(expected, actual, strict=True)], axis=0)

    def _apart(self, expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
        if expected.ndim == 1 and not self._numeric:
            return np.where(expected == actual.astype(expected.dtype), 0.0, np.inf)
        with np.errstate(invalid="ignore"):
            same = (expected == actual) | (np.isnan(expected) & np.isnan(actual))
            apart = np.where(same, 0.0, np.nan_to_num(np.abs(expected - actual), nan=np.inf))
        return apart.reshape(len(expected), -1).max(axis=1)

    def _count(self, what: str, differences: np.ndarray) -> None:
        self.rows[what] += len(differences)
        self.largest = max(self.largest, float(differences.max(initial=0.0)))

    def summary(self) -> str:
        """Say how far apart the engines are, and on how many rows of which making."""
        unit = f" {self._model.schema.target.unit}" if self._model.schema.target.unit else ""
        making = ", ".join(f"{count:,} {what}" for what, count in self.rows.items() if count)
        return f"at most {self.largest:.2g}{unit} from scikit-learn, on {self.rows.total():,} rows ({making})"


def prove(model: Model, engine: Engine) -> tuple[Domain, str]:
    """Return the rows on which the engine may be used, and what Describe says of it.

    Raises
    ------
    ServerStartError
        The engines differ by more than `TOLERANCE` on the sample, on random rows between its values, or beside a
        threshold of a tree.
    """
    sample = model.sample
    if sample is None or sample.isna().all().any():
        raise ServerStartError(
            f"model {model.name!r}: its sample has a column without values, so nothing can be compared; "
            "serve it with --engine sklearn"
        )
    probes, comparison = Probes(model, sample), Comparison(model, engine)
    complete = probes.complete(sample)
    comparison.set_limit(complete)
    start = time.perf_counter()
    comparison.require("of the sample", complete)
    row_s = (time.perf_counter() - start) / len(complete)
    n_columns = len(probes.columns)
    n_random = int(np.clip(RANDOM_S / row_s, 200, min(RANDOM_ROWS, max(200, MOST_CELLS // n_columns))))
    for name, probe in probes.columns.items():
        if n_columns <= MOST_COLUMNS:
            _explore(name, probes, complete, comparison, max(FEW_ROWS, n_random // (4 * n_columns)))
        else:
            probe.stay_within_sample()
    comparison.require("random", probes.rows(n_random))
    near = {name: values for name, probe in probes.columns.items() if len(values := probe.near_thresholds())}
    for name, values in near.items():
        chosen = some(values, max(FEW_ROWS, n_random // len(near)))
        table = probes.rows(len(chosen))
        comparison.require("beside thresholds", table.assign(**{name: probes.column(name, chosen)}))
    gaps = [name for name, probe in probes.columns.items() if probe.missing]
    mixed = probes.with_gaps(probes.rows(n_random // 2), gaps, 0.3)
    if gaps and not comparison.agree("with missing values", mixed).all():
        for name in gaps:
            probes.columns[name].missing = False
    domain = Domain(list(probes.columns.values()))
    return domain, comparison.summary() + domain.limits()


def _explore(name: str, probes: Probes, complete: pd.DataFrame, comparison: Comparison, n_tried: int) -> None:
    """Find out how far one column's values may go: the ends of its range, its categories, unknown and missing ones.

    Unknown and missing ones are tried in `n_tried` rows: a tree may ask for them only where other columns lie right.
    """
    probe = probes.columns[name]
    other_rows = pd.concat([complete.head(n_tried), probes.rows(n_tried)], ignore_index=True)

    def agree(what: str, values: np.ndarray) -> np.ndarray:
        n_rows = max(FEW_ROWS, len(values))
        table = complete.iloc[np.arange(n_rows) % len(complete)].reset_index(drop=True)
        return comparison.agree(what, table.assign(**{name: probes.column(name, np.resize(values, n_rows))}))

    if len(probe.categories):
        good = agree("with categories of encoders", probe.categories)[: len(probe.categories)]
        probe.learn(probe.categories[good])
    if probe.is_text or len(probe.categories):
        unseen = probe.unseen()
        if len(unseen):
            table = other_rows.assign(**{name: probes.column(name, np.resize(unseen, len(other_rows)))})
            probe.only_known = not comparison.agree("with unknown categories", table).all()
    if probe.is_number and not probe.only_known:
        if not agree("at the ends of ranges", np.array([probe.low])).all():
            probe.low = probe.known[0]
        if not agree("at the ends of ranges", np.array([probe.high])).all():
            probe.high = probe.known[-1]
    if probe.column.nullable and not probe.is_text:  # a graph has no missing text
        gaps = probes.with_gaps(other_rows, [name])
        probe.missing = bool(comparison.agree("with missing values", gaps).all())
