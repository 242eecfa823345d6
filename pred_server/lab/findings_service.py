"""What the studies in `studies_service` found, and what a million predictions cost a server."""

from typing import Any

import pandas as pd

from pred_server.lab import findings, stats
from pred_server.lab.capacity import Simulated
from pred_server.lab.service_times import of_model
from pred_server.lab.simulation import Fleet

# Ends of the names of arms.
BESIDE, IN_CHUNKS = ", beside large tables", ", chunk by chunk"
# Names of arms in front of which there is no layer: the same table in binary, and as text; and of what a server adds.
DIRECT, TEXT = "direct", "direct, text"
ONE_PROCESS, TWO_WORKERS, METRICS = "one process", "two workers", "metrics"
# By percentile: a prediction that is from the range of what was measured by less than this share is near it.
NEAR = {50: 0.15, 99: 0.25}
JUDGED_CALLS = 2_000  # of a simulation for one repetition


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


def layers(calls: pd.DataFrame, base: str = DIRECT) -> pd.DataFrame:
    """Return what a call of one caller costs through each layer, in the experiment's order.

    Returns
    -------
    DataFrame with the columns layer, rows, p50_ms, ratio, low, high (of the time, to that of `base`; NaN where the two
    were not declared), doubt, cpu_ms (what the server's processes compute for a call)
    """
    alone = findings.in_order(calls)
    alone = alone[alone["callers"] == 1]
    compared = stats.declared(calls).query("base == @base").set_index(["arm", "rows"])
    compared["doubt"] = [stats.doubt(row) for _, row in compared.iterrows()]
    groups = alone.groupby(["arm", "rows"], sort=False)
    table = groups["latency_ms"].median().to_frame("p50_ms").join(compared[["ratio", "low", "high", "doubt"]])
    table["cpu_ms"] = [stats.level(some, "server_cpu_ms")[0] for _, some in groups]
    return table.fillna({"doubt": ""}).reset_index(names=["layer", "rows"])


def computed(calls: pd.DataFrame) -> pd.DataFrame:
    """Return how many times as long a server computes for a call with fewest rows as for a direct one.

    Returns
    -------
    DataFrame, for what runs in or beside the server itself, with the columns arm, ratio, low, high (95 %)
    """
    found = findings.rates(calls).query("base == @DIRECT and arm in (@METRICS, @TWO_WORKERS)")
    return found[["arm", "cpu", "cpu_low", "cpu_high"]].set_axis(["arm", "ratio", "low", "high"], axis="columns")


def workers(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what many callers get from one process and from two workers.

    Returns
    -------
    DataFrame with the columns arm, calls_per_s, cpu_ms, caller_cpu_ms (what the server's processes, and the generator,
    compute for a call), ratio, low, high (of the rates, two workers to one process, 95 %; equal in both rows), doubt
    """
    crowd = findings.in_order(calls[calls["callers"] > 1])
    table = stats.throughput(crowd, ("arm",))[["arm", "calls_per_s"]]
    for column, of in (("cpu_ms", "server_cpu_ms"), ("caller_cpu_ms", "caller_cpu_ms")):
        table[column] = [stats.level(crowd[crowd["arm"] == arm], of)[0] for arm in table["arm"]]
    found = findings.rates(calls).set_index("arm").loc[table["arm"].iloc[0]]
    return table.assign(**found[["ratio", "low", "high", "doubt"]].to_dict())


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


def judged(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what `capacity` predicts for the loads of its study, beside what was measured in each repetition.

    Returns
    -------
    DataFrame with the columns model, share, rate_per_s, percentile (50 or 99), predicted_ms, measured_ms (the median of
    all repetitions), least_ms, most_ms (their range), is_near (whether the prediction is in the range or, as `NEAR`
    says, nearly so)
    """
    loads = calls[(calls["rate_per_s"] > 0) & (calls["arrivals"] == "poisson") & calls["ok"]]
    predicted = loads.groupby(["model", "share", "repetition"], sort=False)["rate_per_s"].first().reset_index()
    predicted = predicted.join(pd.DataFrame([_predicted(calls, row) for row in predicted.itertuples()]))
    lines = []
    for (model, share), its_calls in loads.groupby(["model", "share"], sort=False):
        outcomes = predicted[(predicted["model"] == model) & (predicted["share"] == share)]
        for percentile, near in NEAR.items():
            measured = its_calls.groupby("repetition")["latency_ms"].quantile(percentile / 100)
            predicted_ms, least_ms, most_ms = outcomes[percentile].median(), measured.min(), measured.max()
            line = {"model": model, "share": share, "rate_per_s": outcomes["rate_per_s"].mean()}
            line |= {"percentile": percentile, "predicted_ms": predicted_ms, "measured_ms": measured.median()}
            is_near = (1 - near) * least_ms <= predicted_ms <= (1 + near) * most_ms
            lines.append(line | {"least_ms": least_ms, "most_ms": most_ms, "is_near": is_near})
    return pd.DataFrame(lines).sort_values("percentile", kind="stable", ignore_index=True)


def _predicted(calls: pd.DataFrame, load: Any) -> dict[int, float]:
    """Return percentiles of a load, from other calls of the same repetition: a machine may be slower at times."""
    of_same = calls[calls["repetition"] == load.repetition]
    fleet = Fleet(rate_per_s=load.rate_per_s)
    simulated = Simulated(of_model(of_same, load.model), fleet, load.repetition, JUDGED_CALLS)
    return {percentile: simulated.latency_ms(1, percentile / 100) for percentile in NEAR}


def near_in_words(points: pd.DataFrame) -> str:
    """Return how many predictions are near what was measured, by percentile."""
    near = {at: points.loc[points["percentile"] == at, "is_near"] for at in NEAR}
    said = (f"p{at} within {NEAR[at]:.0%} of it in {some.sum()} of {len(some)}" for at, some in near.items())
    return f"loads predicted from other calls, against the range of all repetitions: {', '.join(said)}"
