"""The simulation against queueing theory, where that has an answer; and what must hold where it has none."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson
from scipy.stats import t as student

from pred_server.lab.simulation import Fleet, Times, simulate

SEEDS, CALLS = 8, 3_000
BUSY = (0.4, 0.8)


def always(ms: float) -> Callable[[int, random.Random], float]:
    return lambda rows, draw: ms


def check_mean(times: Times, fleet: Fleet, truth_ms: float) -> None:
    """Check that the mean wait lies in the simulation's own interval, and that the interval says something."""
    means = [float(simulate(times, fleet, CALLS, seed).waited_ms.mean()) for seed in range(SEEDS)]
    half_width = float(student.ppf(0.999, SEEDS - 1)) * np.std(means, ddof=1) / math.sqrt(SEEDS)
    assert abs(np.mean(means) - truth_ms) <= half_width
    assert half_width < max(0.4 * truth_ms, 0.02)


@pytest.mark.parametrize("busy", BUSY)
def test_one_call_at_a_time_waits_as_in_m_m_1(busy: float) -> None:
    times = Times(lambda rows, draw: draw.expovariate(1))
    check_mean(times, Fleet(rate_per_s=1e3 * busy, max_batch_rows=1), busy / (1 - busy))


@pytest.mark.parametrize("busy", BUSY)
def test_calls_of_equal_length_wait_as_in_m_d_1(busy: float) -> None:
    check_mean(Times(always(1)), Fleet(rate_per_s=1e3 * busy, max_batch_rows=1), busy / (1 - busy) / 2)


def mean_wait_m_d_c(servers: int, busy: float, most: int = 400) -> float:
    """Return the mean wait in M/D/c, in service times.

    Within a service time all calls that are served now leave, and as many arrive as a Poisson law says: so the number
    of calls there is a Markov chain.
    """
    arrive = poisson.pmf(np.arange(most), servers * busy)
    there = np.full(most, 1 / most)
    for _ in range(3_000):
        left = np.append(there[servers:], np.zeros(servers))
        left[0] += there[:servers].sum()
        there = np.convolve(left, arrive)[:most]
        there /= there.sum()
    waiting = np.maximum(np.arange(most) - servers, 0)
    return float(there @ waiting / (servers * busy))


@pytest.mark.parametrize(("workers", "busy"), [(2, 0.8), (4, 0.6)])
def test_workers_in_turn_wait_as_in_m_d_c(workers: int, busy: float) -> None:
    """Where all calls take equally long, going round the servers is the same as one queue for all of them."""
    fleet = Fleet(workers=workers, rate_per_s=1e3 * busy * workers, max_batch_rows=1)
    check_mean(Times(always(1)), fleet, mean_wait_m_d_c(workers, busy))


def test_the_truth_that_is_calculated_agrees_with_the_formula_for_one_server() -> None:
    assert mean_wait_m_d_c(1, 0.7) == pytest.approx(0.7 / 0.3 / 2, rel=1e-3)


@pytest.mark.parametrize("load", [0.5, 3.0])
def test_all_that_waits_becomes_a_batch(load: float) -> None:
    """A batch takes a millisecond whatever its size. Who comes meanwhile waits half of it, who comes else not at all.

    The server is idle for one gap between calls after each batch in which none came, which has a share of exp(-load).
    """
    times = Times(always(1), is_quick=lambda rows: True)
    is_busy = 1 / (1 + math.exp(-load) / load)
    check_mean(times, Fleet(rate_per_s=1e3 * load), is_busy / 2)
    outcome = simulate(times, Fleet(rate_per_s=1e3 * load), 5_000)
    assert outcome.busy == pytest.approx(is_busy, rel=0.05)
    assert outcome.kept_up, "no load is too much for batches without a limit"


def test_a_batch_has_at_most_the_limit() -> None:
    outcome = simulate(Times(always(1)), Fleet(rate_per_s=7_000, rows=10, max_batch_rows=80), 5_000)
    assert outcome.batch_rows.max() == 80
    assert outcome.kept_up
    alone = simulate(Times(always(1)), Fleet(rate_per_s=900, rows=100, max_batch_rows=80), 2_000)
    assert set(alone.batch_rows) == {100}, "a call with more rows is computed by itself"


@pytest.mark.parametrize("is_quick", [False, True])
def test_a_lone_caller_waits_for_each_part(is_quick: bool) -> None:
    times = Times(always(1.0), lambda rows: is_quick, call_ms=lambda calls: 0.5, hop_ms=0.4, outside_ms=0.5)
    outcome = simulate(times, Fleet(callers=1), 100)
    expected_ms = 1.0 + 0.5 + 0.5 + (0 if is_quick else 0.4)
    assert outcome.latency_ms == pytest.approx(np.full(90, expected_ms))
    assert outcome.calls_per_s == pytest.approx(1e3 / expected_ms, rel=0.02)


def test_many_callers_share_a_batch() -> None:
    times = Times(always(1.0), lambda rows: True, call_ms=lambda calls: 0.2)
    outcome = simulate(times, Fleet(callers=10), 5_000)
    assert outcome.calls_per_s == pytest.approx(1e3 * 10 / (1 + 10 * 0.2), rel=0.02)
    assert outcome.busy == pytest.approx(1)


