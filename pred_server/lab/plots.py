"""Figures: each function takes a tidy DataFrame and returns a Figure, whose title says what was found."""

import io
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pred_server.client import waterfall as timing
from pred_server.lab import stats

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), for colour-blind readers too; wine in place of yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKERS = "osD^vPXp"
LINES = ("-", "--", "-.", ":")
FLOOR_MARKERS = ".1+x"
PHASES = {f"{name.replace(' ', '_')}_ms": name for name in timing.PHASES}
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")


def latency_by_rows(
    summary: pd.DataFrame, floors: str | Sequence[str], title: str, stamp: dict[str, Any] | None = None
) -> Figure:
    """Latency against rows, log-log: medians as lines, bands up to p99; floors are grey and dotted.

    Parameters
    ----------
    summary : what `stats.summary` returns; points that it marks as failed are left out, invalid ones are crossed out
    floors : the arms that everything is read against
    """
    many = summary["arm"].nunique() > 6  # too many for a legend inside
    figure, axes = titled(title, stamp, height=5.6 if many else 4.6)
    floors = [floors] if isinstance(floors, str) else list(floors)
    styles, markers = _styles(), itertools.cycle(FLOOR_MARKERS)
    for arm in summary["arm"].unique():
        points = summary[(summary["arm"] == arm) & (summary["failed"] < summary["calls"])]
        if arm in floors:
            style: dict[str, Any] = {"color": "0.45", "linestyle": (0, (1, 1)), "marker": next(markers)}
        else:
            style = next(styles)
            low, high = points["p50_ms"], points["p99_ms"]
            alpha = 0.06 if many else 0.12
            axes.fill_between(points["rows"], low, high, color=style["color"], alpha=alpha, linewidth=0)
        axes.plot(points["rows"], points["p50_ms"], label=arm, **style)
        invalid = points[points["mark"].str.contains("invalid")]
        axes.plot(invalid["rows"], invalid["p50_ms"], "x", color="red", markersize=11, markeredgewidth=2)
    few = summary["mark"].str.contains("few").any()
    axes.set(xscale="log", yscale="log", xlabel="rows in one call", ylabel="latency, p50 to p99 (ms)")
    _plain(axes)
    _note(figure, "p99: where a band has fewer than 1,000 calls, read it as their near-worst" if few else "")
    (figure if many else axes).legend(loc="outside right center" if many else "best", frameon=False, fontsize=9)
    return with_alt(figure, f"Latency of one call against its rows, both axes logarithmic. {title}.")


