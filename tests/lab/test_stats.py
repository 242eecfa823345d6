"""The statistics tell truth from noise, on samples whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import stats

SETS = 200
CONTROL = ("a, again", "a")


def sample(
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
    found = [stats.ratio(sample(seed, {"a": 1, "b": 1}, blocks), "b", "a").iloc[0] for seed in range(SETS)]
    assert sum(each["low"] <= 1 <= each["high"] for each in found) >= 0.9 * SETS


def test_a_difference_of_a_tenth_is_found_and_judged_by_the_control() -> None:
    factors = {"a": 1.0, "a, again": 1.0, "slow": 1.1}
    verdicts = []
    for seed in range(SETS):
        report = stats.report(sample(seed, factors, blocks=10), [("slow", "a")], CONTROL)
        assert list(report["arm"]) == ["a, again", "slow"], "all that was declared is reported"
        verdicts.append(report.iloc[1]["verdict"])
    assert verdicts.count("slower") >= 0.9 * SETS
    assert "faster" not in verdicts


def test_a_difference_that_the_control_shows_too_is_none() -> None:
    calls = sample(0, {"a": 1.0, "a, again": 1.2, "b": 1.15})
    control, judged = stats.report(calls, [("b", "a")], CONTROL).to_dict("records")
    assert control["verdict"] == "slower"
    assert judged["low"] > 1
    assert judged["verdict"] == stats.NO_DIFFERENCE
    assert any("the control misses 1 at 1 row" in doubt for doubt in stats.doubts(calls, CONTROL))


def test_drift_noise_failures_and_few_blocks_are_doubted_and_a_good_set_is_not() -> None:
    one = {"a": 1.0}
    drifting = [stats.doubts(sample(seed, one, drift=0.5)) for seed in range(SETS)]
    assert sum("drift from" in " ".join(doubts) for doubts in drifting) >= 0.9 * SETS
    noisy = [stats.doubts(sample(seed, one, block_noise=0.5)) for seed in range(SETS)]
    assert sum("noise, by" in " ".join(doubts) for doubts in noisy) >= 0.9 * SETS
    assert sum(not stats.doubts(sample(seed, one)) for seed in range(SETS)) >= 0.9 * SETS
    failing = sample(0, one, blocks=3).assign(ok=lambda calls: calls["call"] > 0, valid=False)
    assert [doubt.split(":")[1] for doubt in stats.doubts(failing)] == [
        " few blocks to judge by",
        " calls failed",
        " invalid, since the load generator was the bottleneck",
    ]


def test_what_failed_or_was_invalid_is_not_compared() -> None:
    calls = sample(0, {"a": 1.0, "b": 0.1})
    calls.loc[calls["arm"] == "b", "ok"] = False
    row = stats.ratio(calls, "b", "a").iloc[0]
    assert stats.sentence(row.to_frame().T.assign(arm="b", base="a").iloc[0]) == (
        "at 1 row `b` and `a`: not compared: 160 of 320 calls failed"
    )
    few = stats.ratio(sample(0, {"a": 1.0, "b": 0.1}, blocks=4), "b", "a").iloc[0]
    assert few["verdict"] == "not compared: 4 blocks are too few"
    invalid = sample(0, {"a": 1.0, "b": 0.1}).assign(valid=False)
    assert "bottleneck" in stats.ratio(invalid, "b", "a").iloc[0]["verdict"]
    assert "invalid" in stats.summary(invalid).iloc[0]["mark"]


def test_a_crossover_is_found_where_it_is() -> None:
    # b costs 0.5 ms, and then half as much a row as a does: they meet at 1,000 rows
    sizes = (10, 100, 1_000, 10_000, 100_000)
    frames = [sample(rows, {"a": rows / 1_000, "b": 0.5 + rows / 2_000}, rows=rows) for rows in sizes]
    point, low, high = stats.crossover(pd.concat(frames), "b", "a")
    assert low < 1_000 < high
    assert low < point < high < 2 * low
    apart = [sample(rows, {"a": rows, "b": 3.0 * rows}, rows=rows) for rows in sizes]
    assert np.isnan(stats.crossover(pd.concat(apart), "b", "a")[0])


def test_sentences() -> None:
    def said(ratio: float, low: float, high: float, verdict: str) -> str:
        values = {"arm": "tensor", "base": "csv", "rows": 100_000}
        return stats.sentence(pd.Series({**values, "ratio": ratio, "low": low, "high": high, "verdict": verdict}))

    assert said(1 / 31, 1 / 34, 1 / 28, "faster") == "at 100,000 rows `tensor` is 31× [28, 34] faster than `csv`"
    assert said(1.5, 1.4, 1.6, "slower") == "at 100,000 rows `tensor` is 1.50× [1.40, 1.60] slower than `csv`"
    assert "no difference found between `tensor` and `csv`" in said(1.0, 0.9, 1.1, stats.NO_DIFFERENCE)


def test_throughput_counts_what_was_answered_in_the_time_of_its_halves() -> None:
    calls = sample(0, {"a": 1.0}, blocks=2, calls=10, rows=100).assign(half=0, late_share=0.0, valid=True)
    start_ns = calls["block"] * 60_000_000_000 + calls["call"] * 100_000_000
    calls = calls.assign(sent_ns=start_ns, done_ns=start_ns + 100_000_000, ok=calls["call"] > 0)
    found = stats.throughput(calls).iloc[0]
    assert found["calls_per_s"] == pytest.approx(9)
    assert found["rows_per_s"] == pytest.approx(900)
