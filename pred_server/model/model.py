"""A model: a fitted scikit-learn estimator with its schema, name and version."""

import html
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pred_server.errors import InvalidInput, Violation, clip
from pred_server.model.sklearn_engine import call_estimator, for_arrays, predict_in_blocks
from pred_server.wire.rows import Aligned
from pred_server.wire.schema import Schema

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Model:
    name: str
    version: str
    schema: Schema
    estimator: Any
    scores: Mapping[str, Any] = field(default_factory=dict)
    sample: pd.DataFrame | None = None
    row_block: int = 1
    engine: Any = None
    parity: str = ""
    """How far another engine than scikit-learn is from it."""

    def predict(self, table: pd.DataFrame, output: str = "labels") -> np.ndarray:
        """Predict in process: what a served prediction must equal, bit for bit.

        The estimator always sees the table in one memory layout, the schema's, and in whole blocks of rows where it
        needs that (`row_block`): the last bit of a linear model's sum depends on both, so `estimator.predict` on the
        same rows held in another way may differ by that bit.

        Parameters
        ----------
        table : DataFrame of shape (n_rows, n_columns), columns in any order
        output : "labels", which is what any model predicts, or a classifier's "probabilities"

        Returns
        -------
        ndarray of shape (n_rows,), of the target's dtype; of shape (n_rows, n_classes), float64, for probabilities

        Raises
        ------
        InvalidInput
            The table does not fit the schema, the estimator refuses its values, or it has no probabilities.
        """
        return self.predict_aligned(self.schema.align(table), output)

    def predict_aligned(self, table: Aligned, output: str = "labels") -> np.ndarray:
        """`predict` for a table that `schema.align` returned."""
        names = self.output_names(output)
        try:
            result = self.engine.predict(table, output) if self.engine else self._by_estimator(table, output)
        except ValueError as error:
            # The estimator's own text may quote paths or internals: it goes to the log, not to the caller.
            logger.warning("model %s refused a table: %s", self.name, error)
            raise InvalidInput(
                f"model {self.name!r} refused the table's values; a usual cause is an infinite or very large number"
            ) from error
        if output == "probabilities":
            return result.reshape(-1, len(names))
        return result if self.schema.target.dtype == "str" else result.astype(self.schema.target.dtype, copy=False)

    def _by_estimator(self, table: Aligned, output: str) -> np.ndarray:
        by = self._array_estimator if isinstance(table, np.ndarray) else self.estimator
        names = self.schema.index
        return predict_in_blocks(lambda part: call_estimator(by, part, names, output), table, self.row_block)

    @cached_property
    def _array_estimator(self) -> Any:
        return for_arrays(self.estimator, self.sample, self.schema)

    @property
    def engine_name(self) -> str:
        return self.engine.name if self.engine else "sklearn"

    @property
    def classes(self) -> list[str]:
        """The classes of a classifier that knows probabilities, as text, in their order; none for other models."""
        known = getattr(self.estimator, "classes_", ()) if hasattr(self.estimator, "predict_proba") else ()
        return [str(each) for each in known]

    def output_names(self, output: str) -> list[str]:
        """The columns of the predictions: the target, or the classes. Raises InvalidInput."""
        if output == "labels":
            return [self.schema.target.name]
        if output != "probabilities":
            raise InvalidInput.at([Violation("output", f"is {clip(output)!r}; use labels or probabilities")])
        if not self.classes:
            raise InvalidInput.at([Violation("output", f"model {self.name!r} is no classifier with probabilities")])
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
