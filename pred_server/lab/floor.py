"""How near the floor: the cases that were to be fast, each beside what it replaces or cannot beat, in one run.

Unlike the other experiments this one has models and sizes of its own. It runs unpinned: servers of several processes
share the cores with the caller, as they do on a small machine.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from pred_server.checkout import MODELS
from pred_server.client.client import CHUNK_BYTES
from pred_server.lab import plots, stats
from pred_server.lab.calls import Arm
from pred_server.lab.experiments import Experiment
from pred_server.limits import MIB
from pred_server.model.sklearn_engine import ROW_BLOCK
from pred_server.model.store import save

# With the default limit of 64 MiB the largest tables would be refused, which is no time.
ROOMY = ("--max-message-bytes", str(512 * MIB))
ONNX = ("--engine", "onnx")
FEW, MANY, MOST = 1, 100_000, 1_000_000
FIRST = "first predictions"  # of the arm that they are compared with
CHUNK_ROWS = CHUNK_BYTES // 80 // ROW_BLOCK * ROW_BLOCK  # of ten doubles


@dataclass(frozen=True)
class Case:
    """A ratio with a target: the latency of `over` to that of `under`.

    Parameters
    ----------
    over, under : names of arms; where there are several, with " + " between them, their medians are added
    target : the ratio is to be at least so large; at most, if `at_most`
    rates : whether it is the time of all calls of a stretch, the inverse of their rate, and not that of one call
    """

    what: str
    over: str
    under: str
    target: float
    at_most: bool = False
    rows: int = FEW
    rates: bool = False


CASES = (
    Case("linear, 1 row: ours to echo + predict", "linear", "echo + linear in process", 1.2, at_most=True),
    Case("the same, predict given a checked array", "linear", "echo + linear, checked", 1.2, at_most=True),
    Case("linear, 1 row, idle: batching on to off", "linear", "linear, no batching", 1.03, at_most=True),
    Case("forest of 100 trees, 1 row: article to ours, ONNX", "forest, article", "forest, ONNX", 8),
    Case("flights, 1 row, CSV text: article to ours, ONNX", "flights, article", "flights, ONNX", 8),
    Case(
        "forest, 1 row, 32 callers: our rate, ONNX, to the echo's",
        "echo, 32 callers",
        "forest, 32 callers",
        0.85,
        rates=True,
    ),
    Case("boosting, 1 row, 32 callers: our rate to the article's", "boosting, article", "boosting", 10, rates=True),
    Case(
        "linear, 100,000 rows, DataFrame to Series, CSV: article to ours", "article, frame", "CSV, frame", 7, rows=MANY
    ),
    Case("linear, 100,000 rows, CSV text ready-made: article to ours", "article, text", "CSV, text", 3.5, rows=MANY),
    Case(
        "linear, 1,000,000 rows: ours to raw TCP + predict", "tensor", "TCP + in process", 2.5, at_most=True, rows=MOST
    ),
    Case("linear, 1,000,000 rows: Arrow Flight to ours", "Flight", "tensor", 1.2, rows=MOST),
    Case(
        "linear, 1,000,000 rows, DataFrame to Series: article to ours",
        "article, frame",
        "tensor, frame",
        100,
        rows=MOST,
    ),
    Case("linear, 1,000,000 rows: first predictions to the whole", FIRST, "tensor", 0.1, at_most=True, rows=MOST),
)


def by_case(quick: bool = False) -> Experiment:
    """Every case of `CASES`; a quick run leaves out the one that takes minutes."""
    few, many, most = (FEW,), (MANY,), (MOST,)
    linear = Arm("linear", encoding="tensor", flags=ROOMY, rows=few, calls=20 if quick else 150)
    forest = Arm("forest, ONNX", encoding="tensor", flags=ONNX, model=_trained("forest"), rows=few)
    boosting = Arm("boosting", encoding="tensor", model=_trained("boosting"), callers=32, calls=320, rows=few)
    flights = Arm("flights, ONNX", flags=ONNX, model="flights", rows=few)
    echo = Arm("echo", "echo", "tensor", rows=few)
    tensor = Arm("tensor", encoding="tensor", flags=ROOMY, chunk_rows=CHUNK_ROWS, rows=most, calls=4)
    text = Arm("CSV, text", flags=ROOMY, chunk_rows=20_000, rows=many, calls=10)  # some 4 MB
    arms = (
        linear,
        replace(linear, name="linear, again", process=1),
        replace(linear, name="linear, no batching", flags=(*ROOMY, "--max-batch-rows", "1")),
        echo,
        Arm("linear in process", "predict", rows=few),
        Arm("linear, checked", "predict", "tensor", rows=few),
        forest,
        Arm("forest, article", "article", model=forest.model, rows=few),
        flights,
        Arm("flights, article", "article", model="flights", rows=few),
        replace(forest, name="forest, 32 callers", callers=32, calls=320),
        replace(echo, name="echo, 32 callers", callers=32, calls=320),
        boosting,
        replace(boosting, name="boosting, article", server="article", encoding="csv"),
        replace(text, name="CSV, frame", chunk_rows=0, frame=True),
        Arm("article, frame", "article", frame=True, rows=many if quick else (*many, *most), calls=1),
        text,
        replace(text, name="CSV, one message", chunk_rows=0),
        Arm("article, text", "article", rows=many, calls=10),
        tensor,
        replace(tensor, name="tensor, frame", chunk_rows=0, frame=True),
        Arm("TCP", "tcp", "tensor", chunk_rows=CHUNK_ROWS, rows=most, calls=4),
        Arm("in process", "predict", rows=most, calls=4),
        Arm("Flight", "flight", rows=most, calls=4),
    )
    return Experiment(
        arms,
        tuple((case.over, case.under) for case in CASES if case.over != FIRST),
        ("linear, again", "linear"),
        "floor",
        "linear",
        (FEW, MANY, MOST),
        blocks=3 if quick else 16,
        calls=20 if quick else 50,
        most_rows=MANY - 1,
        pin=False,
    )


def cases(calls: pd.DataFrame) -> pd.DataFrame:
    """What became of each case.

    Returns
    -------
    DataFrame with the columns case, rows, ratio, low, high (95 % interval), target, at_most, margin (1 where the target
    is just met, above where it is exceeded), doubt
    """
    found = []
    for case in CASES:
        ratio = stats.ratio(_measured(calls[calls["rows"] == case.rows], case), case.over, case.under)
        if ratio.empty:
            continue
        read = ratio.iloc[0]
        margin = case.target / read["ratio"] if case.at_most else read["ratio"] / case.target
        numbers = read[["rows", "ratio", "low", "high"]].to_dict()
        found.append({"case": case.what, **numbers, "target": case.target, "at_most": case.at_most})
        found[-1] |= {"margin": margin, "doubt": stats.doubt(read)}
    return pd.DataFrame(found)


def _measured(calls: pd.DataFrame, case: Case) -> pd.DataFrame:
    """The calls, with what the case is about as their latency."""
    if case.over == FIRST:
        first = calls[calls["arm"] == case.under]
        return pd.concat([calls, first.assign(arm=FIRST, latency_ms=first["first_ms"])])
    if not case.rates:
        return calls
    stretches = calls.groupby(["arm", "rows", "block", "half"], as_index=False)
    times = stretches.agg(
        first=("sent_ns", "min"), last=("done_ns", "max"), n=("call", "size"), ok=("ok", "all"), valid=("valid", "all")
    )
    return times.assign(latency_ms=(times["last"] - times["first"]) / times["n"] / 1e6)


def of_cases(calls: pd.DataFrame, compared: pd.DataFrame, stamp: dict[str, Any]) -> dict[str, Figure]:
    found = cases(calls)
    return {"cases": margins(found, stamp)}


def margins(found: pd.DataFrame, stamp: dict[str, Any] | None = None) -> Figure:
    """Each case's ratio as a share of its target: right of the line is better than was asked."""
    met = int((found["margin"] >= 1).sum())
    title = f"{met} of {len(found)} targets are met; right of the line is better than the target"
    figure, axes = plots.titled(title, stamp, height=1.2 + 0.4 * len(found))
    for place, (_, case) in enumerate(found.iterrows()):
        ends = [case.target / end if case.at_most else end / case.target for end in (case.low, case.high)]
        colour, marker = (plots.COLOURS[2], "o") if case.margin >= 1 else (plots.COLOURS[1], "s")
        axes.plot(ends, [place, place], color=colour, linewidth=2)
        axes.plot(case.margin, place, marker=marker, color=colour)
        axes.annotate(f"  {case.ratio:.3g}", (max(ends), place), va="center", fontsize=9)
    axes.axvline(1, color="0.45", linestyle=(0, (1, 1)))
    axes.set(xscale="log", xlabel="how far beyond the target, 95 % interval (1: just met)")
    axes.set_yticks(range(len(found)), [f"{case['case']} {_target(case)}" for _, case in found.iterrows()], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    axes.grid(True, axis="x", alpha=0.3)
    told = "; ".join(f"{case['case']} {case.ratio:.3g}, target {_target(case)}" for _, case in found.iterrows())
    return plots.with_alt(figure, f"{title}. {told}.")


def table(found: pd.DataFrame) -> list[str]:
    """The cases as lines of a Markdown table."""
    lines = ["| case | target | measured, 95 % interval | |", "|---|---|---|---|"]
    for _, case in found.iterrows():
        verdict = case.doubt or ("met" if case.margin >= 1 else "missed")
        numbers = f"{case.ratio:.3g} [{case.low:.3g}, {case.high:.3g}]"
        lines.append(f"| {case['case']} | {_target(case)} | {numbers} | {verdict} |")
    return lines


def _target(case: Any) -> str:
    return f"{'≤' if case.at_most else '≥'} {case.target:g}"


def _trained(name: str) -> str:
    """The name of a model on ten numbers, trained if that has not been done yet."""
    if not (MODELS / name / "manifest.json").exists():
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.normal(size=(2_000, 10))).add_prefix("x")
        target = table["x0"] * table["x1"] + np.sin(table["x2"]) + rng.normal(scale=0.1, size=len(table))
        kinds = {
            "forest": RandomForestRegressor(n_estimators=100, random_state=0),
            "boosting": HistGradientBoostingRegressor(random_state=0),
        }
        save(kinds[name].fit(table, target), table, MODELS / name)
    return name
