"""The HTTP gateway in Go, with our server behind it: CSV in, CSV out."""

from contextlib import AsyncExitStack, ExitStack

import pandas as pd

from pred_server.lab.ways.transports import http
from pred_server.lab.ways.way import Arm, Call, Http, Target, Way, request_of
from pred_server.tutorial.background import gateway, serve


class Gateway(Way):
    name, wire = "gateway", Http("/predict", "text/csv")

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        server = stack.enter_context(serve(model, *arm.flags))
        return stack.enter_context(gateway(server.address)).address

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        return (request_of(table, "csv").input_data.encode(),)

    def connect(self, target: Target, stack: AsyncExitStack) -> Call:
        return http(target, stack, "/predict", "text/csv")
