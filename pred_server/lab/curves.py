"""The points of an experiment along its axis, rows or load: medians, ratios, and in sentences what follows."""

import itertools
import re
from typing import Any

import pandas as pd

from pred_server.lab import findings, stats, words
from pred_server.lab.words import NO_DIFFERENCE

LABELS = {"rows": "rows in one call", "callers": "callers at the same time", "rate_per_s": "offered calls per second"}
UNITS = {"rows": ("row", "rows"), "callers": ("caller", "callers"), "rate_per_s": ("call/s", "calls/s")}


def axis_of(calls: pd.DataFrame) -> str:
    """Return what varies in an experiment: "rows", or else the load: "callers" or "rate_per_s"."""
    if calls["rows"].nunique() > 1:
        return "rows"
    rates = _control_free(calls).query("rate_per_s > 0").groupby("arm")["rate_per_s"].mean()
    if rates.nunique() > 1:
        return "rate_per_s"
    return "callers" if calls["callers"].nunique() > 1 else "rows"


def _control_free(calls: pd.DataFrame) -> pd.DataFrame:
    arms = _arms(calls)
    again = {pair[0] for pair in stats.pairs(calls) if _is_control(arms, *pair)}
    return findings.in_order(calls[~calls["arm"].isin(again)])


def _arms(calls: pd.DataFrame) -> dict[str, dict[str, Any]]:
    return {arm["name"]: arm for arm in calls.attrs["experiment"]["arms"]}


def _is_control(arms: dict[str, dict[str, Any]], arm: str, base: str) -> bool:
    """Return whether a pair is the same thing twice, in two processes."""
    if arm not in arms or base not in arms:  # a sum of arms
        return False
    one, other = ({**arms[name], "name": ""} for name in (arm, base))
    return one["process"] != other["process"] and {**one, "process": 0} == {**other, "process": 0}


def line_of(arm: str, axis: str) -> str:
    """Return an arm's name without the load that is on the axis: "csv, 4 callers" becomes "csv"."""
    return arm if axis == "rows" else re.sub(r", \d[\d,.]*( callers?|/s|%)$", "", arm)


def points(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the curve of every arm, without those of controls.

    Returns
    -------
    DataFrame with the columns of `stats.summary`, line (the arm without its load) and x (its place on the axis)
    """
    axis, calls = axis_of(calls), _control_free(calls)
    found = stats.summary(calls)
    places = calls.groupby("arm")[axis].mean()
    x = found["rows"] if axis == "rows" else found["arm"].map(places)
    found = found.assign(line=[line_of(arm, axis) for arm in found["arm"]], x=x)
    return found[found["x"] > 0].reset_index(drop=True)


def ratios(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what was declared, at every point; where a load is on the axis, every load has a control of its own.

    Returns
    -------
    DataFrame with the columns of `stats.report`, line, base_line, x, and control: whether it is one
    """
    axis, arms = axis_of(calls), _arms(calls)
    if axis == "rows":
        found = stats.declared(calls).assign(control=False)
        found["control"] = [pair == stats.control(calls) for pair in zip(found["arm"], found["base"], strict=True)]
        return found.assign(line=found["arm"], base_line=found["base"], x=found["rows"])
    places = calls.groupby("arm")[axis].mean()
    by_place: dict[float, list[stats.Comparison]] = {}
    for pair in stats.pairs(calls):
        if places.get(pair[1], 0) > 0:  # beside rates may stand closed loops, which have none
            by_place.setdefault(float(places[pair[1]]), []).append(pair)
    frames = []
    for x, pairs in sorted(by_place.items()):
        controls = [pair for pair in pairs if _is_control(arms, *pair)]
        report = stats.report(calls, [pair for pair in pairs if pair not in controls], *controls[:1])
        is_control = [pair in controls for pair in zip(report["arm"], report["base"], strict=True)]
        frames.append(report.assign(x=x, control=is_control))
    found = pd.concat(frames, ignore_index=True)
    lines = {name: [line_of(arm, axis) for arm in found[name]] for name in ("arm", "base")}
    return found.assign(line=lines["arm"], base_line=lines["base"])


def conclusions(calls: pd.DataFrame) -> list[str]:
    """Return what the experiment found: a sentence for each pair of arms, and what the control says of them."""
    axis, found = axis_of(calls), ratios(calls)
    said = []
    for (line, base), rows in found[~found["control"]].groupby(["line", "base_line"], sort=False):
        in_turn = itertools.groupby(rows.sort_values("x").itertuples(), key=lambda row: row.verdict)
        runs = [list(run) for _, run in in_turn]
        parts = "; ".join(_part(run, axis) for run in runs)
        said.append(f"{words.capital(words.named(str(line)))} against {words.named(str(base))}: {parts}.")
    return said + [_control(control, axis) for control in [found[found["control"]]] if len(control)]


def _part(run: list[Any], axis: str) -> str:
    """Return one verdict with the points at which it holds: "at 100 to 10,000 rows 1.4 to 2.5 times as fast"."""
    where = _where([row.x for row in run], axis)
    if run[0].verdict in ("faster", "slower"):
        if len(run) == 1:
            return f"{where} {words.difference(run[0])}"
        sizes = sorted(row.ratio if row.verdict == "slower" else 1 / row.ratio for row in run)
        ends = " to ".join(dict.fromkeys(f"{words.factor(size)}×" for size in (sizes[0], sizes[-1])))
        return f"{where} {ends} {run[0].verdict}"
    if len(run) == 1 and run[0].verdict == NO_DIFFERENCE:
        why = "" if run[0].low <= 1 <= run[0].high else "; the control differs from 1 by as much"
        return f"{where} {NO_DIFFERENCE} ({words.interval(run[0])} times as long{why})"
    return f"{where} {run[0].verdict}"


def _where(places: list[float], axis: str) -> str:
    ends = " to ".join(f"{place:,.0f}" for place in dict.fromkeys((places[0], places[-1])))
    one, many = UNITS[axis]
    return f"at {ends} {one if places[-1] == 1 else many}"


def _control(control: pd.DataFrame, axis: str) -> str:
    once = words.named(control["base_line"].iloc[0])
    low, high = (words.factor(end) for end in (control["ratio"].min(), control["ratio"].max()))
    reach = max(control["high"].max(), 1 / control["low"].min()) - 1
    said = f"Control: {once} against itself, in the same run, reads {low if low == high else f'{low} to {high}'}"
    off: list[Any] = [row.x for row in control.itertuples() if row.verdict in ("faster", "slower")]
    if off:
        return f"{said}. It misses 1 {_where(off, axis)}: do not trust small differences there."
    return f"{said}; with its intervals it stays within {reach:.0%} of 1, and smaller differences count as none."
