"""A competitor: REST by FastAPI and uvicorn, a table as columns in JSON, read and written by orjson."""

from contextlib import AsyncExitStack

import pandas as pd

from pred_server.lab.ways.transports import http
from pred_server.lab.ways.way import Arm, Call, Http, Options, Target, Way, listen, ready
from pred_server.store.loading import load


class Rest(Way):
    name, title = "rest", "REST (JSON)"
    wire = Http("/predict", "application/json")

    def run(self, address: str, model: str, options: Options) -> None:
        import orjson
        import uvicorn
        from fastapi import FastAPI, Request, Response
        from fastapi.concurrency import run_in_threadpool

        loaded = load(model)
        app = FastAPI()

        def answer(body: bytes) -> bytes:
            table = pd.DataFrame(orjson.loads(body))
            predictions = {loaded.schema.target.name: loaded.predict(table)}
            return orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY)

        async def predict(request: Request) -> Response:
            return Response(await run_in_threadpool(answer, await request.body()), media_type="application/json")

        app.add_api_route("/predict", predict, methods=["POST"])
        listener = listen(address)
        ready(self, f"http://{address}", listener.getsockname()[1], model)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run([listener])

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        import orjson

        return (orjson.dumps(table.to_dict("list")),)

    def connect(self, target: Target, stack: AsyncExitStack) -> Call:
        return http(target, stack, "/predict", "application/json")
