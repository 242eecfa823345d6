"""The explorer's figure: medians with bands above, ratios with intervals below. It is redrawn; points are hovered.

It is plotly's, whose whole script comes with the widget: nothing is fetched, in JupyterLab or in Voilà.
"""

import html
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pred_server.lab import curves, words
from pred_server.lab.figures import COLOURS

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "hexagon")
DASHES = ("solid", "dash", "dashdot", "dot")
GREY, INVALID = "#737373", "red"


def redraw(widget: go.FigureWidget | None, calls: pd.DataFrame) -> go.FigureWidget:
    """Show all calls so far: medians with bands from p50 to p90 above, ratios with their 95 % intervals below.

    Parameters
    ----------
    widget : is changed and returned where it has the same lines, so that nothing flickers; else, or without one, a new
        widget is returned. Only a new one shows the same on a page that is loaded again
    """
    figure = _figure(calls)
    if widget is None or [trace.meta for trace in widget.data] != [trace.meta for trace in figure.data]:
        widget = go.FigureWidget(figure)
        widget._config = {"displayModeBar": False}  # one of its buttons would send the data to plotly's own site
        return widget
    with widget.batch_update():
        for old, new in zip(widget.data, figure.data, strict=True):
            old.update(
                {name: new[name] for name in ("x", "y", "hovertext", "error_y", "marker") if new[name] is not None}
            )
        ticks = {name: figure.layout.xaxis[name] for name in ("tickvals", "ticktext")}
        widget.update_xaxes(**ticks)
    return widget


def _figure(calls: pd.DataFrame) -> go.Figure:
    axis, points, ratios = curves.axis_of(calls), curves.points(calls), curves.ratios(calls)
    looks = {line: _look(number) for number, line in enumerate(points["line"].unique())}
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    for line, some in points.groupby("line", sort=False):
        figure.add_traces(_medians(str(line), some, looks), rows=1, cols=1)
    for line, some in ratios[~ratios["control"]].groupby("line", sort=False):
        figure.add_trace(_ratio(str(line), some, looks), row=2, col=1)
    if ratios["control"].any():
        figure.add_trace(_band(ratios[ratios["control"]]), row=2, col=1)
    ticks = sorted(points["x"].unique())
    bases = ratios.loc[~ratios["control"], "base_line"].unique()
    grid: dict[str, Any] = {"type": "log", "showgrid": True, "gridcolor": "#eeeeee"}
    figure.update_xaxes(tickvals=ticks, ticktext=[f"{tick:,.0f}" for tick in ticks], **grid)
    figure.update_xaxes(title_text=curves.LABELS[axis], row=2)
    figure.update_yaxes(tickformat=",~g", **grid)
    figure.update_yaxes(title_text="p50 to p90 (ms)", row=1)
    figure.update_yaxes(title_text=f"÷ {_safe(bases[0])}" if len(bases) == 1 else "arm ÷ base", row=2)
    figure.add_hline(1, row=2, col=1, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_layout(
        template="simple_white", height=560, hovermode="closest", uirevision="stay", font_size=13,
        margin={"l": 70, "r": 10, "t": 10, "b": 50}, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure


def _look(number: int) -> dict[str, Any]:
    colour, symbol, dash = (some[number % len(some)] for some in (COLOURS, SYMBOLS, DASHES))
    return {
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "line": {"color": colour, "dash": dash, "width": 2},
    }


def _medians(line: str, points: pd.DataFrame, looks: dict[str, Any]) -> list[go.Scatter]:
    points, colour = points[points["failed"] < points["calls"]].sort_values("x"), looks[line]["line"]["color"]
    x, name = points["x"].to_numpy(), _safe(line)
    band = go.Scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([points["p50_ms"], points["p90_ms"][::-1]]), fill="toself",
        fillcolor=colour, opacity=0.15, line_width=0, mode="lines", hoverinfo="skip", showlegend=False,
        legendgroup=name, meta=f"band of {line}",
    )  # fmt: skip
    rows: Iterable[Any] = points.itertuples()
    said = [
        f"<b>{name}</b> at {row.x:,.0f}<br>p50 {words.duration(row.p50_ms)}, p90 {words.duration(row.p90_ms)}, "
        f"p99 {words.duration(row.p99_ms)}<br>{row.calls:,} calls, {row.failed:,} failed<br>{row.mark}"
        for row in rows
    ]
    marker = looks[line]["marker"] | {
        "color": [INVALID if "invalid" in mark else colour for mark in points["mark"]],
        "symbol": ["x" if "invalid" in mark else looks[line]["marker"]["symbol"] for mark in points["mark"]],
    }
    middle = go.Scatter(
        x=x, y=points["p50_ms"].to_numpy(), name=name, mode="lines+markers", hovertext=said, hoverinfo="text",
        legendgroup=name, meta=f"median of {line}", **looks[line] | {"marker": marker},
    )  # fmt: skip
    return [band, middle]


def _ratio(line: str, ratios: pd.DataFrame, looks: dict[str, Any]) -> go.Scatter:
    ratios, name = ratios.sort_values("x"), _safe(line)
    known = np.isfinite(ratios["high"]) & (ratios["low"] > 0)
    ends = {
        "array": (ratios["high"] - ratios["ratio"]).where(known, 0).to_numpy(),
        "arrayminus": (ratios["ratio"] - ratios["low"]).where(known, 0).to_numpy(),
    }
    rows: Iterable[Any] = ratios.itertuples()
    said = [
        f"<b>{name}</b> at {row.x:,.0f}<br>{words.factor(row.ratio)} times as long as {_safe(row.base_line)}<br>"
        f"95 % interval {words.factor(row.low)} to {words.factor(row.high)} from {row.blocks} blocks<br>{row.verdict}"
        for row in rows
    ]
    return go.Scatter(
        x=ratios["x"].to_numpy(), y=ratios["ratio"].to_numpy(), error_y={"type": "data", **ends}, mode="lines+markers",
        name=name, hovertext=said, hoverinfo="text", showlegend=False, legendgroup=name, meta=f"ratio of {line}",
        **looks.get(line, _look(0)),
    )  # fmt: skip


def _band(control: pd.DataFrame) -> go.Scatter:
    control = control[np.isfinite(control["high"]) & (control["low"] > 0)].sort_values("x")
    x = control["x"].to_numpy()
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([control["low"], control["high"][::-1]]), fill="toself",
        fillcolor=GREY, opacity=0.2, line_width=0, mode="lines", hoverinfo="skip", meta="control",
        name="control: the first arm against itself",
    )  # fmt: skip


def _safe(text: str) -> str:
    """Return text as plotly shows it literally: its labels are markup."""
    return html.escape(text, quote=False)
