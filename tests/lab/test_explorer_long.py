"""What the explorer promises, in numbers: `make test-long`, on a machine that does nothing else."""

import gc
import time

import psutil
import pytest

from pred_server.lab import curves
from pred_server.lab.choices import Choice
from pred_server.lab.explorer import Explorer
from pred_server.lab.live import Run
from pred_server.lab.ways import Arm
from pred_server.limits import MIB
from tests.processes import children, running

pytestmark = pytest.mark.long
RUNS = 20
SIZES = (1, 100, 1_000)


def verdicts(choice: Choice) -> tuple[set[str], str]:
    """Return the verdicts of a run at all its sizes, and their sentence."""
    (*_, last) = Run(choice.experiment)
    ratios = curves.ratios(last.calls)
    return set(ratios[~ratios["control"]]["verdict"]), curves.conclusions(last.calls)[0]


def test_a_planted_factor_of_one_and_a_half_is_found() -> None:
    """Both servers are some milliseconds away, one of them half as far again; a call itself takes about one."""
    near, far = Arm("near", encoding="tensor", rtt_ms=10.0), Arm("far", encoding="tensor", rtt_ms=15.5)
    found = [verdicts(Choice((near, far), "sum", points=SIZES)) for _ in range(RUNS)]
    print(*(sentence for _, sentence in found), sep="\n")
    assert sum(said == {"slower"} for said, _ in found) >= 19


def test_the_same_arm_twice_is_no_difference() -> None:
    arms = (Arm("tensor", encoding="tensor"), Arm("tensor (2)", encoding="tensor"))
    found = [verdicts(Choice(arms, "sum", points=SIZES)) for _ in range(RUNS)]
    print(*(sentence for _, sentence in found), sep="\n")
    assert sum(said == {curves.NO_DIFFERENCE} for said, _ in found) >= 18


def test_two_arms_five_sizes_one_caller_have_their_verdict_within_a_minute() -> None:
    explorer = Explorer()
    start_s = time.monotonic()
    explorer.button.click()
    explorer.wait()
    took_s = time.monotonic() - start_s
    print(f"{took_s:.0f} s: {explorer.said.value}")
    assert "Control" in explorer.said.value
    assert set(explorer.calls["rows"]) == {1, 10, 100, 1_000, 10_000}
    assert took_s < 60


def test_a_stop_takes_less_than_two_seconds_wherever_the_run_is() -> None:
    taken_s = []
    for wait_s in (0.1, 1, 2, 4, 6, 10, 15):
        explorer = Explorer()
        explorer.button.click()
        time.sleep(wait_s)
        started = children()
        start_s = time.monotonic()
        explorer.stop_button.click()
        taken_s.append(time.monotonic() - start_s)
        assert not running(started)
    print([f"{s:.2f}" for s in taken_s])
    assert max(taken_s) < 2


def test_fifty_runs_leave_no_process_and_little_memory() -> None:
    explorer, mib = Explorer(Choice((Arm("one", "predict"), Arm("other", "predict")), "sum", calls=2, blocks=5)), []
    before = children()
    for _ in range(50):
        explorer.button.click()
        explorer.wait()
        assert "Control" in explorer.said.value
        gc.collect()
        mib.append(psutil.Process().memory_info().rss / MIB)
    assert children() == before
    print(f"{mib[0]:.0f} MiB after the first run, {mib[-1]:.0f} MiB after the last")
    assert mib[-1] - mib[0] < 50
