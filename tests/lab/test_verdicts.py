"""Two runs of one experiment, whose truth is known, and what their comparison says."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import verdicts


def run(ms: Mapping[str, float], blocks: int = 10, noise: float = 0.02, again: float = 1.0) -> pd.DataFrame:
    """Calls of `base`, the arms in `ms`, and a control that takes `again` times as long as it should."""
    rng, frames = np.random.default_rng(0), []
    for arm, latency_ms in {"base": 1.0, "base, again": again, **ms}.items():
        for block in range(blocks):
            latencies = latency_ms * rng.lognormal(0, noise) * np.ones(4)
            frames.append(pd.DataFrame({"arm": arm, "rows": 1, "block": block, "latency_ms": latencies}))
    calls = pd.concat(frames, ignore_index=True).assign(ok=True, valid=True)
    calls.attrs["experiment"] = {"compare": [[arm, "base"] for arm in ms], "control": ["base, again", "base"]}
    return calls


@pytest.mark.parametrize(
    ("there", "here", "verdict"),
    [
        (2.0, 3.0, "confirmed"),
        (0.5, 0.9, "confirmed"),
        (1.0, 1.0, "confirmed"),
        (2.0, 0.5, "contradicted"),
        (0.9, 1.1, "contradicted"),
        (2.0, 1.0, "not resolved"),
        (1.0, 2.0, "not resolved"),
    ],
)
def test_directions_are_compared_and_not_numbers(there: float, here: float, verdict: str) -> None:
    table = verdicts.compare(run({"arm": there}), run({"arm": here}))
    assert table[["arm", "base", "rows", "verdict"]].to_numpy().tolist() == [["arm", "base", 1, verdict]]
    (row,) = table.itertuples()
    assert (row.ratio, row.there_ratio) == (pytest.approx(here, rel=0.05), pytest.approx(there, rel=0.05))


def test_a_verdict_that_is_not_resolved_says_why_where_its_interval_does_not() -> None:
    small = {"arm": 1.1}
    few = verdicts.compare(run(small), run(small, blocks=4)).iloc[0]
    assert (few["verdict"], few["why"]) == ("not resolved", "here not compared: 4 blocks are too few")
    off = verdicts.compare(run(small), run(small, again=1.3)).iloc[0]
    assert (off["verdict"], off["why"]) == ("not resolved", "the control here differs from 1 by as much")
    failed = run(small)
    failed.loc[0, "ok"] = False
    assert verdicts.compare(failed, run(small))["why"].iloc[0].startswith("there not compared: calls failed")


def test_a_control_of_two_different_things_hides_no_difference() -> None:
    swapped = run({"arm": 2.0}).replace({"arm": {"base": "arm", "arm": "base"}})
    swapped.attrs = run({"arm": 2.0}).attrs
    assert verdicts.compare(swapped, run({"arm": 2.0}))["verdict"].tolist() == ["contradicted"]
    assert verdicts.compare(run({"arm": 2.0}), swapped)["verdict"].tolist() == ["contradicted"]


def test_only_what_both_have_measured_is_compared() -> None:
    table = verdicts.compare(run({"a": 2.0, "b": 2.0}), run({"b": 3.0}))
    assert table["arm"].tolist() == ["b"], "and the control is no verdict"


def test_a_line_has_the_verdict_and_both_intervals() -> None:
    (row,) = verdicts.compare(run({"arm": 2.0}, noise=0), run({"arm": 0.5}, noise=0)).itertuples()
    assert verdicts.line(row) == (
        "contradicted  at 1 row `arm` ÷ `base`: here 0.50 [0.50, 0.50], there 2.00 [2.00, 2.00]"
    )
    table = pd.DataFrame({"verdict": ["confirmed", "contradicted", "confirmed"]})
    assert verdicts.counts(table) == "2 confirmed, 0 not resolved, 1 contradicted"
