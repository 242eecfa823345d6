"""The figures of a study's result: `figures_of` needs nothing but the calls that `experiments.read` returns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pred_server.lab import (
    curves,
    figures,
    findings,
    findings_service,
    findings_ways,
    report_service,
    stats,
    verdicts,
    words,
)
from pred_server.lab.ways import FLOORS

Drawn = dict[str, Figure]


def figures_of(calls: pd.DataFrame) -> Drawn:
    """Return the figures of an experiment's result, by name. Their titles say the findings."""
    return STUDIES[findings.study_of(calls)](calls, calls.attrs["stamp"])


def _rows(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    shown, rivals = findings.at_hand(calls), findings.rivals(calls)
    floors = list(shown.loc[shown["server"].isin(FLOORS), "arm"].unique())
    drawn = {"latency": figures.latency_by_rows(stats.summary(shown), floors, best_rivals(rivals), stamp)}
    return drawn | _targets(calls, stamp) | _crossovers(calls, rivals, stamp)


def best_rivals(rivals: pd.DataFrame) -> str:
    """Return a sentence on the quickest rival at the fewest and at the most rows that both take.

    Parameters
    ----------
    rivals : what `findings.rivals` returns
    """
    best = [part.sort_values("ratio").iloc[0] for _, part in rivals.groupby("rows")]
    ends = [best[0], best[-1]] if len(best) > 1 else best
    said = (
        f"{words.at(row.rows)} the best rival, {row.arm}, takes {words.interval(row)} times as long" for row in ends
    )
    return words.capital(f"{'; '.join(said)} as ours, from table to predictions")


def _crossovers(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    result = {}
    for arm, base in compared[["arm", "base"]].drop_duplicates().itertuples(index=False):
        point, low, high = stats.crossover(calls, arm, base)
        if np.isfinite(point):
            title = f"{arm} and {base} take equally long at {words.about(point)} rows"
            title = words.capital(f"{title} [{words.about(low)}, {words.about(high)}], interpolated")
            name = "".join(letter if letter.isalnum() else "_" for letter in f"{arm}_{base}")
            result[f"crossover_{name}"] = figures.crossover(calls, arm, base, title, stamp)
    return result


def _encodings(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    two_by_two = findings.two_by_two(calls)
    result = {} if two_by_two.empty else {"two_by_two": changes(two_by_two, stamp)}
    compared, calls = stats.declared(calls), findings.in_order(calls)
    # Over HTTP only what the two by two has: more lines could not be told from each other.
    calls = calls[(calls["server"] != "http") | calls["encoding"].isin(["csv", findings.carried(calls)])]
    compared = compared[compared["arm"].isin(calls["arm"]) & compared["base"].isin(calls["arm"])]
    floors = list(calls.loc[calls["server"].isin(FLOORS), "arm"].unique())
    drawn = calls[(calls["server"] != "echo") | (calls["arm"] == findings.echo_of(calls))]
    result["latency"] = figures.latency_by_rows(stats.summary(drawn), floors, _largest(compared), stamp)
    phases = stats.phases(calls)
    keys = ["encoding", "chunk_rows", "rows"]
    echo_ms = calls[calls["server"] == "echo"].groupby(keys)["service_ms"].median().rename("echo_ms")
    phases = phases.join(echo_ms, on=keys).assign(label=phases["arm"])
    sizes = sorted(phases["rows"].unique())
    for rows in dict.fromkeys(sizes[:1] + sizes[len(sizes) // 2 :][:1] + sizes[-1:]):
        part = phases[phases["rows"] == rows].dropna(axis="columns", how="all")
        known = part[[column for column in figures.PHASES if column in part]]
        slowest = known.sum(axis=1).idxmax()
        phase = figures.PHASES[str(known.loc[slowest].idxmax())]
        title = f"{words.capital(words.at(rows))} `{part.loc[slowest, 'arm']}` spends most of its time on: {phase}"
        result[f"waterfall_{rows}"] = figures.waterfall(part, title, stamp)
    return result | _crossovers(calls, compared, stamp)


def encoding_or_transport(two_by_two: pd.DataFrame) -> str:
    """Return a sentence on what the encoding makes, and what the transport, at the fewest and at the most rows.

    Parameters
    ----------
    two_by_two : what `findings.two_by_two` returns, of one number of rows at least
    """
    ends = {rows: words.at(rows) for rows in sorted({two_by_two["rows"].min(), two_by_two["rows"].max()})}
    found = two_by_two.set_index(["part", "rows"])
    encoding, transport = (
        ", ".join(f"{words.interval(found.loc[part, rows])} times as long {where}" for rows, where in ends.items())
        for part in ("encoding", "transport")
    )
    return f"Binary in place of text takes {encoding}; HTTP/1.1 in place of gRPC {transport}"


def changes(two_by_two: pd.DataFrame, stamp: figures.Stamp = None) -> Figure:
    """Draw how many times as long a call takes with another encoding, and over another transport.

    Parameters
    ----------
    two_by_two : what `findings.two_by_two` returns, of one number of rows at least
    """
    sizes = sorted(two_by_two["rows"].unique())
    shown = two_by_two[two_by_two["rows"].isin([sizes[0], sizes[len(sizes) // 2], sizes[-1]])]
    shown = shown.sort_values("rows", kind="stable")
    labels = shown["rows"].map(words.at).str.removeprefix("at ") + ": " + shown["change"].str.replace("`", "")
    alt = "; ".join(f"{label} {ratio:.3g} times" for label, ratio in zip(labels, shown["ratio"], strict=True))
    texts = shown["ratio"].map(words.factor) + " " + shown["verdict"]
    lines = shown.assign(label=labels, text=texts, style=np.where(shown["change"].str.startswith("HTTP"), 1, 0))
    return figures.factors(lines, encoding_or_transport(two_by_two), alt, "times as long as before, 95 %", stamp)


def _largest(compared: pd.DataFrame) -> str:
    """Return the sentence of the largest difference to the first base, at the most rows that have one."""
    base = compared["base"].iloc[0]
    sure = compared[(compared["base"] == base) & compared["verdict"].isin(["faster", "slower"])]
    if sure.empty:
        return f"No difference found between {base} and the others"
    sure = sure[sure["rows"] == sure["rows"].max()]
    return words.capital(words.sentence(sure.sort_values("ratio", key=lambda ratio: np.log(ratio).abs()).iloc[-1]))


def _load(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    points = findings.load_points(calls)
    title = "Not a valid point: the generator was late or saturated at every load"
    if points["valid"].any():
        rates = findings.rates_in_words(points)
        title = f"Kept up with: {', '.join(rates) or 'none of the offered loads'}"
    result = {"load": figures.load(points, title, stamp)}
    if points["valid"].any():
        shown = findings.offered(calls).query("step == @step", local_dict={"step": findings.shared_step(points)})
        shown = shown.sort_values("arm", kind="stable")
        result["spectrum"] = figures.spectrum(shown, figures.p99_title(shown), stamp)
    return result


def _chunks(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    calls = calls[(calls["process"] == 0) & (calls["server"] != "echo")]
    points = stats.throughput(calls, ("arm", "chunk_rows"))
    streams, others = points[points["chunk_rows"] > 0], points[points["chunk_rows"] == 0]
    best = streams.sort_values("rows_per_s").iloc[-1]
    title = f"Chunks of {best['chunk_rows']:,} rows are fastest: {words.about(best['rows_per_s'])} rows per second"
    levels = dict(zip(others["arm"], others["rows_per_s"], strict=True))
    return {"chunks": figures.chunks(streams, levels, title, stamp)}


def _ladder(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    return {
        f"ladder_{rows}{f'_callers_{callers}' if callers > 1 else ''}": ladder(
            findings.steps_at(calls, rows, callers), rows, callers, stamp
        )
        for rows, callers in findings.ladders(calls)
    }


def ladder(steps: pd.DataFrame, rows: int, callers: int = 1, stamp: figures.Stamp = None) -> Figure:
    """Draw what each step gave: its factor with the interval, and beside it the median latency that is left.

    Parameters
    ----------
    steps : what `findings.steps_at` returns for these rows and callers
    """
    product, ends = steps["factor"].iloc[-2:]
    where = words.capital(words.at(rows)) + (f" and {callers} callers" if callers > 1 else "")
    title = f"{where} the last step is {ends:.3g} times as fast as the first; the product of the steps is {product:.3g}"
    alt = "; ".join(f"{step} {factor:.3g} times" for step, factor in steps[["step", "factor"]].iloc[1:].to_numpy())
    left = [f"({words.duration(p50_ms)} left)" if p50_ms > 0 else "" for p50_ms in steps["p50_ms"]]
    factor = [f"{factor:.3g}×" for factor in steps["factor"]]
    lines = pd.DataFrame({"label": steps["step"], "ratio": steps["factor"], "low": steps["low"], "high": steps["high"]})
    lines["text"] = [" ".join(texts) for texts in zip(factor, left, steps["doubt"], strict=True)]
    lines["style"] = [1, *[0] * (len(steps) - 3), 2, 2]
    lines.loc[0, ["ratio", "low", "high", "text"]] = 1, 1, 1, words.duration(steps["p50_ms"].iloc[0])
    xlabel = "times as fast as the step before, 95 % interval"
    return figures.factors(lines, title, f"Each step against the one before it: {alt}", xlabel, stamp)


def _callers(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    return {"rates": rates(findings.rates(calls), stamp)} | _targets(calls, stamp)


def rates(found: pd.DataFrame, stamp: figures.Stamp = None) -> Figure:
    """Draw how many times as many calls a second each base answers as what was declared beside it.

    Parameters
    ----------
    found : what `findings.rates` returns
    """
    labels = found["base"] + " against " + found["arm"]
    sure = found[(found["low"] > 1) & (found["doubt"] == "")]
    title = f"{len(sure)} of {len(found)} comparisons: the first answers more calls a second than the second"
    alt = "; ".join(f"{label} {ratio:.3g} times" for label, ratio in zip(labels, found["ratio"], strict=True))
    texts = [f"{row.ratio:.3g}× (CPU {row.cpu:.3g}×) {row.doubt}".strip() for row in found.itertuples()]
    lines = found.assign(label=labels, text=texts, style=np.where(found["low"] > 1, 2, 1))
    return figures.factors(lines, title, alt, "times as many calls a second, 95 %", stamp)


def _targets(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    cases = findings.cases(calls)
    return {} if cases.empty else {"targets": margins(cases, stamp)}


def margins(cases: pd.DataFrame, stamp: figures.Stamp = None) -> Figure:
    """Draw how far beyond its target each case is: right of the line is better than the target.

    Parameters
    ----------
    cases : what `findings.cases` returns
    """
    met = cases["margin"] >= 1
    title = f"{met.sum()} of {len(cases)} targets are met; right of the line is better than the target"
    alt = "; ".join(f"{case.case} {case.written}, target {case.target}" for case in cases.itertuples())
    lines = pd.DataFrame(
        {
            "label": cases["case"] + " " + cases["target"],
            "ratio": cases["margin"],
            "low": cases["margin_low"],
            "high": cases["margin_high"],
            "text": cases["written"],
            "style": np.where(met, 2, 1),
        }
    )
    return figures.factors(lines, title, alt, "beyond the target (1: just met), 95 %", stamp)


def _distance(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    title = words.capital(report_service.far_away(calls)[-1])
    return {"distance": figures.distance(findings_service.at_distances(calls), title, stamp)}


def _enormous(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    found = findings_service.memory(calls).set_index("arm")
    ends = found[["client_mib", "server_mib"]].clip(lower=0.1)
    ends.columns = ["caller", "server"]
    most_mib = found.filter(like=findings_service.IN_CHUNKS, axis=0)[["client_mib", "server_mib"]].max().max()
    (rows,) = calls.attrs["experiment"]["rows"]
    title = f"{rows:,} rows chunk by chunk: neither end needs more than {words.number(most_mib)} MiB"
    return {"memory": figures.dots(ends, title, "largest growth of memory (MiB)", stamp)}


def _beside(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    found = findings_service.beside(calls).set_index("arm")
    times = found[["p50_ms", "p99_ms", "beside_p50_ms", "beside_p99_ms"]]
    times.columns = ["alone, p50", "alone, p99", "beside large tables, p50", "beside large tables, p99"]
    p99_ms = (f"{arm} {words.duration(ms)}" for arm, ms in found["beside_p99_ms"].items())
    title = f"p99 of one row beside large tables of another caller: {', '.join(p99_ms)}"
    return {"beside": figures.dots(times, title, "latency of one row (ms)", stamp)}


def _start(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    found = findings_service.starts(calls).set_index("arm")
    times = found[["start_ms", "service_ms"]]
    times.columns = ["until ready", "first call"]
    ends = (f"{arm} {words.duration(found.loc[arm, 'latency_ms'])}" for arm in (found.index[0], *_slowest(found)))
    return {"start": figures.dots(times, f"From nothing to the first answer: {', '.join(ends)}", "ms", stamp)}


def _layers(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    found = findings_service.layers(calls)
    floors = found.pivot(index="layer", columns="rows", values="p50_ms").loc[found["layer"].unique()]
    floors.columns = [words.at(rows).removeprefix("at ") for rows in floors.columns]
    said = (
        f"{name}: {words.duration(ms.iloc[0])} direct, {words.duration(ms.max())} through {ms.idxmax()}"
        for name, ms in floors.items()
    )
    rows = figures.dots(floors, "; ".join(said), "median latency (ms)", stamp)
    return {"layers": layers(found, stamp), "rows": rows}


def layers(found: pd.DataFrame, stamp: figures.Stamp = None) -> Figure:
    """Draw how many times as long as a direct call one takes through each layer, with the fewest rows, and its time.

    Parameters
    ----------
    found : what `findings_service.layers` returns
    """
    shown = found[found["rows"] == found["rows"].min()]
    most = shown.loc[shown["ratio"].idxmax()]
    title = (
        f"{words.at(most['rows'])} {most['layer']} costs most: {words.interval(most)} times as long as a direct call"
    )
    shown = shown.fillna({"ratio": 1.0, "low": 1.0, "high": 1.0})
    texts = shown["ratio"].map(words.factor) + "×, " + shown["p50_ms"].map(words.duration) + " " + shown["doubt"]
    alt = "; ".join(f"{layer} {text.strip()}" for layer, text in zip(shown["layer"], texts, strict=True))
    lines = shown.assign(label=shown["layer"], text=texts, style=2)
    return figures.factors(lines, words.capital(title), alt, "times as long as a direct call, 95 %", stamp)


def _slowest(found: pd.DataFrame) -> list[str]:
    ends = [found["latency_ms"].idxmin(), found["latency_ms"].idxmax()]
    return [str(arm) for arm in dict.fromkeys(ends) if arm != found.index[0]]


def _ways(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    """Draw, for programs in Go, the latency of each way by rows, and the CPU time of a million predictions."""
    found = findings_ways.costs(calls)
    found = found[found["case"].str.endswith("from Go")]
    found.index = found["case"].str.removesuffix(", from Go") + ": " + found["way"]
    times = found[[rows for rows in found if not isinstance(rows, str)]]
    (fewest, *_), over_grpc = times.columns, found[found["way"] == findings_ways.GRPC]
    inside = found[found["way"] == findings_ways.IN_PROCESS].set_index("case")
    spared = over_grpc.set_index("case")[fewest] / inside[fewest] if len(inside) else pd.Series(dtype=float)
    said = (f"{str(case).partition(',')[0]} {words.factor(ratio)}" for case, ratio in spared.dropna().items())
    title = f"From Go, {words.at(fewest)}: gRPC ÷ in process is {', '.join(said)}"
    if spared.empty:
        title = f"From Go, {words.at(fewest)}: {words.duration(over_grpc[fewest].min())} over gRPC"
    times.columns = [words.at(rows).removeprefix("at ") for rows in times]
    cpu = found[["cpu_s", "cpu_s_in_tables"]]
    cpu.columns = ["one row in a call", "in tables"]
    least, most = (words.number(number) for number in (cpu.min().min(), cpu.max().max()))
    costs = f"A million predictions cost from {least} to {most} CPU-seconds: the way, the table and the model decide"
    return {
        "latency": figures.dots(times, title, "latency from table to predictions, median (ms)", stamp),
        "cpu": figures.dots(cpu, costs, "CPU-seconds of all processes for a million predictions", stamp),
    }


def _capacity(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    """Draw predicted divided by measured latency: a line is the range of all repetitions."""
    points = findings_service.judged(calls)
    lines = pd.DataFrame(
        {
            "label": [f"{row.model}, {row.share:.0%}, p{row.percentile}" for row in points.itertuples()],
            "ratio": points["predicted_ms"] / points["measured_ms"],
            "low": points["predicted_ms"] / points["most_ms"],
            "high": points["predicted_ms"] / points["least_ms"],
            "text": points["predicted_ms"].map(words.duration) + " for " + points["measured_ms"].map(words.duration),
            "style": np.where(points["is_near"], np.where(points["percentile"] == 50, 0, 2), 1),
        }
    )
    title = words.capital(findings_service.near_in_words(points))
    alt = "; ".join(f"{label} {text}" for label, text in zip(lines["label"], lines["text"], strict=True))
    return {"capacity": figures.factors(lines, title, alt, "predicted ÷ measured latency", stamp)}


def machines(verdicts_on: pd.DataFrame) -> Figure:
    """Draw what further machines say of each published comparison: a row for each machine.

    Parameters
    ----------
    verdicts_on : what `machines.verdicts_on` returns, with one machine at least
    """
    by_machine = {str(machine): verdicts.counts(some) for machine, some in verdicts_on.groupby("machine", sort=False)}
    other = "another machine" if len(by_machine) == 1 else f"{len(by_machine)} other machines"
    title = f"On {other}, of {len(verdicts_on)} verdicts: {verdicts.counts(verdicts_on)}"
    against = verdicts_on[verdicts_on["verdict"] == verdicts.CONTRADICTED].groupby(
        ["machine", "arm", "base"], sort=False
    )
    alt = [f"{machine}: {counts}" for machine, counts in by_machine.items()]
    alt += [
        f"{machine} contradicts {arm} ÷ {base} at {', '.join(map('{:,}'.format, some['rows']))} rows"
        for (machine, arm, base), some in against
    ]
    cells = pd.DataFrame(
        {
            "row": verdicts_on["machine"],
            "group": verdicts_on["arm"] + " ÷ " + verdicts_on["base"],
            "place": verdicts_on["rows"],
            "kind": verdicts_on["verdict"],
        }
    )
    sizes = "A mark for each number of rows, from few to many"
    return figures.grid(cells, verdicts.VERDICTS, title, f"{sizes}. {'; '.join(alt)}")


def _explored(calls: pd.DataFrame, stamp: dict[str, Any]) -> Drawn:
    points = curves.points(calls)
    floors = list(points.loc[points["arm"].isin(calls.loc[calls["server"].isin(FLOORS), "arm"]), "line"].unique())
    shown, label = points.assign(arm=points["line"], rows=points["x"]), curves.LABELS[curves.axis_of(calls)]
    return {"latency": figures.latency_by_rows(shown, floors, curves.conclusions(calls)[0], stamp, label)}


STUDIES: dict[str, Callable[[pd.DataFrame, dict[str, Any]], Drawn]] = {
    "rows": _rows, "encodings": _encodings, "load": _load, "chunks": _chunks, "ladder": _ladder,
    "callers": _callers, "distance": _distance, "enormous": _enormous, "beside": _beside, "start": _start,
    "ways": _ways, "explorer": _explored, "capacity": _capacity,
    "layers": _layers,
    "parts": lambda calls, stamp: {},  # two sentences say it all
}  # fmt: skip
