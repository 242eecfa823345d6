"""The gRPC surface: decode, ask the predictor, encode; nothing else."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError

from pred_server.errors import (
    InvalidInput,
    LimitExceeded,
    ModelNotFound,
    PredServerError,
    ServerFault,
    clip,
)
from pred_server.generated.pred_pb2 import ColumnDescription, DescribeResponse, Response
from pred_server.generated.pred_pb2_grpc import PredictionServicer
from pred_server.limits import Limits, flag, took_too_long
from pred_server.model.model import Model
from pred_server.server.predictor import Computed, Predictor
from pred_server.wire.codec import CODECS, QUICK_BYTES, Codec, codec_of, is_plain, is_quick
from pred_server.wire.rows import Aligned, count_rows
from pred_server.wire.schema import Column
from pred_server.wire.status import to_status
from pred_server.wire.timing import Stopwatch

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

# gRPC gives all metadata of a reply together 8 KiB, beyond which the other side may drop the call.
MAX_IGNORED_BYTES = 2_048
# Labels of text take longer to write than numbers do: up to so many are written by the event loop.
QUICK_LABELS = 1_000
# Chunks of a stream that are under way behind the one whose answer is due. More would only hold more memory.
CHUNKS_AHEAD = 2


class Received(NamedTuple):
    """A message as it arrived: bytes, or what is wrong with them. A large one is not parsed on the event loop."""

    data: bytes
    parse: Callable[[bytes], Any]
    too_large: int = 0
    """The size of a message that was not taken."""

    def message(self, limits: Limits) -> Any:
        if self.too_large:
            what, limit = f"the message has {self.too_large:,} bytes", limits.max_message_bytes
            raise LimitExceeded(what, limit=limit, flag=flag("max_message_bytes"))
        try:
            return self.parse(self.data)
        except DecodeError:  # gRPC by itself would answer UNKNOWN
            raise InvalidInput("the bytes sent are not the message that this rpc takes") from None


@dataclass
class _Decoded:
    codec: Codec
    table: Aligned
    ignored: list[str]


@dataclass
class _Answer:
    response: Response
    ignored: list[str]
    n_rows: int


T = TypeVar("T")


class _Call:
    """What holds for one call: who asks for what, since when, and what is written down of it."""

    def __init__(self, rpc: str, context: Context, models: Sequence[Model]):
        self.rpc = rpc
        self.asked = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        self.output = self.asked.get("output", "labels")
        self.watch = Stopwatch()
        self.start_ns = time.perf_counter_ns()
        self.encoding = ""
        self.rows = 0
        self.told: tuple[tuple[str, str], ...] = ()
        self._models = models

    @cached_property
    def request_id(self) -> str:
        return clip(self.asked.get("x-request-id") or uuid.uuid4().hex, 128)

    def model(self) -> Model:
        name, version = self.asked.get("model-name"), self.asked.get("model-version")
        for model in self._models:
            if name in (None, model.name) and version in (None, model.version):
                return model
        there = ", ".join(f"{model.name} v{model.version}" for model in self._models)
        wanted = f"{clip('(any)' if name is None else name)} v{clip('(any)' if version is None else version)}"
        raise ModelNotFound(f"no model {wanted} here; there is {there}")

    def log(self, code: str) -> None:
        fields = {
            "rpc": self.rpc,
            "request_id": self.request_id,
            "code": code,
            "encoding": self.encoding,
            "rows": self.rows,
            "duration_ms": round((time.perf_counter_ns() - self.start_ns) / 1e6, 3),
            **{f"{phase}_ms": round(ms, 3) for phase, ms in list(self.watch.phases_ms.items())},
        }
        text = " ".join(f"{key}={value}" for key, value in fields.items() if key != "rpc")
        logger.info("%s %s", self.rpc, text, extra=fields)


_Work = Callable[[_Call, Any, Context], Awaitable[T]]


class PredictionService(PredictionServicer):
    """Answers with the model that the call's metadata names, or else with the first. `proto/pred.proto` has the rest.

    It takes messages as `Received`, which `server.Handlers` makes of the bytes.
    """

    def __init__(
        self, models: Sequence[Model], limits: Limits, calls_in_flight: Callable[[], int], timing: bool = True
    ):
        self._models = models
        self._limits = limits
        self._timing = timing
        self.predictor = Predictor(limits, calls_in_flight)
        self._workers = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="codec")

    async def Predict(self, request: Received, context: Context) -> Response:
        return await self._guard("Predict", self._predict, request, context)

    async def PredictStream(self, requests: AsyncIterator[Received], context: Context) -> None:
        await self._guard("PredictStream", self._predict_stream, requests, context)

    async def Describe(self, request: Received, context: Context) -> DescribeResponse:
        return await self._guard("Describe", self._describe, request, context)

    async def _predict(self, call: _Call, request: Received, context: Context) -> Response:
        model = call.model()
        answer = await self._answer(call, model, request, context)
        # After the answer: headers that are ready before it travel alone, and a client that has them does not ask again
        # if the server is then lost.
        call.told = _headers(model, call.output, answer.ignored)
        return answer.response

    async def _predict_stream(self, call: _Call, requests: AsyncIterator[Received], context: Context) -> None:
        model = call.model()
        # Each chunk is decoded, predicted and encoded by a task of its own while the reader takes the next one; the
        # loop below sends the answers in order. Few are in memory: a full queue stops the reading.
        queue: asyncio.Queue[asyncio.Task[_Answer] | Exception | None] = asyncio.Queue(maxsize=CHUNKS_AHEAD)
        under_way: set[asyncio.Task[_Answer]] = set()

        async def read() -> None:
            try:
                async for request in requests:
                    task = asyncio.create_task(self._answer(call, model, request, context, wait_for_room=True))
                    under_way.add(task)
                    task.add_done_callback(_look_at)
                    task.add_done_callback(under_way.discard)
                    await queue.put(task)
                await queue.put(None)
            except Exception as error:
                await queue.put(error)

        reader = asyncio.create_task(read())
        first_row, chunk = 1, 1
        try:
            while True:
                async with self._time_limit():
                    entry = await queue.get()
                    if entry is None:
                        break
                    try:
                        if isinstance(entry, Exception):
                            raise entry
                        answer = await entry
                    except (InvalidInput, LimitExceeded) as error:
                        if chunk > 1:  # the first is the table's beginning, and needs no place
                            error.args = (f"in chunk {chunk}, the rows from {first_row:,} on: {error}",)
                        raise
                    if chunk == 1:
                        await context.send_initial_metadata(_headers(model, call.output, answer.ignored))
                    await context.write(answer.response)
                chunk, first_row = chunk + 1, first_row + answer.n_rows
        finally:
            reader.cancel()
            for task in list(under_way):
                task.cancel()

    async def _describe(self, call: _Call, request: Received, context: Context) -> DescribeResponse:
        request.message(self._limits)
        return _describe(call.model(), self._models)

    async def _guard(
        self, rpc: str, work: Callable[[_Call, Any, Context], Awaitable[T]], sent: Any, context: Context
    ) -> T:
        """Do the work of a call: errors become statuses, times become metadata, and the log gets a line."""
        call, code = _Call(rpc, context, self._models), "OK"
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s request_id=%s accepted", rpc, call.request_id)
        try:
            result = await work(call, sent, context)
            context.set_trailing_metadata(self._trailers(call))
            return result
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception as error:
            if context.done():  # nobody is there to be answered: what failed is the writing
                code = "CANCELLED"
                raise asyncio.CancelledError from error
            if isinstance(error, PredServerError):
                status = to_status(error)
            else:
                logger.exception("request %s failed", call.request_id)
                why = f"the server failed; its log has the reason under request id {call.request_id}"
                status = to_status(ServerFault(why))
            code = status.code.name
            await context.abort(status.code, status.details, (*status.trailing_metadata, *self._trailers(call)))
            raise AssertionError("abort raises") from error
        finally:
            if logger.isEnabledFor(logging.INFO):
                call.log(code)

    def _trailers(self, call: _Call) -> tuple[tuple[str, str], ...]:
        header = call.watch.header()
        return (*call.told, ("server-timing", header)) if self._timing and header else call.told

    def _deadline_s(self, context: Context) -> float:
        left = context.time_remaining()
        return time.monotonic() + min(
            self._limits.max_deadline_s, self._limits.max_deadline_s if left is None else left
        )

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._limits.max_deadline_s):
                yield
        except TimeoutError:
            raise took_too_long(self._limits) from None

    async def _answer(
        self, call: _Call, model: Model, request: Received, context: Context, wait_for_room: bool = False
    ) -> _Answer:
        """Decode, predict, encode: a whole call, or a chunk of a stream, which waits where too much is queued."""
        decoded = await self._decode(call, model, request)
        computed = await self.predictor.predict(
            model, decoded.table, call.output, self._deadline_s(context), wait_for_room=wait_for_room
        )
        response = await self._encode(call, model, decoded.codec, computed)
        return _Answer(response, decoded.ignored, count_rows(decoded.table))

    async def _decode(self, call: _Call, model: Model, request: Received) -> _Decoded:
        # What may be quick is parsed here, to see whether it is.
        parsed = request.message(self._limits) if is_quick(request.data) else None

        def read() -> _Decoded:
            message = request.message(self._limits) if parsed is None else parsed
            with call.watch("decode"):
                codec = codec_of(message)
                return _Decoded(codec, *codec.read_table(message, model.schema, self._limits.max_rows))

        here = parsed is not None and (len(request.data) <= QUICK_BYTES or is_plain(parsed, model.schema))
        decoded = await self._here_or_aside(call.watch, here, read)
        call.encoding = decoded.codec.name
        call.rows += count_rows(decoded.table)
        return decoded

    async def _encode(self, call: _Call, model: Model, codec: Codec, computed: Computed) -> Response:
        watch = call.watch
        watch.add("queue", 0, computed.queue_ns)
        watch.add("predict", 0, computed.predict_ns)
        watch.batch_rows = max(watch.batch_rows, computed.batch_rows)

        def write() -> Response:
            response = Response()
            with watch("encode"):
                codec.write_result(computed.values, model.output_names(call.output), response)
            limit = self._limits.max_message_bytes
            if computed.values.nbytes > limit // 8 and response.ByteSize() > limit:
                size, name = response.ByteSize(), flag("max_message_bytes")
                raise LimitExceeded(f"the reply has {size:,} bytes; send fewer rows", limit=limit, flag=name)
            return response

        most = codec.quick_values if computed.values.dtype.kind in "biuf" else QUICK_LABELS
        return await self._here_or_aside(watch, computed.values.size <= most, write)

    async def _here_or_aside(self, watch: Stopwatch, here: bool, work: Callable[[], T]) -> T:
        """Do it on the event loop if that is quick, else in a thread, the wait for which is part of the queue."""
        if here:
            return work()
        submitted_ns = time.perf_counter_ns()

        def aside() -> T:
            watch.add("queue", submitted_ns, time.perf_counter_ns())
            return work()

        return await asyncio.get_running_loop().run_in_executor(self._workers, aside)


def _look_at(task: "asyncio.Task[_Answer]") -> None:
    """Nobody may ask for the error of a chunk behind a bad one, and asyncio would complain of that."""
    if not task.cancelled():
        task.exception()


def _headers(model: Model, output: str, ignored: list[str]) -> tuple[tuple[str, str], ...]:
    dtype = "float64" if output == "probabilities" else model.schema.target.dtype
    headers = [("prediction-dtype", dtype)]
    if ignored:
        headers.append(("ignored-columns", ",".join(_quoted(ignored))))
    return tuple(headers)


def _quoted(names: list[str]) -> Iterator[str]:
    """The names, percent-encoded, as many as `MAX_IGNORED_BYTES` have room for; `...` stands for the rest."""
    room = MAX_IGNORED_BYTES
    for name in names:
        text = quote(name, safe="") if len(name) < room else ""  # a name may have any length
        room -= len(text) + 1
        if not text or room < 0:
            yield "..."
            return
        yield text


def _describe(model: Model, models: Sequence[Model]) -> DescribeResponse:
    def described(column: Column) -> ColumnDescription:
        return ColumnDescription(name=column.name, dtype=column.dtype, nullable=column.nullable, unit=column.unit)

    return DescribeResponse(
        name=model.name,
        version=model.version,
        columns=[described(column) for column in model.schema.columns],
        target=described(model.schema.target),
        classes=model.classes,
        encodings=list(CODECS),
        engine=model.engine_name,
        parity=model.parity,
        scores={name: str(value) for name, value in model.scores.items()},
        models=[f"{each.name}/{each.version}" for each in models],
    )
