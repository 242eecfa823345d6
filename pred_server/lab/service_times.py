"""How long the parts of our server's work take, read from a result of `bench`: what a simulation needs to know.

Only loops in which calls do not queue for long are read: closed ones, and open ones whose calls come evenly. So the
open loops with Poisson arrivals that a result may have, too, can judge what is predicted.
"""

import itertools
import random
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from sklearn.isotonic import IsotonicRegression

from pred_server.errors import InvalidInput
from pred_server.lab.simulation import Times
from pred_server.limits import Limits, flag

NEEDED = ("server_cpu_ms", "queue_ms", "predict_ms", "batch_rows")
MOST_DRAWN = 4_000  # calls of a loop that further calls are drawn from
STOP_MS = 1.0  # what takes so much longer than usual, and twice as long, was stopped by something else
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


def _most_measured(calls: pd.DataFrame, column: str) -> pd.DataFrame:
    """Keep the value of a column for which most loops were measured."""
    return calls[calls[column] == calls.groupby(column, sort=False)["arm"].nunique().idxmax()]


def fit(calls: pd.DataFrame, rows: int = 1) -> Measured:
    """Read what the parts of a server's work take, for calls of so many rows.

    What was measured with other numbers of rows is interpolated, and beyond them continued as a straight line.

    Parameters
    ----------
    calls : what `of_model` returns

    Raises
    ------
    InvalidInput
        There is no closed loop of one caller.
    """
    calls = calls.assign(rest_ms=calls["service_ms"] - calls["predict_ms"], batches=calls["rows"] / calls["batch_rows"])
    limits, closed = limits_of(str(calls["flags"].iloc[0])), calls[calls["rate_per_s"] == 0]
    predict_ms = predict_curve(closed, limits.max_inline_ms)
    calls, closed = (_most_measured(some, "encoding") for some in (calls, closed))
    alone, crowds = closed[closed["callers"] == 1], closed[closed["callers"] > 1]
    if alone.empty:
        raise InvalidInput("this result has no closed loop of one caller, which tells what an idle server takes")
    sizes = sorted(alone["rows"].unique())
    base = min(set(crowds["rows"]) & set(sizes) or sizes, key=lambda size: abs(size - rows))
    lone, crowds, even = (some[some["rows"] == base] for some in (alone, crowds, calls[calls["rate_per_s"] > 0]))
    lone = _most_measured(lone, "generator") if crowds.empty else lone[lone["generator"] == crowds["generator"].iloc[0]]
    batch_ms, call_ms = loop_ms(lone, crowds, predict_ms)
    (lone, _), (_, stop_ms) = without_stops(lone), without_stops(alone)
    outside_ms = max(MOMENT_MS, lone["service_ms"].mean() - cpu_ms(lone))
    is_quick = predict_ms(rows) <= limits.max_inline_ms
    hop_ms = 0.0 if is_quick else min(lone["queue_ms"].mean(), outside_ms - MOMENT_MS)
    by_size = _most_measured(alone, "generator").groupby("rows")["rest_ms"].median()
    rest_of = line(by_size.index.to_numpy(dtype=float), by_size.to_numpy())
    call_ms = max(0.0, call_ms + rest_of(rows) - rest_of(base))
    largest = crowds[crowds["callers"] == crowds["callers"].max()]
    times = Times(
        predict_ms=lambda n_rows, draw: predict_ms(n_rows),
        is_quick=lambda n_rows: predict_ms(n_rows) <= limits.max_inline_ms,
        batch_ms=batch_ms,
        read_ms=call_ms / 2,
        write_ms=call_ms / 2,
        hop_ms=hop_ms,
        outside_ms=outside_ms - hop_ms,
        gather=0.0 if largest.empty else 1 - largest["batches"].mean(),
        extra=extras(lone, even, outside_ms, usual_ms=outside_ms + batch_ms + call_ms),
        stop_ms=stop_ms,
    )
    rates = {int(callers): rate(some) for callers, some in crowds.groupby("callers")}
    most = int(calls["batch_rows"].max())
    return Measured(times, rows, limits, rates, int(base), [int(size) for size in sizes], most, len(even) > 0)


