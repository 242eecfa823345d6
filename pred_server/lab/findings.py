"""What the declared studies found: the steps of a ladder, the cases with a target, the loads that were kept up with."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pred_server.lab import stats

CLOSED, EVEN = "closed loop", "evenly"  # of the names of arms beside an offered load
AGAIN = ", again"  # of the name of an arm that stands beside itself
OVER_HTTP = " over HTTP"  # of the names of arms whose bytes go over HTTP/1.1 in place of gRPC
AS_AN_END = ", as an end"  # of the names of arms that measure a ladder's ends a second time
# Names of steps in results that were published before the steps had plainer names.
RENAMED = {"what waits, as one": "batching", "ours, each call by itself": "ours, no batching"}
OURS = "ours"  # at the caller's hand
READY = "ours, ready bytes"
FLOOR = f"echo{stats.SUM}in process"
BEST = "the best rival"


@dataclass(frozen=True)
class Case:
    """A ratio with a target: what `over` takes, divided by what `under` takes.

    Parameters
    ----------
    study, model, rows : in whose result the arms are
    over, under : names of arms; with " + " between several names, their medians are added. `over` may be `BEST`
    target : the ratio must be at least this; at most this, if `at_most`
    compares : latency; or the seconds of a stretch of calls divided by their number, the inverse of their rate; or what
        the server's processes compute for a call
    """

    name: str
    study: str
    model: str
    over: str
    under: str
    target: float
    at_most: bool = False
    rows: int = 1
    compares: Literal["latency", "rates", "CPU"] = "latency"

    @property
    def target_text(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.target:g}"


def _at_hand(model: str, over: str, under: str, targets: dict[int, float], at_most: bool = False) -> Iterator[Case]:
    """Yield a case for each number of rows that has a target."""
    divided = f"{over} ÷ {f'({under})' if stats.SUM in under else under}"
    for rows, target in targets.items():
        name = f"{model}, {rows:,} row{'s' if rows > 1 else ''}: {divided}"
        yield Case(name, "rows", model, over, under, target, at_most, rows)


def callers_suffix(callers: int) -> str:
    """Return the end of the names of arms with many callers."""
    return f", {callers} callers" if callers > 1 else ""


def point_suffix(axis: str, point: int) -> str:
    """Return the end of the names of arms with one of many loads: callers, or a rate."""
    return callers_suffix(point) if axis == "callers" else f", {point:,}/s"


_32 = callers_suffix(32)
# They were set before the first measurement at the caller's hand.
CASES = (
    *_at_hand("linear", OURS, FLOOR, {1: 1.45, 100: 1.5, 1_000: 1.6, 10_000: 1.25, 100_000: 1.12}, at_most=True),
    *_at_hand("linear", OURS, "FastAPI", {1: 1.2}, at_most=True),
    *_at_hand("linear", "KServe", OURS, {1: 1.3, 1_000: 1.1}),
    *_at_hand("linear", "MLServer", OURS, {1: 1.35, 1_000: 1.5}),
    *_at_hand("linear", "Arrow Flight", OURS, {1_000: 1.15, 10_000: 0.8, 100_000: 0.9, 1_000_000: 1.25}),
    *_at_hand("boosting", OURS, FLOOR, {1: 1.2, 1_000: 1.15, 10_000: 1.12, 100_000: 1.1}, at_most=True),
    *_at_hand("boosting", BEST, OURS, {1: 0.95, 1_000: 1.2, 100_000: 1.1}),
    *(
        Case(f"{model}, 1 row, 16 callers: rate of ours ÷ rate of {BEST}", "callers", model, BEST, f"{OURS}, {model}",
             target, compares="rates")
        for model, target in {"linear": 1.6, "boosting": 2.2, "forest": 2.8}.items()
    ),
    Case(
        "linear, 1 row, 32 callers: server CPU for a call, ours ÷ echo", "callers", "linear", f"{OURS}, linear{_32}",
        f"echo{_32}", 1.4, at_most=True, compares="CPU",
    ),
)  # fmt: skip


def study_of(calls: pd.DataFrame) -> str:
    """Return the name of a result's study. Results of rows without a client at the caller's hand compare encodings."""
    experiment = calls.attrs["experiment"]
    if experiment["varies"] == "rows" and not any(arm["frame"] for arm in experiment["arms"]):
        return "encodings"
    return str(experiment["varies"])


def in_order(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the calls in the order of the experiment's arms, without those of the control's second arm."""
    order = {arm["name"]: place for place, arm in enumerate(calls.attrs["experiment"]["arms"])}
    calls = calls[calls["arm"] != (stats.control(calls) or ("",))[0]]
    return calls.sort_values("arm", key=lambda arms: arms.map(order), kind="stable")


