"""Figures: each function takes a tidy DataFrame and returns a Figure."""

import io
import itertools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

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
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    if stamp:
        short = f"Python {stamp['python']}, grpcio {stamp['grpcio']}, {stamp['cores']} cores, {stamp['revision']}"
        figure.text(0.995, 0.005, short, ha="right", va="bottom", fontsize=6, color="0.4")
    return figure


def show(figure: Figure, alt: str) -> None:
    """Show a figure in a notebook, with a text that says what is to be seen in it to those who cannot."""
    from IPython.display import display

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    display({"image/png": png.getvalue(), "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})
