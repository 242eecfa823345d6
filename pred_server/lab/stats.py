"""From calls to numbers: percentiles of all calls, ratios with intervals over blocks, and doubts about both."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import linregress

from pred_server.lab.words import NO_DIFFERENCE, at, interval
from pred_server.wire.timing import SERVER_PHASES

MIN_CALLS_FOR_P99 = 1_000
MIN_CALLS_FOR_P999 = 100_000
MIN_BLOCKS = 5
MOST_DRIFT = 0.05  # from the first block to the last
MOST_NOISE = 0.2  # standard deviation of the blocks' medians, as a share of them
PHASES = [f"{phase}_ms" for phase in SERVER_PHASES]
SUM = " + "  # between the names of arms whose medians are added
Comparison = tuple[str, str]  # the names of an arm and of its base


def names_in(*sides: str) -> list[str]:
    """Return the names of the arms in sides of comparisons, each of which may be a sum."""
    return [name for side in sides for name in side.split(SUM)]


def summary(calls: pd.DataFrame) -> pd.DataFrame:
    """Percentiles in milliseconds of all calls, by arm and rows; failures are counted beside them.

    Parameters
    ----------
    calls : DataFrame with the columns arm, rows, block, call, latency_ms, ok, and possibly valid: one row a call

    Returns
    -------
    DataFrame with the columns arm, rows, calls, failed, p50_ms, p90_ms, p99_ms, p999_ms, mark. p99.9 is NaN under
    100,000 calls. The mark says that p99 comes from fewer than 1,000 calls, that all calls failed, or that the load
    generator was the bottleneck.
    """
    groups = calls.groupby(["arm", "rows"], sort=False)
    table = groups["latency_ms"].quantile(np.array([0.5, 0.9, 0.99, 0.999])).unstack()
    table.columns = pd.Index(["p50_ms", "p90_ms", "p99_ms", "p999_ms"])
    table.insert(0, "calls", groups.size())
    table.insert(1, "failed", groups["ok"].agg(lambda ok: int((~ok).sum())))
    table.loc[table["calls"] < MIN_CALLS_FOR_P999, "p999_ms"] = np.nan
    invalid = 1 - groups["valid"].mean() if "valid" in calls else pd.Series(0.0, table.index)
    marks = {
        "p99 of few calls": table["calls"] < MIN_CALLS_FOR_P99,
        "all failed": table["failed"] == table["calls"],
        "invalid: the generator was the bottleneck": invalid > 0.5,
    }
    table["mark"] = ["; ".join(mark for mark, at in marks.items() if at[key]) for key in table.index]
    return table.reset_index()


def ratio(calls: pd.DataFrame, arm: str, base: str, resamples: int = 2_000, seed: int = 0) -> pd.DataFrame:
    """Return how many times as long `arm` takes as `base`, by rows, with a 95 % interval.

    Either may be a sum of arms, "echo + in process": then their medians are added.

    The ratio of medians is taken in each block, since within a block the machine was in one state for both arms. The
    interval is bootstrapped over blocks and not over calls, since calls of one block resemble each other.

    Returns
    -------
    DataFrame with the columns rows, ratio, low, high, verdict, blocks. If there are few blocks, if
    calls failed, or if the generator was the bottleneck, the verdict says so and names no difference.
    """
    rng = np.random.default_rng(seed)
    ratios = []
    for rows, both in calls[calls["arm"].isin([*arm.split(SUM), *base.split(SUM)])].groupby("rows"):
        logs = _block_logs(both, arm, base)
        if not len(logs):
            continue
        low, high = np.exp(_interval(logs, rng, resamples))
        verdict = NO_DIFFERENCE if low <= 1 <= high else "slower" if low > 1 else "faster"
        if len(logs) < MIN_BLOCKS:  # four blocks err to the same side in one case of eight
            verdict = f"not compared: {len(logs)} blocks are too few"
        elif "ok" in both and not both["ok"].all():
            verdict = "not compared: calls failed"
        elif "valid" in both and both.groupby("arm")["valid"].mean().min() < 0.5:
            verdict = "not compared: the load generator was the bottleneck"
        ratios.append((rows, float(np.exp(logs.mean())), float(low), float(high), verdict, len(logs)))
    return pd.DataFrame(ratios, columns=["rows", "ratio", "low", "high", "verdict", "blocks"])


def _block_logs(calls: pd.DataFrame, arm: str, base: str) -> np.ndarray:
    medians = calls.groupby(["block", "arm"])["latency_ms"].median().unstack("arm")
    over, under = arm.split(SUM), base.split(SUM)
    if not {*over, *under} <= set(medians):
        return np.empty(0)
    ratios = medians[over].sum(axis=1, skipna=False) / medians[under].sum(axis=1, skipna=False)
    logs: np.ndarray = np.log(ratios.dropna().to_numpy())
    return logs


def _interval(logs: np.ndarray, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    n = len(logs)
    if n < 2:
        return -np.inf, np.inf
    means = rng.choice(logs, size=(resamples, n)).mean(axis=1)
    low, high = np.quantile(means, _expanded(n))
    return float(low), float(high)


def level(calls: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Return the geometric mean of a column's means in each block, and its 95 % interval, bootstrapped over blocks."""
    logs = np.log(calls.groupby("block")[column].mean().to_numpy())
    low, high = np.exp(_interval(logs, np.random.default_rng(0), 2_000))
    return float(np.exp(logs.mean())), float(low), float(high)


