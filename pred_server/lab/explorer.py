"""The explorer: widgets that choose two to four arms, measure them and draw them, over `live` and `curves`."""

import base64
import html
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from pred_server.errors import InvalidInput
from pred_server.lab import curves, experiments, figures, findings, machines, rerun, stats
from pred_server.lab.arms import ONNX, TRAINED
from pred_server.lab.choices import (
    AXES,
    CHUNK_ROWS,
    ENCODINGS,
    ENGINES,
    FEWEST_ARMS,
    MOST_ARMS,
    STREAMS,
    Choice,
    code_of,
    offered,
    with_names,
)  # fmt: skip
from pred_server.lab.live import Run, State
from pred_server.lab.live_figure import redraw
from pred_server.lab.stats import MIN_BLOCKS
from pred_server.lab.ways import Arm

REDRAW_S = 0.3
MODELS = ("flights", "linear", "sum", *TRAINED)
TIMED = {"ready bytes: the server and the network": False, "table to predictions: with the client": True}
LOADS = {f"{callers} caller{'s' if callers > 1 else ''}": (callers, 0.0) for callers in (1, 4, 16)}
LOADS |= {f"{rate} calls/s": (1, float(rate)) for rate in (20, 100, 500)}
FLOOR_NOTE = (
    "in process is `predict` without server or message. It is given a DataFrame and must check it first; a message "
    "holds typed columns, which are quicker to check. So a served call can be quicker than this floor."
)
FIRST = (Arm("", encoding="csv"), Arm("", encoding="arrow"))
# Without a style JupyterLab cuts descriptions off after some ten letters.
LOOK: dict[str, Any] = {"style": {"description_width": "initial"}, "layout": {"width": "auto"}}


class ArmForm:
    """The widgets of one arm, in a row; `arm` is what they say, on top of the settings that it was given."""

    def __init__(self, arm: Arm, model: str):
        self._given = arm
        self.way = widgets.Dropdown(options=offered(), value=arm.server, description="way", **LOOK)
        self.model = widgets.Combobox(options=MODELS, value=arm.model or model, description="model", **LOOK)
        self.encoding = widgets.Dropdown(description="encoding", **LOOK)
        engine = "ONNX Runtime" if ONNX[1] in arm.flags else "scikit-learn"
        self.engine = widgets.Dropdown(
            options=("scikit-learn", "ONNX Runtime"), value=engine, description="engine", **LOOK
        )
        self.stream = widgets.Checkbox(
            value=bool(arm.chunk_rows), description=f"stream, {CHUNK_ROWS:,} rows a chunk", indent=False, **LOOK
        )
        self._follow()
        if arm.encoding in self.encoding.options:
            self.encoding.value = arm.encoding
        self.way.observe(self._follow, names="value")
        self.view = widgets.HBox(
            [self.way, self.model, self.engine, self.encoding, self.stream], layout={"flex_flow": "row wrap"}
        )

    def _follow(self, _: object = None) -> None:
        """Offer only what the way has."""
        self.encoding.options = ENCODINGS.get(self.way.value, ("its own",))
        self.encoding.disabled = len(self.encoding.options) == 1
        self.engine.disabled = self.way.value not in ENGINES
        self.stream.disabled = self.way.value not in STREAMS

    def arm(self, model: str, frame: bool) -> Arm:
        """Return the arm, without a name where it differs from the one that was given."""
        others = tuple(flag for flag in self._given.flags if flag not in ONNX)
        onnx = ONNX if self.engine.value == "ONNX Runtime" and not self.engine.disabled else ()
        chosen = replace(
            self._given,
            server=self.way.value,
            encoding=self._given.encoding if self.encoding.disabled else self.encoding.value,
            flags=(*others, *onnx),
            chunk_rows=(self._given.chunk_rows or CHUNK_ROWS) if self.stream.value and not self.stream.disabled else 0,
            model="" if self.model.value == model else self.model.value,
            frame=frame,
        )
        return chosen if chosen == self._given else replace(chosen, name="")


