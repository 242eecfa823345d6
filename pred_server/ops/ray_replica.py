"""One replica of Ray Serve: `PredictionService` on the context that Serve gives. `ops.ray_proxy` is the other end."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from pred_server.engines.plugged import with_engine
from pred_server.guard.admission import Admission
from pred_server.guard.watchdog import Watchdog
from pred_server.limits import Limits
from pred_server.ops.ray_proxy import INITIAL, TIME_LEFT
from pred_server.server.service import PredictionService
from pred_server.store.loading import load

Entries = Iterable[tuple[str, str | bytes]]


class Replica:
    """One replica: the models, the service, and its guards, on one event loop, in which it is made.

    Parameters
    ----------
    model : the models to serve, names or directories; the first answers calls that name none
    engine, threads, trust, no_timing : as the flags of `pred-server serve`
    limits : those of `Limits`; the ones of connections and of the drain's delay have no effect, which the proxy decides
    """

    def __init__(
        self,
        model: Sequence[str] = ("flights",),
        engine: str = "sklearn",
        threads: Sequence[int] = (),
        trust: Sequence[str] = (),
        no_timing: bool = False,
        **limits: Any,
    ):
        names = [model] if isinstance(model, str) else model
        models = [with_engine(load(name, trust), engine, tuple(threads)) for name in names]
        held = Limits(**limits)
        admission = Admission(held)
        self._service = PredictionService(models, held, admission, not no_timing)
        self._watching = asyncio.create_task(Watchdog(admission, held).run())

    async def Predict(self, request: bytes, grpc_context: Any) -> "Message":
        return await answer(self._service.predict, request, grpc_context)

    async def Describe(self, request: bytes, grpc_context: Any) -> "Message":
        return await answer(self._service.describe, request, grpc_context)

    async def PredictStream(self, requests: AsyncIterator[bytes], grpc_context: Any) -> "AsyncIterator[Message]":
        context = ReplicaContext(grpc_context, requests)
        call = asyncio.create_task(self._service.predict_stream(requests, context))
        try:
            async for data in context.answers(call):
                yield Message(data)
        finally:
            call.cancel()
        yield Message(b"")  # the end, with the trailers


@dataclass
class Message:
    """Bytes, as Serve takes an answer."""

    data: bytes

    def SerializeToString(self) -> bytes:
        return self.data


async def answer(
    method: Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]], request: bytes, grpc_context: Any
) -> Message:
    """Call a method that takes and gives one message. An error is an empty message: its context has the status."""

    async def once() -> AsyncIterator[bytes]:
        yield request

    requests = once()
    try:
        # A task of its own, as gRPC has: admission counts a call until its task is done, and the watchdog may end it.
        return Message(await asyncio.ensure_future(method(requests, ReplicaContext(grpc_context, requests))))
    except Aborted:
        return Message(b"")


class Aborted(Exception):
    """Ends a call whose status is in its context."""


class ReplicaContext:
    """What `PredictionService` asks of gRPC's context, on that which Serve gives. See `ops.ray_proxy`."""

    def __init__(self, given: Any, requests: AsyncIterator[bytes]):
        self.invocation_metadata, self.peer = given.invocation_metadata, given.peer
        self._given = given
        self._requests = requests
        self._answers: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._initial: list[tuple[str, str | bytes]] = []
        left_s = dict(given.invocation_metadata()).get(TIME_LEFT)
        self._ends_s = time.monotonic() + float(left_s) if left_s else None

    def time_remaining(self) -> float | None:
        return None if self._ends_s is None else max(0.0, self._ends_s - time.monotonic())

    def done(self) -> bool:
        return False

    async def read(self) -> Any:
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            if getattr(self._requests, "is_cancelled", bool)():
                raise grpc.aio.InternalError("the caller has left") from None
            return grpc.aio.EOF

    async def write(self, data: bytes) -> None:
        await self._answers.put(data)

    async def send_initial_metadata(self, entries: Entries) -> None:
        self._initial = [(INITIAL + key, value) for key, value in entries]
        self.set_trailing_metadata(())

    def set_trailing_metadata(self, entries: Entries) -> None:
        self._given.set_trailing_metadata([*self._initial, *entries])

    async def abort(self, code: grpc.StatusCode, details: str, trailers: Entries = ()) -> None:
        self._given.set_code(code)
        self._given.set_details(details)
        self.set_trailing_metadata(trailers)
        raise Aborted

    async def answers(self, call: "asyncio.Task[None]") -> AsyncIterator[bytes]:
        """Yield what the call writes, until it is done. Raises as it does; an error that was said is in the context."""
        while True:
            coming = asyncio.ensure_future(self._answers.get())
            await asyncio.wait((call, coming), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                break
            yield coming.result()
        while not self._answers.empty():
            yield self._answers.get_nowait()
        with suppress(Aborted):
            await call