def _expanded(n: int) -> np.ndarray:
    """Return the quantiles of bootstrapped means of `n` values that contain the true mean in 95 % of cases.

    For small `n`, 2.5 % and 97.5 % are too close to each other: the bootstrap divides by n although the variance needs
    n - 1, and it ignores Student's t. The remedy is Hesterberg's (https://doi.org/10.1080/00031305.2015.1089789).
    """
    tail = NormalDist().cdf(float(np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025)))
    return np.array([tail, 1 - tail])


def report(calls: pd.DataFrame, compare: Sequence[Comparison], control: Comparison | None = None) -> pd.DataFrame:
    """Return all declared comparisons. The control (the same thing against itself) comes first, and judges the others.

    If the control's own interval ends 4 % from 1, the run cannot tell 4 % from nothing, and the verdict says so.

    Returns
    -------
    DataFrame with the columns arm, base, rows, ratio, low, high, verdict, blocks
    """
    frames = []
    margins: dict[object, float] = {}
    for arm, base in [control, *compare] if control else compare:
        ratios = ratio(calls, arm, base)
        ratios.insert(0, "arm", arm)
        ratios.insert(1, "base", base)
        if (arm, base) == control:
            with np.errstate(divide="ignore"):  # one block has an interval without ends
                furthest = np.maximum(ratios["high"].to_numpy(), 1 / ratios["low"].to_numpy())
            margins = dict(zip(ratios["rows"], np.log(furthest), strict=True))
        else:
            small = np.abs(np.log(ratios["ratio"])) <= ratios["rows"].map(margins).fillna(0)
            ratios.loc[small & ratios["verdict"].isin(["faster", "slower"]), "verdict"] = NO_DIFFERENCE
        if len(ratios):
            frames.append(ratios)
    return pd.concat(frames, ignore_index=True)


def control(calls: pd.DataFrame) -> Comparison | None:
    """Return the control that the experiment declared, if any."""
    pair = calls.attrs["experiment"]["control"]
    return (pair[0], pair[1]) if pair else None


