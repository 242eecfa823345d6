"""What the ways over HTTP/1.1 share: FastAPI under uvicorn, with uvloop and httptools, and httpx to call it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from pred_server.lab.ways.transports import http
from pred_server.lab.ways.way import Call, Launch, OverHttp, Target, Way, listen, ready
from pred_server.limits import Limits, cores
from pred_server.model.model import Model
from pred_server.server.inline import QuickModels
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows

PATH = "/predict"
# A connection may wait while the other arms are measured. After 5 s uvicorn would close it, perhaps as a call comes.
IDLE_S = 600


class Web(Way):
    """A way over HTTP/1.1. A subclass says how it answers, and how its client asks."""

    packages = ("fastapi", "httptools", "httpx", "orjson", "uvicorn", "uvloop")
    wire: ClassVar[OverHttp] = OverHttp(PATH, "application/json")

    def endpoint(self, model: Model) -> Callable[..., Any]:
        """Return what answers a Request with a Response."""
        raise NotImplementedError

    def add_route(self, app: Any, model: Model) -> None:
        """Add the endpoint to a FastAPI app, as a route of Starlette: it costs 0.05 ms less than one of FastAPI's own.

        The latter would look for dependencies and parameters to validate, and there are none.
        """
        app.add_route(PATH, self.endpoint(model), methods=["POST"])

    def run(self, launch: Launch) -> None:
        import uvicorn
        from fastapi import FastAPI

        app = FastAPI()
        self.add_route(app, launch.load())
        listener = listen(launch.address)
        ready(self, launch, listener.getsockname()[1], "http://")
        config = uvicorn.Config(
            app, loop="uvloop", http="httptools", timeout_keep_alive=IDLE_S, log_level="warning", access_log=False
        )
        uvicorn.Server(config).run([listener])

    def post(self, target: Target, stack: AsyncExitStack) -> Callable[..., Any]:
        """Return httpx's `post` to the server, which raises where it does not succeed."""
        import httpx

        headers = {"content-type": self.wire.content_type}
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=target.timeout_s, headers=headers))
        url = target.address + PATH

        def post(**body: Any) -> httpx.Response:
            return client.post(url, **body).raise_for_status()

        return post

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        return http(target, stack, self.wire)


class LoopOrThread:
    """Predicts on the event loop where the model is known to be quick for so many rows, else in a thread.

    It is the rule of our own server (`server/inline.py`): no rival pays for a thread hop that ours is spared. To read
    and to write a body happens on the loop, as FastAPI itself does it. As many threads predict as there are cores:
    FastAPI's own limit is 40, and they would keep Python's lock from one another.
    """

    def __init__(self, model: Model):
        self._model, self._quick, self._threads = model, QuickModels(Limits()), ThreadPoolExecutor(cores())

    async def predict(self, rows: Rows) -> Result:
        if self._quick.has(self._model, "labels", len(rows)):
            return self._predict(rows)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._predict, rows)

    def _predict(self, rows: Rows) -> Result:
        start_ns, start_thread_ns = time.perf_counter_ns(), time.thread_time_ns()
        result = self._model.predict_rows(rows)
        took_ns, computed_ns = time.perf_counter_ns() - start_ns, time.thread_time_ns() - start_thread_ns
        self._quick.record(self._model, "labels", len(rows), took_ns, computed_ns)
        return result
