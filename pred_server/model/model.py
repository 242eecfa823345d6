"""A model: a fitted scikit-learn estimator with its schema, name and version, and the engine that computes it."""

import html
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from pred_server.errors import InvalidInput, clip
from pred_server.model.refusals import blame, is_of_values
from pred_server.model.sklearn_engine import Engine
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Model:
    """What a server serves. `parity` says how far another engine than scikit-learn is from it."""

    name: str
    version: str
    schema: Schema
    estimator: Any
    engine: Engine
    scores: Mapping[str, Any] = field(default_factory=dict)
    sample: pd.DataFrame | None = None
    parity: str = ""
    threads: str = ""
    """How many threads compute a table, and from how many rows on; where it is served."""
    digest: str = ""
    """A hash of the content: of the files of a model directory."""
    _logged: set[type[Exception]] = field(default_factory=set, init=False, compare=False)

    @cached_property
    def identity(self) -> str:
        """NAME/VERSION/SCHEMA-HASH/CONTENT-DIGEST. A model without a digest, made in this process, equals no other."""
        parts = (self.name, self.version, self.schema.hash, self.digest or uuid.uuid4().hex[:16])
        return "/".join(quote(part, safe="") for part in parts)

    def predict(self, table: pd.DataFrame, output: str = "labels") -> np.ndarray:
        """Predict in process: a served prediction equals this, bit for bit.

        The estimator always sees the table in one memory layout, the schema's, and in whole blocks of rows where it
        needs that (`row_blocks`): the last bit of a linear model's sum depends on both, so `estimator.predict` on the
        same rows held in another way may differ by that bit. So may the estimator that was saved: of some, arrays are
        views of larger ones, and a loaded array is whole.

        Parameters
        ----------
        table : DataFrame of shape (n_rows, n_columns), columns in any order
        output : "labels", which any model predicts, or a classifier's "probabilities"

        Returns
        -------
        ndarray of shape (n_rows,), of the target's dtype, or (n_rows, n_targets) where there are several; of shape
        (n_rows, n_classes), float64, for probabilities

        Raises
        ------
        InvalidInput
            The table does not fit the schema, the estimator refuses its values, or it has no probabilities.
        """
        values: np.ndarray = self.predict_rows(self.schema.frame_to_rows(table), output).values
        return values

    def predict_rows(self, rows: Rows, output: str = "labels") -> Result:
        """`predict` for rows that fit the schema."""
        names = self.output_names(output)
        try:
            values = self.engine.predict(rows, output)
        except Exception as error:  # of any type: the estimator raises it
            if not is_of_values(error, self.engine, output, self.schema, self.sample):
                raise
            # The estimator's own text may quote paths or internals: it goes to the log, not to the caller. Only once,
            # or callers could fill the log with it.
            level = logging.DEBUG if type(error) in self._logged else logging.WARNING
            logger.log(level, "model %s refused a table: %s: %s", self.name, type(error).__name__, error)
            self._logged.add(type(error))
            cause = "a usual cause is an infinite or very large number, or an unknown category"
            at_fault = [] if self.sample is None else blame(self.engine, output, rows, self.schema, self.sample)
            cause = f"{cause} ({at_fault[0]})" if at_fault else cause
            raise InvalidInput(f"model {self.name!r} refused the table's values; {cause}", at_fault) from error
        if output == "probabilities":
            # A classifier that was fitted on float32 gives float32.
            return Result(values.reshape(-1, len(names)).astype("float64", copy=False), names, "float64")
        dtype = self.schema.target.dtype
        return Result(values if dtype == "str" else values.astype(dtype, copy=False), names, dtype)

    @cached_property
    def classes(self) -> list[str]:
        """The names of the probabilities' columns; none for a model without probabilities.

        They are the classes as text, in their order. A model of several targets has a column for each class of each
        target, as `target=class`, or, if its targets are yes or no, a column for each target.
        """
        if not hasattr(self.estimator, "predict_proba"):
            return []
        known: Any = getattr(self.estimator, "classes_", None)
        if known is not None and not self.schema.targets:
            return list(map(str, known))
        if self.sample is None:
            return []
        try:
            row = self.schema.frame_to_rows(self.sample.head(1))
            n_columns = self.engine.predict(row, "probabilities").shape[1]
        except Exception:  # of any type: the estimator raises it where it has the method, and no probabilities
            return []
        if not self.schema.targets:  # a mixture's components have no names
            return list(map(str, range(n_columns)))
        if n_columns == len(self.schema.targets):
            return list(self.schema.targets)
        pairs = zip(self.schema.targets, known, strict=True)
        return [f"{target}={value}" for target, values in pairs for value in values]

    def output_names(self, output: str) -> list[str]:
        """Return the names of the predictions' columns: the target or targets, or the classes. Raises InvalidInput."""
        if output == "labels":
            return list(self.schema.targets) or [self.schema.target.name]
        if output != "probabilities":
            raise InvalidInput.field("output", f"is {clip(output)!r}; use labels or probabilities")
        if not self.classes:
            raise InvalidInput.field("output", f"model {self.name!r} is no classifier with probabilities")
        return self.classes

    def __repr__(self) -> str:
        takes = ", ".join(self.schema.names)
        return f"Model({self.name!r}, version {self.version}: {takes} -> {self.schema.target.name})"

    def _repr_html_(self) -> str:
        rows = [(column.name, column.dtype, "feature") for column in self.schema.columns]
        rows.append((self.schema.target.name, self.schema.target.dtype, "target"))
        cells = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        scores = "".join(f"<li>{html.escape(f'{name}: {value}')}</li>" for name, value in self.scores.items())
        title = html.escape(f"{self.name} v{self.version}")
        head = "<tr><th>column</th><th>dtype</th><th>role</th></tr>"
        return f"<b>Model {title}</b><table>{head}{cells}</table><ul>{scores}</ul>"