def test_a_pause_makes_the_next_calls_slower() -> None:
    times = Times(always(0.1), extra=lambda pause_ms, draw: (1.0, 0.5) if pause_ms > 5 else (0.0, 0.0))
    assert simulate(times, Fleet(rate_per_s=10), 2_000).quantile(0.5) == pytest.approx(1.6)
    assert simulate(times, Fleet(callers=4), 2_000).quantile(0.5) < 0.6


def test_loop_and_thread_take_turns() -> None:
    times = Times(always(10.0), call_ms=lambda calls: 0.2, slice_ms=0.1)
    outcome = simulate(times, Fleet(callers=40), 4_000)
    # While some of the callers are computed, the loop writes and reads for the others.
    assert outcome.calls_per_s == pytest.approx(1e3 / (10 / 20 + 0.2), rel=0.05)
    assert outcome.busy == pytest.approx(1, rel=0.02)


def test_calls_become_a_batch_as_far_as_the_loop_gathers() -> None:
    """With many calls there, the loop reads one more, again and again, with the same probability."""
    times = Times(always(1.0), lambda rows: True, call_ms=lambda calls: 0.02, gather=0.75)
    outcome = simulate(times, Fleet(callers=200), 8_000)
    assert 1 / (1 / outcome.batch_rows).mean() == pytest.approx(4, rel=0.1)


def test_many_calls_under_way_are_no_growing_queue() -> None:
    slow = Times(always(200.0), lambda rows: False, outside_ms=1.0)
    outcome = simulate(slow, Fleet(rate_per_s=1_000), 4_000)
    assert outcome.kept_up, "200 calls at a time are a batch"
    assert not simulate(slow, Fleet(rate_per_s=1_000, max_batch_rows=150), 4_000).kept_up


def test_a_stop_delays_whoever_is_there() -> None:
    times = Times(always(0.1), lambda rows: True, stop_ms=lambda draw: (90.0, 10.0))
    latency_ms = simulate(times, Fleet(rate_per_s=1_000), 5_000).latency_ms
    assert (latency_ms > 1).mean() == pytest.approx(0.09, abs=0.02), "a tenth of the time, but for its last millisecond"
    assert 9 < latency_ms.max() < 14


def test_workers_beyond_the_cores_bring_nothing() -> None:
    times = Times(always(1.0), lambda rows: True)
    fleet = Fleet(workers=4, cores=2, rate_per_s=3_000, max_batch_rows=1)
    outcome = simulate(times, fleet, 5_000)
    assert not outcome.kept_up
    assert outcome.calls_per_s == pytest.approx(2_000, rel=0.02)
    assert outcome.busy == pytest.approx(1, rel=0.02)


def test_many_clients_meet_more_often_than_one() -> None:
    """Each client goes round the workers by itself, so the workers' turns are no longer evenly spread."""
    fleet = Fleet(workers=8, rate_per_s=6_000, max_batch_rows=1)
    one, many = (simulate(Times(always(1)), replace(fleet, clients=n), 8_000) for n in (1, 100))
    assert many.waited_ms.mean() > 2 * one.waited_ms.mean()


SYSTEMS = st.builds(
    lambda predict_ms, row_ms, quick, call_ms: Times(
        lambda rows, draw: (predict_ms + row_ms * rows) * draw.uniform(0.5, 1.5),
        lambda rows: quick,
        call_ms=lambda calls: 2 * call_ms / calls**0.1,
    ),
    predict_ms=st.floats(0.05, 5),
    row_ms=st.floats(0, 0.5),
    quick=st.booleans(),
    call_ms=st.floats(0.01, 0.5),
)
FLEETS = st.builds(Fleet, workers=st.integers(1, 4), rate_per_s=st.floats(50, 3_000), clients=st.integers(1, 3))


@settings(max_examples=15, deadline=None)
@given(times=SYSTEMS, fleet=FLEETS)
def test_more_workers_do_not_raise_p99(times: Times, fleet: Fleet) -> None:
    fewer, more = (simulate(times, replace(fleet, workers=n), 2_000) for n in (fleet.workers, 2 * fleet.workers))
    assert more.quantile(0.99) <= 1.25 * fewer.quantile(0.99)
    assert more.kept_up or not fewer.kept_up


@settings(max_examples=10, deadline=None)
@given(times=SYSTEMS, fleet=FLEETS, seed=st.integers(0, 9))
def test_a_seed_gives_the_same_answer(times: Times, fleet: Fleet, seed: int) -> None:
    once, again = (simulate(times, fleet, 500, seed) for _ in range(2))
    assert (once.latency_ms == again.latency_ms).all()
    assert (once.busy, once.calls_per_s, once.kept_up) == (again.busy, again.calls_per_s, again.kept_up)
    assert (once.latency_ms != simulate(times, fleet, 500, seed + 1).latency_ms).any()


@settings(max_examples=15, deadline=None)
@given(times=SYSTEMS, fleet=FLEETS)
def test_every_call_is_answered_after_it_came(times: Times, fleet: Fleet) -> None:
    outcome = simulate(times, fleet, 500)
    assert len(outcome.latency_ms) == 450
    assert (outcome.waited_ms >= -1e-9).all()
    assert (outcome.latency_ms > outcome.waited_ms).all()
    assert (outcome.batch_rows >= 1).all()
    assert 0 < outcome.busy <= 1 + 1e-9
