"""Who computes, and what is computed together: the event loop, once a turn, where a model is quick; else the thread."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from pred_server.errors import InvalidInput
from pred_server.limits import Limits
from pred_server.model import Model
from pred_server.predictor import AT_ONCE_NS, HERE_NS, HERE_ROWS, Computed, Predictor
from pred_server.schema import Column, Schema

LOOP, THREAD = "MainThread", "compute"


class Recorder:
    """An engine that doubles, refuses negative numbers, and notes which thread asks for how many rows."""

    name = "recorder"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def predict(self, table: np.ndarray, output: str) -> np.ndarray:
        self.asked.append((threading.current_thread().name, len(table)))
        if (table < 0).any():
            raise ValueError("negative")
        return 2 * table[:, 0]


def model_and_asked(name: str = "doubles") -> tuple[Model, list[tuple[str, int]]]:
    engine = Recorder()
    schema = Schema((Column("x", "float64"),), Column("y", "float64"))
    return Model(name, "1", schema, estimator=None, engine=engine), engine.asked


def as_quick_as(predictor: Predictor, model: Model, ns: float) -> None:
    """As if it had been measured: a test must not depend on how fast the machine is."""
    predictor._slowest_ns[id(model), "labels"] = ns


async def predict(predictor: Predictor, model: Model, *values: float) -> Computed:
    table = np.array(values).reshape(-1, 1)
    return await predictor.predict(model, table, "labels", time.monotonic() + 30)


def test_a_model_that_nobody_has_timed_goes_to_the_thread_and_a_quick_one_is_asked_at_once() -> None:
    async def run() -> None:
        predictor, (model, asked) = Predictor(Limits()), model_and_asked()
        assert (await predict(predictor, model, 1.0)).values.tolist() == [2.0]
        as_quick_as(predictor, model, AT_ONCE_NS)
        assert (await predict(predictor, model, 3.0)).values.tolist() == [6.0]
        assert asked == [(THREAD, 1), (LOOP, 1)]

    asyncio.run(run())


def test_what_comes_in_one_turn_of_the_loop_is_computed_together_and_many_rows_by_the_thread() -> None:
    async def run() -> None:
        predictor, (model, asked) = Predictor(Limits()), model_and_asked()
        as_quick_as(predictor, model, HERE_NS)
        found = await asyncio.gather(*(predict(predictor, model, value, value + 1) for value in range(10)))
        assert [each.values.tolist() for each in found] == [[2.0 * value, 2.0 * value + 2] for value in range(10)]
        assert {each.batch_rows for each in found} == {20}
        assert asked == [(LOOP, 20)]

        many = [float(value) for value in range(HERE_ROWS + 1)]
        as_quick_as(predictor, model, HERE_NS)
        assert len((await predict(predictor, model, *many)).values) == HERE_ROWS + 1
        as_quick_as(predictor, model, HERE_NS + 1)
        await predict(predictor, model, 1.0)
        assert asked[1:] == [(THREAD, HERE_ROWS + 1), (THREAD, 1)]

    asyncio.run(run())


def test_one_bad_request_in_a_batch_of_the_loop_harms_only_itself() -> None:
    async def run() -> None:
        predictor, (model, _) = Predictor(Limits()), model_and_asked()
        as_quick_as(predictor, model, HERE_NS)
        calls = [predict(predictor, model, value) for value in (1.0, 2.0, -3.0, 4.0, 5.0)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(found.pop(2), InvalidInput)
        assert [each.values.tolist() for each in found if isinstance(each, Computed)] == [[2.0], [4.0], [8.0], [10.0]]

    asyncio.run(run())


def test_batching_can_be_turned_off() -> None:
    async def run() -> None:
        predictor, (model, asked) = Predictor(Limits(max_batch_rows=1)), model_and_asked()
        as_quick_as(predictor, model, HERE_NS)
        await asyncio.gather(*(predict(predictor, model, float(value)) for value in range(5)))
        assert {rows for _, rows in asked} == {1}

    asyncio.run(run())


def test_a_slow_model_is_not_computed_in_the_place_of_a_quick_one_whose_caller_has_left() -> None:
    async def run() -> None:
        predictor, (quick, asked), (slow, slow_asked) = Predictor(Limits()), model_and_asked(), model_and_asked("slow")
        as_quick_as(predictor, quick, HERE_NS)
        left = asyncio.create_task(predict(predictor, quick, 1.0))
        await asyncio.sleep(0)  # it is queued, and the loop is to compute it in its next turn
        waits = asyncio.create_task(predict(predictor, slow, 2.0))
        left.cancel()
        assert (await waits).values.tolist() == [4.0]
        with pytest.raises(asyncio.CancelledError):
            await left
        assert (asked, slow_asked) == ([], [(THREAD, 1)])

    asyncio.run(run())


def test_both_kinds_are_answered_while_they_wait_for_each_other() -> None:
    async def run() -> None:
        predictor, (quick, asked), (slow, slow_asked) = Predictor(Limits()), model_and_asked(), model_and_asked("slow")

        async def ask(value: int) -> Any:
            which = slow if value % 3 == 0 else quick
            as_quick_as(predictor, quick, HERE_NS)
            as_quick_as(predictor, slow, 10 * HERE_NS)
            return (await predict(predictor, which, float(value))).values.tolist()

        for _ in range(20):
            assert await asyncio.gather(*map(ask, range(60))) == [[2.0 * value] for value in range(60)]
        assert {thread for thread, _ in slow_asked} == {THREAD}
        assert sum(rows for _, rows in asked) == 20 * 40

    asyncio.run(run())
