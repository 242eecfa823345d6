"""From calls to figures: percentiles of all calls, and ratios with intervals from whole blocks."""

import numpy as np
import pandas as pd

MIN_CALLS_FOR_P99 = 1_000


def summary(calls: pd.DataFrame) -> pd.DataFrame:
    """Percentiles in milliseconds of all calls, by arm and rows; failures are counted beside them.

    Parameters
    ----------
    calls : DataFrame with the columns arm, rows, block, call, latency_ms, ok: one row a call

    Returns
    -------
    DataFrame with the columns arm, rows, calls, failed, p50_ms, p90_ms, p99_ms. p99 is NaN under 1,000 calls.
    """
    groups = calls.groupby(["arm", "rows"], sort=False)
    table = groups["latency_ms"].quantile(np.array([0.5, 0.9, 0.99])).unstack()
    table.columns = pd.Index(["p50_ms", "p90_ms", "p99_ms"])
    table.insert(0, "calls", groups.size())
    table.insert(1, "failed", groups["ok"].agg(lambda ok: int((~ok).sum())))
    table.loc[table["calls"] < MIN_CALLS_FOR_P99, "p99_ms"] = np.nan
    return table.reset_index()


def ratio(calls: pd.DataFrame, arm: str, base: str, resamples: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """How many times as long `arm` takes as `base`, by rows, with a 95 % interval.

    The ratio of medians is taken in each block, where both arms saw the same moment of the machine; the interval is
    bootstrapped over blocks, not over calls, since calls of one block resemble each other.

    Returns
    -------
    DataFrame with the columns rows, ratio, low, high, verdict
    """
    rng = np.random.default_rng(seed)
    medians = calls.groupby(["rows", "block", "arm"])["latency_ms"].median().unstack("arm")
    found = []
    for rows, blocks in medians.groupby(level="rows"):
        logs = np.log((blocks[arm] / blocks[base]).to_numpy())
        means = rng.choice(logs, size=(resamples, len(logs))).mean(axis=1)
        low, high = np.exp(np.quantile(means, [0.025, 0.975]))
        verdict = "no difference found" if low <= 1 <= high else "slower" if low > 1 else "faster"
        found.append((rows, float(np.exp(logs.mean())), float(low), float(high), verdict))
    return pd.DataFrame(found, columns=["rows", "ratio", "low", "high", "verdict"])