def fit_blocks(calls: pd.DataFrame, whole: Measured) -> list[Measured]:
    """Read the times of each block that has all loops of the whole result. Stops are too rare for a block by itself."""
    arms = calls.loc[calls["rows"] == whole.crowd_rows, ["block", "arm"]].drop_duplicates()
    of_each = arms.groupby("block").size()
    blocks = [fit(calls[calls["block"] == block], whole.rows) for block in of_each.index[of_each == of_each.max()]]
    return [replace(block, times=replace(block.times, stop_ms=whole.times.stop_ms)) for block in blocks]


def without_stops(alone: pd.DataFrame) -> tuple[pd.DataFrame, Callable[[random.Random], tuple[float, float]] | None]:
    """Part the calls of lone callers that took more than twice their median, and `STOP_MS`, from the others.

    Something held up the machine then, whatever the call. How often that is depends on time, and not on calls.

    Returns
    -------
    The other calls, and a function that draws the time until the next stop, and how long it lasts; None without stops
    """
    usual_ms = alone.groupby(["arm", "rows"])["service_ms"].transform("median")
    more_ms = alone["service_ms"] - usual_ms
    is_stopped = more_ms > usual_ms.clip(lower=STOP_MS)
    lasted_ms = more_ms[is_stopped].tolist()
    if not lasted_ms:
        return alone, None
    every_ms = alone["service_ms"].sum() / len(lasted_ms)
    return alone[~is_stopped], lambda draw: (draw.expovariate(1 / every_ms), draw.choice(lasted_ms))


def limits_of(flags: str) -> Limits:
    """Return the limits of a server that was started with these flags."""
    given = shlex.split(flags)
    texts = dict(itertools.pairwise(given))
    names = {limit.name: type(limit.default) for limit in fields(Limits) if flag(limit.name) in texts}
    return Limits(**{name: kind(texts[flag(name)]) for name, kind in names.items()})


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


def loop_ms(lone: pd.DataFrame, crowds: pd.DataFrame, predict_ms: Callable[[float], float]) -> tuple[float, float]:
    """Return what the loop needs for each batch, and for each call, beside the model, in milliseconds.

    Each loop of callers says how much its calls cost, and how many batches there were for each: two unknown numbers.
    """
    costs = []
    for _, some in pd.concat([lone, crowds]).groupby("callers"):
        cost_ms = min(cpu_ms(some), 1e3 / rate(some))  # cores that worked at the same time count once
        model_ms = (some["batch_rows"].map(predict_ms) * some["batches"]).mean()
        costs.append((some["batches"].mean(), 1.0, cost_ms - model_ms))
    *parts, beside_ms = np.array(costs).T
    batch_ms, call_ms = nnls(np.array(parts).T, beside_ms)[0] if len(costs) > 1 else (0.0, max(0.0, beside_ms[0]))
    return float(batch_ms), float(call_ms)


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
    for per_s, some in sorted(even.groupby("rate_per_s"), reverse=True):
        pauses_ms.append(max(1e3 / float(per_s) - some["service_ms"].median(), 1.01 * pauses_ms[-1]))
        more_ms.append((some[names].median() - lone[names].median()).to_numpy() + more_ms[1])
    places, (rest_ms, model_ms) = np.log(pauses_ms), np.array(more_ms).T
    drawn = lone[names].sample(min(len(lone), MOST_DRAWN), random_state=0)
    noise = (drawn - lone[names].mean()).to_numpy().tolist()

    def extra(pause_ms: float, draw: random.Random) -> tuple[float, float]:
        place = np.log(max(pause_ms, MOMENT_MS))
        of_rest, of_model = draw.choice(noise)
        return of_rest + float(np.interp(place, places, rest_ms)), of_model + float(np.interp(place, places, model_ms))

    return extra
