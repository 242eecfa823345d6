"""ONNX Runtime in place of scikit-learn: an optional engine, converted at start-up and compared before it serves.

The fitted estimator is written down as a graph in double precision (`convert`), and ONNX Runtime computes it without
Python. For one row this is much faster (the ladder of data/RESULTS.md says how much). The numbers may differ in their
last digits. `parity` compares the engines on rows that `probes` makes, and finds the rows on which they agree; all
other rows are computed by scikit-learn, which also refuses what it refuses.
"""

import dataclasses
import logging
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from pred_server.engines.convert import convert, open_graph
from pred_server.engines.parity import Domain, prove
from pred_server.errors import ServerStartError
from pred_server.limits import ROW_BLOCK
from pred_server.model.model import Model
from pred_server.model.row_blocks import find_row_block, is_of_trees, predict_in_blocks
from pred_server.model.sklearn_engine import Engine
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema

logger = logging.getLogger(__name__)


def with_onnx(model: Model) -> Model:
    """Return the same model, computed by ONNX Runtime; its `parity` says how far the two engines differ.

    Raises
    ------
    ServerStartError
        The packages are missing, the estimator cannot be converted, or the engines have not been shown to agree.
    """
    if model.sample is None or not hasattr(model.estimator, "get_params"):
        raise ServerStartError(f"model {model.name!r} is not a scikit-learn estimator; serve it with --engine sklearn")
    if any(find_spec(package) is None for package in ("onnxruntime", "skl2onnx")):
        raise ServerStartError("the engine onnx needs the packages onnxruntime and skl2onnx")
    graph = convert(model.name, model.estimator, [column.dtype == "str" for column in model.schema.columns])
    try:
        engine = OnnxEngine(model.schema, model.sample, open_graph(graph), is_of_trees(model.estimator))
        with np.errstate(all="ignore"):  # probes lie at the ends of what numbers can be
            domain, parity = prove(model, engine)
    except ServerStartError:
        raise
    except Exception as error:  # of many kinds: the runtime's, or an estimator's
        logger.info("model %s cannot be compared", model.name, exc_info=True)
        raise ServerStartError(
            f"model {model.name!r} cannot be compared with ONNX Runtime; serve it with --engine sklearn"
        ) from error
    return dataclasses.replace(model, engine=Guarded(engine, domain, model.engine), parity=parity)


class Guarded:
    """The engine for the rows on which it was shown to agree with scikit-learn, and scikit-learn for all others."""

    name = "onnx"

    def __init__(self, engine: Engine, domain: Domain, other: Engine):
        self.domain = domain
        self._engine, self._other = engine, other

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        inside = self.domain.covers(rows)
        if inside.all():
            return self._predict_inside(rows, output)
        outside = self._other.predict(rows.take(~inside), output)
        if not inside.any():
            return outside
        values = np.empty((len(rows), *outside.shape[1:]), object if outside.dtype.kind in "OUT" else outside.dtype)
        values[~inside] = outside
        values[inside] = self._predict_inside(rows.take(inside), output)
        return values

    def _predict_inside(self, rows: Rows, output: str) -> np.ndarray:
        try:
            return self._engine.predict(rows, output)
        except Exception:  # of many kinds, the runtime's own: whether the values are at fault, scikit-learn decides
            logger.warning("ONNX Runtime failed on %s rows; scikit-learn computes them", len(rows), exc_info=True)
            return self._other.predict(rows, output)


class OnnxEngine:
    """One graph, computed by the thread that asks (`threads` splits large tables).

    ONNX Runtime's own threads would split the trees for few rows, and the rows for many: sums would be rounded in
    another order, and a prediction would depend on its neighbours.
    """

    name = "onnx"

    def __init__(self, schema: Schema, sample: pd.DataFrame, session: Any, of_trees: bool):
        self._schema, self._session = schema, session
        self._has_text = any(column.dtype == "str" for column in schema.columns)
        self._outputs = [output.name for output in session.get_outputs()]
        rows, self._block = schema.frame_to_rows(sample), ROW_BLOCK
        self._run(rows.take(slice(1)), "labels")  # raises where the runtime fails
        if of_trees:
            self._block = find_row_block(lambda part: self._run(part, "labels"), rows)

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        return predict_in_blocks(lambda part: self._run(part, output), rows, self._block)

    def _run(self, rows: Rows, output: str) -> np.ndarray:
        wanted = self._outputs[1] if output == "probabilities" else self._outputs[0]
        values: np.ndarray = self._session.run([wanted], self._feeds(rows))[0]
        return values if output == "probabilities" else values.reshape(len(rows))

    def _feeds(self, rows: Rows) -> dict[str, np.ndarray]:
        if rows.array is not None:
            return {"X": np.ascontiguousarray(rows.array, np.float64)}
        if not self._has_text:
            return {"X": np.column_stack([np.asarray(values, np.float64) for values in rows.columns.values()])}
        feeds: dict[str, np.ndarray] = {}
        for place, column in enumerate(self._schema.columns):
            values = rows.columns[column.name]
            if column.dtype == "str":  # ONNX knows no missing text: scikit-learn computes such rows
                values = np.where(pd.isna(values), "", np.asarray(values, object))
            feeds[f"x{place}"] = np.asarray(values, object if column.dtype == "str" else np.float64).reshape(-1, 1)
        return feeds
