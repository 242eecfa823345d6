"""Who computes, and what is computed together: the event loop, at once, where a model is quick; else the thread."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

import pred_server.server.predictor as predictor_module
from pred_server.errors import InvalidInput, LimitExceeded, Unavailable
from pred_server.limits import Limits
from pred_server.model.model import Model
from pred_server.server.inline import NEVER_AGAIN_NS, _key
from pred_server.server.predictor import LOOK_CALLS, QUIET_TURNS, Predictor
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Column, Schema
from pred_server.wire.timing import Stopwatch

LOOP, THREAD = "MainThread", "compute"
# The predictor is told how long fewer rows take.
KNOWN_ROWS = 64
INLINE_NS = round(Limits().max_inline_ms * 1e6)


class Recorder:
    """An engine that doubles, refuses negative numbers, and notes which thread asks for how many rows.

    While `gate` is closed it waits, as a model that takes long.
    """

    name = "recorder"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        self.asked.append((threading.current_thread().name, len(rows)))
        assert self.gate.wait(30)
        if (rows.array < 0).any():
            raise ValueError("negative")
        return 2 * rows.array[:, 0]


def doubling(engine: Recorder) -> Model:
    return Model("doubles", "1", Schema((Column("x", "float64"),), Column("y", "float64")), None, engine=engine)


def as_quick_as(predictor: Predictor, model: Model, ns: float) -> None:
    """As if it had been measured: a test must not depend on how fast the machine is."""
    for n_rows in range(KNOWN_ROWS):
        predictor.quick._usual_ns[_key(model, "labels", n_rows)] = ns


async def predict(predictor: Predictor, model: Model, *values: float, watch: Stopwatch | None = None) -> Result:
    rows = Rows(np.array(values).reshape(-1, 1))
    return await predictor.predict(model, rows, "labels", time.monotonic() + 30, watch or Stopwatch())


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test must not depend on how fast the machine is."""
    monkeypatch.setattr(predictor_module, "GATHER_NS", 10**10)


async def asleep(predictor: Predictor) -> None:
    """Until the thread waits for work: what it has answered, it may still hold itself busy with."""
    await until(lambda: bool(predictor._changed._waiters))  # type: ignore[attr-defined]


async def crowded(*models: Model, calls_in_flight: int = 2, **limits: int) -> Predictor:
    """A predictor to which these models are quick, with its thread asleep."""
    predictor = Predictor(Limits(**limits), lambda: calls_in_flight)
    for model in models:
        as_quick_as(predictor, model, INLINE_NS)
    await asleep(predictor)
    return predictor


def test_a_model_is_asked_by_the_thread_until_it_is_known_to_be_quick_for_so_many_rows() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits())
        model = doubling(engine)
        assert (await predict(predictor, model, 1.0)).values.tolist() == [2.0]
        await asleep(predictor)
        as_quick_as(predictor, model, INLINE_NS)
        assert (await predict(predictor, model, 3.0)).values.tolist() == [6.0]
        as_quick_as(predictor, model, INLINE_NS)
        assert len((await predict(predictor, model, *range(KNOWN_ROWS))).values) == KNOWN_ROWS
        as_quick_as(predictor, model, INLINE_NS + 1)
        await predict(predictor, model, 1.0)
        assert engine.asked == [(THREAD, 1), (LOOP, 1), (THREAD, KNOWN_ROWS), (THREAD, 1)]

    asyncio.run(run())


def test_a_model_that_is_quick_for_one_row_need_not_be_for_sixty() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits())
        model = doubling(engine)
        predictor.quick._usual_ns[_key(model, "labels", 1)] = INLINE_NS
        await predict(predictor, model, 1.0)
        await predict(predictor, model, *range(60))
        assert engine.asked == [(LOOP, 1), (THREAD, 60)]

    asyncio.run(run())


def test_of_many_calls_in_flight_a_quick_model_gets_those_together_that_the_loop_takes_in() -> None:
    async def run(calls_in_flight: int, **limits: int) -> list[tuple[str, int]]:
        engine = Recorder()
        model = doubling(engine)
        predictor = await crowded(model, calls_in_flight=calls_in_flight, **limits)

        async def call(number: int) -> float:
            for _ in range(number * (QUIET_TURNS - 2)):  # they are handed over one by one
                await asyncio.sleep(0)
            as_quick_as(predictor, model, INLINE_NS)  # whatever the one before took
            return float((await predict(predictor, model, float(number))).values[0])

        assert await asyncio.gather(*map(call, range(5))) == [0.0, 2.0, 4.0, 6.0, 8.0]
        return engine.asked

    one_by_one = [(LOOP, 1)] * 5
    assert asyncio.run(run(calls_in_flight=2)) == [(LOOP, 5)]
    assert asyncio.run(run(calls_in_flight=1)) == one_by_one
    assert asyncio.run(run(calls_in_flight=2, max_batch_rows=1)) == one_by_one


