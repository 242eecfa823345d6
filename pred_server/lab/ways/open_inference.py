"""What KServe and MLServer share: the Open Inference Protocol over gRPC, called by tritonclient.

Each runs in an environment of its own, since their pins clash with ours; `make rivals` builds both. There is no
pred_server in these: they are given the fitted estimator as a file, and ask it directly, as their users do. They check
no names, types or limits, which our server does. A tensor of this protocol is row-major, and is predicted as it comes:
the last bit of a linear model's sum may differ from `Model.predict`, which holds tables column-major.
"""

import pickle
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.lab.ways.transports import unary
from pred_server.lab.ways.way import Arm, Call, Caller, OverGrpc, Target, Way
from pred_server.model.sklearn_engine import SklearnEngine, flat, for_arrays
from pred_server.store.loading import load
from pred_server.tutorial.background import Server

ENVIRONMENTS = ROOT / ".venv-rivals"
MODEL, INPUT, OUTPUT = "model", "table", "predictions"
START_TIMEOUT_S = 120.0


class OpenInference(Way):
    packages = ("tritonclient",)
    wire = OverGrpc("/inference.GRPCInferenceService/ModelInfer")

    def missing(self) -> str:
        if not self._python.exists():
            return f"{self.title} is not installed: run `make rivals`"
        return super().missing()

    @property
    def _python(self) -> Path:
        return ENVIRONMENTS / self.name / "bin" / "python"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        if missing := self.missing():
            raise ServerStartError(missing)
        file = Path(stack.enter_context(TemporaryDirectory())) / "model.pickle"
        file.write_bytes(pickle.dumps(_estimator(model)))
        command = [str(self._python), "-m", f"pred_server.lab.rivals.{self.name}", str(file), MODEL, OUTPUT]
        return stack.enter_context(Server(command, START_TIMEOUT_S)).address

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        from tritonclient.grpc import InferenceServerClient, InferInput
        from tritonclient.utils import np_to_triton_dtype

        client = InferenceServerClient(target.address)
        stack.callback(client.close)

        def predict(table: pd.DataFrame) -> np.ndarray:
            inputs = []
            for name, values in _tensors(table):
                inputs.append(InferInput(name, values.shape, np_to_triton_dtype(values.dtype)))
                inputs[-1].set_data_from_numpy(values)
            return flat(client.infer(MODEL, inputs, client_timeout=target.timeout_s).as_numpy(OUTPUT))

        return predict

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        from tritonclient.grpc.service_pb2 import ModelInferRequest
        from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

        request = ModelInferRequest(model_name=MODEL)
        for name, values in _tensors(table):
            request.inputs.add(name=name, datatype=np_to_triton_dtype(values.dtype), shape=values.shape)
            text = values.dtype == object
            request.raw_input_contents.append(serialize_byte_tensor(values).item() if text else values.tobytes())
        return (request.SerializeToString(),)

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return unary(target, stack, self.wire.method)


def _tensors(table: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Return the tensors that carry a table: one for numbers of one type, else one for each column."""
    dtypes = set(table.dtypes)
    if len(dtypes) == 1 and isinstance(next(iter(dtypes)), np.dtype):
        yield INPUT, table.to_numpy()
        return
    for name, values in table.items():
        yield str(name), values.to_numpy(None if isinstance(values.dtype, np.dtype) else object)


def _estimator(name: str) -> Any:
    """Return the fitted estimator; without the columns' names where it can do without, or it would warn of arrays."""
    model = load(name)
    if model.sample is None or model.schema.uniform is None or not isinstance(model.engine, SklearnEngine):
        return model.estimator
    return for_arrays(model.estimator, model.schema.frame_to_rows(model.sample), model.engine.form)
