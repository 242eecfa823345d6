"""The ladder: from the article's server to ours, one change at a time, and what each of them gave."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pred_server.client.client import FEW_ROWS
from pred_server.engines.onnx import with_onnx
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.lab import plots, stats
from pred_server.lab.calls import Arm
from pred_server.lab.experiments import Experiment
from pred_server.model.store import load

AS_AN_END = ", as an end"
CALLERS = 32


def by_step(
    model: str, served: Sequence[Arm], stream: Arm, rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """Each step against the one before it, in one run: one caller by rows, and many callers where rows are few.

    The ends are measured besides, by servers and calls of their own: with the calls of the steps themselves, the
    product of the steps would be the ratio of the ends by arithmetic alone.
    """
    rows = tuple(rows) or ((1, 2_000) if quick else (1, 100_000))
    by_encoding = {arm.encoding: arm for arm in served}
    if "csv" not in by_encoding:
        raise InvalidInput("the ladder begins with CSV; name it among --encodings")
    article, csv = Arm("the article's server", "article"), replace(by_encoding["csv"], name="ours, CSV as well")
    single = replace(csv, name="ours, each call by itself", flags=(*csv.flags, "--max-batch-rows", "1"))
    together = replace(csv, name="what waits, as one")
    again = replace(csv, name="ours, CSV as well, again", process=1)
    onnx = _onnx_flags(model)

    def typed(n_rows: int) -> list[Arm]:
        """The steps behind CSV, with the encoding that our client would choose."""
        few = n_rows <= FEW_ROWS and stream.encoding == "arrow"
        arm = by_encoding.get("columns", stream) if few else stream
        steps, how = [replace(arm, name=f"{arm.encoding} in place of CSV", chunk_rows=0)], arm.encoding
        if n_rows > stream.chunk_rows:
            steps.append(replace(stream, name="as a stream"))
            how = "as a stream"
        if onnx:
            steps.append(replace(steps[-1], name=f"ONNX Runtime, {how}", flags=(*stream.flags, *onnx)))
        return steps

    climbs = [(n_rows, [article, csv, *typed(n_rows)]) for n_rows in rows]
    if min(rows) <= FEW_ROWS:
        held: dict[str, Any] = {"callers": CALLERS, "calls": CALLERS * (2 if quick else 8)}
        crowd = [article, single, together, *typed(min(rows))]
        climbs.append((min(rows), [replace(arm, name=arm.name + _for(CALLERS), **held) for arm in crowd]))
    taking_part: dict[Arm, list[int]] = {again: list(rows)}
    pairs = []
    for n_rows, steps in climbs:
        ends = [replace(arm, name=arm.name + AS_AN_END, process=1) for arm in (steps[0], steps[-1])]
        for arm in (*steps, *ends):
            taking_part.setdefault(arm, []).append(n_rows)
        pairs += [(after.name, before.name) for before, after in (*itertools.pairwise(steps), ends)]
    return Experiment(
        tuple(replace(arm, rows=tuple(at)) for arm, at in taking_part.items()),
        tuple(dict.fromkeys(pairs)),
        (again.name, csv.name),
        "ladder",
        model,
        rows,
        blocks=3 if quick else 5,
        calls=8 if quick else 20,
        most_rows=20_000 if quick else 200_000,
    )


def _onnx_flags(model: str) -> tuple[str, ...]:
    try:
        with_onnx(load(model))
    except ServerStartError as error:
        print(f"left out: {error}")
        return ()
    return ("--engine", "onnx")


def ladders(calls: pd.DataFrame) -> list[tuple[int, int]]:
    """Rows and callers of each ladder that was measured."""
    return sorted({(int(rows), int(callers)) for rows, callers in zip(calls["rows"], calls["callers"], strict=True)})


def steps_at(calls: pd.DataFrame, rows: int, callers: int = 1) -> pd.DataFrame:
    """The ladder at one number of rows and callers.

    Returns
    -------
    DataFrame with the columns step, factor, low, high (how many times as fast as the step before, with its 95 %
    interval), doubt, p50_ms; the last two rows are the product of the steps, and the ends measured against each other
    """
    calls = calls[(calls["rows"] == rows) & (calls["callers"] == callers)]
    p50_ms = stats.summary(calls).set_index("arm")["p50_ms"]
    again = (stats.control(calls) or ("",))[0]
    arms = [arm["name"] for arm in calls.attrs["experiment"]["arms"] if arm["name"] in p50_ms]
    names = [name for name in arms if name != again and not name.endswith(AS_AN_END)]
    words = {name: name.removesuffix(_for(callers)) for name in names}
    found: list[dict[str, Any]] = [{"step": words[names[0]], "p50_ms": p50_ms[names[0]], "doubt": ""}]
    for before, after in itertools.pairwise(names):
        found.append({"step": words[after], "p50_ms": p50_ms[after], **_faster(calls, after, before)})
    product = float(np.prod([step["factor"] for step in found[1:]]))
    found.append({"step": "all steps, multiplied", "factor": product, "low": product, "high": product, "doubt": ""})
    ends = _faster(calls, names[-1] + AS_AN_END, names[0] + AS_AN_END)
    found.append({"step": "the ends, side by side", **ends})
    return pd.DataFrame(found)


def _for(callers: int) -> str:
    return f", {callers} callers" if callers > 1 else ""


def _faster(calls: pd.DataFrame, arm: str, base: str) -> dict[str, Any]:
    one = stats.ratio(calls, base, arm).iloc[0]
    return {"factor": one["ratio"], "low": one["low"], "high": one["high"], "doubt": stats.doubt(one)}


def _ms(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def of_ladder(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> dict[str, Figure]:
    """One figure for each ladder."""
    return {
        f"ladder_{rows}{f'_callers_{callers}' if callers > 1 else ''}": ladder(
            steps_at(calls, rows, callers), rows, callers, stamp
        )
        for rows, callers in ladders(calls)
    }


def ladder(steps: pd.DataFrame, rows: int, callers: int = 1, stamp: dict[str, Any] | None = None) -> Figure:
    """What each step gave: its factor with the interval, and beside it the median latency that is left."""
    product, ends = steps["factor"].iloc[-2:]
    where = stats.at(rows) + (f" and {callers} callers" if callers > 1 else "")
    title = f"{plots.capital(where)} the last step is {ends:.3g} times as fast as the first"
    title += f"; the steps multiplied are {product:.3g} ({product / ends:.2f} of that)"
    figure, axes = plots.titled(title, stamp, height=1.2 + 0.45 * len(steps))
    places = np.arange(len(steps))
    for place, (_, step) in enumerate(steps.iterrows()):
        text, right = f"  {_ms(step['p50_ms'])}", 1.0
        if place == 0:
            axes.plot(1, place, marker="s", color="0.4")
        else:
            is_step = place < len(steps) - 2
            colour, marker = (plots.COLOURS[0], "o") if is_step else ("0.25", "D")
            axes.plot([step["low"], step["high"]], [place, place], color=colour, linewidth=2)
            axes.plot(step["factor"], place, marker=marker, color=colour)
            text = f"  {step['factor']:.3g}×" + (f"   ({_ms(step['p50_ms'])} left)" if is_step else "")
            text += f"  {step['doubt']}" if step["doubt"] else ""
            right = max(1.0, step["high"])
        axes.annotate(text, (right, place), va="center", fontsize=9)
    axes.axvline(1, color="0.45", linestyle=(0, (1, 1)))
    axes.axhline(len(steps) - 2.5, color="0.7", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as the step before, 95 % interval")
    axes.set_yticks(places, list(steps["step"]))
    axes.invert_yaxis()
    axes.set_xlim(0.8 * steps["low"].min(), steps["high"].max() ** 1.4 * 1.5)  # room for the words on the right
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(True, axis="x", alpha=0.3)
    told = "; ".join(f"{step['step']} {step['factor']:.3g} times" for _, step in steps.iloc[1:].iterrows())
    return plots.with_alt(figure, f"{title}. Each step against the one before it: {told}.")
