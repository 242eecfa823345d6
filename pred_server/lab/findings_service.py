"""What the studies in `studies_service` found, and what a million predictions cost a server."""

import pandas as pd

from pred_server.lab import findings, stats

# Ends of the names of arms.
BESIDE, IN_CHUNKS = ", beside large tables", ", chunk by chunk"


def far(arm: str, rtt_ms: float) -> str:
    """Return the name of an arm that is so far away."""
    return f"{arm}, {rtt_ms:g} ms away"


def at_distances(calls: pd.DataFrame) -> pd.DataFrame:
    """Return median latencies by distance, with the ratio to ours at the same distance.

    Returns
    -------
    DataFrame with the columns way, rows, rtt_ms, p50_ms, ratio (NaN for ours itself)
    """
    points = findings.in_order(calls).groupby(["arm", "rtt_ms", "rows"], sort=False)["latency_ms"].median()
    table = points.rename("p50_ms").reset_index()
    compared = stats.declared(calls).set_index(["arm", "rows"])["ratio"]
    keys = zip(table["arm"], table["rows"], strict=True)
    table["ratio"] = [compared.get(key, float("nan")) for key in keys]
    ends = table["rtt_ms"].map(lambda rtt_ms: far("", rtt_ms))
    table.insert(0, "way", [arm.removesuffix(end) for arm, end in zip(table["arm"], ends, strict=True)])
    return table.drop(columns="arm")


def memory(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the time and the memory of enormous tables, by arm in the experiment's order.

    Returns
    -------
    DataFrame with the columns arm, s (the median), rows_per_s, client_mib, server_mib (by how much each end grew at
    most; in process there is no server: NaN)
    """
    groups = findings.in_order(calls).groupby("arm", sort=False)
    table = groups.agg(
        s=("latency_ms", lambda ms: ms.median() / 1e3),
        rows=("rows", "first"),
        client_mib=("client_peak_mib", "max"),
        server_mib=("server_peak_mib", "max"),
    )
    table.insert(1, "rows_per_s", table.pop("rows") / table["s"])
    return table.reset_index()


def beside(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what large tables of another caller cost those with one row.

    Returns
    -------
    DataFrame with the columns arm, p50_ms, p99_ms (alone), beside_p50_ms, beside_p99_ms, ratio, low, high (of the two
    p99, by block, with the 95 % interval), doubt, mark (of the percentiles), rows_per_s (of the large tables)
    """
    points = stats.summary(calls).set_index("arm")
    by_block = calls.groupby(["arm", "rows", "block"], as_index=False).agg(
        latency_ms=("latency_ms", lambda ms: ms.quantile(0.99)), ok=("ok", "all"), valid=("valid", "all")
    )
    large = {arm["name"]: arm["rows"][0] for arm in calls.attrs["experiment"]["arms"] if arm["rows"]}
    lines = []
    for name in calls.loc[calls["beside"] != "", "arm"].unique():
        its_calls, alone = calls[calls["arm"] == name], name.removesuffix(BESIDE)
        row = stats.ratio(by_block, name, alone).iloc[0]
        halves = its_calls.groupby(["block", "half"])
        seconds = ((halves["done_ns"].max() - halves["sent_ns"].min()) / 1e9).sum()
        rows = halves["beside_calls"].first().sum() * large[its_calls["beside"].iloc[0]]
        lines.append({"arm": alone, **points.loc[alone, ["p50_ms", "p99_ms"]]})
        lines[-1] |= {f"beside_{what}": points.loc[name, what] for what in ("p50_ms", "p99_ms")}
        lines[-1] |= {**row[["ratio", "low", "high"]], "doubt": stats.doubt(row), "rows_per_s": rows / seconds}
        lines[-1]["mark"] = points.loc[name, "mark"]
    return pd.DataFrame(lines)


def starts(calls: pd.DataFrame) -> pd.DataFrame:
    """Return medians of cold starts, by arm in the experiment's order.

    Returns
    -------
    DataFrame with the columns arm, start_ms (until the server is ready), service_ms (of the first call), latency_ms (of
    both together)
    """
    times = ["start_ms", "service_ms", "latency_ms"]
    return findings.in_order(calls).groupby("arm", sort=False)[times].median().reset_index()


def cpu_per_million(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the CPU time of a million predictions in a rising load, at the highest step that all servers kept up with.

    Returns
    -------
    DataFrame with the columns server, step, cpu_s, low, high (95 %); empty if the result does not know it
    """
    if "server_cpu_ms" not in calls:
        return pd.DataFrame()
    step = findings.shared_step(findings.load_points(calls))
    offered = findings.offered(calls).query("step == @step")
    offered = offered.assign(cpu_s=offered["server_cpu_ms"] / offered["rows"] * 1e6 / 1e3)
    lines = []
    for server, its_calls in offered.groupby("server", sort=False):
        cpu_s, low, high = stats.level(its_calls, "cpu_s")
        lines.append({"server": server, "step": step, "cpu_s": cpu_s, "low": low, "high": high})
    return pd.DataFrame(lines)
