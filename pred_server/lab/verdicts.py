"""Verdicts: does a second run of an experiment say what the first one said? Directions count, milliseconds do not."""

from collections import Counter
from typing import Any

import pandas as pd

from pred_server.lab import stats, words
from pred_server.lab.words import NO_DIFFERENCE

CONFIRMED, NOT_RESOLVED, CONTRADICTED = VERDICTS = ("confirmed", "not resolved", "contradicted")
NO_NOISE = 1.5  # a control that is further from 1 is no noise: its two arms were not the same
KEYS = ["arm", "base", "rows"]


def compare(there: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    """Compare two runs: each comparison that both declared, at each number of rows that both measured.

    *Confirmed*: the same direction, or no difference in both. *Contradicted*: opposite directions. Else *not resolved*:
    one of the two found no difference, or could not compare.

    Parameters
    ----------
    there, here : calls, or block medians, with `attrs`: what `experiments.read` and `machines.read` return

    Returns
    -------
    DataFrame with the columns arm, base, rows, verdict, ratio, low, high (here, with its 95 % interval), there_ratio,
    there_low, there_high, and why: what the intervals do not show of a verdict that is not resolved
    """
    theirs, ours = (_declared(calls).set_index(KEYS) for calls in (there, here))
    both = ours.join(theirs.add_prefix("there_"), how="inner").reset_index()
    both["why"] = [_why(row) for row in both.itertuples()]
    both["verdict"] = [_verdict(row) for row in both.itertuples()]
    return both[[*KEYS, "verdict", "ratio", "low", "high", "there_ratio", "there_low", "there_high", "why"]]


def _declared(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what the experiment declared, without its control: nothing within the control's error is a difference.

    Where the control is two different things, by its whole interval, it says nothing about errors.
    """
    declared, control = stats.declared(calls), stats.control(calls)
    of_control = pd.Series([pair == control for pair in zip(declared["arm"], declared["base"], strict=True)])
    is_off = of_control & ((declared["low"] > NO_NOISE) | (declared["high"] < 1 / NO_NOISE))
    uncontrolled = calls[calls["rows"].isin(declared.loc[is_off, "rows"])]
    declared = declared[~of_control & ~declared["rows"].isin(uncontrolled["rows"])]
    return declared if uncontrolled.empty else pd.concat([declared, stats.report(uncontrolled, stats.compared(calls))])


def _verdict(row: Any) -> str:
    there, here = row.there_verdict, row.verdict
    if {there, here} == {"faster", "slower"}:
        return CONTRADICTED
    return CONFIRMED if there == here and here in ("faster", "slower", NO_DIFFERENCE) else NOT_RESOLVED


def _why(row: Any) -> str:
    if row.verdict == row.there_verdict == NO_DIFFERENCE:
        return ""
    for where, verdict, low, high in (
        ("here", row.verdict, row.low, row.high),
        ("there", row.there_verdict, row.there_low, row.there_high),
    ):
        if verdict.startswith("not compared"):
            return f"{where} {verdict}"
        if verdict == NO_DIFFERENCE and not low <= 1 <= high:
            return f"the control {where} differs from 1 by as much"
    return ""


def line(row: Any) -> str:
    """Return one row of `compare` as a line: the verdict, then the ratio and its interval, here and there."""
    here, there = intervals(row)
    compared = f"{words.at(row.rows)} {words.named(row.arm)} ÷ {words.named(row.base)}"
    return f"{row.verdict:12}  {compared}: here {here}, there {there}" + (f"; {row.why}" if row.why else "")


def intervals(row: Any) -> tuple[str, str]:
    """Return the ratios of one row of `compare` with their intervals, here and there: "1.06 [1.00, 1.11]"."""
    numbers = (row.ratio, row.low, row.high), (row.there_ratio, row.there_low, row.there_high)
    here, there = ("{} [{}, {}]".format(*map(words.factor, three)) for three in numbers)
    return here, there


def counts(verdicts: pd.DataFrame) -> str:
    """Return how many verdicts of each kind there are: "12 confirmed, 3 not resolved, 0 contradicted"."""
    number = Counter(verdicts["verdict"])
    return ", ".join(f"{number[verdict]} {verdict}" for verdict in VERDICTS)
