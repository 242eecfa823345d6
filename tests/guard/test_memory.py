"""Large tables wait for memory in the order in which they came, and what is forgotten is free."""

import asyncio
import time

import pytest

from pred_server.errors import DeadlineExceeded
from pred_server.guard.memory import Memory, Reservation


def soon() -> float:
    return time.monotonic() + 60


async def turns(n_turns: int = 5) -> None:
    for _ in range(n_turns):
        await asyncio.sleep(0)


def test_what_does_not_fit_waits_its_turn() -> None:
    async def story() -> list[str]:
        memory, order = Memory(100), []

        async def work(name: str, n_bytes: int) -> None:
            reservation = await memory.reserve(n_bytes, soon())
            order.append(name)
            await turns()
            del reservation

        first = memory.take(80)
        tasks = [asyncio.create_task(work(name, size)) for name, size in (("large", 70), ("small", 10), ("whole", 999))]
        await turns()
        assert order == []
        assert memory.take(1) is None, "who comes later does not pass those who wait"
        del first
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(story()) == ["large", "small", "whole"]


def test_memory_is_free_once_nothing_refers_to_it() -> None:
    async def story() -> None:
        memory = Memory(100)
        held: list[Reservation | None] = [memory.take(100)]
        assert memory.take(1) is None
        held.clear()
        await turns()
        assert memory.take(100)

    asyncio.run(story())


def test_who_gives_up_leaves_the_queue() -> None:
    async def story() -> None:
        memory = Memory(100)
        first = memory.take(100)
        with pytest.raises(DeadlineExceeded):
            await memory.reserve(50, time.monotonic())
        waiting = asyncio.create_task(memory.reserve(50, soon()))
        await turns()
        waiting.cancel()
        await turns()
        del first
        await turns()
        assert memory.take(100)

    asyncio.run(story())


def test_who_is_cancelled_as_the_turn_comes_gives_it_back() -> None:
    async def story() -> None:
        memory = Memory(100)
        first = memory.take(100)
        waiting = asyncio.create_task(memory.reserve(50, soon()))
        await turns()
        del first
        memory.give_back(0)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        del waiting
        await turns()
        assert memory.take(100)

    asyncio.run(story())
