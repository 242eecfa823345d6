"""Slots are shared between connections, without waste."""

import asyncio
from collections.abc import Callable

import pytest

from pred_server.errors import LimitExceeded
from pred_server.guard.admission import Admission, Ticket
from pred_server.limits import Limits


@pytest.fixture
def admission() -> Admission:
    return Admission(Limits(max_calls_in_flight=12, max_message_bytes=100_000, max_bytes_in_flight=300_000))


def run(story: Callable[[], None]) -> None:
    async def inside() -> None:
        story()

    asyncio.run(inside())


def enter(admission: Admission, peer: str, n_calls: int) -> list[Ticket]:
    return [admission.enter(peer) for _ in range(n_calls)]


def test_one_connection_may_take_all_slots(admission: Admission) -> None:
    def story() -> None:
        enter(admission, "greedy", 12)
        with pytest.raises(LimitExceeded) as caught:
            admission.enter("greedy")
        assert (caught.value.reason, caught.value.flag) == ("OVERLOADED", "--max-calls-in-flight")

    run(story)


def test_others_still_have_their_shares(admission: Admission) -> None:
    def story() -> None:
        tickets = enter(admission, "greedy", 12)
        enter(admission, "good", 6)
        with pytest.raises(LimitExceeded):
            admission.enter("good")
        enter(admission, "third", 4)
        with pytest.raises(LimitExceeded):
            admission.enter("third")
        for ticket in tickets:
            admission.leave(ticket)
        enter(admission, "good", 2)

    run(story)


def test_a_thousand_connections_are_bounded(admission: Admission) -> None:
    def story() -> None:
        enter(admission, "greedy", 12)
        for place in range(1_000):
            with pytest.raises(LimitExceeded):
                while True:
                    admission.enter(f"peer {place}")
        assert len(admission) <= 12 * sum(1 / n for n in range(1, 1_002))

    run(story)


def test_bytes_are_shared_too(admission: Admission) -> None:
    def story() -> None:
        for ticket in enter(admission, "greedy", 3):
            admission.hold(ticket, 100_000)
        (late,) = enter(admission, "greedy", 1)
        with pytest.raises(LimitExceeded, match="bytes are in flight") as caught:
            admission.hold(late, 100_000)
        assert (caught.value.reason, caught.value.flag) == ("OVERLOADED", "--max-bytes-in-flight")
        (good,) = enter(admission, "good", 1)
        admission.hold(good, 100_000)
        admission.hold(late, 1_000)  # small ones come in

    run(story)


def test_a_message_that_is_too_large_is_refused_alone(admission: Admission) -> None:
    def story() -> None:
        (ticket,) = enter(admission, "any", 1)
        with pytest.raises(LimitExceeded) as caught:
            admission.hold(ticket, 100_001)
        assert (caught.value.reason, caught.value.flag) == ("TOO_LARGE", "--max-message-bytes")

    run(story)
