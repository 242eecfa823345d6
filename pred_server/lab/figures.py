"""Figures: a function takes a tidy DataFrame and returns a Figure, whose title says the finding."""

import io
import itertools
import textwrap
from collections.abc import Iterator, Sequence
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

from pred_server.client import waterfall as call_waterfall
from pred_server.lab import stats, words

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), for colour-blind readers too; wine in place of yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255")
MARKERS = "osD^vPXp"
LINES = ("-", "--", "-.", ":")
FLOOR_MARKERS = ".1+x"
FLOOR_STYLE: dict[str, Any] = {"color": "0.45", "linestyle": (0, (1, 1))}
PHASES = {f"{name.replace(' ', '_')}_ms": name for name in call_waterfall.PHASES}
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++", "oo")
INVALID: dict[str, Any] = {"marker": "x", "color": "red", "markersize": 11, "markeredgewidth": 2, "linestyle": "none"}
ROWS_LABEL = "rows in one call"
Stamp = dict[str, Any] | None


def latency_by_rows(
    summary: pd.DataFrame,
    floors: str | Sequence[str],
    title: str,
    stamp: Stamp = None,
    xlabel: str = ROWS_LABEL,
) -> Figure:
    """Draw latency against rows, log-log: medians as lines, bands up to p99; floors are grey and dotted.

    Parameters
    ----------
    summary : what `stats.summary` returns. Points where all calls failed are left out, invalid ones are crossed out
    floors : arms that no way of serving is expected to beat
    """
    many = summary["arm"].nunique() > 6  # too many for a legend inside
    against = "its rows" if xlabel == ROWS_LABEL else xlabel
    figure, axes = titled(
        title, f"Latency of one call against {against}, both axes logarithmic", stamp, 5.6 if many else 4.6
    )
    floors = [floors] if isinstance(floors, str) else floors
    styles, markers = _styles(), itertools.cycle(FLOOR_MARKERS)
    for arm in summary["arm"].unique():
        points = summary[(summary["arm"] == arm) & (summary["failed"] < summary["calls"])]
        style = FLOOR_STYLE | {"marker": next(markers)} if arm in floors else next(styles)
        axes.plot(points["rows"], points["p50_ms"], label=arm, **style)
        if arm not in floors:
            band = {"color": style["color"], "alpha": 0.06 if many else 0.12, "linewidth": 0}
            axes.fill_between(points["rows"], points["p50_ms"], points["p99_ms"], **band)
        invalid = points[points["mark"].str.contains("invalid")]
        axes.plot(invalid["rows"], invalid["p50_ms"], **INVALID)
    if summary["mark"].str.contains("few").any():
        _note(figure, "p99: if a band has fewer than 1,000 calls, it is nearly their maximum")
    _logarithmic(axes, xlabel, "latency, p50 to p99 (ms)")
    (figure if many else axes).legend(loc="outside right center" if many else "best", frameon=False, fontsize=9)
    return figure


