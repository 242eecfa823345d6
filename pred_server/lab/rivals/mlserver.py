"""MLServer around a pickled estimator: `python -m pred_server.lab.rivals.mlserver FILE MODEL OUTPUT`.

A custom runtime, as its documentation has it. The model runs in the server's own process: a pool of workers would add
a hop to each call. Metrics are off.
"""

import asyncio
import pickle
import sys
from pathlib import Path
from typing import Any

import mlserver
import pandas as pd
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop

from pred_server.lab.rivals.process import behave


class Served(mlserver.MLModel):  # type: ignore[misc]  # not installed where types are checked
    async def load(self) -> bool:
        self.output = self.settings.parameters.extra["output"]
        self.estimator = pickle.loads(Path(self.settings.parameters.uri).read_bytes())
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        values = self.estimator.predict(_table(payload.inputs))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self.output, values)])


def _table(inputs: Any) -> Any:
    """Return the array that one tensor holds, or a DataFrame of the columns that several hold."""
    if len(inputs) == 1:
        return NumpyCodec.decode_input(inputs[0])
    codecs = [StringCodec if column.datatype == "BYTES" else NumpyCodec for column in inputs]
    return pd.DataFrame({column.name: codec.decode_input(column) for column, codec in zip(inputs, codecs, strict=True)})


async def serve(file: str, name: str, output: str) -> None:
    settings = Settings(
        host="127.0.0.1", http_port=0, grpc_port=0, parallel_workers=0, metrics_endpoint=None, debug=False,
        grpc_max_message_length=-1,
    )  # fmt: skip
    parameters = ModelParameters(uri=file, extra={"output": output})
    model = ModelSettings(name=name, implementation=Served, parameters=parameters)
    await mlserver.MLServer(settings).start([model])


def main() -> None:
    behave("mlserver")
    install_uvloop_event_loop()  # as its command line does
    asyncio.run(serve(*sys.argv[1:]))


if __name__ == "__main__":
    main()
