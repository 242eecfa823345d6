"""Health: everybody who watches hears of a stop, whoever else has come and gone."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from pred_server import serve
from pred_server.ops.health import Health
from pred_server.ops.side_streams import SideStreams
from pred_server.tutorial.background import Server

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = HealthCheckResponse.SERVICE_UNKNOWN


class Somebody:
    """A context that says who asks, and no more."""

    def peer(self) -> str:
        return "somebody"


@contextmanager
def watches(server: Server, *names: str) -> Iterator[list[grpc.Call]]:
    """A watch of each name, over a connection of its own, that has said its first word."""
    channels = [grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) for _ in names]
    try:
        yield [
            HealthStub(channel).Watch(HealthCheckRequest(service=name), timeout=60)
            for channel, name in zip(channels, names, strict=True)
        ]
    finally:
        for channel in channels:
            channel.close()


@pytest.mark.parametrize("leaves", [0, 1, 2])
def test_one_watcher_leaves_and_the_two_others_hear(leaves: int) -> None:
    with serve("sum") as server, watches(server, "", "", "") as all_watches:
        assert [next(watch).status for watch in all_watches] == [SERVING] * 3
        all_watches.pop(leaves).cancel()
        os.kill(server.pid, signal.SIGTERM)
        assert [[answer.status for answer in watch] for watch in all_watches] == [[NOT_SERVING]] * 2
        assert server._process.wait(30) == 0


def test_every_name_hears_and_an_unknown_one_stays_unknown() -> None:
    names = ("", "prediction.Prediction", "sum", "sum/1", "nonsense", "\u202e" * 100)
    with serve("sum") as server, watches(server, *names) as all_watches:
        first = [next(watch).status for watch in all_watches]
        assert first == [SERVING] * 4 + [SERVICE_UNKNOWN] * 2
        os.kill(server.pid, signal.SIGTERM)
        rest = [[answer.status for answer in watch] for watch in all_watches]
        assert rest == [[NOT_SERVING]] * 4 + [[], []]
        assert server._process.wait(30) == 0


def test_a_stop_that_comes_while_the_first_word_is_sent_is_heard() -> None:
    async def heard() -> list[int]:
        health = Health([""], SideStreams())
        watch = health.Watch(HealthCheckRequest(), Somebody())
        said = [(await anext(watch)).status]
        health.stop()  # before the server asks for the next word
        health.leave()
        return said + [answer.status async for answer in watch]

    assert asyncio.run(heard()) == [SERVING, NOT_SERVING]


def test_who_comes_after_the_stop_hears_it_first() -> None:
    async def heard() -> list[int]:
        health = Health([""], SideStreams())
        health.stop()
        health.leave()
        return [answer.status async for answer in health.Watch(HealthCheckRequest(), Somebody())]

    assert asyncio.run(heard()) == [NOT_SERVING]