def test_calls_that_come_one_by_one_are_found_to_come_together() -> None:
    """Each is answered before the next is handed over, unless it waits: so none ever sees another in flight."""

    async def run(pause_turns: int, n_calls: int) -> Counter[int]:
        engine = Recorder()
        model = doubling(engine)
        predictor = await crowded(model, calls_in_flight=1)

        async def call(number: int) -> None:
            as_quick_as(predictor, model, INLINE_NS)
            assert (await predict(predictor, model, float(number))).values.tolist() == [2.0 * number]

        async with asyncio.TaskGroup() as calls:
            for number in range(n_calls):
                calls.create_task(call(number))
                for _ in range(pause_turns):
                    await asyncio.sleep(0)
        return Counter(n_rows for _, n_rows in engine.asked)

    together, apart = (asyncio.run(run(turns, 4 * LOOK_CALLS)) for turns in (1, 2 * QUIET_TURNS))
    assert together[1] <= LOOK_CALLS, "once they have met, they are computed together"
    assert max(together) > LOOK_CALLS
    assert set(apart) == {1}


def test_what_was_gathered_is_computed_model_by_model_and_by_the_thread_where_that_takes_longer() -> None:
    async def run() -> None:
        one, other = Recorder(), Recorder()
        models = doubling(one), doubling(other)
        predictor = await crowded(*models)
        found = await asyncio.gather(*(predict(predictor, model, 1.0) for model in (*models, *models)))
        assert [each.values.tolist() for each in found] == 4 * [[2.0]]
        assert (one.asked, other.asked) == ([(LOOP, 2)], [(THREAD, 2)])
        predictor = await crowded(*models)
        predictor.quick._usual_ns[_key(models[0], "labels", 3)] = INLINE_NS + 1
        await asyncio.gather(*(predict(predictor, models[0], 1.0) for _ in range(3)))
        assert one.asked[1:] == [(THREAD, 3)]

    asyncio.run(run())


def test_among_what_was_gathered_a_bad_request_or_one_that_is_taken_back_harms_only_itself() -> None:
    async def run() -> None:
        engine = Recorder()
        model = doubling(engine)
        predictor = await crowded(model)
        calls = [asyncio.create_task(predict(predictor, model, value)) for value in (1.0, -2.0, 3.0, 4.0)]
        await asyncio.sleep(0)
        calls[3].cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in found] == [Result, InvalidInput, Result, asyncio.CancelledError]
        # The thread finds out which it is: the loop has not the time.
        assert engine.asked == [(LOOP, 3), (THREAD, 3), (THREAD, 1), (THREAD, 2), (THREAD, 1), (THREAD, 1)]

    asyncio.run(run())


def test_a_quick_model_that_once_took_very_long_is_never_again_asked_on_the_loop() -> None:
    class Slow(Recorder):
        def predict(self, rows: Rows, output: str) -> np.ndarray:
            until_ns = time.thread_time_ns() + (NEVER_AGAIN_NS if not self.asked else 0)
            result = super().predict(rows, output)
            while time.thread_time_ns() <= until_ns:  # computing, not waiting for a core
                pass
            return result

    async def run() -> None:
        engine, predictor = Slow(), Predictor(Limits())
        model = doubling(engine)
        as_quick_as(predictor, model, INLINE_NS)
        for _ in range(200):
            await predict(predictor, model, 1.0)
        assert [thread for thread, _ in engine.asked] == [LOOP] + 199 * [THREAD]

    asyncio.run(run())


def test_what_waits_while_the_model_computes_is_computed_together_and_one_bad_request_harms_only_itself() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits())
        model = doubling(engine)
        engine.gate.clear()
        watch = Stopwatch()
        first = asyncio.create_task(predict(predictor, model, 0.0, watch=watch))
        await until(lambda: bool(engine.asked))
        values = (1.0, 2.0, -3.0, 4.0, 5.0)
        waiting = [asyncio.create_task(predict(predictor, model, value)) for value in values]
        await until(lambda: len(predictor._waiting) == len(values))
        engine.gate.set()
        await first
        assert watch.batch_rows == 1
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(found.pop(2), InvalidInput)
        assert [each.values.tolist() for each in found if isinstance(each, Result)] == [[2.0], [4.0], [8.0], [10.0]]
        assert engine.asked[:2] == [(THREAD, 1), (THREAD, 5)]

    asyncio.run(run())