def at_hand(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the calls of a study at the caller's hand, in its order, with one name for all bytes that ours sends.

    These are arms of several names, since our client chooses an encoding by the table's size. The control is left out.
    """
    arms = calls.attrs["experiment"]["arms"]
    names = {arm["name"]: READY for arm in arms if arm["server"] == "serve" and not arm["frame"]}
    names |= {arm["name"]: "echo" for arm in arms if arm["server"] == "echo"}
    calls = in_order(calls)
    calls = calls[(calls["callers"] == 1) & (calls["rate_per_s"] == 0) & ~calls["arm"].str.endswith(CLOSED)]
    return calls.assign(arm=calls["arm"].replace(names))


def rivals(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what was declared of other servers against ours at the caller's hand; the columns of `stats.report`."""
    compared, arms = stats.declared(calls), calls.attrs["experiment"]["arms"]
    others = [arm["name"] for arm in arms if arm["server"] != "serve"]
    return compared[(compared["base"] == OURS) & compared["arm"].isin(others)]


def cases(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the outcome of each case whose arms were measured.

    Returns
    -------
    DataFrame with the columns case, target (as text), ratio, low, high (95 % interval), written (the ratio as text,
    with three digits, or more where it would look like its target), margin, margin_low, margin_high (how far beyond
    the target: 1 where it is just met), doubt
    """
    study, model, outcomes = study_of(calls), calls.attrs["experiment"]["model"], []
    for case in CASES:
        if case.study != study or (study == "rows" and case.model != model):
            continue
        measured = _measured(calls, case)
        over = _best(calls, measured, case.under) if case.over == BEST else case.over
        for _, row in stats.ratio(measured, over, case.under).iterrows():
            numbers = row[["ratio", "low", "high"]].astype(float)
            margins = case.target / numbers if case.at_most else numbers / case.target
            name = case.name.replace(BEST, f"{BEST} ({over.removesuffix(f', {case.model}')})")
            outcome = {"case": name, "target": case.target_text, **numbers, "margin": margins["ratio"]}
            outcome |= {"margin_low": margins.min(), "margin_high": margins.max(), "doubt": stats.doubt(row)}
            outcomes.append(outcome | {"written": _apart(numbers["ratio"], case.target)})
    return pd.DataFrame(outcomes)


def _apart(ratio: float, target: float) -> str:
    """Write a ratio with three digits, or with as many more as it takes to tell it from its target."""
    told = (digits for digits in range(3, 7) if f"{ratio:.{digits}g}" != f"{target:.{digits}g}")
    return f"{ratio:.{next(told, 3)}g}"


def _measured(calls: pd.DataFrame, case: Case) -> pd.DataFrame:
    """Return the calls with as many rows as the case, and what it compares as their latency."""
    calls = calls[calls["rows"] == case.rows]
    if case.compares == "rates":
        return _stretches(calls)
    return calls.assign(latency_ms=calls["server_cpu_ms"]) if case.compares == "CPU" else at_hand(calls)


def _best(calls: pd.DataFrame, measured: pd.DataFrame, ours: str) -> str:
    """Return the arm of another server that was declared beside ours and takes least; no name if there is none."""
    experiment = calls.attrs["experiment"]
    others = {arm["name"] for arm in experiment["arms"] if arm["server"] != "serve"}
    beside = [arm for arm, base in experiment["compare"] if base == ours and arm in others]
    p50_ms = measured[measured["arm"].isin(beside)].groupby("arm")["latency_ms"].median()
    return "" if p50_ms.empty else str(p50_ms.idxmin())


def _stretches(calls: pd.DataFrame) -> pd.DataFrame:
    """Return stretches of calls, with the time that one call takes of it, the inverse of the rate, as latency."""
    stretches = calls.groupby(["arm", "rows", "block", "half"], as_index=False)
    times = stretches.agg(
        first=("sent_ns", "min"), last=("done_ns", "max"), n=("call", "size"), ok=("ok", "all"), valid=("valid", "all")
    )
    return times.assign(latency_ms=(times["last"] - times["first"]) / times["n"] / 1e6)


def rates(calls: pd.DataFrame) -> pd.DataFrame:
    """Return how many times as many calls a second each base answers as the arm that was declared beside it.

    Returns
    -------
    DataFrame with the columns arm, base, ratio, low, high (of the rates, 95 %), doubt, cpu, cpu_low, cpu_high (how many
    times as long the arm's servers compute for a call as the base's)
    """
    lines = []
    cpu = calls.assign(latency_ms=calls["server_cpu_ms"])
    for arm, base in [*filter(None, [stats.control(calls)]), *map(tuple, calls.attrs["experiment"]["compare"])]:
        rate, computed = (stats.ratio(these, arm, base).iloc[0] for these in (_stretches(calls), cpu))
        lines.append({"arm": arm, "base": base, **rate[["ratio", "low", "high"]], "doubt": stats.doubt(rate)})
        lines[-1] |= {f"cpu{end}": computed[name] for end, name in (("", "ratio"), ("_low", "low"), ("_high", "high"))}
    return pd.DataFrame(lines)


def ladders(calls: pd.DataFrame) -> list[tuple[int, int]]:
    """Return rows and callers of each ladder that was measured."""
    return sorted({(int(rows), int(callers)) for rows, callers in zip(calls["rows"], calls["callers"], strict=True)})


def steps_at(calls: pd.DataFrame, rows: int, callers: int = 1) -> pd.DataFrame:
    """Return the ladder at one number of rows and callers.

    Returns
    -------
    DataFrame with the columns step, factor, low, high (how many times as fast as the step before, with its 95 %
    interval), doubt, p50_ms, and arm and base: what was compared. The last two rows are the product of the steps, and
    the ends measured against each other.
    """
    calls = calls[(calls["rows"] == rows) & (calls["callers"] == callers)]
    p50_ms = stats.summary(calls).set_index("arm")["p50_ms"]
    again = (stats.control(calls) or ("",))[0]
    arms = [arm["name"] for arm in calls.attrs["experiment"]["arms"] if arm["name"] in p50_ms]
    names = [name for name in arms if name != again and not name.endswith(AS_AN_END)]
    short = [name.removesuffix(callers_suffix(callers)) for name in names]
    labels = [RENAMED.get(name, name) for name in short]
    steps: list[dict[str, Any]] = [{"step": labels[0], "p50_ms": p50_ms[names[0]], "doubt": ""}]
    for label, (before, after) in zip(labels[1:], itertools.pairwise(names), strict=True):
        steps.append({"step": label, "p50_ms": p50_ms[after], **_faster(calls, after, before)})
    product = math.prod(step["factor"] for step in steps[1:])
    steps.append({"step": "all steps, multiplied", "factor": product, "low": product, "high": product, "doubt": ""})
    ends = _faster(calls, names[-1] + AS_AN_END, names[0] + AS_AN_END)
    steps.append({"step": "the ends, side by side", **ends})
    return pd.DataFrame(steps)


def _faster(calls: pd.DataFrame, arm: str, base: str) -> dict[str, Any]:
    row = stats.ratio(calls, base, arm).iloc[0]
    compared = {"arm": arm, "base": base, "doubt": stats.doubt(row)}
    return compared | {"factor": row["ratio"], "low": row["low"], "high": row["high"]}


def offered(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the calls of a rising load, by server and step: its share of the capacity, or else its rate.

    The capacity is measured anew in each repetition, so `rate_per_s` becomes the mean over them.
    """
    calls = calls[(calls["process"] == 0) & (calls["rate_per_s"] > 0) & ~calls["arm"].str.endswith(EVEN)]
    shares = calls["share"] if "share" in calls else pd.Series(0.0, calls.index)
    calls = calls.assign(
        server=calls["arm"].str.rpartition(", ")[0],
        step=shares.where(shares > 0, calls["rate_per_s"]),
        rate_per_s=calls.groupby("arm")["rate_per_s"].transform("mean"),
    )
    return calls.sort_values(["server", "rate_per_s"])


def load_points(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what became of each offered load: `stats.throughput` by server, step and rate, and whether it kept up."""
    points = stats.throughput(offered(calls), ("server", "step", "rate_per_s"))
    answered = (points["calls_per_s"] > 0.95 * points["rate_per_s"]) & (points["failed_share"] == 0)
    return points.assign(kept_up=points["valid"] & answered)


def rates_in_words(points: pd.DataFrame) -> list[str]:
    """Return what each server kept up with: "csv 800/s (the highest rate tried)"."""
    highest = points.groupby("server")["rate_per_s"].max().to_dict()
    kept_up = points[points["kept_up"]].groupby("server", sort=False)["rate_per_s"].max()
    notes = {True: " (the highest rate tried)", False: ""}
    return [f"{server} {rate:,.0f}/s{notes[bool(rate == highest[server])]}" for server, rate in kept_up.items()]


def shared_step(points: pd.DataFrame) -> float:
    """Return the highest step that every server kept up with; the lowest of all steps, if there is none."""
    most = points[points["kept_up"]].groupby("server", sort=False)["step"].max()
    return float((points["step"] if most.empty else most).min())


def loops(calls: pd.DataFrame) -> pd.DataFrame:
    """Return why the medians of closed and open loops differ, by server, where all of these loops are valid.

    Returns
    -------
    DataFrame with the columns server, share (of the capacity, in the open loops), closed_ms (one caller, who waits for
    each answer), even_ms (an open loop in which calls do not meet), open_ms (one in which they may)
    """
    arms = stats.throughput(calls, ("arm",)).query("valid").set_index("arm")["p50_ms"].to_dict()
    lines = []
    for server, points in load_points(calls).groupby("server", sort=False):
        first, closed, even = points.sort_values("step").iloc[0], f"{server}, {CLOSED}", f"{server}, {EVEN}"
        if first["valid"] and closed in arms and even in arms:
            lines.append({"server": server, "share": first["step"], "closed_ms": arms[closed], "even_ms": arms[even]})
            lines[-1]["open_ms"] = first["p50_ms"]
    return pd.DataFrame(lines)


def carried(calls: pd.DataFrame) -> str:
    """Return the encoding that the study of encodings streams, the best binary one; nothing if it streams none."""
    arms = calls.attrs["experiment"]["arms"]
    return next((arm["encoding"] for arm in arms if arm["chunk_rows"] and arm["server"] == "serve"), "")


def echo_of(calls: pd.DataFrame) -> str:
    """Return the name of the echo with the bytes of the streamed encoding, or else of the first echo."""
    arms = [arm for arm in calls.attrs["experiment"]["arms"] if arm["server"] == "echo"]
    of_it = [arm for arm in arms if arm["encoding"] == carried(calls)]
    return (of_it or arms)[0]["name"] if arms else ""


def two_by_two(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what the encoding makes, and what the transport: {gRPC, HTTP/1.1} × {CSV, the binary encoding}.

    Returns
    -------
    DataFrame with the columns of `stats.report`, change ("`tensor` in place of `csv`, over gRPC") and part: "encoding"
    for this change, "transport" for that from gRPC to HTTP/1.1 with the binary encoding, "" for the other two. It is
    empty if not all four were measured.
    """
    text, binary = "csv", carried(calls)
    text_http, binary_http = text + OVER_HTTP, binary + OVER_HTTP
    if text == binary or not {text, binary, text_http, binary_http} <= {*calls["arm"]}:
        return pd.DataFrame()
    changes = {
        (binary, text): (f"`{binary}` in place of `{text}`, over gRPC", "encoding"),
        (binary_http, text_http): (f"`{binary}` in place of `{text}`, over HTTP/1.1", ""),
        (text_http, text): (f"HTTP/1.1 in place of gRPC, `{text}`", ""),
        (binary_http, binary): (f"HTTP/1.1 in place of gRPC, `{binary}`", "transport"),
    }
    found = stats.report(calls, [*changes], stats.control(calls))
    pairs = zip(found["arm"], found["base"], strict=True)
    found[["change", "part"]] = [changes.get(pair, ("", "")) for pair in pairs]
    return found[found["change"] != ""]  # without the control
