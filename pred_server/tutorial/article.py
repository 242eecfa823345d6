"""The article's server: forty lines that work. The lessons start from it, and every plot compares with it.

It is kept as the article has it: a pool of threads, pandas, CSV text both ways, and nothing that protects anyone.
`pred-server serve` is the one for real use; `notebooks/03_serve_and_call` shows what differs, and why.
"""

import argparse
import io
from collections.abc import Callable
from concurrent import futures

import grpc
import numpy as np
import pandas as pd

from pred_server.generated import pred_pb2, pred_pb2_grpc
from pred_server.store.loading import load

Predict = Callable[[pd.DataFrame], "pd.Series | np.ndarray"]


class Prediction(pred_pb2_grpc.PredictionServicer):
    def __init__(self, predict: Predict):
        self.predict = predict

    def Predict(self, request: pred_pb2.Request, context: grpc.ServicerContext) -> pred_pb2.Response:
        table = pd.read_csv(io.StringIO(request.input_data))
        result = pd.Series(self.predict(table))
        return pred_pb2.Response(result=result.to_csv(index=False))


def model_named(name: str) -> Predict:
    if name == "sum":
        return lambda table: table["x"] + table["y"]
    model = load(name)
    return lambda table: model.estimator.predict(table[model.schema.names])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.tutorial.article")
    parser.add_argument("--model", default="sum", help="sum, flights, or a model directory")
    parser.add_argument("--address", default="127.0.0.1:50051")
    args = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10))
    pred_pb2_grpc.add_PredictionServicer_to_server(Prediction(model_named(args.model)), server)
    port = server.add_insecure_port(args.address)
    server.start()
    print(f"article server ready on {args.address.rpartition(':')[0]}:{port} ({args.model})", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