class Explorer:
    """Widgets for a `Choice`, which measure it in a process of its own, and draw from a thread.

    Attributes
    ----------
    view : the widgets
    calls : what was measured or opened last: one row a call, with stamp and experiment in `attrs`
    """

    def __init__(self, choice: Choice | None = None) -> None:
        given = choice or Choice(with_names(FIRST))
        arms = given.arms if choice else FIRST
        self.calls = pd.DataFrame()
        self._run: Run | None = None
        self._thread = threading.Thread()
        self.arms = [ArmForm(arm, given.model) for arm in arms]
        self._spare = [ArmForm(FIRST[0], given.model) for _ in range(MOST_ARMS - len(arms))]
        self.rows_of_arms = widgets.VBox()
        self.more = widgets.Button(description="one arm more")
        self.fewer = widgets.Button(description="one arm fewer")
        self.axis = widgets.Dropdown(
            options={label: axis for axis, label in curves.LABELS.items()}, value=given.axis, description="axis", **LOOK
        )
        self.points = widgets.Text(value=_listed(given.points), description="points", **LOOK)
        self.load = widgets.Dropdown(options=LOADS, description="load", **LOOK)
        if (given.callers, given.rate_per_s) in LOADS.values():
            self.load.value = (given.callers, given.rate_per_s)
        self.rows = widgets.BoundedIntText(value=given.rows, min=1, max=10**7, description="rows in one call", **LOOK)
        self.timed = widgets.Dropdown(options=TIMED, value=arms[0].frame, description="timed", **LOOK)
        self.blocks = widgets.BoundedIntText(value=given.blocks, min=1, max=100, description="blocks", **LOOK)
        self.count = widgets.BoundedIntText(
            value=given.calls, min=1, max=1_000, description="calls in half a block", **LOOK
        )
        self.button = widgets.Button(description="run", button_style="primary")
        self.stop_button = widgets.Button(description="stop", disabled=True)
        self.progress = widgets.IntProgress(layout={"width": "240px"})
        self.status, self.said, self.note = widgets.Label(), widgets.HTML(), widgets.HTML()
        self.drawn = widgets.VBox()
        self.table, self.code, self.phases = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.file = widgets.Combobox(
            value="explored.parquet", options=_published(), ensure_option=False, description="file", **LOOK
        )
        self.save_button, self.open_button = widgets.Button(description="save"), widgets.Button(description="open")
        self._connect()
        self._arrange()

    def _connect(self) -> None:
        self.axis.observe(self._follow, names="value")
        for form in (*self.arms, *self._spare):
            form.way.observe(lambda _: self._show_arms(), names="value")
        for button, do in (
            (self.more, lambda: self.arms.append(self._spare.pop())),
            (self.fewer, lambda: self._spare.append(self.arms.pop())),
            (self.button, self.run),
            (self.stop_button, self.stop),
            (self.save_button, self.save),
            (self.open_button, self.open),
        ):
            button.on_click(self._guarded(do))

    def _guarded(self, do: Callable[[], object]) -> Callable[[object], None]:
        """Return what a click calls. An error becomes a sentence in `said`: a button's traceback is seen nowhere."""

        def clicked(_: object) -> None:
            try:
                do()
            except Exception as error:
                self._say(_sentence(error))
            self._show_arms()

        return clicked

    def _arrange(self) -> None:
        wrap = {"flex_flow": "row wrap", "grid_gap": "4px 16px"}
        asked = [self.axis, self.points, self.load, self.rows, self.timed, self.blocks, self.count]
        further = widgets.Accordion(
            [
                self.code,
                widgets.VBox([self.table]),
                self.phases,
                widgets.VBox([widgets.HBox([self.file, self.save_button, self.open_button])]),
            ],
            titles=("the code of this experiment", "the numbers", "where the time goes", "save, or open a result"),
        )
        self.view = widgets.VBox(
            [
                widgets.HTML("Compare the first of these arms with the others:"),
                self.rows_of_arms,
                widgets.HBox([self.more, self.fewer]),
                widgets.Box(asked, layout=wrap),
                widgets.HBox([self.button, self.stop_button, self.progress, self.status]),
                self.said,
                self.drawn,
                self.note,
                further,
            ]
        )
        self._show_arms()
        self._show_axis()

    def _show_arms(self) -> None:
        self.rows_of_arms.children = [form.view for form in self.arms]
        self.more.disabled, self.fewer.disabled = not self._spare, len(self.arms) <= FEWEST_ARMS
        floors = any(form.way.value == "predict" for form in self.arms)
        self.note.value = f"<small>{html.escape(FLOOR_NOTE)}</small>" if floors else ""

    def _follow(self, _: object) -> None:
        self.points.value = _listed(AXES[self.axis.value])
        self._show_axis()

    def _show_axis(self) -> None:
        on_rows = self.axis.value == "rows"
        self.load.layout.display, self.rows.layout.display = ("", "none") if on_rows else ("none", "")

    @property
    def choice(self) -> Choice:
        """What the widgets say. Raises InvalidInput where it cannot be compared."""
        model = self.arms[0].model.value
        callers, rate_per_s = self.load.value
        return Choice(
            with_names([form.arm(model, self.timed.value) for form in self.arms]), model, self.axis.value,
            _numbers(self.points.value), self.rows.value, callers, rate_per_s, self.blocks.value, self.count.value,
        )  # fmt: skip

    def run(self) -> None:
        """Measure what the widgets say, and return at once; `wait` waits for the end."""
        if self._thread.is_alive():
            return
        experiment = self.choice.experiment
        self.button.disabled, self.open_button.disabled, self.stop_button.disabled = True, True, False
        self.progress.value, self.progress.max, self.progress.bar_style = 0, 1, ""
        self.status.value = "the servers start …"
        self._say("")
        self.code.value = _code(experiment)
        self._run = Run(experiment)
        self._thread = threading.Thread(target=self._watch, args=(self._run,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the run at once; nothing of it is left when this returns, but what is drawn."""
        if self._run:
            self._run.stop()
        self.wait()

    def wait(self) -> None:
        """Wait until the run has ended."""
        if self._thread.is_alive():
            self._thread.join()

    def save(self) -> None:
        """Write the calls to the file, as `pred-server bench` would: for `plot`, `reproduce` and `open`."""
        if self.calls.empty:
            raise InvalidInput("nothing is measured yet")
        if self.file.value in _published():  # `open` would show that one
            raise InvalidInput(f"{self.file.value} is a published result: save to a name such as mine.parquet")
        experiments.write(self.calls, Path(self.file.value))
        self.status.value = f"saved: {self.file.value}"

    def open(self) -> None:
        """Show a result: a file of one's own, or a published one by its name. Where that fails, nothing changes."""
        if self._thread.is_alive():
            raise InvalidInput("a run is going on: stop it, or wait for its end, and open the file then")
        path = (
            machines.RESULTS / f"{self.file.value}.parquet"
            if self.file.value in _published()
            else Path(self.file.value)
        )
        calls = experiments.read(path)
        if "call" not in calls:
            raise InvalidInput(f"{path.name} has no single calls, only medians of blocks")
        code = _code(rerun.experiment_of(calls.attrs["experiment"])[0])
        self._conclude(calls)
        self.code.value = code
        self.status.value = f"opened: {path.name}"

    def _watch(self, run: Run) -> None:
        drawn_s, state = 0.0, State()
        try:
            for state in run:
                self.progress.max = max(1, state.total)  # first, since no value may be above it
                self.progress.value = state.done
                self.status.value = _progress(state)
                if len(state.calls) and (state.done == state.total or time.monotonic() > drawn_s + REDRAW_S):
                    self._show(state.calls)
                    self._say(*self._so_far(state))
                    drawn_s = time.monotonic()
            if state.done < state.total or not state.total:
                self.status.value = f"stopped after {state.done} of {state.total} blocks" if state.done else "stopped"
                self._say(
                    f"Stopped after {state.done} of {state.total} blocks: no verdict. To stop a run because of what it "
                    "shows finds differences that are none."
                    if state.done
                    else "Stopped before anything was measured."
                )
            else:
                self._conclude(state.calls)
                self.status.value = f"done: {len(state.calls):,} calls"
        except Exception as error:
            self.status.value = "failed"
            self._say(_sentence(error))
        finally:
            self.button.disabled, self.open_button.disabled, self.stop_button.disabled = False, False, True

    def _show(self, calls: pd.DataFrame, whole: bool = False) -> None:
        """Show calls; as a `whole`, the figure stays right on a page that is loaded again."""
        table = stats.summary(calls).round(2).to_html(index=False)
        if calls["ok"].any():
            self._draw(redraw(None if whole else self.figure, calls))
        self.calls, self.table.value = calls, table

    @property
    def figure(self) -> Any:
        """The figure; None before anything is drawn."""
        return self.drawn.children[0] if self.drawn.children else None

    def _draw(self, figure: Any) -> None:
        before, self.drawn.children = self.figure, [figure]
        if before not in (None, figure):
            before.close()

    def _so_far(self, state: State) -> list[str]:
        blocks = state.calls["block"].nunique()
        if blocks < MIN_BLOCKS:
            return [f"So far {blocks} of the {MIN_BLOCKS} blocks that a verdict needs.", *_failures(state.calls)]
        return ["So far, and no verdict yet:", *curves.conclusions(state.calls), *_failures(state.calls)]

    def _conclude(self, calls: pd.DataFrame) -> None:
        # All is worked out before any of it is shown: calls that a file holds may be damaged.
        doubts = "; ".join(stats.doubts(calls, stats.control(calls)))
        said = [*curves.conclusions(calls), *_failures(calls), *([f"Doubts: {doubts}."] if doubts else [])]
        phases = stats.phases(findings.in_order(calls[calls["ok"] & (calls["rows"] == calls["rows"].max())]))
        phases = phases.assign(label=phases["arm"])
        took = _image(figures.waterfall(phases, _longest(phases))) if len(phases) else "these arms' servers do not say"
        self._show(calls, whole=True)
        self._say(*said, strong=True)
        self.phases.value = took

    def _say(self, *lines: str, strong: bool = False) -> None:
        """Show sentences, the first of them strong if it is a verdict; names in ticks become code."""
        shown = [re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(line)) for line in lines]
        if shown and strong:
            shown[0] = f"<b>{shown[0]}</b>"
        lines_of_html = "".join(f"<div>{line}</div>" for line in shown)
        self.said.value = f'<div role="status" class="explorer-said" style="line-height: 1.5">{lines_of_html}</div>'


def _listed(points: tuple[int, ...]) -> str:
    return ", ".join(map(str, points))


def _numbers(text: str) -> tuple[int, ...]:
    """Read "1, 10, 1000". Raises InvalidInput."""
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidInput(
            f"points are whole numbers with commas between them, such as 1, 10, 1000: not {text}"
        ) from error
    if not numbers:
        raise InvalidInput("choose at least one point on the axis")
    return numbers


def _published() -> list[str]:
    """Return the names of the published results, where there is a checkout."""
    return sorted(path.stem for path in machines.RESULTS.glob("*.parquet"))


def _progress(state: State) -> str:
    if not state.done:
        return "the servers run; the first block …"
    left = "" if state.left_s is None else f", about {state.left_s:.0f} s left"
    return f"{state.done} of {state.total} blocks{left}"


def _failures(calls: pd.DataFrame) -> list[str]:
    """Return how many calls failed, and with which codes, if any did."""
    codes = calls.loc[~calls["ok"], "code"]
    return [f"{len(codes)} of {len(calls)} calls failed: {', '.join(codes.unique())}."] if len(codes) else []


def _longest(phases: pd.DataFrame) -> str:
    """Return the finding of a waterfall: where the first arm spends most of its time."""
    first = phases.iloc[0]
    phase = figures.PHASES[str(first[[name for name in figures.PHASES if name in phases]].astype(float).idxmax())]
    return f"{first['label']}, with {first['rows']:,} rows: most time goes into: {phase}"


def _code(experiment: experiments.Experiment) -> str:
    style = "user-select: all; font-family: monospace; line-height: 1.4; white-space: pre-wrap"
    return f'<pre style="{style}" class="explorer-code">{html.escape(code_of(experiment))}</pre>'


def _image(figure: Figure) -> str:
    data = base64.b64encode(figures.png(figure)).decode()
    return f'<img alt="{html.escape(figures.alt(figure))}" src="data:image/png;base64,{data}">'


def _sentence(error: Exception) -> str:
    """Return the first line of an error; of a process's last words also the last line, which has the reason."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return f"{first} {more[-1]}" if more and first.endswith(":") else first
