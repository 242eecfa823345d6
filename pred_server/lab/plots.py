"""Figures: each function takes a tidy DataFrame and returns a Figure."""

import io
import itertools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pred_server.lab import stats

# Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = ("-", "--", "-.", ":")


def latency_by_rows(summary: pd.DataFrame, floor: str, title: str, stamp: dict[str, Any] | None = None) -> Figure:
    """Latency against rows, log-log: medians as lines, bands up to p90; the floor is dashed and grey.

    Parameters
    ----------
    summary : what `stats.summary` returns
    floor : the arm that everything is read against
    """
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), itertools.cycle(LINES), strict=False)
    for arm in summary["arm"].unique():
        points = summary[summary["arm"] == arm]
        if arm == floor:
            axes.plot(points["rows"], points["p50_ms"], color="0.45", linestyle=(0, (1, 1)), marker=".", label=arm)
            continue
        colour, marker, line = next(styles)
        axes.plot(points["rows"], points["p50_ms"], color=colour, marker=marker, linestyle=line, label=arm)
        axes.fill_between(points["rows"], points["p50_ms"], points["p90_ms"], color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="rows in one call", ylabel="latency, p50 to p90 (ms)", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,g}")
    if axes.get_ylim()[1] < 100 * axes.get_ylim()[0]:  # else there are powers of ten enough
        axes.yaxis.set_minor_formatter("{x:,g}")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    if stamp:
        short = f"Python {stamp['python']}, grpcio {stamp['grpcio']}, {stamp['cores']} cores, {stamp['revision']}"
        figure.text(0.995, 0.005, short, ha="right", va="bottom", fontsize=6, color="0.4")
    return figure


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


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, with a text that says what is to be seen in it to those who cannot."""
    from IPython.display import display

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    display({"image/png": png.getvalue(), "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