def test_batching_can_be_turned_off() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits(max_batch_rows=1))
        model = doubling(engine)
        engine.gate.clear()
        waiting = [asyncio.create_task(predict(predictor, model, float(value))) for value in range(6)]
        await until(lambda: len(predictor._waiting) == 5)
        engine.gate.set()
        assert [(await each).values.tolist() for each in waiting] == [[2.0 * value] for value in range(6)]
        assert engine.asked == 6 * [(THREAD, 1)]

    asyncio.run(run())


def test_models_are_not_mixed_and_whoever_has_left_costs_nothing() -> None:
    async def run() -> None:
        one, other, predictor = Recorder(), Recorder(), Predictor(Limits())
        model, second = doubling(one), doubling(other)
        one.gate.clear()
        first = asyncio.create_task(predict(predictor, model, 0.0))
        await until(lambda: bool(one.asked))
        waiting = [asyncio.create_task(predict(predictor, (model, second)[value % 2], value)) for value in range(8)]
        await until(lambda: len(predictor._waiting) == 8)
        waiting.pop(3).cancel()
        await until(lambda: len(predictor._waiting) == 7)
        one.gate.set()
        await first
        assert [(await each).values.tolist() for each in waiting] == [[2.0 * value] for value in (0, 1, 2, 4, 5, 6, 7)]
        assert (one.asked, other.asked) == ([(THREAD, 1), (THREAD, 4)], [(THREAD, 3)])

    asyncio.run(run())


def test_whoever_waits_for_room_is_told_when_the_server_stops() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits(max_queued_rows=1))
        model = doubling(engine)
        engine.gate.clear()
        calls = [asyncio.create_task(predict(predictor, model, 0.0))]
        await until(lambda: bool(engine.asked))
        calls.append(asyncio.create_task(predict(predictor, model, 1.0)))
        rows = Rows(np.array([[2.0]]))
        work = predictor.predict(model, rows, "labels", time.monotonic() + 30, Stopwatch(), wait_for_room=True)
        calls.append(asyncio.create_task(work))
        await until(lambda: bool(predictor._for_room))
        predictor.give_up(Unavailable("stopped"))
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert list(map(repr, found)) == 3 * ["Unavailable('stopped')"]
        engine.gate.set()
        await until(lambda: not predictor._busy)

    asyncio.run(run())


def test_queued_rows_are_shared_between_connections() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits(max_queued_rows=4))
        model = doubling(engine)
        engine.gate.clear()

        def ask(peer: str, n_rows: int) -> "asyncio.Task[Result]":
            rows = Rows(np.ones((n_rows, 1)))
            return asyncio.create_task(
                predictor.predict(model, rows, "labels", time.monotonic() + 30, Stopwatch(), peer=peer)
            )

        calls = [ask("greedy", 1)]
        await until(lambda: bool(engine.asked))
        calls += [ask("greedy", 4)]
        await until(lambda: len(predictor._waiting) == 1)
        for peer, n_rows in (("greedy", 1), ("good", 3)):
            with pytest.raises(LimitExceeded, match=r"4 rows wait already.*--max-queued-rows is 4"):
                await ask(peer, n_rows)
        calls += [ask("good", 2)]
        await until(lambda: len(predictor._waiting) == 2)
        engine.gate.set()
        assert [len((await call).values) for call in calls] == [1, 4, 2]

    asyncio.run(run())


def test_where_all_room_is_taken_who_has_nothing_there_gets_a_little_in() -> None:
    async def run() -> None:
        engine, predictor = Recorder(), Predictor(Limits(max_queued_rows=400))
        model, calls = doubling(engine), []
        engine.gate.clear()

        def ask(peer: str, n_rows: int) -> "asyncio.Task[Result]":
            rows = Rows(np.ones((n_rows, 1)))
            return asyncio.create_task(
                predictor.predict(model, rows, "labels", time.monotonic() + 30, Stopwatch(), peer=peer)
            )

        calls.append(ask("greedy", 1))
        await until(lambda: bool(engine.asked))
        for n_waiting, (peer, n_rows) in enumerate({"a": 400, "b": 200, "c": 133, "d": 67}.items()):
            calls.append(ask(peer, n_rows))
            await until(lambda n_waiting=n_waiting: len(predictor._waiting) == n_waiting + 1)
        with pytest.raises(LimitExceeded, match="800 rows wait already"):
            await ask("good", 5)
        calls.append(ask("good", 4))
        await until(lambda: len(predictor._waiting) == 5)
        with pytest.raises(LimitExceeded, match="804 rows wait already"):
            await ask("good", 1)
        engine.gate.set()
        assert sum([len((await call).values) for call in calls]) == 1 + 804

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
