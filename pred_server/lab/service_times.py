"""How long the parts of our server's work take, read from a result of `bench`: what a simulation needs to know.

Only loops in which calls do not queue for long are read: closed ones, and open ones whose calls come evenly. So the
open loops with Poisson arrivals that a result may have, too, can judge what is predicted.
"""

import itertools
import random
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from pred_server.errors import InvalidInput
from pred_server.lab.simulation import Times
from pred_server.limits import Limits, flag

NEEDED = ("server_cpu_ms", "queue_ms", "predict_ms", "batch_rows", "generator", "rtt_ms", "cold", "beside")
MOST_DRAWN = 4_000  # calls of a loop that further calls are drawn from
STOP_MS = 1.0  # what takes so much longer than usual, and twice as long, was stopped by something else
SATURATED = 0.7  # of a core's time is used at least, where many callers keep a server busy
MOMENT_MS = 0.01  # a shorter pause is none
Draw = Callable[[float, random.Random], tuple[float, float]]


@dataclass(frozen=True)
class Measured:
    """What a result says of one model, as calls of so many rows find it.

    Parameters
    ----------
    times : of the server's parts
    limits : of the server that was measured
    crowds : calls a second of closed loops, by their callers, with `crowd_rows` in each call
    sizes : numbers of rows in one call that were measured
    most_batch_rows : of the batches that were measured
    has_pauses : whether calls after a pause were measured
    """

    times: Times
    rows: int
    limits: Limits
    crowds: dict[int, float]
    crowd_rows: int
    sizes: list[int]
    most_batch_rows: int
    has_pauses: bool


def of_model(calls: pd.DataFrame, model: str = "") -> pd.DataFrame:
    """Return the calls from which the service times of a model can be read: ready bytes, to servers with equal flags.

    Raises
    ------
    InvalidInput
        The result is of an older version, or it has none of these calls, not this model, or several and none is named.
    """
    if missing := [name for name in NEEDED if name not in calls]:
        raise InvalidInput(f"this result has no {missing[0]}: it is of an older version; measure anew")
    calls = calls.assign(model=calls["model"].where(calls["model"] != "", calls.attrs["experiment"]["model"]))
    plain = {
        "server": "serve",
        "frame": False,
        "chunk_rows": 0,
        "rtt_ms": 0.0,
        "cold": False,
        "beside": "",
        "process": 0,
    }
    # A generator that was late at times does no harm where calls are far apart.
    is_steady = np.where(calls["rate_per_s"] == 0, calls["valid"], calls["arrivals"] == "constant")
    is_plain = (calls[list(plain)] == pd.Series(plain)).all(axis=1)
    found = calls[is_plain & is_steady & calls["ok"] & calls["predict_ms"].notna()]
    if found.empty:
        raise InvalidInput("this result has no calls with ready bytes that our server answered and timed")
    models = list(found["model"].unique())
    if model not in models and (model or len(models) > 1):
        raise InvalidInput(
            f"{f'no model {model}' if model else 'several models'} in this result; name one of: {', '.join(models)}"
        )
    found = found[found["model"] == (model or models[0])]
    return _most_measured(found, "flags")


def _most_measured(calls: pd.DataFrame, column: str, what: str = "arm") -> pd.DataFrame:
    """Keep the value of a column for which most loops were measured, or most of another column's values."""
    return calls[calls[column] == calls.groupby(column, sort=False)[what].nunique().idxmax()]


