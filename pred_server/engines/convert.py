"""Converts an estimator to ONNX in a process of its own, which is killed if it takes too long.

A converter may loop for ever or use up the memory, and skl2onnx takes memory that a server has no use for. The child
reads the pickled estimator, writes the graph, and names on stderr the part that it converts.
"""

import faulthandler
import logging
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pred_server.engines.parts import label
from pred_server.errors import ServerStartError
from pred_server.model.parts import estimators

CONVERT_S = 25
STEP = "pred-server converts: "
OPSETS = {"": 18, "ai.onnx.ml": 3}
# TreeEnsemble came with this version; skl2onnx does not know it yet.
ML_OPSET = 5
# The operators of that domain that compute in float64.
DOUBLE_PRECISION = ("ArrayFeatureExtractor", "LabelEncoder", "TreeEnsemble")
logger = logging.getLogger(__name__)


class SinglePrecision(Exception):
    """The graph computes in float32 where scikit-learn computes in float64."""


def convert(name: str, estimator: Any, text: Sequence[bool]) -> bytes:
    """Return the estimator as a graph in double precision.

    Parameters
    ----------
    name : the model's, for messages
    text : for each column, whether it is text. The graph's input is X of shape (n_rows, n_columns) where none is; else
        x0, x1, ..., each of shape (n_rows, 1).

    Raises
    ------
    ServerStartError
        The message names the part of the estimator that cannot be converted, or not within `CONVERT_S`.
    """
    search = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    environment = os.environ | {"PYTHONPATH": search, "PYTHONSAFEPATH": "1"}
    part, took_too_long = type(estimator).__name__, False
    try:
        child = subprocess.run(
            [sys.executable, "-m", "pred_server.engines.convert"],
            input=pickle.dumps((estimator, list(text))),
            capture_output=True,
            timeout=CONVERT_S,
            env=environment,
        )
        if child.returncode == 0:
            return child.stdout
        said = child.stderr
    except subprocess.TimeoutExpired as error:
        said, took_too_long = error.stderr or b"", True
    except Exception as error:  # of many kinds, for what cannot be pickled
        said = str(error).encode()
    lines = said.decode(errors="replace").splitlines()
    part = next((line.removeprefix(STEP) for line in reversed(lines) if line.startswith(STEP)), part)
    logger.info("model %s does not convert: %s", name, "\n".join(lines))
    if took_too_long:
        problem = f"takes more than {CONVERT_S} s to be converted to ONNX"
    elif any(SinglePrecision.__name__ in line for line in lines[-1:]):
        problem = "would be computed in single precision by ONNX Runtime"
    else:
        problem = "cannot be converted to ONNX"
    raise ServerStartError(f"model {name!r} ({part}) {problem}; serve it with --engine sklearn")


def main() -> None:
    """Convert the estimator that stands on stdin to a graph on stdout."""
    faulthandler.dump_traceback_later(CONVERT_S + 5, exit=True)  # where the parent was killed and cannot kill
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the bytes
    estimator, text = pickle.load(sys.stdin.buffer)
    _name_parts(estimator)
    with warnings.catch_warnings(action="ignore"):
        output.write(graph_of(estimator, text))
    output.close()


def graph_of(estimator: Any, text: Sequence[bool]) -> bytes:
    """`convert`, in this process. Raises exceptions of many kinds."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
    from sklearn.base import is_classifier

    from pred_server.engines.converters import register

    register()
    estimator = _prepare(estimator)
    inputs = [("X", DoubleTensorType([None, len(text)]))]
    if any(text):
        inputs = [
            (f"x{i}", (StringTensorType if is_text else DoubleTensorType)([None, 1])) for i, is_text in enumerate(text)
        ]
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    graph = convert_sklearn(estimator, initial_types=inputs, target_opset=OPSETS, options=options)
    for opset in graph.opset_import:
        if opset.domain == "ai.onnx.ml":
            opset.version = ML_OPSET
    _check_precision(graph)
    data = graph.SerializeToString()
    open_graph(data)  # what the runtime does not take must fail here, too
    return data


def open_graph(graph: bytes) -> Any:
    """Return a session of ONNX Runtime that computes the graph on the thread that asks."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])


def _prepare(estimator: Any) -> Any:
    """Return the estimator as skl2onnx knows it. It is changed: it must be a copy."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import VotingClassifier
    from sklearn.feature_selection import RFE
    from sklearn.pipeline import Pipeline, make_pipeline

    while hasattr(estimator, "best_estimator_"):  # of a search
        estimator = estimator.best_estimator_
    for part in estimators(estimator):
        if isinstance(part, ColumnTransformer) and hasattr(part, "transformers_"):  # by place: names may be of any form
            places = part._transformer_to_input_indices
            part.transformers_ = [(name, inner, list(places[name])) for name, inner, _ in part.transformers_]
        elif isinstance(part, Pipeline):  # a last step that does nothing is no estimator
            part.steps = [step for step in part.steps if step[1] not in ("passthrough", None)] or part.steps
        elif isinstance(part, VotingClassifier):
            part.flatten_transform = False  # means nothing to `predict`
    if isinstance(estimator, RFE):  # skl2onnx takes it for a transformer
        return make_pipeline(estimator, estimator.estimator_)
    return estimator


def _name_parts(estimator: Any) -> None:
    """Have each part named on stderr before it is converted."""

    class Names(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            operator = record.args[0] if isinstance(record.args, tuple) and record.args else None
            part = getattr(operator, "raw_operator", None)
            if part is not None and record.msg.startswith(("[Conv] call", "[Shape")):
                print(f"{STEP}{label(estimator, part)}", file=sys.stderr, flush=True)

    log = logging.getLogger("skl2onnx")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(Names())


def _check_precision(graph: Any) -> None:
    """Raise SinglePrecision where a node gives float32, but for the rounding of scikit-learn's own trees."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(graph).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    types |= {value.name: value.data_type for value in graph.initializer}
    for node in graph.node:
        single = [name for name in (*node.input, *node.output) if types.get(name) == onnx.TensorProto.FLOAT]
        if any(not name.startswith("seen_by_trees") for name in single) or (
            node.domain == "ai.onnx.ml" and node.op_type not in DOUBLE_PRECISION
        ):
            raise SinglePrecision(node.op_type)


if __name__ == "__main__":
    main()
