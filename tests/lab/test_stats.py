"""The statistics tell truth from noise, on samples whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import stats, words

SETS = 200
CONTROL = ("a, again", "a")


def drawn(
    seed: int,
    factors: dict[str, float],
    blocks: int = 8,
    calls: int = 20,
    rows: int = 1,
    drift: float = 0.0,
    block_noise: float = 0.05,
) -> pd.DataFrame:
    """Blocks of skewed latencies; the arms of a block share its moment, but each differs from it by a little."""
    rng = np.random.default_rng(seed)
    found = []
    for block in range(blocks):
        moment = rng.normal(0, block_noise) + np.log1p(drift) * block / (blocks - 1)
        for arm, factor in factors.items():
            level = factor * np.exp(moment + rng.normal(0, 0.03))
            latencies_ms = level * (1 + rng.exponential(0.1, size=calls))
            found += [(arm, rows, block, call, value, True) for call, value in enumerate(latencies_ms)]
    return pd.DataFrame(found, columns=["arm", "rows", "block", "call", "latency_ms", "ok"])


@pytest.mark.parametrize("blocks", [5, 10])
def test_the_same_thing_against_itself_reads_1_within_the_interval(blocks: int) -> None:
    found = [stats.ratio(drawn(seed, {"a": 1, "b": 1}, blocks), "b", "a").iloc[0] for seed in range(SETS)]
    assert sum(each["low"] <= 1 <= each["high"] for each in found) >= 0.9 * SETS


def test_a_difference_of_a_tenth_is_found_and_judged_by_the_control() -> None:
    factors = {"a": 1.0, "a, again": 1.0, "slow": 1.1}
    verdicts = []
    for seed in range(SETS):
        report = stats.report(drawn(seed, factors, blocks=10), [("slow", "a")], CONTROL)
        assert list(report["arm"]) == ["a, again", "slow"], "all that was declared is reported"
        verdicts.append(report.iloc[1]["verdict"])
    assert verdicts.count("slower") >= 0.9 * SETS
    assert "faster" not in verdicts


def test_a_difference_that_the_control_shows_too_is_none() -> None:
    calls = drawn(0, {"a": 1.0, "a, again": 1.2, "b": 1.15})
    control, judged = stats.report(calls, [("b", "a")], CONTROL).to_dict("records")
    assert control["verdict"] == "slower"
    assert judged["low"] > 1
    assert judged["verdict"] == stats.NO_DIFFERENCE
    assert any("the control misses 1 at 1 row" in doubt for doubt in stats.doubts(calls, CONTROL))


def test_drift_noise_failures_and_few_blocks_are_doubted_and_a_good_set_is_not() -> None:
    one = {"a": 1.0}
    drifting = [stats.doubts(drawn(seed, one, drift=0.5)) for seed in range(SETS)]
    assert sum("drift from" in " ".join(doubts) for doubts in drifting) >= 0.9 * SETS
    noisy = [stats.doubts(drawn(seed, one, block_noise=0.5)) for seed in range(SETS)]
    assert sum("noise, the standard deviation" in " ".join(doubts) for doubts in noisy) >= 0.9 * SETS
    assert sum(not stats.doubts(drawn(seed, one)) for seed in range(SETS)) >= 0.9 * SETS
    failing = drawn(0, one, blocks=3).assign(ok=lambda calls: calls["call"] > 0, valid=False)
    assert [doubt.split(":")[1] for doubt in stats.doubts(failing)] == [
        " few blocks to judge by",
        " calls failed",
        " invalid, since the load generator was the bottleneck",
    ]


def test_what_failed_or_was_invalid_is_not_compared() -> None:
    calls = drawn(0, {"a": 1.0, "b": 0.1})
    calls.loc[calls["arm"] == "b", "ok"] = False
    row = stats.ratio(calls, "b", "a").iloc[0]
    assert words.sentence(row.to_frame().T.assign(arm="b", base="a").iloc[0]) == (
        "at 1 row `b` and `a`: not compared: calls failed"
    )
    few = stats.ratio(drawn(0, {"a": 1.0, "b": 0.1}, blocks=4), "b", "a").iloc[0]
    assert few["verdict"] == "not compared: 4 blocks are too few"
    invalid = drawn(0, {"a": 1.0, "b": 0.1}).assign(valid=False)
    assert "bottleneck" in stats.ratio(invalid, "b", "a").iloc[0]["verdict"]
    assert "invalid" in stats.summary(invalid).iloc[0]["mark"]


def test_a_crossover_is_found_where_it_is() -> None:
    # b costs 0.5 ms, and then half as much a row as a does: they meet at 1,000 rows
    sizes = (10, 100, 1_000, 10_000, 100_000)
    frames = [drawn(rows, {"a": rows / 1_000, "b": 0.5 + rows / 2_000}, rows=rows) for rows in sizes]
    point, low, high = stats.crossover(pd.concat(frames), "b", "a")
    assert low < 1_000 < high
    assert low < point < high < 2 * low
    apart = [drawn(rows, {"a": rows, "b": 3.0 * rows}, rows=rows) for rows in sizes]
    assert np.isnan(stats.crossover(pd.concat(apart), "b", "a")[0])


def test_throughput_counts_what_was_answered_in_the_time_of_its_halves() -> None:
    calls = drawn(0, {"a": 1.0}, blocks=2, calls=10, rows=100).assign(half=0, late_share=0.0, valid=True)
    start_ns = calls["block"] * 60_000_000_000 + calls["call"] * 100_000_000
    calls = calls.assign(sent_ns=start_ns, done_ns=start_ns + 100_000_000, ok=calls["call"] > 0)
    found = stats.throughput(calls).iloc[0]
    assert found["calls_per_s"] == pytest.approx(9)
    assert found["rows_per_s"] == pytest.approx(900)


def shared_blocks(**latencies_ms: float) -> pd.DataFrame:
    """30 blocks of 10 calls for each arm, with noise that the arms of one block share."""
    rng = np.random.default_rng(0)
    frames = []
    for block in range(30):
        moment = rng.lognormal(0, 0.5)
        for arm, latency_ms in latencies_ms.items():
            values = latency_ms * moment * rng.lognormal(0, 0.05, size=10)
            frames.append(
                pd.DataFrame({"arm": arm, "rows": 1, "block": block, "call": range(10), "latency_ms": values})
            )
    return pd.concat(frames).assign(ok=True)


def test_a_ratio_is_found_through_noise_that_both_arms_share() -> None:
    found = stats.ratio(shared_blocks(slow=2.0, fast=1.0), "slow", "fast").iloc[0]
    assert found["low"] < 2 < found["high"]
    assert found["high"] - found["low"] < 0.1
    assert found["verdict"] == "slower"
    assert stats.ratio(shared_blocks(slow=2.0, fast=1.0), "fast", "slow").iloc[0]["verdict"] == "faster"


def test_the_same_thing_against_itself_shows_no_difference() -> None:
    assert stats.ratio(shared_blocks(one=1.0, again=1.0), "again", "one").iloc[0]["verdict"] == "no difference found"


def test_failures_are_counted_and_a_p99_needs_a_thousand_calls() -> None:
    calls = shared_blocks(a=1.0)
    calls.loc[calls["block"] == 0, "ok"] = False
    found = stats.summary(calls).iloc[0]
    assert (found["calls"], found["failed"]) == (300, 10)
    assert found["p50_ms"] < found["p90_ms"]
    assert found["mark"] == "p99 of few calls"
    assert np.isnan(found["p999_ms"]), "no p99.9 under 100,000 calls"
    many = pd.concat([calls] * 4)
    found = stats.summary(many).iloc[0]
    assert (found["p99_ms"], found["mark"]) == (np.quantile(many["latency_ms"], 0.99), "")
