"""A connection has so many streams for health and reflection, and who has too many harms nobody else."""

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from pred_server import serve
from pred_server.ops.side_streams import MOST_STREAMS
from tests.waits import comes_true

QUESTION = ServerReflectionRequest(list_services="")
OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own


def watch(channel: grpc.Channel) -> grpc.Call:
    return HealthStub(channel).Watch(HealthCheckRequest(), timeout=60)


def code_of(stream: grpc.Call) -> grpc.StatusCode | None:
    """Return the status of a stream that ends, None where it says something."""
    try:
        next(stream)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_a_connection_has_so_many_streams_and_gets_new_ones_for_old() -> None:
    with (
        serve("sum") as server,
        grpc.insecure_channel(server.address, OWN) as channel,
        grpc.insecure_channel(server.address, OWN) as other,
    ):
        streams = [watch(channel) for _ in range(MOST_STREAMS)]
        assert [code_of(stream) for stream in streams] == [None] * MOST_STREAMS
        assert code_of(watch(channel)) == grpc.StatusCode.RESOURCE_EXHAUSTED
        questions = ServerReflectionStub(channel).ServerReflectionInfo(iter([QUESTION]), timeout=60)
        assert code_of(questions) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "16 streams" in questions.details()
        assert code_of(watch(other)) is None
        HealthStub(channel).Check(HealthCheckRequest(), timeout=60)
        streams.pop().cancel()
        assert comes_true(lambda: code_of(watch(channel)) is None)
