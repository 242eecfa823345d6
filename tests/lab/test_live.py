"""Experiments that are watched: the calls of any run, a state after every block, and a stop that leaves nothing."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pred_server.lab import experiments, live, stats
from pred_server.lab.experiments import Experiment
from pred_server.lab.live import Run, State, watch
from pred_server.lab.load import LATE_NS, judged
from pred_server.lab.ways import Arm
from tests.processes import children, running
from tests.waits import comes_true, wait_until

ARMS = (Arm("csv"), Arm("tensor", encoding="tensor"), Arm("csv, again", process=1))
EXPERIMENT = Experiment(
    ARMS, (("tensor", "csv"),), ("csv, again", "csv"), "explorer", "sum", (1, 200),
    repetitions=1, blocks=5, calls=2, most_rows=400, warmup=1,
)  # fmt: skip
IN_PROCESS = replace(EXPERIMENT, arms=(Arm("in process", "predict"),), compare=(), control=None)  # starts sooner


Started = Callable[[], list[psutil.Process]]


@pytest.fixture(autouse=True)
def started() -> Iterator[Started]:
    """Return what returns the processes that a test has started and that run. At its end there are none."""
    before = children()
    yield lambda: [one for one in children() if one not in before]
    assert children() == before


@pytest.fixture(scope="module")
def states() -> list[State]:
    return list(Run(EXPERIMENT))


def test_a_run_yields_a_state_after_every_block_and_at_last_what_an_experiment_gives(states: list[State]) -> None:
    assert [state.done for state in states] == list(range(11))
    assert {state.total for state in states} == {10}
    assert states[0].calls.empty, "the servers run"
    assert [len(state.calls) for state in states[1:]] == [12 * n for n in range(1, 11)]
    assert [state.left_s is None for state in states] == [True, True] + 9 * [False]
    assert states[-1].left_s == 0
    calls = states[-1].calls
    assert calls["ok"].all()
    assert calls.groupby("rows")["block"].unique().map(list).to_dict() == {1: [0, 1, 2, 3, 4], 200: [0, 1, 2, 3, 4]}
    assert set(calls.attrs) == {"stamp", "experiment"}
    assert set(stats.declared(calls)["blocks"]) == {5}
    assert stats.declared(calls)["arm"].tolist() == ["csv, again"] * 2 + ["tensor"] * 2


def test_the_order_in_a_block_is_shuffled_there_and_reversed_back(states: list[State]) -> None:
    orders = set()
    for _, block in states[-1].calls.sort_values("sent_ns").groupby(["rows", "block"]):
        forth, back = (list(dict.fromkeys(half["arm"])) for _, half in block.groupby("half"))
        assert forth == back[::-1]
        orders.add(tuple(forth))
    assert len(orders) > 1


def test_what_was_watched_can_be_written_and_read_as_any_result(states: list[State], tmp_path: Path) -> None:
    calls = states[-1].calls
    experiments.write(calls, tmp_path / "watched.parquet")
    there = experiments.read(tmp_path / "watched.parquet")
    assert there.attrs == calls.attrs
    assert stats.declared(there)["verdict"].tolist() == stats.declared(calls)["verdict"].tolist()


def test_late_calls_are_counted_over_all_blocks_so_far(states: list[State]) -> None:
    """Four calls of a block say too little: one that is late would be a quarter of them."""
    late = states[-1].calls.assign(callers=4).reset_index(drop=True)
    late.loc[late.index[0], "sent_ns"] += 2 * LATE_NS
    (first, *_), others = judged(late, ["arm", "rows"])["late_share"], 20
    assert first == 1 / others


def test_the_states_of_this_process_are_those_of_a_run(started: Started) -> None:
    with closing(watch(IN_PROCESS)) as states:
        assert next(states).calls.empty
        assert started()
        assert set(next(states).calls["rows"]) == {1}
        assert set(next(states).calls["rows"]) == {1, 200}, "all numbers of rows in turn"


def test_a_stop_leaves_no_process(started: Started) -> None:
    run, seen, before = Run(EXPERIMENT), [], []
    for state in run:
        seen.append(state.done)
        if state.done == 3:
            before = started()
            run.stop()
            assert not running(before)
    assert seen == [0, 1, 2, 3], "nothing comes after a stop"
    assert len(before) >= 4, "the run's process, the generator, two servers"
    run.stop()  # again: nothing happens


def test_a_stop_while_servers_start_leaves_no_process() -> None:
    run = Run(IN_PROCESS)
    wait_until(lambda: psutil.Process(run.pid).children(), "the first of its processes has started")
    run.stop()
    assert list(run) == []


def test_a_process_that_does_not_see_the_stop_is_ended(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    monkeypatch.setattr(live, "GRACE_S", 0.2)
    run = Run(IN_PROCESS)
    wait_until(lambda: psutil.Process(run.pid).children(), "the first of its processes has started")
    before = started()
    psutil.Process(run.pid).suspend()
    run.stop()
    assert not running(before)
    assert list(run) == []


def test_a_failure_is_a_sentence() -> None:
    with pytest.raises(RuntimeError, match="no model directory"):
        list(Run(replace(IN_PROCESS, model="nowhere")))


def test_a_run_that_is_killed_says_so(started: Started) -> None:
    run = Run(IN_PROCESS)
    with pytest.raises(RuntimeError, match="the process of the experiment has ended"):
        for _ in run:
            psutil.Process(run.pid).kill()
    assert comes_true(lambda: not started())
