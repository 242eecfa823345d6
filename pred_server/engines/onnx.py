"""ONNX Runtime in place of scikit-learn: converted at start-up, and compared before it serves.

skl2onnx writes the fitted estimator down as a graph, ONNX Runtime computes it without Python. For one row that is a
hundred times as fast; the numbers may differ in their last digits, as trees are computed in float32.
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
from pred_server.model.model import Model
from pred_server.model.sklearn_engine import LARGE_ROWS, ROW_BLOCK, find_row_block, predict_in_blocks
from pred_server.wire.rows import Aligned, count_rows
from pred_server.wire.schema import Schema

# The largest difference that is allowed, as a share of the largest prediction.
TOLERANCE = 1e-5
UNSEEN = "\N{SNOWMAN}"
logger = logging.getLogger(__name__)
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def with_onnx(model: Model) -> Model:
    """The same model, computed by ONNX Runtime; its `parity` says how far the two engines differ.

    Raises
    ------
    ServerStartError
        The packages are missing, the estimator cannot be converted, or it predicts otherwise than scikit-learn does: on
        the model's sample, or on the same rows with unseen categories and missing values.
    """
    if model.sample is None or not hasattr(model.estimator, "get_params"):
        raise ServerStartError(f"model {model.name!r} is not a scikit-learn estimator; serve it with --engine sklearn")
    sample = model.sample
    limit = TOLERANCE * max(1.0, float(np.abs(_numbers(model, model.schema.align(sample))).max()))
    # Estimators compute in different types, trees in float32, matrix products in float64: the closer one is right.
    engines = [OnnxEngine(model, session, dtype) for dtype, session in _sessions(model).items()]
    candidates = [dataclasses.replace(model, engine=engine) for engine in engines]
    converted = min(candidates, key=lambda each: _difference(model, each, model.schema.align(sample)))
    probes = [sample]
    probes += [sample.assign(**{each.name: UNSEEN}) for each in model.schema.columns if each.dtype == "str"]
    found = [_difference(model, converted, model.schema.align(probe)) for probe in probes]
    columns = []
    for column in model.schema.columns:
        if column.nullable:
            nothing = pd.array([None] * len(sample), dtype="str" if column.dtype == "str" else "Float64")
            probes.append(sample.assign(**{column.name: nothing}))
            difference = _difference(model, converted, model.schema.align(probes[-1]))
            if difference > limit:  # the converter knows no missing values here: better to refuse them
                column = dataclasses.replace(column, nullable=False)
            else:
                found.append(difference)
        columns.append(column)
    largest = max(found)
    unit = f" {model.schema.target.unit}" if model.schema.target.unit else ""
    if not largest <= limit:
        raise ServerStartError(
            f"model {model.name!r}: ONNX Runtime predicts up to {largest:.2g}{unit} beside scikit-learn, "
            f"and {limit:.2g} is allowed; serve it with --engine sklearn"
        )
    parity = f"at most {largest:.2g}{unit} from scikit-learn, on {len(found) * len(sample):,} rows"
    if len(found) < len(probes):
        parity += "; takes no missing values where the other does"
    schema = dataclasses.replace(model.schema, columns=tuple(columns))
    return dataclasses.replace(converted, schema=schema, parity=parity)


class OnnxEngine:
    """One graph, computed by one thread for a few rows; many rows are split among as many threads as there are cores.

    ONNX Runtime's own threads would split the trees for few rows, and the rows for many: sums would be rounded in
    another order, and a prediction depend on its neighbours.
    """

    name = "onnx"

    def __init__(self, model: Model, session: Any, dtype: type):
        self._schema = model.schema
        self._session, self._dtype = session, dtype
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._threads = os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="onnx")
        self._block = 1
        sample = model.schema.align(model.sample)  # type: ignore[arg-type]  # with_onnx has seen that there is one
        self._block = find_row_block(lambda table: self.predict(table, "labels"), sample)

    def predict(self, table: Aligned, output: str) -> np.ndarray:
        return predict_in_blocks(lambda part: self._run(part, output), table, self._block)

    def _run(self, table: Aligned, output: str) -> np.ndarray:
        wanted = self._outputs[1] if output == "probabilities" else self._outputs[0]

        def run(rows: slice) -> np.ndarray:
            return self._session.run([wanted], {name: values[rows] for name, values in feeds.items()})[0]

        feeds, n_rows = self._feeds(table), count_rows(table)
        if n_rows < LARGE_ROWS:
            result = run(slice(None))
        else:
            step = -(-n_rows // self._threads // ROW_BLOCK) * ROW_BLOCK
            result = np.concatenate(list(self._pool.map(run, [slice(at, at + step) for at in range(0, n_rows, step)])))
        return result if output == "probabilities" else result.reshape(n_rows)

    def _feeds(self, table: Aligned) -> dict[str, np.ndarray]:
        if isinstance(table, np.ndarray):
            return {"X": np.ascontiguousarray(table, self._dtype)}
        feeds: dict[str, np.ndarray] = {}
        for column in self._schema.columns:
            values = table[column.name]
            if column.dtype == "str":  # ONNX knows no missing text; to an encoder it is one more unseen category
                values = np.where(pd.isna(values), UNSEEN, np.asarray(values, object))
            feeds[column.name] = np.asarray(values, object if column.dtype == "str" else self._dtype).reshape(-1, 1)
        return feeds


def _sessions(model: Model) -> dict[type, Any]:
    """The converted model, by the type of its numbers, for each type with which it can be converted."""
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
    found: dict[type, Any] = {}
    for dtype, number in ((np.float64, DoubleTensorType), (np.float32, FloatTensorType)):
        inputs = _inputs(model.schema, number, StringTensorType)
        try:
            with warnings.catch_warnings(action="ignore"):  # its own, of what it is built on
                graph = convert_sklearn(model.estimator, initial_types=inputs, target_opset=_OPSETS, options=zipmap)
            found[dtype] = onnxruntime.InferenceSession(
                graph.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of many kinds, for what is not supported
            logger.info("model %s does not convert with numbers of %s: %s", model.name, dtype.__name__, error)
    if not found:
        kind = type(model.estimator).__name__
        raise ServerStartError(
            f"model {model.name!r} ({kind}) cannot be converted to ONNX; serve it with --engine sklearn"
        )
    return found


def _inputs(schema: Schema, number: Any, text: Any) -> list[tuple[str, Any]]:
    if schema.uniform:
        return [("X", number([None, len(schema.columns)]))]
    return [(each.name, (text if each.dtype == "str" else number)([None, 1])) for each in schema.columns]


def _numbers(model: Model, table: Aligned) -> np.ndarray:
    """What is compared: a regressor's predictions, a classifier's probabilities."""
    return model.predict_aligned(table, "probabilities" if model.classes else "labels").astype(float)


def _difference(one: Model, other: Model, table: Aligned) -> float:
    difference = np.abs(_numbers(one, table) - _numbers(other, table)).max()
    if one.classes and not np.array_equal(one.predict_aligned(table), other.predict_aligned(table)):
        return float("inf")
    return float(difference)
