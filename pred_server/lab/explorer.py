"""Measure what somebody chooses, and draw it while it grows: with the widgets of `notebooks/explorer`, or without."""

import base64
import html
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from pred_server.errors import InvalidInput
from pred_server.lab import figures, stats
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.ways import Arm
from pred_server.wire.codec import CODECS

ROWS = (1, 10, 100, 1_000, 10_000)
CHUNK_ROWS = 1_000
LOADS = {f"{callers} caller{'s' if callers > 1 else ''}": (callers, 0.0) for callers in (1, 4, 16)}
LOADS |= {f"{rate} calls/s": (1, float(rate)) for rate in (20, 100, 500)}
FLOOR = "in process (floor)"
FLOOR_NOTE = (
    f"{FLOOR} is `predict` without server or message. It is given a DataFrame and must check it first; a message holds "
    "typed columns, which are quicker to check. So a served call can be quicker than this floor."
)


@dataclass(frozen=True)
class Choice:
    """What to measure; each number of rows is a point.

    Parameters
    ----------
    model : a built-in model, or a model directory
    stream : send chunks of `CHUNK_ROWS` rows
    load : a key of `LOADS`: callers in a closed loop, or a rate in an open loop
    calls : at each point; fewer if they would have very many rows
    """

    model: str = "flights"
    encoding: str = "arrow"
    rows: Sequence[int] = ROWS
    stream: bool = False
    load: str = "1 caller"
    calls: int = 40

    def __str__(self) -> str:
        return f"{self.model}, {self.encoding}, {'stream' if self.stream else 'unary'}, {self.load}"


def explore(choice: Choice) -> Generator[pd.DataFrame, None, None]:
    """Measure point by point, and yield all calls so far. What it started is closed at its end, or by `close()`."""
    if not choice.rows:
        raise InvalidInput("choose at least one number of rows")
    callers, rate_per_s = LOADS[choice.load]
    calls = max(1, choice.calls // 2)  # in each half of the block
    chunk_rows = CHUNK_ROWS if choice.stream else 0
    served = Arm("served", encoding=choice.encoding, chunk_rows=chunk_rows, callers=callers, rate_per_s=rate_per_s)
    arms, seconds = (served, Arm(FLOOR, "predict")), calls / rate_per_s if rate_per_s else 0.0
    with running(Experiment(arms, model=choice.model, blocks=1, calls=calls, seconds=seconds)) as bench:
        points: list[pd.DataFrame] = []
        for rows in sorted(choice.rows):
            points.append(bench.measure(rows, repetition=0))
            yield pd.concat(points, ignore_index=True)


def draw(calls: pd.DataFrame, choice: Choice) -> list[Figure]:
    """Draw latency by rows beside the floor, and each point's waterfall; nothing if no call was answered."""
    served = calls[(calls["arm"] == "served") & calls["ok"]]
    if served.empty:
        return []
    ms = served.groupby("rows")["latency_ms"].median()
    finding = f"{choice}: p50 from {ms.iloc[0]:.3g} to {ms.iloc[-1]:.3g} ms"
    phases = stats.phases(served).assign(label=lambda phases: phases["rows"].map("{:,} rows".format))
    if choice.stream:  # phases overlap, so the rest of the wall time is no phase
        wall_ms = served.groupby("rows")["service_ms"].median()
        phases = phases.drop(columns="transport_ms").assign(wall_ms=phases["rows"].map(wall_ms))
    phase = figures.PHASES[str(phases.filter(list(figures.PHASES)).iloc[-1].idxmax())]
    longest = f"{choice}: with {ms.index[-1]:,} rows most time goes into: {phase}"
    return [figures.latency_by_rows(stats.summary(calls), FLOOR, finding), figures.waterfall(phases, longest)]


class Explorer:
    """Widgets for a `Choice`, and a button that measures it; `view` shows them, `calls` is what was measured last."""

    def __init__(self) -> None:
        # Without a style JupyterLab cuts descriptions off after some ten letters.
        look: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}
        models = ["flights", "linear", "sum"]
        self.model = widgets.Combobox(value="flights", options=models, description="model", **look)
        self.encoding = widgets.Dropdown(value="arrow", options=list(CODECS), description="encoding", **look)
        self.rows = widgets.SelectMultiple(value=ROWS, options=ROWS, description="rows", **look)
        self.stream = widgets.Checkbox(description=f"stream, in chunks of {CHUNK_ROWS:,} rows", indent=False, **look)
        self.load = widgets.Dropdown(value="1 caller", options=list(LOADS), description="load", **look)
        self.button = widgets.Button(description="run", button_style="primary")
        self.progress = widgets.IntProgress(description="points", **look)
        self.said, self.plots, self.table = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.button.on_click(self.run)
        chosen = [self.model, self.encoding, self.rows, self.load, self.stream, self.button, self.progress]
        controls = widgets.Box(chosen, layout={"flex_flow": "row wrap", "grid_gap": "4px 16px"})
        note = widgets.HTML(f"<small>{html.escape(FLOOR_NOTE)}</small>")
        self.view = widgets.VBox([controls, self.said, self.plots, note, self.table])
        self.calls = pd.DataFrame()

    def run(self, _: object = None) -> None:
        """Measure what the widgets say. An error becomes a sentence in `said`: a button's traceback is seen nowhere."""
        choice = Choice(self.model.value, self.encoding.value, self.rows.value, self.stream.value, self.load.value)
        self.button.disabled = True
        self.progress.value, self.progress.max = 0, max(1, len(choice.rows))
        self.plots.value = self.table.value = ""
        self.said.value = "the servers start …"
        try:
            with closing(explore(choice)) as points:
                for calls in points:
                    self._show(calls, choice)
        except Exception as error:
            self.said.value = html.escape(str(error).splitlines()[0] if str(error) else type(error).__name__)
        finally:
            self.button.disabled = False

    def _show(self, calls: pd.DataFrame, choice: Choice) -> None:
        self.calls = calls
        self.progress.value += 1
        self.plots.value = "".join(_image(figure) for figure in draw(calls, choice))
        self.table.value = stats.summary(calls).round(2).to_html(index=False)
        codes = calls.loc[~calls["ok"], "code"]
        failed = f"{len(codes)} of {len(calls)} calls failed: {', '.join(codes.unique())}"
        self.said.value = failed if len(codes) else ""


def _image(figure: Figure) -> str:
    data = base64.b64encode(figures.png(figure)).decode()
    return f'<img alt="{html.escape(figures.alt(figure))}" src="data:image/png;base64,{data}">'