def waterfall(phases: pd.DataFrame, title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """Where the time of one call goes: a bar for each row of the table, a piece for each phase, in their order.

    Parameters
    ----------
    phases : a column `label`; those of `PHASES` that are known, in ms; possibly `echo_ms`, what the same bytes take
        with nothing computed (from where transport begins), and for streams `wall_ms`, since their phases overlap
    """
    figure, axes = titled(title, stamp, height=1.6 + 0.45 * len(phases))
    places, left = np.arange(len(phases)), np.zeros(len(phases))
    for (column, name), colour, hatch in zip(PHASES.items(), timing.COLOURS, HATCHES, strict=True):
        if column in phases:
            widths = phases[column].fillna(0).to_numpy()
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.barh(places, widths, 0.62, left, label=name, **style)
            left += widths
    for place, total in zip(places, left, strict=True):
        axes.annotate(f" {total:,.{0 if total >= 100 else 2}f} ms", (total, place), va="center", fontsize=9)
    if "echo_ms" in phases:  # it begins where transport does
        starts = phases.get("client_encode_ms", pd.Series(0.0, phases.index))
        axes.plot(starts + phases["echo_ms"], places, "|", color="black", markersize=15, label="echo of the same bytes")
    if "wall_ms" in phases:
        axes.plot(phases["wall_ms"], places, "D", color="black", markersize=6, label="wall time of a stream")
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.set(yticks=places, yticklabels=phases["label"], xlabel="ms, medians", ylim=(len(phases) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.grid(True, axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return with_alt(figure, f"One call's time by phase, a bar each for {', '.join(phases['label'])}. {title}.")


def crossover(calls: pd.DataFrame, arm: str, base: str, title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """The ratio of two arms against rows, with intervals; the rows at which they take equally long are shaded."""
    figure, axes = titled(title, stamp)
    found = stats.ratio(calls, arm, base)
    point, low, high = stats.crossover(calls, arm, base)
    axes.axhline(1, color="0.45", linestyle=(0, (1, 1)))
    if np.isfinite(point):
        label = f"equal: 95 % from {_about(low)} to {_about(high)}"
        axes.axvspan(low, high, color=COLOURS[4], alpha=0.3, linewidth=0, label=label)
        axes.axvline(point, color=COLOURS[1], linestyle="--", label=f"equal at about {_about(point)} rows")
    errors = [found["ratio"] - found["low"], found["high"] - found["ratio"]]
    axes.errorbar(found["rows"], found["ratio"], errors, color=COLOURS[0], marker="o", capsize=4, label="ratio, 95 %")
    axes.set(xscale="log", yscale="log", xlabel="rows in one call", ylabel=f"{arm} ÷ {base}")
    _plain(axes)
    axes.legend(frameon=False, fontsize=9)
    return with_alt(figure, f"How many times as long {arm} takes as {base}, against rows. {title}.")


def load(points: pd.DataFrame, title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """What is answered (above) and how long it takes (below) against what is offered, calls per second.

    Parameters
    ----------
    points : what `stats.throughput` returns by `server`, `rate_per_s`; invalid points are crossed out
    """
    figure, (above, below) = titled(title, stamp, height=5.6, parts=2)
    for (server, group), style in zip(points.groupby("server", sort=False), _styles(), strict=False):
        group = group.sort_values("rate_per_s")
        above.plot(group["rate_per_s"], group["calls_per_s"], label=server, **style)
        below.plot(group["rate_per_s"], group["p50_ms"], label=f"{server}, p50", **style)
        hollow = style | {"fillstyle": "none", "alpha": 0.6}
        below.plot(group["rate_per_s"], group["p99_ms"], label=f"{server}, p99", **hollow)
        bad = group[~group["valid"]]
        for axes, column in ((above, "calls_per_s"), (below, "p50_ms"), (below, "p99_ms")):
            axes.plot(bad["rate_per_s"], bad[column], "x", color="red", markersize=11, markeredgewidth=2)
    ends = [points["rate_per_s"].min(), points["rate_per_s"].max()]
    above.plot(ends, ends, color="0.45", linestyle=(0, (1, 1)), label="all that is offered")
    above.set(xscale="log", yscale="log", ylabel="answered (calls/s)")
    below.set(xscale="log", yscale="log", ylabel="response time (ms)", xlabel="offered (calls/s)")
    for axes in (above, below):
        _plain(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    distrusted = "red crosses: the generator was late or saturated; not to be trusted"
    _note(figure, "" if points["valid"].all() else distrusted)
    return with_alt(figure, f"Answered calls and response time against offered load. {title}.")


def spectrum(calls: pd.DataFrame, title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """Latency by percentile, the rare ones spread out; response time (from the schedule) beside service time.

    Parameters
    ----------
    calls : one row a call, with the columns arm, latency_ms and service_ms
    """
    figure, axes = titled(title, stamp)
    for (arm, group), style in zip(calls.groupby("arm", sort=False), _styles(), strict=False):
        beyond = np.arange(len(group), 0, -1) / len(group)  # the share of calls that took so long or longer
        style |= {"markevery": max(1, len(group) // 12), "markersize": 5}
        response, service = np.sort(group["latency_ms"]), np.sort(group["service_ms"])
        dashes = {"linestyle": ":"}
        if not np.allclose(response, service):
            axes.plot(1 / beyond, response, label=f"{arm}: response time", **style | {"linestyle": "-"})
            dashes = {"linestyle": "--", "fillstyle": "none"}
        axes.plot(1 / beyond, service, label=f"{arm}: service time", **style | dashes)
    most = calls.groupby("arm").size().max()
    ticks = [tick for tick in (2, 10, 100, 1_000, 10_000, 100_000) if tick <= most]
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="latency (ms)")
    _plain(axes)
    axes.set_xticks(ticks, [f"{100 - 100 / tick:g} %" for tick in ticks])
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    few = most < stats.MIN_CALLS_FOR_P99
    _note(figure, f"p99 stands on {most:,} calls, fewer than 1,000" if few else "")
    return with_alt(figure, f"Latency by percentile, both axes logarithmic. {title}.")


def p99_title(calls: pd.DataFrame) -> str:
    """What a spectrum shows, in one sentence."""
    p99_ms = calls.groupby("arm", sort=False)["latency_ms"].quantile(0.99)
    return "p99: " + ", ".join(f"{arm} {value:,.3g} ms" for arm, value in p99_ms.items())


def chunks(points: pd.DataFrame, floors: dict[str, float], title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """Rows per second of a stream against the size of its chunks; what is not cut into chunks is a level line.

    Parameters
    ----------
    points : what `stats.throughput` returns by `chunk_rows`
    floors : what else to draw: names and rows per second
    """
    figure, axes = titled(title, stamp)
    points = points.sort_values("chunk_rows")
    axes.plot(points["chunk_rows"], points["rows_per_s"], label="stream", **next(_styles()))
    for (name, rows_per_s), line in zip(floors.items(), itertools.cycle(((0, (1, 1)), "--", "-.")), strict=False):
        axes.axhline(rows_per_s, color="0.45", linestyle=line, label=name)
    axes.set(xscale="log", yscale="log", xlabel="rows in a chunk", ylabel="rows per second")
    _plain(axes)
    axes.legend(frameon=False, fontsize=9)
    return with_alt(figure, f"Throughput of a stream against its chunk size, both axes logarithmic. {title}.")


def go_hop(calls: pd.DataFrame, arms: dict[str, str], title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """What each way to a prediction costs: medians on the left, ratios to the first way on the right.

    Parameters
    ----------
    calls : one row a call, as `stats.summary` takes them, all with the same number of rows
    arms : the arms to show and how the figure names them; the others are read against the first
    """
    figure = Figure(figsize=(9, 3.3), layout=ConstrainedLayoutEngine(rect=(0, 0.04, 1, 0.96)))  # room for the stamp
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    base = next(iter(arms))
    right.axvline(1, color="0.45", linestyle=(0, (1, 1)))
    for place, arm in enumerate(arms):
        style = {"color": COLOURS[place], "marker": MARKERS[place]}
        latencies = calls.loc[calls["arm"] == arm].groupby("block")["latency_ms"]
        left.scatter(latencies.median(), [place] * latencies.ngroups, **style, alpha=0.3, linewidths=0, s=30)
        p50_ms = calls.loc[calls["arm"] == arm, "latency_ms"].median()
        left.plot([p50_ms, p50_ms], [place - 0.3, place + 0.3], color=COLOURS[place], linewidth=2.5)
        left.annotate(f"{p50_ms:.2f}", (p50_ms, place - 0.33), ha="center", va="bottom", fontsize=9)
        if arm != base:
            found = stats.ratio(calls, arm, base).iloc[0]
            right.plot([found["low"], found["high"]], [place, place], color=COLOURS[place], linewidth=2)
            right.plot(found["ratio"], place, **style)
            where = (found["ratio"], place - 0.12)
            right.annotate(f"{found['ratio']:.2f}", where, ha="center", va="bottom", fontsize=9)
    left.set(xlabel="latency (ms): dots are blocks, bars all calls, p50", xlim=(0, None))
    left.set_yticks(range(len(arms)), list(arms.values()))
    left.set_ylim(len(arms) - 0.5, -0.7)
    right.set(xlabel=f"ratio to {arms[base]}, 95 % interval")
    right.margins(x=0.15)
    for axes in (left, right):
        axes.grid(True, axis="x", alpha=0.3)
    figure.suptitle(title)
    if stamp:
        short = f"Go {stamp['go']}, grpc-go {stamp['grpc-go']}, Python {stamp['python']}, {stamp['cores']} cores"
        figure.text(0.995, 0.005, short, ha="right", va="bottom", fontsize=6, color="0.4")
    return figure


def of(calls: pd.DataFrame) -> dict[str, Figure]:
    """The figures that the result of an experiment can feed, by name, titled with what it found."""
    compared = stats.declared(calls)
    control = (compared["arm"] == (stats.control(calls) or ("",))[0]) & (compared.index < calls["rows"].nunique())
    return FIGURES[calls.attrs["experiment"]["varies"]](calls, compared[~control], calls.attrs["stamp"])


def _finding(compared: pd.DataFrame) -> str:
    """The sentence of the largest difference to what was declared first, at the most rows that have one."""
    base = compared["base"].iloc[0]
    sure = compared[(compared["base"] == base) & compared["verdict"].isin(["faster", "slower"])]
    if sure.empty:
        return f"No difference found between {base} and what was compared with it"
    sure = sure[sure["rows"] == sure["rows"].max()]
    return capital(stats.sentence(sure.sort_values("ratio", key=lambda ratio: np.log(ratio).abs()).iloc[-1]))


def echo_of(calls: pd.DataFrame) -> str:
    """The echo whose bytes the bare socket carries too, or the first one."""
    arms = calls.attrs["experiment"]["arms"]
    carried = [arm["encoding"] for arm in arms if arm["server"] == "tcp"]
    echoes = [arm for arm in arms if arm["server"] == "echo" and arm["encoding"] in (carried or [arm["encoding"]])]
    return echoes[0]["name"] if echoes else ""


def _of_rows(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> dict[str, Figure]:
    again = (stats.control(calls) or ("",))[0]
    order = [arm["name"] for arm in calls.attrs["experiment"]["arms"] if arm["name"] != again]
    calls = calls[calls["arm"] != again].sort_values("arm", key=_by(order), kind="stable")
    floors = list(calls.loc[calls["server"].isin(["predict", "echo", "tcp"]), "arm"].unique())
    drawn = calls[(calls["server"] != "echo") | (calls["arm"] == echo_of(calls))]
    figures = {"latency": latency_by_rows(stats.summary(drawn), floors, _finding(compared), stamp)}
    phases = stats.phases(calls)
    if len(phases):
        keys = ["encoding", "chunk_rows", "rows"]
        phases = phases.join(
            calls[calls["server"] == "echo"].groupby(keys)["service_ms"].median().rename("echo_ms"), on=keys
        )
        sizes = sorted(phases["rows"].unique())
        for rows in dict.fromkeys([sizes[0], sizes[len(sizes) // 2], sizes[-1]]):
            at = phases[phases["rows"] == rows].dropna(axis="columns", how="all")
            known = [column for column in PHASES if column in at]
            slowest = at.iloc[int(at[known].sum(axis=1).to_numpy().argmax())]
            part = PHASES[str(slowest[known].astype(float).idxmax())]
            title = f"{capital(stats.at(rows))} `{slowest['arm']}` spends most of its time on: {part}"
            figures[f"waterfall_{rows}"] = waterfall(at.assign(label=at["arm"]), title, stamp)
    for arm, base in compared[["arm", "base"]].drop_duplicates().itertuples(index=False):
        point, low, high = stats.crossover(calls, arm, base)
        if np.isfinite(point):
            title = f"{arm} and {base} take equally long at {_about(point)} rows [{_about(low)}, {_about(high)}]"
            name = "".join(letter if letter.isalnum() else "_" for letter in f"{arm}_{base}")
            figures[f"crossover_{name}"] = crossover(calls, arm, base, capital(title), stamp)
    return figures


def _of_load(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> dict[str, Figure]:
    calls = calls[calls["process"] == 0]
    calls = calls.assign(server=calls["arm"].str.rpartition(", ")[0]).sort_values(["server", "rate_per_s"])
    points = stats.throughput(calls, ("server", "rate_per_s"))
    kept_up = points["valid"] & (points["calls_per_s"] > 0.95 * points["rate_per_s"]) & (points["failed_share"] == 0)
    most = points[kept_up].groupby("server", sort=False)["rate_per_s"].max()
    title = "Kept up with: " + ", ".join(f"{server} {rate:,.0f}/s" for server, rate in most.items())
    if not points["valid"].any():
        title = "Not a valid point: the generator was late or saturated at every load"
    shown = calls[calls["rate_per_s"] == (points["rate_per_s"] if most.empty else most).min()]
    figures = {"load": load(points, title, stamp)}
    return figures | ({"spectrum": spectrum(shown, p99_title(shown), stamp)} if points["valid"].any() else {})


def _of_chunks(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> dict[str, Figure]:
    calls = calls[(calls["process"] == 0) & (calls["server"] != "echo")]
    points = stats.throughput(calls, ("arm", "chunk_rows"))
    streams, others = points[points["chunk_rows"] > 0], points[points["chunk_rows"] == 0]
    best = streams.sort_values("rows_per_s").iloc[-1]
    title = f"Chunks of {best['chunk_rows']:,} rows carried most: {_about(best['rows_per_s'])} rows per second"
    return {"chunks": chunks(streams, dict(zip(others["arm"], others["rows_per_s"], strict=True)), title, stamp)}


FIGURES: dict[str, Callable[[pd.DataFrame, pd.DataFrame, dict[str, Any]], dict[str, Figure]]] = {
    "rows": _of_rows, "load": _of_load, "chunks": _of_chunks,
}  # fmt: skip


def _by(order: Sequence[str]) -> Callable[[pd.Series], pd.Series]:
    places = {name: place for place, name in enumerate(order)}
    return lambda column: column.map(places) if column.name == "arm" else column


def _about(rows: float) -> str:
    return f"{float(f'{rows:.2g}'):,.0f}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def titled(title: str, stamp: dict[str, Any] | None, height: float = 4.6, parts: int = 1) -> tuple[Figure, Any]:
    """A figure of 800 pixels' width at 100 dots an inch, with room for the stamp below."""
    figure = Figure(figsize=(8, height), layout=ConstrainedLayoutEngine(rect=(0, 0.2 / height, 1, 1 - 0.2 / height)))
    axes = figure.subplots(parts, 1, sharex=True)
    figure.suptitle(textwrap.fill(title, 92), fontsize=11)
    if stamp:
        short = f"Python {stamp['python']}, grpcio {stamp['grpcio']}, {stamp['cores']} cores, {stamp['revision']}"
        figure.text(0.995, 0.005, short, ha="right", va="bottom", fontsize=6, color="0.4")
    return figure, axes


def _styles() -> Iterator[dict[str, Any]]:
    for colour, marker, line in zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(LINES)):
        yield {"color": colour, "marker": marker, "linestyle": line}


def _plain(axes: Axes) -> None:
    """Numbers as people write them on logarithmic axes, enough of them on short ones too, and a grid."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        if high < 5 * low:
            axis.set_major_locator(MaxNLocator(5))
        elif high < 200 * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,.10g}")
        axis.set_minor_formatter(NullFormatter())
    axes.grid(True, which="major", alpha=0.3)


def _note(figure: Figure, text: str) -> None:
    figure.text(0.005, 0.005, text, ha="left", va="bottom", fontsize=7, color="0.3")


def with_alt(figure: Figure, alt: str) -> Figure:
    figure.set_label(alt)
    return figure


def alt(figure: Figure) -> str:
    """What is to be seen in a figure, for those who cannot see it."""
    return str(figure.get_label())


def write(figure: Figure, path: Path) -> None:
    """Write a PNG, 800 pixels wide at least, whose description is the alt text."""
    description = PngInfo()
    description.add_text("Description", alt(figure))
    _image(figure, dpi=120).save(path, optimize=True, pnginfo=description)


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, with a text that says what is to be seen in it to those who cannot."""
    from IPython.display import display

    display({"image/png": png(figure), "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a small PNG: a notebook with its figures is to stay under 300 KB."""
    small = io.BytesIO()
    _image(figure, dpi=100, colours=96).save(small, "png", optimize=True)
    return small.getvalue()


def _image(figure: Figure, dpi: int, colours: int = 256) -> Image.Image:
    """A picture of few colours, which is a third as large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    return Image.open(drawn).convert("RGB").quantize(colours)
