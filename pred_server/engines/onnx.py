"""ONNX Runtime in place of scikit-learn: an optional engine, converted at start-up and compared before it serves.

skl2onnx writes the fitted estimator down as a graph, and ONNX Runtime computes it without Python. A call with one row
of `flights` is 9.6 times as fast as with scikit-learn (data/results/ladder.parquet). The numbers may differ in their
last digits, because trees are computed in float32.
"""

import dataclasses
import logging
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from pred_server.errors import ServerStartError
from pred_server.limits import ROW_BLOCK
from pred_server.model.model import Model
from pred_server.model.row_blocks import find_row_block, predict_in_blocks
from pred_server.model.sklearn_engine import LARGE_ROWS
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema

# The largest difference that is allowed, as a share of the largest prediction.
TOLERANCE = 1e-5
UNSEEN = "\N{SNOWMAN}"
logger = logging.getLogger(__name__)
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def with_onnx(model: Model) -> Model:
    """Return the same model, computed by ONNX Runtime; its `parity` says how far the two engines differ.

    Raises
    ------
    ServerStartError
        The packages are missing, the estimator cannot be converted, or the engines differ by more than `TOLERANCE`: on
        the model's sample, or on the same rows with unseen categories and missing values.
    """
    sample, schema = model.sample, model.schema
    if sample is None or not hasattr(model.estimator, "get_params"):
        raise ServerStartError(f"model {model.name!r} is not a scikit-learn estimator; serve it with --engine sklearn")
    limit = TOLERANCE * max(1.0, float(np.abs(_numbers(model, sample)).max()))
    # Estimators compute in different types, trees in float32, matrix products in float64: the closer one is right.
    candidates = [
        dataclasses.replace(model, engine=OnnxEngine(schema, sample, session, dtype))
        for dtype, session in _sessions(model).items()
    ]
    converted = min(candidates, key=lambda candidate: _difference(model, candidate, sample))
    probes = [sample]
    probes += [sample.assign(**{column.name: UNSEEN}) for column in schema.columns if column.dtype == "str"]
    differences = [_difference(model, converted, probe) for probe in probes]
    columns = []
    for column in schema.columns:
        if column.nullable:
            nothing = pd.array([None] * len(sample), dtype="str" if column.dtype == "str" else "Float64")
            difference = _difference(model, converted, sample.assign(**{column.name: nothing}))
            if difference > limit:  # the converter knows no missing values here: better to refuse them
                column = dataclasses.replace(column, nullable=False)
            else:
                differences.append(difference)
        columns.append(column)
    largest = max(differences)
    unit = f" {schema.target.unit}" if schema.target.unit else ""
    if not largest <= limit:
        raise ServerStartError(
            f"model {model.name!r}: ONNX Runtime predicts up to {largest:.2g}{unit} beside scikit-learn, "
            f"and {limit:.2g} is allowed; serve it with --engine sklearn"
        )
    parity = f"at most {largest:.2g}{unit} from scikit-learn, on {len(differences) * len(sample):,} rows"
    if tuple(columns) != schema.columns:
        parity += "; takes no missing values where the other does"
    return dataclasses.replace(converted, schema=dataclasses.replace(schema, columns=tuple(columns)), parity=parity)


class OnnxEngine:
    """One graph. One thread computes a few rows; many rows are split among as many threads as there are cores.

    ONNX Runtime's own threads would split the trees for few rows, and the rows for many: sums would be rounded in
    another order, and a prediction would depend on its neighbours.
    """

    name = "onnx"

    def __init__(self, schema: Schema, sample: pd.DataFrame, session: Any, dtype: type):
        self._schema, self._session, self._dtype = schema, session, dtype
        self._outputs = [output.name for output in session.get_outputs()]
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="onnx")
        self._block = find_row_block(lambda rows: self._run(rows, "labels"), schema.frame_to_rows(sample))

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        return predict_in_blocks(lambda part: self._run(part, output), rows, self._block)

    def _run(self, rows: Rows, output: str) -> np.ndarray:
        wanted = self._outputs[1] if output == "probabilities" else self._outputs[0]
        feeds, n_rows = self._feeds(rows), len(rows)

        def run(part: slice) -> np.ndarray:
            return self._session.run([wanted], {name: values[part] for name, values in feeds.items()})[0]

        if n_rows < LARGE_ROWS:
            values = run(slice(None))
        else:
            step = -(-n_rows // self._threads // ROW_BLOCK) * ROW_BLOCK
            parts = [slice(start, start + step) for start in range(0, n_rows, step)]
            values = np.concatenate(list(self._pool.map(run, parts)))
        return values if output == "probabilities" else values.reshape(n_rows)

    def _feeds(self, rows: Rows) -> dict[str, np.ndarray]:
        if rows.array is not None:
            return {"X": np.ascontiguousarray(rows.array, self._dtype)}
        feeds: dict[str, np.ndarray] = {}
        for column in self._schema.columns:
            values = rows.columns[column.name]
            if column.dtype == "str":  # ONNX knows no missing text; to an encoder it is one more unseen category
                values = np.where(pd.isna(values), UNSEEN, np.asarray(values, object))
            feeds[column.name] = np.asarray(values, object if column.dtype == "str" else self._dtype).reshape(-1, 1)
        return feeds


def _sessions(model: Model) -> dict[type, Any]:
    """Return the converted model by the type of its numbers, for each type with which it can be converted."""
    try:
        import onnxruntime
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType, StringTensorType
    except ImportError as error:
        raise ServerStartError("the engine onnx needs the packages onnxruntime and skl2onnx") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    zipmap = {id(model.estimator): {"zipmap": False}} if model.classes else None
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    sessions: dict[type, Any] = {}
    for dtype, number in ((np.float64, DoubleTensorType), (np.float32, FloatTensorType)):
        inputs = _inputs(model.schema, number, StringTensorType)
        try:
            with warnings.catch_warnings(action="ignore"):  # its own, of what it is built on
                graph = convert_sklearn(model.estimator, initial_types=inputs, target_opset=_OPSETS, options=zipmap)
            sessions[dtype] = onnxruntime.InferenceSession(
                graph.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds, for what is not supported
            logger.info("model %s does not convert with numbers of %s: %s", model.name, dtype.__name__, error)
    if not sessions:
        kind = type(model.estimator).__name__
        raise ServerStartError(
            f"model {model.name!r} ({kind}) cannot be converted to ONNX; serve it with --engine sklearn"
        )
    return sessions


def _inputs(schema: Schema, number: Any, text: Any) -> list[tuple[str, Any]]:
    if schema.uniform:
        return [("X", number([None, len(schema.columns)]))]
    return [(column.name, (text if column.dtype == "str" else number)([None, 1])) for column in schema.columns]


def _numbers(model: Model, table: pd.DataFrame) -> np.ndarray:
    """Return the numbers that are compared: a regressor's predictions, a classifier's probabilities."""
    return model.predict(table, "probabilities" if model.classes else "labels").astype(float)


def _difference(model: Model, other: Model, table: pd.DataFrame) -> float:
    if model.classes and not np.array_equal(model.predict(table), other.predict(table)):
        return float("inf")
    return float(np.abs(_numbers(model, table) - _numbers(other, table)).max())
