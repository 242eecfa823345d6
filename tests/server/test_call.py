"""What a call that was ended leaves behind: nothing, though gRPC keeps its error until the caller has read it."""

import asyncio
import gc
import math
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import pytest

from pred_server import load
from pred_server.errors import Unavailable
from pred_server.generated.pred_pb2 import Request
from pred_server.guard.admission import Admission
from pred_server.limits import Limits
from pred_server.server.call import Call
from pred_server.server.service import PredictionService


@pytest.fixture(autouse=True)
def no_collector() -> Any:
    """Turn the collector off: it would free what is only in a cycle, at a moment of its own."""
    gc.disable()
    yield
    gc.enable()


class Message:
    """Stands for bytes, which nobody can watch."""

    def __len__(self) -> int:
        return 4


class Context:
    """A call whose message has not come yet. It keeps the error that ends it, as gRPC does."""

    def __init__(self) -> None:
        self.message: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.kept: BaseException | None = None

    async def read(self) -> Message:
        message, self.message = self.message, cast(Any, None)
        return await message

    async def abort(self, *_: object) -> None:
        try:
            raise RuntimeError("aborted")
        except RuntimeError as error:
            self.kept = error
            raise

    def invocation_metadata(self) -> None: ...

    def time_remaining(self) -> None: ...

    def peer(self) -> str:
        return "somebody"

    def done(self) -> bool:
        return False


def test_a_message_that_arrives_after_its_call_was_ended_is_freed() -> None:
    async def run() -> None:
        context, limits = Context(), Limits()
        admission = Admission(limits)
        arrives = context.message

        async def handle() -> None:
            async with Call("Predict", context, admission, limits, timing=True) as call:
                await call.read()

        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        (ticket,) = admission.tickets
        ticket.why, ticket.is_ending = Unavailable("the test ends it"), True
        task.cancel()
        with pytest.raises(RuntimeError, match="aborted"):
            await task
        message = Message()
        arrives.set_result(message)
        there = weakref.ref(message)
        del message, arrives
        for _ in range(10):  # by then the read has ended
            await asyncio.sleep(0)
        assert context.kept is not None and isinstance(context.kept.__context__, asyncio.CancelledError)
        assert there() is None

    asyncio.run(run())


def test_what_waits_for_a_thread_is_freed_where_its_call_was_cancelled() -> None:
    async def run() -> None:
        limits, busy = Limits(), threading.Event()
        service = PredictionService([], limits, Admission(limits))
        call = Call("Predict", Context(), Admission(limits), limits, timing=True)
        with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
            stack.callback(busy.set)
            threads.submit(busy.wait)
            message = Message()
            task = asyncio.create_task(service._in_thread(call, threads, partial(len, message)))
            there = weakref.ref(message)
            del message
            await asyncio.sleep(0)
            assert there() is not None
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            del task
            assert there() is None

    asyncio.run(run())


def test_a_reply_is_written_in_the_memory_of_its_table() -> None:
    async def main() -> None:
        limits, admission = Limits(), Admission(Limits())
        service = PredictionService([model := load("sum")], limits, admission)

        async def all_memory(timeout_s: float) -> None:
            async with asyncio.timeout(timeout_s):
                await service._memory.reserve(limits.max_bytes_in_flight, math.inf)

        async def write(*_: object) -> bytes:
            with pytest.raises(TimeoutError):
                await all_memory(0.3)
            return b""

        service._write = write  # type: ignore[method-assign]
        request = Request(input_data="x,y\n" + "1,2\n" * 20_000)
        call = Call("Predict", Context(), admission, limits, timing=False)
        await service._answer(call, request.SerializeToString(), model)
        await all_memory(30)

    asyncio.run(main())
