"""From calls to figures: percentiles of all calls, ratios with intervals from whole blocks, and doubts about both."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from scipy.stats import linregress

from pred_server.wire.timing import SERVER_PHASES

MIN_CALLS_FOR_P99 = 1_000
MIN_CALLS_FOR_P999 = 100_000
MIN_BLOCKS = 5
NO_DIFFERENCE = "no difference found"
MOST_DRIFT = 0.05  # from the first block to the last
MOST_NOISE = 0.2  # standard deviation of the blocks' medians, as a share of them
PHASES = [f"{phase}_ms" for phase in SERVER_PHASES]
SUM = " + "  # between the names of arms whose medians are added
Comparison = tuple[str, str]  # an arm, and what it is read against


def summary(calls: pd.DataFrame) -> pd.DataFrame:
    """Percentiles in milliseconds of all calls, by arm and rows; failures are counted beside them.

    Parameters
    ----------
    calls : DataFrame with the columns arm, rows, block, call, latency_ms, ok, and possibly valid: one row a call

    Returns
    -------
    DataFrame with the columns arm, rows, calls, failed, p50_ms, p90_ms, p99_ms, p999_ms, mark. p99.9 is NaN under
    100,000 calls; the mark says where p99 stands on fewer than 1,000, where all calls failed, and where the load
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
    """How many times as long `arm` takes as `base`, by rows, with a 95 % interval.

    Either may be a sum, "echo + in process": then medians are added.

    The ratio of medians is taken in each block, where both arms saw the same moment of the machine; the interval is
    bootstrapped over blocks, not over calls, since calls of one block resemble each other.

    Returns
    -------
    DataFrame with the columns rows, ratio, low, high, verdict, blocks. Where blocks are few, calls failed or the
    generator was the bottleneck, the verdict says that instead of a difference.
    """
    rng = np.random.default_rng(seed)
    found = []
    for rows, both in calls[calls["arm"].isin([*arm.split(SUM), *base.split(SUM)])].groupby("rows"):
        logs = _block_logs(both, arm, base)
        if not len(logs):
            continue
        low, high = np.exp(_interval(logs, rng, resamples))
        verdict = NO_DIFFERENCE if low <= 1 <= high else "slower" if low > 1 else "faster"
        if len(logs) < MIN_BLOCKS:  # so few may all err to one side by chance: four do in one case of eight
            verdict = f"not compared: {len(logs)} blocks are too few"
        elif "ok" in both and not both["ok"].all():
            verdict = f"not compared: {(~both['ok']).sum()} of {len(both)} calls failed"
        elif "valid" in both and both.groupby("arm")["valid"].mean().min() < 0.5:
            verdict = "not compared: the load generator was the bottleneck"
        found.append((rows, float(np.exp(logs.mean())), float(low), float(high), verdict, len(logs)))
    return pd.DataFrame(found, columns=["rows", "ratio", "low", "high", "verdict", "blocks"])


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


def _expanded(n: int) -> np.ndarray:
    """The quantiles of bootstrapped means of `n` values that hold the true mean in 95 % of cases.

    2.5 % and 97.5 % are too close to each other where `n` is small: the bootstrap divides by n where the variance needs
    n - 1, and knows nothing of Student's t. The remedy is Hesterberg's (https://doi.org/10.1080/00031305.2015.1089789).
    """
    if n < 2:
        return np.array([0.0, 1.0])
    tail = NormalDist().cdf(float(np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025)))
    return np.array([tail, 1 - tail])


def report(calls: pd.DataFrame, compare: Sequence[Comparison], control: Comparison | None = None) -> pd.DataFrame:
    """All declared comparisons, the control (the same thing against itself) first, judged by the control.

    Where the control's own interval ends 4 % from 1, the run cannot tell 4 % from nothing, and nor does the verdict.

    Returns
    -------
    DataFrame with the columns arm, base, rows, ratio, low, high, verdict, blocks
    """
    frames = []
    margins: dict[object, float] = {}
    for arm, base in [control, *compare] if control else compare:
        found = ratio(calls, arm, base)
        found.insert(0, "arm", arm)
        found.insert(1, "base", base)
        if (arm, base) == control:
            furthest = np.maximum(found["high"].to_numpy(), 1 / found["low"].to_numpy())
            margins = dict(zip(found["rows"], np.log(furthest), strict=True))
        else:
            small = np.abs(np.log(found["ratio"])) <= found["rows"].map(margins).fillna(0)
            found.loc[small & found["verdict"].isin(["faster", "slower"]), "verdict"] = NO_DIFFERENCE
        if len(found):
            frames.append(found)
    return pd.concat(frames, ignore_index=True)


def control(calls: pd.DataFrame) -> Comparison | None:
    """The control that the experiment declared."""
    pair = calls.attrs["experiment"]["control"]
    return (pair[0], pair[1]) if pair else None


def declared(calls: pd.DataFrame) -> pd.DataFrame:
    """The report of what the experiment declared."""
    return report(calls, [(arm, base) for arm, base in calls.attrs["experiment"]["compare"]], control(calls))


