"""Measure what somebody chooses, and draw it while it grows: with the widgets of `notebooks/explorer`, or without."""

import base64
import html
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from pred_server.errors import InvalidInput
from pred_server.lab import plots, stats
from pred_server.lab.calls import Arm
from pred_server.lab.experiments import Bench, Experiment
from pred_server.wire.codec import CODECS

ROWS = (1, 10, 100, 1_000, 10_000)
CHUNK_ROWS = 1_000
LOADS = {f"{callers} caller{'s' if callers > 1 else ''}": (callers, 0.0) for callers in (1, 4, 16)}
LOADS |= {f"{rate} calls/s": (1, float(rate)) for rate in (20, 100, 500)}
FLOOR = "in process (floor)"


@dataclass(frozen=True)
class Choice:
    """What to measure; each number of rows is a point."""

    model: str = "flights"  # or a model directory
    encoding: str = "arrow"
    rows: Sequence[int] = ROWS
    stream: bool = False  # in chunks of `CHUNK_ROWS`
    load: str = "1 caller"  # a key of `LOADS`: callers who wait for answers, or an open loop
    calls: int = 40  # at each point, but fewer where they would have very many rows

    def __str__(self) -> str:
        return f"{self.model}, {self.encoding}, {'stream' if self.stream else 'unary'}, {self.load}"


def explore(choice: Choice) -> Generator[pd.DataFrame, None, None]:
    """Measure point by point; yields all calls so far. What it started is closed when it ends, or is closed itself."""
    if not choice.rows:
        raise InvalidInput("choose at least one number of rows")
    callers, rate_per_s = LOADS[choice.load]
    each = max(1, choice.calls // 2)  # in each half of the block
    chunk_rows = CHUNK_ROWS if choice.stream else 0
    served = Arm("served", encoding=choice.encoding, chunk_rows=chunk_rows, callers=callers, rate_per_s=rate_per_s)
    arms, seconds = (served, Arm(FLOOR, "predict")), each / rate_per_s if rate_per_s else 0.0
    with Bench(Experiment(arms, model=choice.model, blocks=1, calls=each, seconds=seconds)) as bench:
        found: list[pd.DataFrame] = []
        for rows in sorted(choice.rows):
            found.append(bench.measure(rows, repetition=0))
            yield pd.concat(found, ignore_index=True)


def draw(calls: pd.DataFrame, choice: Choice) -> list[Figure]:
    """Latency by rows beside the floor, and each point's waterfall. Neither where no call was answered."""
    served = calls[(calls["arm"] == "served") & calls["ok"]]
    if served.empty:
        return []
    ms = served.groupby("rows")["latency_ms"].median()
    found = f"{choice}: p50 from {ms.iloc[0]:.3g} to {ms.iloc[-1]:.3g} ms"
    phases = stats.phases(served).assign(label=lambda phases: phases["rows"].map("{:,} rows".format))
    if choice.stream:  # phases overlap, so what is left of the whole is no phase
        wall_ms = served.groupby("rows")["service_ms"].median()
        phases = phases.drop(columns="transport_ms").assign(wall_ms=phases["rows"].map(wall_ms))
    part = plots.PHASES[str(phases.filter(list(plots.PHASES)).iloc[-1].idxmax())]
    longest = f"{choice}: with {ms.index[-1]:,} rows most time goes into: {part}"
    return [plots.latency_by_rows(stats.summary(calls), FLOOR, found), plots.waterfall(phases, longest)]


class Explorer:
    """Widgets for a `Choice`, and a button that measures it; `view` shows them, `calls` is what was measured last."""

    def __init__(self) -> None:
        self.model = widgets.Combobox(value="flights", options=["flights", "linear", "sum"], description="model")
        self.encoding = widgets.Dropdown(value="arrow", options=list(CODECS), description="encoding")
        self.rows = widgets.SelectMultiple(value=ROWS, options=ROWS, description="rows")
        self.stream = widgets.Checkbox(value=False, description="stream, in chunks of 1,000 rows")
        self.load = widgets.Dropdown(value="1 caller", options=list(LOADS), description="load")
        self.button = widgets.Button(description="run", button_style="primary")
        self.progress = widgets.IntProgress(value=0, description="points")
        self.said, self.plots, self.table = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.button.on_click(self.run)
        chosen = [self.model, self.encoding, self.rows, self.load, self.stream, self.button, self.progress]
        controls = widgets.Box(chosen, layout=widgets.Layout(flex_flow="row wrap"))
        self.view = widgets.VBox([controls, self.said, self.plots, self.table])
        self.calls = pd.DataFrame()

    def run(self, _: object = None) -> None:
        """Measure what the widgets say. An error is a sentence in `said`: nobody sees the traceback of a button."""
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
        self.said.value = (
            f"{len(codes)} of {len(calls)} calls failed: {', '.join(codes.unique())}" if len(codes) else ""
        )


def _image(figure: Figure) -> str:
    data = base64.b64encode(plots.png(figure)).decode()
    return f'<img alt="{html.escape(plots.alt(figure))}" src="data:image/png;base64,{data}">'
