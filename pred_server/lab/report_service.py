"""The blocks of the studies in `studies_service` and `studies_layers`, in Markdown."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from pred_server.lab import findings_service, words

FORWARDER = (
    "a forwarder imitates the distance, at 1 Gbit/s in each direction. It imitates no slow start, windows or losses of "
    "TCP; round trips of HTTP/2 and of the programs are real"
)


def _distance(calls: pd.DataFrame) -> list[str]:
    """Return a table for each number of rows: ways by distances."""
    points = findings_service.at_distances(calls)
    lines = []
    for rows, some in points.groupby("rows"):
        lines += [*_by_distance(some, words.at(rows).removeprefix("at ")), ""]
    ratio = "in parentheses is the time divided by that of ours at the same distance"
    return [*lines, *words.bullets(["medians in milliseconds, from table to predictions; " + ratio, FORWARDER])]


def _by_distance(points: pd.DataFrame, corner: str) -> list[str]:
    distances = sorted(points["rtt_ms"].unique())
    cells = {}
    for _, row in points.iterrows():
        ratio = "" if np.isnan(row["ratio"]) else f" ({words.factor(row['ratio'])})"
        cells[row["way"], row["rtt_ms"]] = words.number(row["p50_ms"]) + ratio
    ways = points["way"].unique()
    body = [[way, *(cells.get((way, rtt_ms), "") for rtt_ms in distances)] for way in ways]
    return words.table([corner, *map(words.away, distances)], body)


def _distance_short(calls: pd.DataFrame) -> list[str]:
    return words.bullets(far_away(calls))


def far_away(calls: pd.DataFrame) -> list[str]:
    """Return a sentence for each number of rows: at the largest distance, ours and the quickest of the others."""
    points = findings_service.at_distances(calls).query("rtt_ms == rtt_ms.max()")
    sentences = []
    for rows, some in points.groupby("rows"):
        ours, others = some.iloc[0], some.iloc[1:]
        best = others.sort_values("p50_ms").iloc[0]
        took, its = words.duration(ours["p50_ms"]), words.duration(best["p50_ms"])
        where = f"{words.away(best['rtt_ms'])} away, {words.at(rows)}"
        sentences.append(f"{where}, ours takes {took}, and the quickest of the others, {best['way']}, {its}")
    return sentences


def _enormous(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, row in findings_service.memory(calls).iterrows():
        mib = ("none" if np.isnan(row[end]) else words.number(max(row[end], 0)) for end in ("client_mib", "server_mib"))
        lines.append([row["arm"], words.number(row["s"]), words.about(row["rows_per_s"]), *mib])
    (rows,) = calls.attrs["experiment"]["rows"]
    return words.table([f"{rows:,} rows", "seconds", "rows a second", "caller grows by, MiB", "server, MiB"], lines)


def _beside(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, row in findings_service.beside(calls).iterrows():
        times = row[["p50_ms", "p99_ms", "beside_p50_ms", "beside_p99_ms"]].astype(float)
        notes = "; ".join(filter(None, row[["doubt", "mark"]]))
        lines.append(
            [row["arm"], *map(words.number, times), words.interval(row), words.about(row["rows_per_s"]), notes]
        )
    alone = ["alone: p50, ms", "p99", "beside large tables: p50", "p99", "p99, beside ÷ alone"]
    return words.table(["one row", *alone, "rows a second of the tables", ""], lines)


def _beside_short(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, row in findings_service.beside(calls).iterrows():
        alone, busy = words.duration(row["p99_ms"]), words.duration(row["beside_p99_ms"])
        doubt = row["doubt"] and f" ({row['doubt']})"
        within = f"within {alone} alone, and within {busy} beside large tables of another caller"
        lines.append(f"{row['arm']}: 99 % of calls with one row end {within}{doubt}")
    return words.bullets(lines)


def _start(calls: pd.DataFrame) -> list[str]:
    lines = [
        [row["arm"], *map(words.number, row[["start_ms", "service_ms", "latency_ms"]].astype(float))]
        for _, row in findings_service.starts(calls).iterrows()
    ]
    return words.table(["a cold start", "until ready, ms", "first call, ms", "together"], lines)


def _capacity(calls: pd.DataFrame) -> list[str]:
    """Return a table of loads, predicted and measured, and how often the prediction is near."""
    points = findings_service.judged(calls)
    lines = []
    for (model, share, rate_per_s), both in points.groupby(["model", "share", "rate_per_s"], sort=False):
        cells = []
        for _, row in both.iterrows():
            measured = map(words.number, row[["measured_ms", "least_ms", "most_ms"]].astype(float))
            cells += [
                words.number(row["predicted_ms"]) + ("" if row["is_near"] else " (off)"),
                "{} ({} to {})".format(*measured),
            ]
        lines.append([str(model), f"{share:.0%}: {rate_per_s:,.0f}/s", *cells])
    header = ["one worker", "load", "p50 predicted, ms", "measured", "p99 predicted, ms", "measured"]
    return [*words.table(header, lines), "", *words.bullets([findings_service.near_in_words(points)])]


def _capacity_short(calls: pd.DataFrame) -> list[str]:
    return words.bullets([findings_service.near_in_words(findings_service.judged(calls))])


def _layers(calls: pd.DataFrame) -> list[str]:
    """Return a table of layers by rows, and what it does not say."""
    found = findings_service.layers(calls)
    sizes, body = sorted(found["rows"].unique()), []
    for layer, some in found.groupby("layer", sort=False):
        ratios = [
            "" if is_base else f" ({str(row.doubt) or words.interval(row)})"
            for is_base, row in zip(some["ratio"].isna(), some.itertuples(), strict=True)
        ]
        cells = [words.number(ms) + ratio for ms, ratio in zip(some["p50_ms"], ratios, strict=True)]
        body.append([str(layer), *cells, words.number(some["cpu_ms"].iloc[0])])
    columns = [words.at(rows).removeprefix("at ") for rows in sizes]
    table = words.table(["one caller", *(f"{rows}, ms" for rows in columns), f"server's CPU, {columns[0]}, ms"], body)
    note = "in parentheses is the time divided by that of a direct call with a binary table"
    return [*table, "", *words.bullets([note, text_alone(calls), computed(calls), more_workers(calls)])]


def _layers_short(calls: pd.DataFrame) -> list[str]:
    return words.bullets([added(calls), text_alone(calls), computed(calls), more_workers(calls)])


def added(calls: pd.DataFrame) -> str:
    """Return in a sentence how many times as long a call takes through each layer, with the fewest rows."""
    found = findings_service.layers(calls)
    fewest = found[(found["rows"] == found["rows"].min()) & found["ratio"].notna()]
    said = (f"{row.layer} {row.doubt or words.interval(row)}" for row in fewest.itertuples())
    return f"{words.at(fewest['rows'].iloc[0])} a call takes, divided by a direct one: {', '.join(said)}"


def text_alone(calls: pd.DataFrame) -> str:
    """Return in a sentence what the gateway costs beside a direct call that is text, too."""
    found = findings_service.layers(calls, findings_service.TEXT).dropna(subset="ratio")
    said = (f"{str(row.doubt) or words.interval(row)} {words.at(row.rows)}" for row in found.itertuples())
    return f"the gateway takes text. Divided by a direct call with text, it takes {', '.join(said)}"


def computed(calls: pd.DataFrame) -> str:
    """Return in a sentence what metrics and a second worker add to what a server computes for a call."""
    costs = (f"{row.arm} {words.interval(row)}" for row in findings_service.computed(calls).itertuples())
    rows = words.at(calls["rows"].min())
    return f"{rows}, the server's CPU time of a call, divided by that of a direct call: {', '.join(costs)}"


def more_workers(calls: pd.DataFrame) -> str:
    """Return in a sentence what two workers give many callers, and what else computed meanwhile."""
    one, two = findings_service.workers(calls).to_dict("records")
    rates = " and ".join(f"{row['calls_per_s']:,.0f} calls a second ({row['arm']})" for row in (one, two))
    ratio = "{} [{}, {}] times as many".format(*(words.factor(one[end]) for end in ("ratio", "low", "high")))
    cpu = " and ".join(words.duration(row["cpu_ms"]) for row in (one, two))
    cores = " and ".join(words.number(row["calls_per_s"] * row["caller_cpu_ms"] / 1e3) for row in (one, two))
    computed = f"servers compute {cpu} for a call, and the generator keeps {cores} cores busy"
    return f"with `boosting`, {rates}: {one['doubt'] or ratio}; {computed}"


def cpu(calls: pd.DataFrame) -> list[str]:
    """Return a sentence on the CPU time of a million predictions, if a result of rising load knows it."""
    found = findings_service.cpu_per_million(calls)
    if found.empty:
        return []
    costs = (
        f"{words.number(row['cpu_s'])} [{words.number(row['low'])}, {words.number(row['high'])}] ({row['server']})"
        for _, row in found.iterrows()
    )
    load = f"{found['step'].iloc[0]:.0%} of the capacity"
    return [f"CPU-seconds of all server processes for a million predictions, at {load}: {', '.join(costs)}"]


FULL: dict[str, Callable[[pd.DataFrame], list[str]]] = {
    "distance": _distance, "enormous": _enormous, "beside": _beside, "start": _start, "capacity": _capacity,
    "layers": _layers,
}  # fmt: skip
SHORT = {
    "distance": _distance_short, "enormous": _enormous, "beside": _beside_short, "start": _start,
    "capacity": _capacity_short, "layers": _layers_short,
}  # fmt: skip
