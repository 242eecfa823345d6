"""The ladder: from the article's server to ours, one change at a time, and what each of them gave."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pred_server.errors import ServerStartError
from pred_server.lab import plots, stats
from pred_server.lab.calls import Arm
from pred_server.lab.experiments import Experiment
from pred_server.model import load
from pred_server.onnx_engine import with_onnx

AS_AN_END = ", as an end"


def by_step(
    model: str, served: Sequence[Arm], stream: Arm, rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """Each step against the one before it, in one run; the ends besides, by servers and calls of their own.

    With the calls of the steps themselves, the product of the steps would be the ratio of the ends by arithmetic alone.
    """
    article = Arm("the article's server", "article")
    csv = replace(next(arm for arm in served if arm.encoding == "csv"), name="ours, CSV as well")
    typed = replace(stream, name=f"{stream.encoding} in place of CSV", chunk_rows=0)
    streamed = replace(stream, name="as a stream")
    few, many = [article, csv, typed], [article, csv, typed, streamed]
    try:
        with_onnx(load(model))
    except ServerStartError as error:
        print(f"left out: {error}")
    else:
        flags = (*stream.flags, "--engine", "onnx")
        few.append(replace(typed, name="ONNX Runtime", flags=flags))
        many.append(replace(streamed, name="ONNX Runtime, as a stream", flags=flags))
    again = replace(csv, name="ours, CSV as well, again", process=1)
    pairs = [(after.name, before.name) for steps in (few, many) for before, after in itertools.pairwise(steps)]
    ends = [replace(arm, name=f"{arm.name}{AS_AN_END}", process=1) for arm in (article, few[-1], many[-1])]
    pairs += [(end.name, ends[0].name) for end in ends[1:]]
    return Experiment(
        (*dict.fromkeys([*many, *few]), again, *ends),
        tuple(dict.fromkeys(pairs)),
        (again.name, csv.name),
        "ladder",
        model,
        tuple(rows) or ((1, 2_000) if quick else (1, 100_000)),
        blocks=3 if quick else 5,
        calls=8 if quick else 20,
        most_rows=20_000 if quick else 200_000,
    )


def steps_at(calls: pd.DataFrame, rows: int) -> pd.DataFrame:
    """The ladder at one number of rows.

    Returns
    -------
    DataFrame with the columns step, factor, low, high (how many times as fast as the step before, with its 95 %
    interval), p50_ms; the last two rows are the product of the steps, and the ends measured against each other
    """
    names = [arm["name"] for arm in calls.attrs["experiment"]["arms"]]
    names = names[: names.index(stats.control(calls)[0])]  # type: ignore[index]  # a ladder has a control
    p50_ms = stats.summary(calls).set_index(["arm", "rows"])["p50_ms"]
    there = [name for name in names if (name, rows) in p50_ms.index]  # few rows are not streamed
    names = [name for name in there if name != "ONNX Runtime" or "as a stream" not in there]
    found: list[dict[str, Any]] = [{"step": names[0], "p50_ms": p50_ms[names[0], rows]}]
    for before, after in itertools.pairwise(names):
        found.append({"step": after, "p50_ms": p50_ms[after, rows], **_faster(calls, after, before, rows)})
    product = float(np.prod([step["factor"] for step in found[1:]]))
    found.append({"step": "all steps, multiplied", "factor": product, "low": product, "high": product})
    first, last = names[0] + AS_AN_END, names[-1] + AS_AN_END
    found.append({"step": "the ends, side by side", **_faster(calls, last, first, rows)})
    return pd.DataFrame(found)


def _faster(calls: pd.DataFrame, arm: str, base: str, rows: int) -> dict[str, float]:
    one = stats.ratio(calls[calls["rows"] == rows], base, arm).iloc[0]
    return {"factor": one["ratio"], "low": one["low"], "high": one["high"]}


def _ms(ms: float) -> str:
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"


def of_ladder(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> dict[str, Figure]:
    """One figure for each number of rows."""
    return {f"ladder_{rows}": ladder(steps_at(calls, rows), rows, stamp) for rows in sorted(calls["rows"].unique())}


def ladder(steps: pd.DataFrame, rows: int, stamp: dict[str, Any] | None = None) -> Figure:
    """What each step gave: its factor with the interval, and beside it the median latency that is left."""
    product, ends = steps["factor"].iloc[-2:]
    title = f"{plots.capital(stats.at(rows))} the last step is {ends:.3g} times as fast as the first"
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
