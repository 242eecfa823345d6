"""KServe's gRPC server around a pickled estimator: `python -m pred_server.lab.rivals.kserve FILE MODEL OUTPUT`.

These are the parts that `kserve.ModelServer` starts, without its HTTP server, and as its documentation has them: an
`InferRequest` read by `as_numpy`, and an `InferResponse` whose data is set by `set_data_from_numpy`.
"""

import asyncio
import pickle
import sys
from pathlib import Path
from typing import Any

import kserve
import pandas as pd
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.utils.numpy_codec import from_np_dtype

from pred_server.lab.rivals.process import behave

OPTIONS = {"grpc_max_send_message_length": -1, "grpc_max_receive_message_length": -1}


class Served(kserve.Model):  # type: ignore[misc]  # not installed where types are checked
    def __init__(self, name: str, output: str, estimator: Any):
        super().__init__(name)
        self.output, self.estimator, self.ready = output, estimator, True

    def predict(self, payload: Any, headers: Any = None) -> Any:
        values = self.estimator.predict(_table(payload.inputs))
        output = kserve.InferOutput(self.output, list(values.shape), from_np_dtype(values.dtype))
        output.set_data_from_numpy(values)
        return kserve.InferResponse(payload.id, self.name, [output])


def _table(inputs: Any) -> Any:
    """Return the array that one tensor holds, or a DataFrame of the columns that several hold."""
    if len(inputs) == 1:
        return inputs[0].as_numpy()
    return pd.DataFrame({column.name: _text(column.as_numpy()) for column in inputs})


def _text(values: Any) -> Any:
    return [value.decode() for value in values] if values.dtype == object else values


def main() -> None:
    file, name, output = sys.argv[1:]
    behave("kserve")
    models = kserve.ModelRepository()
    models.update(Served(name, output, pickle.loads(Path(file).read_bytes())))
    server = GRPCServer(0, DataPlane(models), ModelRepositoryExtension(models), OPTIONS)
    asyncio.run(server.start(max_workers=4))


if __name__ == "__main__":
    main()