def declared(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the report of what the experiment declared."""
    return report(calls, compared(calls), control(calls))


def compared(calls: pd.DataFrame) -> list[Comparison]:
    """Return the comparisons that the experiment declared, without its control."""
    return [(arm, base) for arm, base in calls.attrs["experiment"]["compare"]]


def pairs(calls: pd.DataFrame) -> list[Comparison]:
    """Return all pairs that the experiment declared, its control first."""
    return [*filter(None, [control(calls)]), *compared(calls)]


def crossover(
    calls: pd.DataFrame, arm: str, base: str, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the number of rows at which `arm` and `base` take equally long, with its 95 % interval; else three NaN.

    The number is interpolated: between two measured sizes, the ratio's logarithm is taken to be linear in that of the
    rows.
    """
    rng = np.random.default_rng(seed)
    by_rows = {rows: _block_logs(group, arm, base) for rows, group in calls.groupby("rows")}
    logs = {rows: values for rows, values in by_rows.items() if len(values)}
    blocks = min(map(len, logs.values()), default=0)
    if len(logs) < 2 or blocks < 2:
        return np.nan, np.nan, np.nan
    places = np.log(np.array(list(logs), dtype=float))
    means = np.array([values.mean() for values in logs.values()])
    point = float(_crossings(places, means[None])[0]) if np.count_nonzero(np.diff(np.sign(means))) == 1 else np.nan
    drawn = np.column_stack([rng.choice(values, (resamples, len(values))).mean(axis=1) for values in logs.values()])
    crossings = _crossings(places, drawn)
    crossings = crossings[np.isfinite(crossings)]
    if not np.isfinite(point) or len(crossings) < 0.9 * resamples:
        return np.nan, np.nan, np.nan
    low, high = np.exp(np.quantile(crossings, _expanded(blocks)))
    return float(np.exp(point)), float(low), float(high)


def _crossings(places: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Return where the line through the points of each row first changes its sign; NaN if it does not."""
    changes = np.sign(logs[:, :-1]) * np.sign(logs[:, 1:]) < 0
    i, rows = changes.argmax(axis=1), np.arange(len(logs))
    before, after = logs[rows, i], logs[rows, i + 1]
    points = places[i] + (places[i + 1] - places[i]) * before / (before - after)
    return np.where(changes.any(axis=1), points, np.nan)


def throughput(calls: pd.DataFrame, by: Sequence[str] = ("arm", "rows")) -> pd.DataFrame:
    """Return answered calls and rows per second, from the first send to the last answer of each block's half.

    Returns
    -------
    DataFrame with the columns of `by`, calls, calls_per_s, rows_per_s, p50_ms, p99_ms, failed_share, late_share, valid
    """
    stretches = calls.groupby([*by, "block", "half"], sort=False)
    total_s = ((stretches["done_ns"].max() - stretches["sent_ns"].min()) / 1e9).groupby(list(by), sort=False).sum()
    groups = calls.assign(answered=calls["rows"] * calls["ok"]).groupby(list(by), sort=False)
    table = pd.DataFrame(
        {
            "calls": groups.size(),
            "calls_per_s": groups["ok"].sum() / total_s,
            "rows_per_s": groups["answered"].sum() / total_s,
            "p50_ms": groups["latency_ms"].median(),
            "p99_ms": groups["latency_ms"].quantile(0.99),
            "failed_share": 1 - groups["ok"].mean(),
            "late_share": groups["late_share"].mean(),
            "valid": groups["valid"].mean() > 0.5,
        }
    )
    return table.reset_index()


def doubts(calls: pd.DataFrame, control: Comparison | None = None) -> list[str]:
    """Return what speaks against the result, a sentence each: few blocks, drift, noise, failures, the control."""
    by_doubt: dict[tuple[Any, str], list[str]] = {}
    for (arm, rows), group in calls.groupby(["arm", "rows"], sort=False):
        blocks = np.log(group.groupby("block")["latency_ms"].median().to_numpy())
        about = {"few blocks to judge by": f"{len(blocks)} of {arm}" if len(blocks) < MIN_BLOCKS else ""}
        if len(blocks) >= MIN_BLOCKS:
            trend = linregress(np.arange(len(blocks)), blocks)
            drift = trend.slope * (len(blocks) - 1)
            if trend.pvalue < 0.01 and abs(drift) > np.log1p(MOST_DRIFT):
                about["drift from the first block to the last"] = f"{arm} {np.expm1(drift):+.0%}"
                blocks = blocks - trend.slope * np.arange(len(blocks))
            if blocks.std(ddof=1) > MOST_NOISE:
                about["noise, the standard deviation of the blocks' medians"] = f"{arm} {blocks.std(ddof=1):.0%}"
        failed = int((~group["ok"]).sum())
        about["calls failed"] = f"{failed} of {len(group)} of {arm}" if failed else ""
        invalid = "valid" in group and group["valid"].mean() < 0.5
        about["invalid, since the load generator was the bottleneck"] = str(arm) if invalid else ""
        for what, detail in about.items():
            if detail:
                by_doubt.setdefault((rows, what), []).append(detail)
    doubts = [f"{at(rows)}: {what}: {', '.join(details)}" for (rows, what), details in by_doubt.items()]
    if control:
        for row in ratio(calls, *control).query("verdict in ('faster', 'slower')").itertuples():
            doubts.append(f"the control misses 1 {at(row.rows)}: {control[1]} against itself reads {interval(row)}")
    return doubts


def doubt(row: pd.Series) -> str:
    """Return why a ratio is not to be believed, or nothing."""
    return str(row["verdict"]) if row["verdict"].startswith("not compared") else ""


def phases(calls: pd.DataFrame) -> pd.DataFrame:
    """Return medians of where the time of a call went, by arm and rows, for calls whose server has said it.

    Returns
    -------
    DataFrame with the columns arm, encoding, rows, chunk_rows, client_encode_ms, transport_ms (what the server does not
    account for), decode_ms, queue_ms, predict_ms, encode_ms, wall_ms. The phases of a stream overlap, so a stream has
    no transport_ms; only a stream has wall_ms.
    """
    timed = calls.dropna(subset=PHASES[:1]).fillna(dict.fromkeys(PHASES, 0.0))
    unary = timed["chunk_rows"] == 0
    transport_ms = (timed["service_ms"] - timed[PHASES].sum(axis=1)).where(unary)
    wall_ms = (timed["client_encode_ms"] + timed["service_ms"]).mask(unary)
    columns = ["client_encode_ms", "transport_ms", *PHASES, "wall_ms"]
    groups = timed.assign(transport_ms=transport_ms, wall_ms=wall_ms).groupby(
        ["arm", "encoding", "rows", "chunk_rows"], sort=False
    )
    return groups[columns].median().reset_index()
