"""The gRPC surface: bytes in, decode, ask the predictor, encode, bytes out; nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import grpc
from google.protobuf.message import DecodeError

from pred_server.errors import DeadlineExceeded, InvalidInput, LimitExceeded, ModelNotFound, PredServerError, clip
from pred_server.generated.pred_pb2 import DESCRIPTOR, DescribeRequest, Request, Response
from pred_server.guard.admission import Admission
from pred_server.guard.memory import Memory, Reservation
from pred_server.guard.weight import weigh
from pred_server.limits import MIB, Limits, check_message_bytes, cores
from pred_server.model.model import Model
from pred_server.server.call import Call, Context, Observer, result_metadata, take_error
from pred_server.server.identity import check_expected
from pred_server.server.inline import may_write_inline, read_inline
from pred_server.server.predictor import Predictor
from pred_server.wire.codec import CODECS, Codec, codec_of
from pred_server.wire.description import Description
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows

SERVICE = DESCRIPTOR.services_by_name["Prediction"].full_name

# Chunks of a stream that are read ahead of the one being answered. More would only hold more memory.
CHUNKS_AHEAD = 2
# Tables of up to so many rows, and messages that take up to so many bytes, have threads of their own.
SMALL_ROWS, LARGE_BYTES = 1_024, 4 * MIB

T = TypeVar("T")


@dataclass
class Answer:
    """The reply to one message."""

    data: bytes
    ignored: list[str]
    dtype: str
    n_rows: int


class PredictionService:
    """Answers with the model that the call's metadata names, or with the first. `proto/pred.proto` is the contract.

    Messages come and go as bytes. So their size is known before they are parsed, and a thread can parse a large one.
    All rpcs are streams for the server: it may refuse a call, or end it, before its message is whole.

    Parameters
    ----------
    models : those that are served now; the event loop may put another in the place of one (`ops.reload`). A call keeps
        the model that it began with
    """

    def __init__(
        self,
        models: Sequence[Model],
        limits: Limits,
        admission: Admission,
        timing: bool = True,
        observer: Observer | None = None,
    ):
        # Large tables have a thread of their own: a small one does not wait for them.
        # The answer to a lone caller's last call may still be on its way: one call more is no crowd.
        self._small, self._large = Predictor(limits, lambda: len(admission) - 1), Predictor(limits)
        self.models = models
        self._limits = limits
        self._admission = admission
        self._timing = timing
        self._observer = observer
        self._threads = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix="codec")
        self._large_threads = ThreadPoolExecutor(max_workers=cores(), thread_name_prefix="large")
        self._memory = Memory(limits.max_bytes_in_flight)

    def give_up(self, error: PredServerError) -> None:
        """Raise an error in every call that waits for predictions."""
        self._small.give_up(error)
        self._large.give_up(error)

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a model."""
        return self._small.queued_rows + self._large.queued_rows

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the rpcs by name, as a gRPC server takes them. Without serializers they get and return bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Predict": grpc.stream_unary_rpc_method_handler(self.predict),
                "PredictStream": grpc.stream_stream_rpc_method_handler(self.predict_stream),
                "Describe": grpc.stream_unary_rpc_method_handler(self.describe),
            },
        )

    def _open(self, rpc: str, context: Context) -> Call:
        return Call(rpc, context, self._admission, self._limits, self._timing, self._observer)

    async def describe(self, _: AsyncIterator[bytes], context: Context) -> bytes:
        async with self._open("Describe", context) as call:
            _parse(DescribeRequest.FromString, await call.read())
            model = self._model_of(call)
            description = Description(
                name=model.name,
                version=model.version,
                schema=model.schema,
                classes=tuple(model.classes),
                encodings=tuple(CODECS),
                engine=model.engine.name,
                parity=model.parity,
                scores={name: str(value) for name, value in model.scores.items()},
                models=tuple(f"{other.name}/{other.version}" for other in self.models),
                threads=model.threads,
            )
            return description.to_message().SerializeToString()

    async def predict(self, _: AsyncIterator[bytes], context: Context) -> bytes:
        async with self._open("Predict", context) as call:
            # The message is in no variable: gRPC keeps this frame for a while where the call is refused.
            answer = await self._answer(call, await call.read(), self._model_of(call))
            # In the trailers: once a client has headers, gRPC does not repeat its call if the server is lost.
            call.trailers = result_metadata(answer.dtype, answer.ignored)
            return answer.data

    async def predict_stream(self, _: AsyncIterator[bytes], context: Context) -> None:
        """Answer each chunk, in order. A task reads ahead; a full queue stops it, so few chunks are in memory."""
        async with self._open("PredictStream", context) as call:
            call.admit()
            model = self._model_of(call)
            queue: asyncio.Queue[asyncio.Future[Answer] | None] = asyncio.Queue(maxsize=CHUNKS_AHEAD)
            under_way: set[asyncio.Task[Answer]] = set()

            async def read() -> None:
                try:
                    # Two more: the chunk being answered, and the one that waits for the queue.
                    while (data := await call.receive(times=CHUNKS_AHEAD + 2)) is not None:
                        task = asyncio.create_task(self._answer(call, data, model, wait_for_room=True))
                        under_way.add(task)
                        task.add_done_callback(take_error)
                        task.add_done_callback(under_way.discard)
                        await queue.put(task)
                    await queue.put(None)
                except Exception as error:
                    failed = asyncio.get_running_loop().create_future()
                    failed.set_exception(error)
                    failed.add_done_callback(take_error)
                    await queue.put(failed)

            reader = asyncio.create_task(read())
            first_row, chunk = 1, 1
            try:
                while True:
                    call.wait_for_client("the next chunk did not come")
                    task = await queue.get()
                    if task is None:
                        break
                    call.take_time()
                    answer = await _with_position(task, chunk, first_row)
                    call.wait_for_client("the answers were not read")
                    if chunk == 1:
                        await context.send_initial_metadata(result_metadata(answer.dtype, answer.ignored))
                    await call.send(answer.data)
                    chunk, first_row = chunk + 1, first_row + answer.n_rows
            finally:
                reader.cancel()
                for started in list(under_way):
                    started.cancel()

    def _model_of(self, call: Call) -> Model:
        name, version = call.metadata.get("model-name"), call.metadata.get("model-version")
        for model in self.models:
            if name in (None, model.name) and version in (None, model.version):
                call.identity = model.identity
                check_expected(call.rpc, call.metadata, model)
                return model
        asked = {"model-name": clip(name or ""), "model-version": clip(version or "")}
        wanted = f"model {clip(name or '')}".rstrip() + ("" if version is None else f" v{clip(version)}")
        there = ", ".join(f"{model.name} v{model.version}" for model in self.models)
        raise ModelNotFound(f"no {wanted} here; there is {there}", asked)

    async def _answer(self, call: Call, data: bytes, model: Model, wait_for_room: bool = False) -> Answer:
        """Decode, predict, encode: a whole call, or a chunk of a stream, which waits where too much is queued."""
        try:
            codec, rows, ignored = await self._read(call, model, data)
            n_rows = len(rows)
            call.encoding = codec.name
            call.rows += n_rows
            lane = self._small if n_rows <= SMALL_ROWS else self._large
            result = await lane.predict(
                model, rows, call.output, call.deadline_s(), call.watch, peer=call.peer, wait_for_room=wait_for_room
            )
        except DeadlineExceeded:
            raise call.late() from None
        # The reply is written without the rows, and yet in their memory: the predictions take as much as a column.
        reserved = rows.keeps
        del rows
        data = await self._write(call, codec, result)
        del reserved
        return Answer(data, ignored, result.dtype, n_rows)

    async def _read(self, call: Call, model: Model, data: bytes) -> tuple[Codec, Rows, list[str]]:
        def read(request: Request) -> tuple[Codec, Rows, list[str]]:
            with call.watch("decode"):
                codec = codec_of(request)
                return codec, *codec.read_table(request, model.schema, self._limits)

        request = _parse(lambda data: read_inline(data, model.schema), data)
        if request is not None:
            return read(request)
        threads = self._threads if len(data) < LARGE_BYTES else self._large_threads

        def read_reserved(reservation: Reservation) -> tuple[Codec, Rows, list[str]]:
            codec, rows, ignored = read(_parse(Request.FromString, data))
            rows.keeps = reservation
            return codec, rows, ignored

        def weigh_and_read() -> int | tuple[Codec, Rows, list[str]]:
            """Read the table, or return its weight where it has to wait for memory."""
            n_bytes = weigh(data, model.schema, self._limits)
            reservation = self._memory.take(n_bytes)
            return read_reserved(reservation) if reservation else n_bytes

        outcome = await self._in_thread(call, threads, weigh_and_read)
        if not isinstance(outcome, int):
            return outcome
        reservation = await self._memory.reserve(outcome, call.deadline_s())
        return await self._in_thread(call, threads, partial(read_reserved, reservation))

    async def _write(self, call: Call, codec: Codec, result: Result) -> bytes:
        def write() -> bytes:
            response = Response()
            with call.watch("encode"):
                codec.write_result(result, response)
            data = response.SerializeToString()
            check_message_bytes(len(data), self._limits, "the reply", "; send fewer rows")
            return data

        threads = self._threads if len(result) <= SMALL_ROWS else self._large_threads
        return write() if may_write_inline(codec, result) else await self._in_thread(call, threads, write)

    async def _in_thread(self, call: Call, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Do it in a thread. The wait for the thread is part of the queue."""
        submitted_ns = time.perf_counter_ns()
        to_do = [work]

        def run() -> T:
            call.watch.add("queue", submitted_ns, time.perf_counter_ns())
            return to_do.pop()()

        try:
            future = asyncio.get_running_loop().run_in_executor(threads, run)
        except RuntimeError as error:
            raise MemoryError(str(error)) from None  # there is no room for one more thread
        try:
            return await future
        finally:
            to_do.clear()  # a cancelled call stays in the queue until a thread meets it, but not its message


def _parse(parse: Callable[[bytes], T], data: bytes) -> T:
    try:
        return parse(data)
    except DecodeError:  # gRPC by itself would answer UNKNOWN
        bytearray(2 * len(data))  # protobuf says the same where memory is short; then this raises MemoryError
        raise InvalidInput("the bytes sent are not the message that this rpc takes") from None


async def _with_position(task: "asyncio.Future[Answer]", chunk: int, first_row: int) -> Answer:
    """Return the answer to a chunk; its errors say where in the table it begins."""
    try:
        return await task
    except (InvalidInput, LimitExceeded) as error:
        if chunk > 1:  # the first is the table's beginning, and needs no place
            error.args = (f"in chunk {chunk}, the rows from {first_row:,} on: {error}",)
        raise
