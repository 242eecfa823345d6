"""The comparisons that the short block of a result states, by study: those which a further machine may contradict."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from pred_server.lab import findings, report_ways, stats

BASE = "the article's server"
SHORT_ROWS = (1, 1_000, 100_000, 1_000_000)
SHORT_ARMS = (BASE, "csv", "tensor", "streamed tensor", *(f"{name}{findings.OVER_HTTP}" for name in ("csv", "tensor")))
Claim = tuple[str, str, int]  # a declared comparison that a block states: arm, base, rows


def stated(steps: pd.DataFrame) -> "tuple[pd.Series[Any], pd.Series[Any]]":
    """Return what a short block states of a ladder: its largest step, and its ends."""
    return steps.iloc[1:-2].sort_values("factor").iloc[-1], steps.iloc[-1]


def _pairs(calls: pd.DataFrame, shown: dict[int, set[str]]) -> set[Claim]:
    """Return the declared comparisons both of whose sides are shown; `shown` has names of arms by rows."""
    compare = [tuple(pair) for pair in calls.attrs["experiment"]["compare"]]
    return {(arm, base, rows) for arm, base in compare for rows, names in shown.items() if {arm, base} <= names}


def _encodings_claims(calls: pd.DataFrame) -> set[Claim]:
    sizes = calls.attrs["experiment"]["rows"]
    if set(SHORT_ROWS) <= set(sizes):
        return _pairs(calls, {rows: {*SHORT_ARMS, "in process"} for rows in SHORT_ROWS})
    ours = calls[calls["server"] == "serve"].groupby(["rows", "arm"])["latency_ms"].median()
    return _pairs(calls, {rows: {BASE, ours[rows].idxmin(), "in process"} for rows in (min(sizes), max(sizes))})


def _load_claims(calls: pd.DataFrame) -> set[Claim]:
    offered = findings.offered(calls)
    at_step = offered[offered["step"] == findings.shared_step(findings.load_points(calls))]
    return _pairs(calls, {rows: set(at_step["arm"]) for rows in calls.attrs["experiment"]["rows"]})


def _chunks_claims(calls: pd.DataFrame) -> set[Claim]:
    streams = stats.throughput(calls[(calls["chunk_rows"] > 0) & (calls["server"] == "serve")])
    best = streams.sort_values("rows_per_s").iloc[-1]
    return {(arm, base, best["rows"]) for arm, base in calls.attrs["experiment"]["compare"] if arm == best["arm"]}


def _ladder_claims(calls: pd.DataFrame) -> set[Claim]:
    claims = set()
    for rows, callers in findings.ladders(calls):
        largest, ends = stated(findings.steps_at(calls, rows, callers))
        claims |= {(step["arm"], step["base"], rows) for step in (largest, ends)}
    return claims


def _distance_claims(calls: pd.DataFrame) -> set[Claim]:
    """Return the claims of the farthest arms: of each number of rows the quickest of the others, which is compared."""
    farthest = calls[calls["rtt_ms"] == calls["rtt_ms"].max()]
    claims: set[Claim] = set()
    for rows, some in farthest.groupby("rows"):
        quickest = some[some["server"] != "serve"].groupby("arm")["latency_ms"].median().idxmin()
        claims |= _pairs(calls, {int(str(rows)): {*some.loc[some["server"] == "serve", "arm"], str(quickest)}})
    return claims


def _all_claims(calls: pd.DataFrame) -> set[Claim]:
    experiment = calls.attrs["experiment"]
    return {(arm, base, rows) for arm, base in experiment["compare"] for rows in experiment["rows"]}


# In its words or by two cells of its table. Who changes a block of `report` changes its claims.
CLAIMS: dict[str, Callable[[pd.DataFrame], set[Claim]]] = {
    "rows": _all_claims, "encodings": _encodings_claims, "load": _load_claims, "chunks": _chunks_claims,
    "ladder": _ladder_claims, "parts": _all_claims, "callers": _all_claims,
    "distance": _distance_claims, "enormous": _all_claims, "beside": _all_claims, "start": _all_claims,
    "ways": report_ways.claims,
    "capacity": _all_claims, "layers": _all_claims,
}  # fmt: skip
