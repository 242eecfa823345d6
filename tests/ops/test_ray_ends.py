"""The two ends between which Ray Serve stands, proxy and replica, without Ray: a stand-in hands calls over.

What it does it does as Serve 2.60: the context is copied, a copy of the replica's comes back with each message, an
exception becomes INTERNAL with its words. `test_ray` asks the same of Ray itself.
"""

import asyncio
import copy
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from pred_server import Client, serve
from pred_server.ops import ray_proxy
from pred_server.ops.ray_proxy import APPLICATIONS, INITIAL, LOST, NOTHING, TIME_LEFT, Rpcs, add_to_server
from pred_server.ops.ray_replica import Message, Replica, ReplicaContext
from tests.ops.ray_cases import ANSWERED, CALLS, FAULTS, FLAGS, GOOD, XY, Ask, comparable, one, said, several

LIMITS = {"max_rows": 1_000, "max_message_bytes": 100_000, "max_refusals_per_s": 1_000_000, "threads": (1,)}


class Copied:
    """A context as Serve gives it to a replica."""

    def __init__(self, context: Any):
        self._invocation_metadata = list(context.invocation_metadata())
        self._peer = context.peer()
        self._code, self._details = None, ""
        self._trailing_metadata: list[tuple[str, str | bytes]] = [("request_id", "1")]

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return self._invocation_metadata

    def peer(self) -> str:
        return str(self._peer)

    def set_code(self, code: Any) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, entries: list[tuple[str, str | bytes]]) -> None:
        self._trailing_metadata = [("request_id", "1"), *entries]

    def write_to(self, context: Any) -> None:
        if self._code:
            context.set_code(self._code)
        if self._details:
            context.set_details(self._details)
        context.set_trailing_metadata(self._trailing_metadata)


class Serve(grpc.aio._server.Server):
    """A proxy's server: it puts functions into the handlers that it is given, as `gRPCGenericServer` does."""

    def __init__(self, replica: Any):
        super().__init__(None, (), (), (), None, None)
        self.replica, self.healthy, self.applications = replica, True, b"prediction"
        self.generic_rpc_handlers: list[Any] = []
        self._passing: set[str] = set()

    def add_passthrough_service(self, name: str) -> None:
        self._passing.add(name)

    def add_registered_method_handlers(self, *_: Any) -> None:
        pass

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        (ours,) = handlers
        if not any(name in path for name in self._passing for path in ours._method_handlers):
            ours._method_handlers = {
                path: handler._replace(unary_unary=self._unary(path), stream_stream=self._stream(path))
                for path, handler in ours._method_handlers.items()
            }
        self.generic_rpc_handlers.append(handlers)
        super().add_generic_rpc_handlers(handlers)

    def _unary(self, path: str) -> Any:
        async def call(request: Any, context: Any) -> bytes:
            copied = Copied(context)
            code, details, data = grpc.StatusCode.OK, "", b""
            try:
                if path == APPLICATIONS:
                    code = grpc.StatusCode.OK if self.healthy else grpc.StatusCode.UNAVAILABLE
                    data = self.applications
                else:
                    message = await getattr(self.replica, path.rpartition("/")[2])(request, copied)
                    copied.write_to(context)
                    data = message.SerializeToString()
            except Exception as error:
                code, details = as_status(error)
            end(context, code, details)
            return data

        return call

    def _stream(self, path: str) -> Any:
        async def call(requests: Any, context: Any) -> AsyncIterator[bytes]:
            copied = Copied(context)
            code, details = grpc.StatusCode.OK, ""
            try:
                async for message in getattr(self.replica, path.rpartition("/")[2])(requests, copied):
                    copy.copy(copied).write_to(context)
                    yield message.SerializeToString()
            except Exception as error:
                code, details = as_status(error)
            end(context, code, details)

        return call


def as_status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Return what Serve makes of an exception."""
    if isinstance(error, LookupError):
        return grpc.StatusCode.NOT_FOUND, "Application metadata not set."
    return grpc.StatusCode.INTERNAL, f'File "/home/me/replica.py", line 7: {error}'


def end(context: Any, code: grpc.StatusCode, details: str) -> None:
    if not context.code():
        context.set_code(code)
    if not context.details():
        context.set_details(details)


@contextmanager
def running(replica: Any) -> Iterator[tuple[str, Serve]]:
    """Run a proxy in a thread of its own. `replica` is one, or what makes one in that thread's event loop."""
    started: list[Any] = []
    is_up = threading.Event()

    async def run() -> None:
        server = Serve(replica if not isinstance(replica, type) else replica(model=["sum", "linear"], **LIMITS))
        server.add_generic_rpc_handlers((serves_own(),))
        add_to_server(None, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop = asyncio.Event()
        started.extend([f"127.0.0.1:{port}", server, asyncio.get_running_loop(), stop])
        is_up.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert is_up.wait(60)
    address, server, loop, stop = started
    try:
        yield address, server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


def serves_own() -> Any:
    service, method = APPLICATIONS.strip("/").split("/")
    return grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(None)})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    with serve("sum", "--model", "linear", *FLAGS) as server:
        yield server.address


@pytest.fixture(scope="module")
def behind() -> Iterator[str]:
    with running(Replica) as (address, _):
        yield address


@pytest.mark.parametrize("ask", [*ANSWERED.values(), *FAULTS.values()], ids=[*ANSWERED, *FAULTS])
def test_all_that_a_caller_gets_is_as_from_a_plain_server(ask: Ask, plain: str, behind: str) -> None:
    answer = said(behind, ask)
    assert comparable(answer, ask) == comparable(said(plain, ask), ask)
    assert answer.trailing["request_id"] == "1"


