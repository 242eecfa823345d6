"""The article's server, without gRPC's limit of 4 MiB, so that a large table has a time and is not refused."""

import io
from concurrent import futures
from contextlib import AsyncExitStack

import grpc
import pandas as pd

from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub, add_PredictionServicer_to_server
from pred_server.lab.ways.transports import OPTIONS, PREDICT, grpc_bytes
from pred_server.lab.ways.way import UNLIMITED, Call, Caller, Launch, Target, Way, ready
from pred_server.tutorial.article import Prediction, model_named


class Article(Way):
    name, wire = "article", PREDICT

    def run(self, launch: Launch) -> None:
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), options=[*UNLIMITED, *launch.options])
        add_PredictionServicer_to_server(Prediction(model_named(launch.model)), server)
        port = server.add_insecure_port(launch.address)
        server.start()
        ready(self, launch, port)
        server.wait_for_termination()

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        stub = PredictionStub(stack.enter_context(grpc.insecure_channel(target.address, OPTIONS)))

        def predict(table: pd.DataFrame) -> pd.Series:
            response = stub.Predict(Request(input_data=table.to_csv(index=False)), timeout=target.timeout_s)
            return pd.read_csv(io.StringIO(response.result)).iloc[:, 0]

        return predict

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return grpc_bytes(target, stack)