def fit(calls: pd.DataFrame, rows: int = 1) -> Measured:
    """Read what the parts of a server's work take, for calls of so many rows.

    What was measured with other numbers of rows is interpolated, and beyond them continued as a straight line.

    Parameters
    ----------
    calls : what `of_model` returns

    Raises
    ------
    InvalidInput
        There is no closed loop of one caller, or the server that was measured takes no calls of so many rows.
    """
    calls = calls.assign(rest_ms=calls["service_ms"] - calls["predict_ms"], batches=calls["rows"] / calls["batch_rows"])
    limits, closed = limits_of(str(calls["flags"].iloc[0])), calls[calls["rate_per_s"] == 0]
    if rows > limits.max_rows:
        raise InvalidInput(f"--rows is {rows:,}: the server that was measured takes {limits.max_rows:,} rows at most")
    predict_ms = predict_curve(closed, limits.max_inline_ms)
    calls, closed = (_most_measured(some, "encoding") for some in (calls, closed))
    alone, crowds = closed[closed["callers"] == 1], closed[closed["callers"] > 1]
    if alone.empty:
        raise InvalidInput("this result has no closed loop of one caller, which tells what an idle server takes")
    sizes = sorted(alone["rows"].unique())
    base = min(set(crowds["rows"]) & set(sizes) or sizes, key=lambda size: abs(size - rows))
    lone, crowds, even = (some[some["rows"] == base] for some in (alone, crowds, calls[calls["rate_per_s"] > 0]))
    of_same = lone["generator"] == (lone if crowds.empty else crowds)["generator"].iloc[0]
    lone = lone[of_same] if of_same.any() else _most_measured(lone, "generator")
    busiest = crowds[crowds["callers"] == crowds["callers"].max()] if len(crowds) else lone
    loops = pd.concat([lone, crowds])
    call_ms, lone_ms = loop_ms(loops, predict_ms), core_ms(lone, loops)
    lone = lone[stopped_ms(lone) == 0]
    usual_ms = alone.groupby("rows")["latency_ms"].transform("median")
    short = alone[usual_ms <= 2 * usual_ms[alone["rows"] == base].iloc[0]]  # longer calls differ for other reasons, too
    often = even[even["rate_per_s"] > 0.5 * even["rate_per_s"].max()]  # rarer calls miss many stops
    outside_ms = max(MOMENT_MS, lone["service_ms"].mean() - lone_ms)
    hop_ms = 0.0 if predict_ms(rows) <= limits.max_inline_ms else min(lone["queue_ms"].mean(), outside_ms - MOMENT_MS)
    by_size = _most_measured(alone, "generator", "rows").groupby("rows")["rest_ms"].median()
    rest_of = line(by_size.index.to_numpy(dtype=float), by_size.to_numpy())
    more_ms = rest_of(rows) - rest_of(base)
    times = Times(
        predict_ms=lambda n_rows, draw: predict_ms(n_rows),
        is_quick=lambda n_rows: predict_ms(n_rows) <= limits.max_inline_ms,
        call_ms=lambda n_calls: max(0.0, call_ms(n_calls) + more_ms),
        hop_ms=hop_ms,
        outside_ms=outside_ms - hop_ms,
        gather=1 - float(busiest["batches"].mean()),
        extra=extras(lone, even, outside_ms, usual_ms=outside_ms + call_ms(1)),
        stop_ms=stops(pd.concat([short, often])),
    )
    rates = {int(callers): rate(some) for callers, some in crowds.groupby("callers")}
    most = int(calls["batch_rows"].max())
    return Measured(times, rows, limits, rates, int(base), [int(size) for size in sizes], most, len(even) > 0)


def paces(calls: pd.DataFrame, rows: int) -> "pd.Series[float]":
    """Return how many times as much each stretch of calls cost as all stretches of its loop, by block.

    A machine is quicker at some times than at others, for seconds.
    """
    stretches = calls[calls["rows"] == rows].groupby(["arm", "block", "half"])["server_cpu_ms"].first()
    return (stretches / stretches.groupby("arm").transform("mean")).droplevel(["arm", "half"])


def at_pace(times: Times, pace: float) -> Times:
    """Return the times of a machine on which all takes so many times as long. Stops stay as they are."""

    def predict_ms(rows: int, draw: random.Random) -> float:
        return pace * times.predict_ms(rows, draw)

    def extra(pause_ms: float, draw: random.Random) -> tuple[float, float]:
        rest_ms, model_ms = times.extra(pause_ms, draw)
        return pace * rest_ms, pace * model_ms

    return replace(
        times,
        predict_ms=predict_ms,
        call_ms=lambda calls: pace * times.call_ms(calls),
        hop_ms=pace * times.hop_ms,
        outside_ms=pace * times.outside_ms,
        extra=extra,
    )


def stopped_ms(calls: pd.DataFrame) -> "pd.Series[float]":
    """Return by how much each call was stopped: it took more than twice its usual time, and `STOP_MS`; else 0."""
    usual_ms = calls.groupby(["arm", "rows"])["latency_ms"].transform("median")
    more_ms = calls["latency_ms"] - usual_ms
    return more_ms.where(more_ms > usual_ms.clip(lower=STOP_MS), 0.0)


def stops(calls: pd.DataFrame) -> Callable[[random.Random], tuple[float, float]] | None:
    """Return a function that draws the time until the next stop, and how long it lasts; None where there were none.

    Something else holds up the machine then. How often that is depends on time, and not on calls.

    Parameters
    ----------
    calls : of loops in which hardly two calls meet: one of them after the other that was stopped felt the same stop
    """
    calls = calls.sort_values(["arm", "rows", "block", "half", "call"])
    delays_ms = stopped_ms(calls)
    numbers = ((delays_ms > 0) & (delays_ms.shift(fill_value=0.0) == 0)).cumsum()
    lasted_ms = delays_ms[delays_ms > 0].groupby(numbers).max().tolist()
    if not lasted_ms:
        return None
    gaps_ms = calls["latency_ms"].mask(calls["rate_per_s"] > 0, 1e3 / calls["rate_per_s"])
    every_ms = gaps_ms.sum() / len(lasted_ms)
    return lambda draw: (draw.expovariate(1 / every_ms), draw.choice(lasted_ms))


def limits_of(flags: str) -> Limits:
    """Return the limits of a server that was started with these flags."""
    given = shlex.split(flags)
    texts = dict(itertools.pairwise(given))
    named = [limit for limit in fields(Limits) if flag(limit.name) in texts]
    return Limits(**{limit.name: type(getattr(Limits(), limit.name))(texts[flag(limit.name)]) for limit in named})