def crossover(
    calls: pd.DataFrame, arm: str, base: str, resamples: int = 2_000, seed: int = 0
) -> tuple[float, float, float]:
    """The number of rows at which `arm` and `base` take equally long, and its 95 % interval; NaN unless there is one.

    Between the numbers of rows that were measured the ratio's logarithm is taken to be linear in the rows' logarithm.
    """
    rng = np.random.default_rng(seed)
    by_rows = {rows: _block_logs(group, arm, base) for rows, group in calls.groupby("rows")}
    logs = {rows: values for rows, values in by_rows.items() if len(values)}
    if len(logs) < 2:
        return np.nan, np.nan, np.nan
    places = np.log(np.array(list(logs), dtype=float))
    means = np.array([values.mean() for values in logs.values()])
    point = _crossing(places, means) if np.count_nonzero(np.diff(np.sign(means))) == 1 else np.nan
    drawn = np.column_stack([rng.choice(values, (resamples, len(values))).mean(axis=1) for values in logs.values()])
    crossings = [_crossing(places, each) for each in drawn]
    crossed = np.array([crossing for crossing in crossings if np.isfinite(crossing)])
    if not np.isfinite(point) or len(crossed) < 0.9 * resamples:
        return np.nan, np.nan, np.nan
    low, high = np.exp(np.quantile(crossed, _expanded(min(map(len, logs.values())))))
    return float(np.exp(point)), float(low), float(high)


def _crossing(places: np.ndarray, logs: np.ndarray) -> float:
    """Where the line through the points first changes its sign."""
    changes = np.flatnonzero(np.sign(logs[:-1]) * np.sign(logs[1:]) < 0)
    if not len(changes):
        return np.nan
    at = changes[0]
    return float(places[at] + (places[at + 1] - places[at]) * logs[at] / (logs[at] - logs[at + 1]))


def throughput(calls: pd.DataFrame, by: Sequence[str] = ("arm", "rows")) -> pd.DataFrame:
    """Calls and rows per second that were answered, from the first send to the last answer of each block's half.

    Returns
    -------
    DataFrame with the columns of `by`, calls_per_s, rows_per_s, p50_ms, p99_ms, failed_share, late_share, valid
    """
    stretches = calls.groupby([*by, "block", "half"], sort=False)
    total_s = ((stretches["done_ns"].max() - stretches["sent_ns"].min()) / 1e9).groupby(list(by), sort=False).sum()
    groups = calls.assign(answered=calls["rows"] * calls["ok"]).groupby(list(by), sort=False)
    table = pd.DataFrame(
        {
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
    """What speaks against the result itself, a sentence each: few blocks, drift, noise, failures, the control."""
    doubted: dict[tuple[Any, str], list[str]] = {}
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
                about["noise, by which the blocks' medians differ"] = f"{arm} {blocks.std(ddof=1):.0%}"
        failed = int((~group["ok"]).sum())
        about["calls failed"] = f"{failed} of {len(group)} of {arm}" if failed else ""
        invalid = "valid" in group and group["valid"].mean() < 0.5
        about["invalid, since the load generator was the bottleneck"] = str(arm) if invalid else ""
        for what, how in about.items():
            if how:
                doubted.setdefault((rows, what), []).append(how)
    found = [f"{at(rows)}: {what}: {', '.join(how)}" for (rows, what), how in doubted.items()]
    if control:
        missed = ratio(calls, *control).query("verdict in ('faster', 'slower')")
        for row in missed.itertuples():
            text = f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]"
            found.append(f"the control misses 1 {at(row.rows)}: {control[1]} against itself reads {text}")
    return found


def sentence(row: pd.Series) -> str:
    """One row of `report` in words: "at 100,000 rows `tensor` is 31× [28, 34] faster than the article's server"."""
    where = at(row["rows"])
    # A name of one word is an encoding or a flag's value; others are words.
    arm, base = (name if " " in name else f"`{name}`" for name in (row["arm"], row["base"]))
    interval = f"{_times(row['ratio'])} [{_times(row['low'])}, {_times(row['high'])}]"
    if row["verdict"] == NO_DIFFERENCE:
        why = "" if row["low"] <= 1 <= row["high"] else "; the same thing against itself differs as much"
        return f"{where} {NO_DIFFERENCE} between {arm} and {base} ({interval} times as long{why})"
    if row["verdict"] == "slower":
        return f"{where} {arm} is {interval.replace(' ', '× ', 1)} slower than {base}"
    if row["verdict"] == "faster":
        interval = f"{_times(1 / row['ratio'])}× [{_times(1 / row['high'])}, {_times(1 / row['low'])}]"
        return f"{where} {arm} is {interval} faster than {base}"
    return f"{where} {arm} and {base}: {row['verdict']}"


def doubt(row: pd.Series) -> str:
    """Why a ratio is not to be believed, if it is not."""
    return str(row["verdict"]) if row["verdict"].startswith("not compared") else ""


def at(rows: Any) -> str:
    return f"at {rows:,} row{'s' if rows > 1 else ''}"


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 10 else f"{factor:.2f}"


def phases(calls: pd.DataFrame) -> pd.DataFrame:
    """Medians of where the time of a call went, by arm and rows, of the calls whose server told it.

    Returns
    -------
    DataFrame with the columns arm, encoding, rows, chunk_rows, client_encode_ms, transport_ms (what the server does not
    account for), decode_ms, queue_ms, predict_ms, encode_ms, wall_ms. The phases of a stream overlap, so it has no
    transport; a wall time only it has.
    """
    told = calls.dropna(subset=PHASES[:1]).fillna(dict.fromkeys(PHASES, 0.0))
    unary = told["chunk_rows"] == 0
    transport_ms = (told["service_ms"] - told[PHASES].sum(axis=1)).where(unary)
    told = told.assign(transport_ms=transport_ms, wall_ms=(told["client_encode_ms"] + told["service_ms"]).mask(unary))
    columns = ["client_encode_ms", "transport_ms", *PHASES, "wall_ms"]
    return told.groupby(["arm", "encoding", "rows", "chunk_rows"], sort=False)[columns].median().reset_index()
