"""The HTTP gateway in Go, with our server behind it: CSV in and out, or JSON if the arm's encoding is "json"."""

from contextlib import AsyncExitStack, ExitStack

import pandas as pd

from pred_server.lab.ways.transports import http
from pred_server.lab.ways.way import Arm, Call, OverHttp, Target, Way, request_of
from pred_server.tutorial.background import gateway, serve


class Gateway(Way):
    name, wire = "gateway", OverHttp("/predict", "text/csv")
    json = OverHttp("/predict", "application/json")

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        server = stack.enter_context(serve(model, *arm.flags))
        return stack.enter_context(gateway(server.address)).address

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        if arm.encoding == "json":
            return (table.to_json(orient="records", double_precision=15).encode(),)
        return (request_of(table, "csv").input_data.encode(),)

    def wire_of(self, arm: Arm) -> OverHttp:
        return self.json if arm.encoding == "json" else self.wire

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return http(target, stack, self.wire_of(target.arm))