def predict_curve(closed: pd.DataFrame, max_inline_ms: float) -> Callable[[float], float]:
    """Return how long the model takes for a batch, by its rows: it never takes less time for more of them.

    While a batch of many callers is computed on the thread, the loop works, too. So batches of lone callers tell better
    how long the model takes, if there were some of several sizes.
    """
    knots = closed.groupby("batch_rows").agg(ms=("predict_ms", "median"), weight=("batches", "sum"))
    alone = closed[closed["callers"] == 1]
    if alone["rows"].nunique() > 1 and knots["ms"].iloc[0] > max_inline_ms:
        knots = alone.groupby("rows").agg(ms=("predict_ms", "median"), weight=("batches", "sum"))
    at = knots.index.to_numpy(dtype=float)
    return line(at, IsotonicRegression().fit(at, knots["ms"], knots["weight"]).predict(at))


def line(at: np.ndarray, values: np.ndarray) -> Callable[[float], float]:
    """Return the line through points, which are sorted; beyond the last one it goes on as between the last two."""
    slope = (values[-1] - values[-2]) / (at[-1] - at[-2]) if len(at) > 1 else 0.0
    return lambda x: float(np.interp(x, at, values) + max(0.0, x - at[-1]) * slope)


def loop_ms(loops: pd.DataFrame, predict_ms: Callable[[float], float]) -> Callable[[float], float]:
    """Return what the loop needs for a call beside the model, in milliseconds, by the calls that are there.

    The more there are, the less one costs: they share system calls, and threads that must be woken.
    """
    costs_ms: dict[float, float] = {}
    for _, some in loops.groupby("callers"):
        model_ms = (some["batch_rows"].map(predict_ms) * some["batches"]).mean()
        costs_ms[float(some["callers"].iloc[0])] = max(0.0, float(core_ms(some, loops) - model_ms))
    places, values = np.log(np.array([*costs_ms])), [*costs_ms.values()]
    return lru_cache(lambda calls: float(np.interp(np.log(calls), places, values)))


def core_ms(calls: pd.DataFrame, loops: pd.DataFrame) -> float:
    """Return how long a call of one loop occupies a core: what the server computed, with what is lost beside it.

    Where the most callers keep the server busy all the time, the time between two answers is more than what the server
    computed for one: the system needs the core, too. Cores that worked at the same time count once.
    """
    busiest = loops[loops["callers"] == loops["callers"].max()]
    busy = cpu_ms(busiest) * rate(busiest) / 1e3
    return min(cpu_ms(calls) / (busy if SATURATED < busy < 1 else 1), 1e3 / rate(calls))


def cpu_ms(calls: pd.DataFrame) -> float:
    """Return how long the server computed for a call of one loop."""
    return float(calls.groupby(["block", "half"])["server_cpu_ms"].first().mean())


def rate(calls: pd.DataFrame) -> float:
    """Return the calls a second of one loop, between the first answers and the last, when not all callers are there."""
    callers, answers, taken_ns = int(calls["callers"].iloc[0]), 0, 0
    for _, half in calls.groupby(["block", "half"]):
        done_ns = np.sort(half["done_ns"].to_numpy())
        done_ns = done_ns[callers - 1 : max(callers + 1, len(done_ns) - callers)]
        answers, taken_ns = answers + len(done_ns) - 1, taken_ns + done_ns[-1] - done_ns[0]
    return 1e9 * answers / taken_ns


def extras(lone: pd.DataFrame, even: pd.DataFrame, pause_ms: float, usual_ms: float) -> Draw:
    """Return a function that draws how much longer a call takes than usual, and its batch, after a pause.

    It draws the noise from single calls of a lone caller. What a pause adds comes from medians, which know nothing of
    stops: of calls that come evenly, and between those of two rates, on a logarithmic scale, what lies between.

    Parameters
    ----------
    pause_ms : of the lone caller's server, between two calls
    usual_ms : what a lone call takes beside the model where there was no pause at all
    """
    names = ["rest_ms", "predict_ms"]
    more_ms = [np.zeros(2), np.array([lone["rest_ms"].mean() - usual_ms, 0.0])]
    pauses_ms = [MOMENT_MS, max(pause_ms, 2 * MOMENT_MS)]
    for per_s in sorted(even["rate_per_s"].unique(), reverse=True):
        some = even[even["rate_per_s"] == per_s]
        pauses_ms.append(max(1e3 / per_s - some["service_ms"].median(), 1.01 * pauses_ms[-1]))
        more_ms.append((some[names].median() - lone[names].median()).to_numpy() + more_ms[1])
    places, (rest_ms, model_ms) = np.log(pauses_ms), np.array(more_ms).T
    drawn = lone[names].sample(min(len(lone), MOST_DRAWN), random_state=0)
    noise = (drawn - lone[names].mean()).to_numpy().tolist()

    def extra(pause_ms: float, draw: random.Random) -> tuple[float, float]:
        place = np.log(max(pause_ms, MOMENT_MS))
        of_rest, of_model = draw.choice(noise)
        return of_rest + float(np.interp(place, places, rest_ms)), of_model + float(np.interp(place, places, model_ms))

    return extra