def waterfall(phases: pd.DataFrame, title: str, stamp: Stamp = None) -> Figure:
    """Draw where the time of one call goes: a bar for each row of the table, with a piece for each phase.

    Parameters
    ----------
    phases : a column `label`, and the columns of `PHASES` that are known, in ms. Optional are `echo_ms`, the time for
        the same bytes with nothing computed (drawn from where transport begins), and `wall_ms` for streams, since
        their phases overlap
    """
    alt = f"One call's time by phase, a bar each for {', '.join(phases['label'])}"
    figure, axes = titled(title, alt, stamp, height=1.6 + 0.45 * len(phases))
    places, left = np.arange(len(phases)), np.zeros(len(phases))
    for (column, name), colour, hatch in zip(PHASES.items(), call_waterfall.COLOURS, HATCHES, strict=True):
        if column in phases:
            widths = phases[column].fillna(0).to_numpy()
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.barh(places, widths, 0.62, left, label=name, **style)
            left += widths
    for place, total in zip(places, left, strict=True):
        axes.annotate(f" {total:,.{0 if total >= 100 else 2}f} ms", (total, place), va="center", fontsize=9)
    if "echo_ms" in phases:
        ends = phases["echo_ms"] + phases.get("client_encode_ms", 0.0)
        axes.plot(ends, places, "|", color="black", markersize=15, label="echo of the same bytes")
    if "wall_ms" in phases:
        axes.plot(phases["wall_ms"], places, "D", color="black", markersize=6, label="wall time of a stream")
    axes.xaxis.set_major_formatter("{x:,.10g}")
    axes.set(yticks=places, yticklabels=phases["label"], xlabel="ms, medians", ylim=(len(phases) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.grid(True, axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def crossover(calls: pd.DataFrame, arm: str, base: str, title: str, stamp: Stamp = None) -> Figure:
    """Draw the ratio of two arms against rows, with intervals; shaded are the rows at which they take equally long."""
    figure, axes = titled(title, f"How many times as long {arm} takes as {base}, against rows", stamp)
    ratios = stats.ratio(calls, arm, base)
    point, low, high = stats.crossover(calls, arm, base)
    axes.axhline(1, **FLOOR_STYLE)
    if np.isfinite(point):
        label = f"equal: 95 % from {words.about(low)} to {words.about(high)}"
        axes.axvspan(low, high, color=COLOURS[4], alpha=0.3, linewidth=0, label=label)
        axes.axvline(point, color=COLOURS[1], linestyle="--", label=f"equal at about {words.about(point)} rows")
    errors = [ratios["ratio"] - ratios["low"], ratios["high"] - ratios["ratio"]]
    axes.errorbar(ratios["rows"], ratios["ratio"], errors, color=COLOURS[0], marker="o", capsize=4, label="ratio, 95 %")
    _logarithmic(axes, "rows in one call", f"{arm} ÷ {base}", legend="best")
    return figure


def load(points: pd.DataFrame, title: str, stamp: Stamp = None) -> Figure:
    """Draw answered calls (above) and their response time (below) against the offered load, in calls per second.

    Parameters
    ----------
    points : what `stats.throughput` returns by `server`, `rate_per_s`; invalid points are crossed out
    """
    alt = "Answered calls and response time against offered load"
    figure, (above, below) = titled(title, alt, stamp, height=5.6, parts=2)
    for (server, group), style in zip(points.groupby("server", sort=False), _styles(), strict=False):
        bad = group[~group["valid"]]
        hollow = style | {"fillstyle": "none", "alpha": 0.6}
        for axes, column, label, look in (
            (above, "calls_per_s", server, style),
            (below, "p50_ms", f"{server}, p50", style),
            (below, "p99_ms", f"{server}, p99", hollow),
        ):
            axes.plot(group["rate_per_s"], group[column], label=label, **look)
            axes.plot(bad["rate_per_s"], bad[column], **INVALID)
    ends = [points["rate_per_s"].min(), points["rate_per_s"].max()]
    above.plot(ends, ends, label="all offered calls", **FLOOR_STYLE)
    _logarithmic(above, "", "answered (calls/s)", legend="upper left")
    _logarithmic(below, "offered (calls/s)", "response time (ms)", legend="upper left")
    notes = {
        "red crosses: not to be trusted, since the generator was late or saturated": ~points["valid"],
        "p99 of fewer than 1,000 calls: nearly their maximum": points["calls"] < stats.MIN_CALLS_FOR_P99,
    }
    _note(figure, "; ".join(note for note, holds in notes.items() if holds.any()))
    return figure


def spectrum(calls: pd.DataFrame, title: str, stamp: Stamp = None) -> Figure:
    """Draw latency by percentile, high percentiles spread out; response time (from the schedule) beside service time.

    Parameters
    ----------
    calls : one row a call, with the columns arm, latency_ms and service_ms
    """
    figure, axes = titled(title, "Latency by percentile, both axes logarithmic", stamp)
    for (arm, group), style in zip(calls.groupby("arm", sort=False), _styles(), strict=False):
        # One call in so many takes this long or longer. Beyond 99 % few calls say too little.
        slower = len(group) / np.arange(len(group), 0, -1)
        slower = slower[slower <= (slower[-1] if len(group) >= stats.MIN_CALLS_FOR_P999 else 100)]
        style |= {"markevery": max(1, len(group) // 12), "markersize": 5}
        response, service = (np.sort(group[column])[: len(slower)] for column in ("latency_ms", "service_ms"))
        dashes = {"linestyle": ":"}
        if not np.allclose(response, service):
            axes.plot(slower, response, label=f"{arm}: response time", **style | {"linestyle": "-"})
            dashes = {"linestyle": "--", "fillstyle": "none"}
        axes.plot(slower, service, label=f"{arm}: service time", **style | dashes)
    most = calls.groupby("arm").size().max()
    ticks = [tick for tick in (2, 10, 100, 1_000, 10_000) if tick <= max(most // 100, 100)]
    _logarithmic(axes, "percentile", "latency (ms)", legend="upper left")
    axes.set_xticks(ticks, [f"{100 - 100 / tick:g} %" for tick in ticks])
    if most < stats.MIN_CALLS_FOR_P99:
        _note(figure, f"p99 comes from {most:,} calls, fewer than 1,000")
    return figure


def p99_title(calls: pd.DataFrame) -> str:
    """Return the finding of a spectrum."""
    p99_ms = calls.groupby("arm", sort=False)["latency_ms"].quantile(0.99)
    return "p99: " + ", ".join(f"{arm} {value:,.3g} ms" for arm, value in p99_ms.items())


def chunks(points: pd.DataFrame, levels: dict[str, float], title: str, stamp: Stamp = None) -> Figure:
    """Draw rows per second of a stream against the size of its chunks.

    Parameters
    ----------
    points : what `stats.throughput` returns by `chunk_rows`
    levels : rows per second of what has no chunks, by name; drawn as level lines
    """
    figure, axes = titled(title, "Throughput of a stream against its chunk size, both axes logarithmic", stamp)
    points = points.sort_values("chunk_rows")
    axes.plot(points["chunk_rows"], points["rows_per_s"], label="stream", **next(_styles()))
    for (name, rows_per_s), line in zip(levels.items(), itertools.cycle(((0, (1, 1)), "--", "-.")), strict=False):
        axes.axhline(rows_per_s, color="0.45", linestyle=line, label=name)
    _logarithmic(axes, "rows in a chunk", "rows per second", legend="best")
    return figure


def factors(lines: pd.DataFrame, title: str, alt: str, xlabel: str, stamp: Stamp = None) -> Figure:
    """Draw one factor a line, with its interval, on a logarithmic axis; 1 is dotted.

    Parameters
    ----------
    lines : columns label, ratio, low, high, text (written to the right of the interval) and style (the place in
        `COLOURS` and `MARKERS`)
    """
    figure, axes = titled(title, alt, stamp, height=1.2 + 0.42 * len(lines))
    for place, (_, line) in enumerate(lines.iterrows()):
        colour, marker = COLOURS[line["style"]], MARKERS[line["style"]]
        axes.plot([line["low"], line["high"]], [place, place], color=colour, linewidth=2)
        axes.plot(line["ratio"], place, color=colour, marker=marker)
        axes.annotate(f"  {line['text']}", (max(line["high"], 1), place), va="center", fontsize=9)
    axes.axvline(1, **FLOOR_STYLE)
    axes.set(xscale="log", xlabel=xlabel, ylim=(len(lines) - 0.5, -0.5))
    axes.set_yticks(range(len(lines)), list(lines["label"]), fontsize=8)
    ends = lines[["low", "high"]].to_numpy()
    low, high = 0.8 * min(ends.min(), 1), max(ends.max(), 1)
    axes.set_xlim(low, max(high**1.4 * 1.5, high * (high / low) ** 0.55))  # room for the text on the right
    plain(axes.xaxis)
    axes.grid(True, axis="x", alpha=0.3)
    return figure


def dots(table: pd.DataFrame, title: str, xlabel: str, stamp: Stamp = None) -> Figure:
    """Draw the numbers of each row of a table on a line, on a logarithmic axis; columns differ in colour and marker."""
    alt = "; ".join(
        f"{name}: {', '.join(f'{column} {number:,.3g}' for column, number in row.dropna().items())}"
        for name, row in table.iterrows()
    )
    figure, axes = titled(title, f"{words.capital(xlabel)}. {alt}", stamp, height=1.7 + 0.4 * len(table))
    for column, style in zip(table, _styles(), strict=False):
        axes.plot(table[column], range(len(table)), label=column, **style | {"linestyle": "none", "markersize": 7})
    axes.set(xscale="log", xlabel=xlabel, ylim=(len(table) - 0.5, -0.5))
    axes.set_yticks(range(len(table)), list(table.index), fontsize=9)
    plain(axes.xaxis)
    axes.grid(True, alpha=0.3)
    figure.legend(loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


def distance(points: pd.DataFrame, title: str, stamp: Stamp = None) -> Figure:
    """Draw latency against distance, a part for each number of rows.

    Parameters
    ----------
    points : columns way, rows, rtt_ms, p50_ms
    """
    sizes, distances = sorted(points["rows"].unique()), sorted(points["rtt_ms"].unique())
    alt = "Median latency against the round trip to the server, a part for each number of rows"
    figure, parts = titled(title, alt, stamp, height=1.2 + 1.7 * len(sizes), parts=len(sizes))
    looks = dict(zip(points["way"].unique(), _styles(), strict=False))
    for axes, rows in zip(np.atleast_1d(parts), sizes, strict=True):
        for way, line in points[points["rows"] == rows].groupby("way", sort=False):
            axes.plot(line["rtt_ms"].map(distances.index), line["p50_ms"], label=way, **looks[way])
        axes.set_yscale("log")
        axes.set_ylabel(f"ms {words.at(rows)}", fontsize=9)
        plain(axes.yaxis)
        axes.grid(True, alpha=0.3)
    axes.set_xticks(range(len(distances)), [words.away(rtt_ms) for rtt_ms in distances])
    axes.set_xlabel("round trip to the server")
    handles, labels = np.atleast_1d(parts)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def grid(cells: pd.DataFrame, kinds: Sequence[str], title: str, alt: str) -> Figure:
    """Draw one mark for each cell of a table: kinds differ in colour, marker and fill.

    Parameters
    ----------
    cells : columns row, group, place (within the group) and kind; equal rows and groups stand side by side, in order
    kinds : of cells, at most three, from the most usual to the one to look at
    """
    rows, groups = (list(dict.fromkeys(cells[name])) for name in ("row", "group"))
    sizes = cells.groupby("group")["place"].nunique().loc[groups]
    starts = dict(zip(groups, (sizes + 1).cumsum().shift(fill_value=0), strict=True))
    longest = max(map(len, groups))
    figure, axes = titled(title, alt, None, height=1.3 + 0.4 * len(rows) + 0.07 * longest)
    places = cells.groupby("group")["place"].rank("dense") - 1 + cells["group"].map(starts)
    looks: tuple[dict[str, Any], ...] = (
        {"marker": "s", "color": COLOURS[0]},
        {"marker": "o", "color": "0.45", "fillstyle": "none"},
        {"marker": "X", "color": COLOURS[1], "markersize": 6},
    )
    for kind, look in zip(kinds, looks, strict=False):
        of_kind = cells["kind"] == kind
        marks = {"linestyle": "none", "markersize": 4} | look
        axes.plot(places[of_kind], cells["row"].map(rows.index)[of_kind], label=kind, **marks)
    middles = [starts[group] + (size - 1) / 2 for group, size in sizes.items()]
    axes.set_xticks(middles, groups, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), [textwrap.fill(row, 24) for row in rows], fontsize=8)
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    figure.legend(loc="outside lower left", ncols=len(kinds), frameon=False, fontsize=9)
    return figure


def titled(title: str, alt: str, stamp: Stamp, height: float = 4.6, parts: int = 1) -> tuple[Figure, Any]:
    """Return a figure, 800 pixels wide at 100 dots an inch, with room for the stamp below; and its axes."""
    figure = Figure(figsize=(8, height), layout=ConstrainedLayoutEngine(rect=(0, 0.2 / height, 1, 1 - 0.2 / height)))
    axes = figure.subplots(parts, 1, sharex=True)
    figure.suptitle(textwrap.fill(title, 92), fontsize=11)
    figure.set_label(f"{title}. {alt}.")
    if stamp:
        short = f"Python {stamp['python']}, grpcio {stamp['grpcio']}, {stamp['cores']} cores, {stamp['revision']}"
        figure.text(0.995, 0.005, short, ha="right", va="bottom", fontsize=6, color="0.4")
    return figure, axes


def _styles() -> Iterator[dict[str, Any]]:
    for colour, marker, line in zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(LINES)):
        yield {"color": colour, "marker": marker, "linestyle": line}


def _logarithmic(axes: Axes, xlabel: str, ylabel: str, legend: Any = None) -> None:
    """Make both axes logarithmic, with a grid, plain numbers, and enough of them on short axes too."""
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    for axis in (axes.xaxis, axes.yaxis):
        plain(axis, 200)
    axes.grid(True, which="major", alpha=0.3)
    if legend:
        axes.legend(loc=legend, frameon=False, fontsize=9)


def plain(axis: Any, longest: float = 10_000) -> None:
    """Give a logarithmic axis plain numbers: 1, 2, 5, 10.

    Where its ends differ by a factor of `longest` or more, it has room for powers of ten alone. Where they differ by
    less than 5, its numbers are evenly apart, and a ratio's 1 is among them.
    """
    low, high = sorted(axis.get_view_interval())
    if high < 5 * low:
        axis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10)))
    elif high < longest * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def _note(figure: Figure, text: str) -> None:
    figure.text(0.005, 0.005, text, ha="left", va="bottom", fontsize=7, color="0.3")


def alt(figure: Figure) -> str:
    """Return a figure's alt text, for readers who cannot see it."""
    return str(figure.get_label())


def write(figure: Figure, path: Path) -> None:
    """Write a PNG, 800 pixels wide at least, whose description is the alt text."""
    description = PngInfo()
    description.add_text("Description", alt(figure))
    _image(figure, dpi=120).save(path, optimize=True, pnginfo=description)


def show(figure: Figure, text: str = "") -> None:
    """Show a figure in a notebook, with an alt text for readers who cannot see it; by default the figure's own."""
    from IPython.display import display

    text = text or alt(figure)
    display({"image/png": png(figure), "text/plain": text}, raw=True, metadata={"image/png": {"alt": text}})


def png(figure: Figure) -> bytes:
    """Return the figure as a small PNG: a notebook with its figures must stay under 300 KB."""
    small = io.BytesIO()
    _image(figure, dpi=85, colours=96).save(small, "png", optimize=True)
    return small.getvalue()


def _image(figure: Figure, dpi: int, colours: int = 256) -> Image.Image:
    """Draw a picture of few colours, which is a third as large."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    return Image.open(drawn).convert("RGB").quantize(colours)