def test_the_faults_are_faults() -> None:
    assert len(FAULTS) > 15
    assert {ask.rpc for ask in FAULTS.values()} == {"Predict", "PredictStream", "Describe"}


def test_the_client_predicts_and_streams(behind: str) -> None:
    with Client(behind) as client:
        assert client.describe().models == ("sum/1", "linear/1")
        for encoding in GOOD:
            predicted = client.predict(XY, encoding=encoding)
            assert predicted.to_numpy().tobytes() == (XY["x"] + XY["y"]).to_numpy().tobytes()
            assert "predict" in predicted.waterfall.text()


class Loses:
    """A replica that is lost in the middle of its work, or never there."""

    def __init__(self, error: Exception, first: bytes = b""):
        self._error, self._first = error, first

    async def Predict(self, request: bytes, grpc_context: Any) -> Message:
        raise self._error

    Describe = Predict

    async def PredictStream(self, requests: Any, grpc_context: Any) -> AsyncIterator[Message]:
        if self._first:
            grpc_context.set_trailing_metadata([(f"{INITIAL}prediction-dtype", "float64")])
            yield Message(self._first)
        raise self._error


@pytest.mark.parametrize("rpc", ["Predict", "Describe", "PredictStream"])
def test_a_lost_replica_is_unavailable_and_nobody_sees_a_path(rpc: str) -> None:
    ask = one(CALLS[rpc], rpc=rpc) if rpc in CALLS else several(GOOD["csv"])
    with running(Loses(RuntimeError("the actor died"))) as (address, _):
        assert said(address, ask)[:3] == ("UNAVAILABLE", LOST, ())
    with running(Loses(LookupError())) as (address, _):
        assert said(address, ask)[:2] == ("UNAVAILABLE", NOTHING)
        named = ask._replace(metadata=(("application", "none"),))
        assert said(address, named)[:2] == ("NOT_FOUND", "Application metadata not set."), "the caller's fault"


def test_a_stream_whose_replica_is_lost_keeps_what_came_and_is_unavailable() -> None:
    first = GOOD["csv"].SerializeToString()
    with running(Loses(RuntimeError("the actor died"), first)) as (address, _):
        answer = said(address, several(GOOD["csv"], GOOD["csv"]))
    assert answer[:3] == ("UNAVAILABLE", LOST, (first,))
    assert answer.initial == {"prediction-dtype": "float64"}


class Sees:
    """A replica that keeps the metadata of its calls."""

    def __init__(self) -> None:
        self.contexts: list[ReplicaContext] = []

    async def Predict(self, request: bytes, grpc_context: Any) -> Message:
        self.contexts.append(ReplicaContext(grpc_context, requests=None))  # type: ignore[arg-type]
        return Message(b"x")


def test_a_replica_knows_the_callers_deadline_and_connection() -> None:
    replica = Sees()
    with running(replica) as (address, _), grpc.insecure_channel(address) as channel:
        predict: Any = channel.unary_unary("/prediction.Prediction/Predict")
        predict(b"", timeout=900, metadata=((TIME_LEFT, "5"),))
        predict(b"")
    limited, unlimited = replica.contexts
    left_s = limited.time_remaining()
    assert left_s is not None and 800 < left_s <= 901, "not what the caller claims in metadata"
    assert unlimited.time_remaining() is None
    assert limited.peer() == unlimited.peer()
    assert limited.peer().startswith("ipv4:127.0.0.1:")


def test_a_caller_that_leaves_is_no_longer_worked_for() -> None:
    left = threading.Event()

    class Waits:
        async def PredictStream(self, requests: Any, grpc_context: Any) -> AsyncIterator[Message]:
            try:
                yield Message(b"first")
                await asyncio.sleep(600)
            finally:
                left.set()

    with running(Waits()) as (address, _), grpc.insecure_channel(address) as channel:
        call: Any = channel.stream_stream("/prediction.Prediction/PredictStream")(iter([b"x"]), timeout=60)
        assert next(call) == b"first"
        call.cancel()
        assert left.wait(60)


def test_health_is_what_serve_says_of_its_proxy() -> None:
    with running(Sees()) as (address, server), grpc.insecure_channel(address) as channel:
        stub = HealthStub(channel)
        for name in ("", "prediction.Prediction"):
            assert stub.Check(HealthCheckRequest(service=name), timeout=60).status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(HealthCheckRequest(service="sum"), timeout=60)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
        watch = stub.Watch(HealthCheckRequest(), timeout=60)
        assert next(watch).status == HealthCheckResponse.SERVING
        server.healthy = False
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        server.healthy = True
        assert next(watch).status == HealthCheckResponse.SERVING
        server.applications = b""
        assert next(watch).status == HealthCheckResponse.NOT_SERVING
        assert stub.Check(HealthCheckRequest(), timeout=60).status == HealthCheckResponse.NOT_SERVING
        watch.cancel()


def test_servers_of_rays_processes_listen_on_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Plain:
        def add_insecure_port(self, address: str) -> int:
            asked.append(address)
            return 1

    for host in ("127.0.0.1", "::1"):
        Here = type("Here", (Plain,), {})  # noqa: N806
        monkeypatch.setattr(grpc.aio._server, "Server", Here)
        monkeypatch.setenv(ray_proxy.HOST, host)
        ray_proxy.keep_to_host()
        assert [Here().add_insecure_port(address) for address in ("[::]:50051", "10.0.0.1:1")] == [1, 1]
    assert asked == ["127.0.0.1:50051", "10.0.0.1:1", "[::1]:50051", "10.0.0.1:1"]


def test_rpcs_are_those_of_the_contract() -> None:
    assert set(Rpcs()._method_handlers) == {
        f"/prediction.Prediction/{rpc}" for rpc in ("Predict", "PredictStream", "Describe")
    }
