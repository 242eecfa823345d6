"""Figures of the lessons: the lines of matplotlib that would hide what a cell is about."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pred_server.lab.figures import COLOURS, INVALID, plain

MARKERS = "osD^v"
LINES = ("-", "--", "-.", "-", "--")
GREY = {"color": "0.45", "marker": ".", "linestyle": ":"}


def lines(
    points: pd.DataFrame,
    title: str,
    xlabel: str,
    ylabel: str,
    *,
    bands: Mapping[str, pd.DataFrame] | None = None,
    band_label: str = "",
    grey: Collection[str] = (),
    crossed: pd.DataFrame | None = None,
    log: bool = False,
    every_x: bool = False,
    legend: Literal["upper left", "upper right", "lower left", "lower right"] = "upper left",
    height: float = 3.6,
) -> Figure:
    """Draw a line for each column of a table against its index, with a legend.

    A column without values is not drawn, but takes its colour: so figures that share their columns share their colours.

    Parameters
    ----------
    points : DataFrame of shape (n_points, n_lines); an index of text is drawn as equally spaced groups
    bands : for some lines, a DataFrame of shape (n_points, 2): lower and upper edge of a band around the line
    band_label : what a band means, for the legend
    grey : the lines that the others are compared with
    crossed : a DataFrame of booleans with the shape of `points`; points that are not to be trusted get a red cross
    log : whether both axes are logarithmic
    every_x : whether the x axis has its ticks at the points, and nowhere else
    legend : where it stands
    height : of the figure, in inches
    """
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    styles = iter(zip(COLOURS, MARKERS, LINES, strict=False))
    for name in points.columns.astype(str):
        style: dict[str, Any] = GREY
        if name not in grey:
            style = dict(zip(("color", "marker", "linestyle"), next(styles), strict=True))
        if points[name].isna().all():
            continue
        axes.plot(points.index, points[name], label=name, **style)
        if bands and name in bands:
            low, high = bands[name].iloc[:, 0], bands[name].iloc[:, 1]
            label = band_label if len(bands) == 1 else f"{name}: {band_label}"
            axes.fill_between(points.index, low, high, color=style["color"], alpha=0.2, linewidth=0, label=label)
        if crossed is not None and crossed[name].any():
            axes.plot(points.loc[crossed[name], name], **INVALID)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(textwrap.fill(title, 84), fontsize=11)
    if log:
        _label_log_axes(axes)
    if every_x:
        axes.set_xticks(points.index, [str(x) for x in points.index])
        axes.xaxis.minorticks_off()
    axes.grid(True, alpha=0.3)
    axes.legend(frameon=False, loc=legend, fontsize=9)
    return figure


def _label_log_axes(axes: Axes) -> None:
    """Make both axes logarithmic, with ticks at 1, 2, 5, 10 … where a decade has room for them."""
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        plain(axis, 1_000)


def stopped(calls: pd.DataFrame, stop_ms: float, expected: "Mapping[str, pd.Series[float]]", title: str) -> Figure:
    """Draw each call's response time against when it was due, around a stop of the server.

    Parameters
    ----------
    calls : DataFrame with the columns arm, at_ms (when the call was due, from the beginning of the stop) and latency_ms
    stop_ms : how long the server was stopped
    expected : what arithmetic says: by the text of the legend, response times in ms by when a call was due
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, stop_ms, color="0.9", label="the server is stopped")
    for (label, times_ms), line in zip(expected.items(), (":", "-", "--"), strict=False):
        axes.plot(times_ms, line, color="0.35", label=label)
    for (arm, group), marker, colour in zip(calls.groupby("arm", sort=False), MARKERS, COLOURS, strict=False):
        filled = "full" if marker == "o" else "none"
        points = group[group["at_ms"].between(-0.75 * stop_ms, 2 * stop_ms)]
        axes.plot(points["at_ms"], points["latency_ms"], marker, color=colour, fillstyle=filled, label=str(arm))
    axes.set(xlabel="when the call was due (ms after the stop began)", ylabel="response time (ms)", ylim=(0, None))
    axes.set_title(title, fontsize=10.5)
    axes.grid(True, alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    return figure


def byte_boxes(data: bytes, parts: Sequence[tuple[str, int, str]], n_text: int, title: str) -> Figure:
    """Draw a box for each byte of a message: its value, whose it is (above), what it says (below).

    Parameters
    ----------
    parts : owner, number of bytes and meaning of each part, in order; there are three owners
    n_text : how many bytes at the end are ASCII text; their boxes show the character too

    Raises
    ------
    ValueError
        The parts and the data do not have the same number of bytes.
    """
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    axes = figure.subplots()
    owners = list(dict.fromkeys(owner for owner, _, _ in parts))
    colours = dict(zip(owners, (COLOURS[4], COLOURS[5], COLOURS[2]), strict=True))
    places: dict[str, list[int]] = {owner: [] for owner in owners}
    begin = 0
    for owner, size, meaning in parts:
        end = begin + size
        axes.bar(range(begin, end), 1, width=0.92, color=colours[owner], alpha=0.55, edgecolor="0.3")
        axes.plot([begin - 0.42, end - 0.58], [-0.1, -0.1], color="0.3", linewidth=1)
        axes.text((begin + end - 1) / 2, -0.2, meaning, ha="center", va="top", fontsize=8.5)
        places[owner] += range(begin, end)
        begin = end
    if begin != len(data):
        raise ValueError(f"the parts have {begin} bytes, the data {len(data)}")
    for owner, taken in places.items():
        axes.text((taken[0] + taken[-1]) / 2, 1.1, owner, ha="center", fontsize=10)
    for place, byte in enumerate(data):
        axes.text(place, 0.64, f"{byte:02x}", ha="center", va="center", family="monospace", fontsize=13)
    for place in range(len(data) - n_text, len(data)):
        axes.text(place, 0.26, repr(chr(data[place])), ha="center", va="center", family="monospace", fontsize=10)
    axes.set(xlim=(-0.6, len(data) - 0.4), ylim=(-1, 1.35))
    axes.set_title(title)
    axes.axis("off")
    return figure


def spans(steps: pd.DataFrame, title: str) -> Figure:
    """Draw when each step of several things began and ended: a line for each thing, a piece for each of its steps.

    Parameters
    ----------
    steps : DataFrame with the columns line, step, begin_ms and end_ms; lines and steps in the order of the drawing
    """
    names = list(dict.fromkeys(steps["line"]))
    figure = Figure(figsize=(8, 1.6 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    looks = zip(("#56B4E9", "0.75", "#0072B2"), ("//", "", ""), strict=True)
    for (step, pieces), (colour, hatch) in zip(steps.groupby("step", sort=False), looks, strict=False):
        places, widths = pieces["line"].map(names.index), pieces["end_ms"] - pieces["begin_ms"]
        style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        axes.barh(places, widths, 0.7, pieces["begin_ms"], label=str(step), **style)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel="ms", ylim=(len(names) - 0.5, -0.5))
    axes.grid(True, axis="x", alpha=0.3)
    figure.suptitle(textwrap.fill(title, 88), fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.set_label(f"{title}. Over milliseconds, a bar each: {', '.join(names)}.")
    return figure


def vitals(samples: pd.DataFrame, spans: Mapping[str, tuple[float, float]], title: str) -> Figure:
    """Draw the memory of servers (above), and how long health and a good caller wait (below), while something is done.

    Parameters
    ----------
    samples : as `vitals.Vitals.samples` has them. A red cross stands where no answer came
    spans : what was done, from when to when, in seconds; each is shaded
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    memory = samples["kind"] == "memory"
    for axes, part, by, steps in (
        (above, samples[memory], "name", "default"),
        (below, samples[~memory], "kind", "steps-post"),  # a wait is as long as it is high
    ):
        for (name, group), colour, line in zip(part.groupby(by), COLOURS, LINES, strict=False):
            group = group.sort_values("at_s")
            look: dict[str, Any] = {"color": colour, "linestyle": line, "linewidth": 1.3, "drawstyle": steps}
            axes.plot(group["at_s"], group["value"], label=str(name), **look)
            missed = group[group["code"] != "OK"]
            if len(missed):
                axes.plot(missed["at_s"], missed["value"], **INVALID | {"label": f"{name}: no answer", "markersize": 6})
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
        axes.grid(True, alpha=0.3)
        for number, (what, (start_s, end_s)) in enumerate(spans.items()):
            axes.axvspan(start_s, end_s, color=("0.85", "0.92")[number % 2], linewidth=0)
            if axes is above:
                text = textwrap.fill(what, 12)
                place = axes.get_xaxis_transform()
                axes.text((start_s + end_s) / 2, 1.03, text, transform=place, ha="center", va="bottom", fontsize=8.5)
    above.set(ylabel="memory (MiB)", ylim=(0, 1.15 * samples.loc[memory, "value"].max()))
    below.set(xlabel="seconds", ylabel="answer after (ms)", yscale="log")
    below.yaxis.set_major_formatter("{x:,g}")
    figure.suptitle(textwrap.fill(title, 88), fontsize=11)
    figure.set_label(
        f"{title}. Over seconds: above, memory; below, the time until health and a good caller had their answers. "
        f"Shaded: {', '.join(spans)}."
    )
    return figure
