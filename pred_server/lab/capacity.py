"""How many workers does a load need? A simulation answers from a result of `bench`, and says where it extrapolates.

from pred_server.lab.capacity import plan
plan("latency.parquet", rate_per_s=2_000, p99_ms=20)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pred_server.errors import InvalidInput
from pred_server.lab import experiments, words
from pred_server.lab.service_times import at_pace, fit, of_model, paces
from pred_server.lab.simulation import Fleet, Outcome, simulate

MOST_WORKERS = 64
# With more than these a simulation would take all memory; with rarer calls, all day: it has the stops between them.
BOUNDS = {"--clients": 100_000, "--most-workers": 1_000}
LEAST_PER_S = 1.0
CALLS, PACES = 20_000, 10  # in all simulations of a number of workers, one for each pace
RESAMPLES = 500
MOST_OFF = 0.15  # by so much may a simulated closed loop differ from the measured one


@dataclass(frozen=True)
class Plan:
    """An answer.

    Attributes
    ----------
    table : by number of workers: cores, p50_ms, p50_low, p50_high, p99_ms, p99_low, p99_high (95 % intervals), busy
        (the share of the cores' time that is used), kept_up (whether no queue grows for as long as calls come)
    workers : the fewest of the table whose p99 is within the target with its whole interval; None if there are none
    asked : the question, in words
    caveats : a sentence for all that limits the answer
    """

    table: pd.DataFrame
    workers: int | None
    asked: str
    caveats: list[str]

    @property
    def recommendation(self) -> str:
        """The answer, in a sentence."""
        if self.workers is None:
            most = self.table.iloc[-1]
            reached = _latencies(most) if most["kept_up"] else "their queues grow as long as calls come"
            return f"For {self.asked} no number of workers up to {most.name} is enough: with so many, {reached}."
        row = self.table.loc[[self.workers]].iloc[0]
        fleet = f"{_count(self.workers, 'worker')} on {_count(int(row['cores']), 'core')}"
        return f"For {self.asked} take {fleet}: {_latencies(row)}."

    def lines(self) -> list[str]:
        """Return the table in Markdown."""
        body = []
        for workers, row in self.table.iterrows():
            times = [_interval(row, name) if row["kept_up"] else "the queue grows" for name in ("p50", "p99")]
            mark = " (enough)" if workers == self.workers else ""
            body.append([f"{workers}{mark}", f"{row['cores']}", *times, f"{row['busy']:.0%}"])
        return words.table(["workers", "cores", "p50, ms", "p99, ms", "busy"], body)

    def _repr_markdown_(self) -> str:
        return "\n".join([*self.lines(), "", self.recommendation, "", *words.bullets(self.caveats)])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _latencies(row: "pd.Series[Any]") -> str:
    p50, p99, low, high = (words.duration(row[name]) for name in ("p50_ms", "p99_ms", "p99_low", "p99_high"))
    return f"half of the calls end within {p50}, and 99 % within {p99} [{low}, {high}]"


def _interval(row: "pd.Series[Any]", name: str) -> str:
    ends = (row[f"{name}_{end}"] for end in ("ms", "low", "high"))
    return "{} [{}, {}]".format(*map(words.number, ends))


def plan(
    result: Path | str | pd.DataFrame,
    rate_per_s: float,
    p99_ms: float,
    *,
    model: str = "",
    rows: int = 1,
    cores: int = 0,
    clients: int = 1,
    most_workers: int = MOST_WORKERS,
    seed: int = 0,
) -> Plan:
    """Return how many workers answer a load in time.

    Parameters
    ----------
    result : a file that `bench` wrote, or its calls
    rate_per_s : calls that come in a second, at random times
    p99_ms : 99 of 100 calls shall take no longer
    model : needed where the result has several
    rows : in one call
    cores : of the machine, for all workers; 0 gives each worker one of its own
    clients : how many callers spread their calls over the workers; one goes round evenly, many meet at random

    Raises
    ------
    InvalidInput
        The result cannot tell, or `clients` or `most_workers` are above their bounds.
    """
    for flag, asked_for in zip(BOUNDS, (clients, most_workers), strict=True):
        if asked_for > BOUNDS[flag]:
            raise InvalidInput(f"{flag} is {asked_for:,}: ask for {BOUNDS[flag]:,} at most")
    calls = experiments.read(Path(result)) if isinstance(result, Path | str) else result
    fleet = Fleet(1, cores, max(rate_per_s, LEAST_PER_S), clients=clients, rows=rows)
    simulated = Simulated(of_model(calls, model), fleet, seed)
    table = simulated.table(p99_ms, most_workers)
    enough = table.index[table["kept_up"] & (table["p99_high"] <= p99_ms)]
    asked = (
        f"{rate_per_s:,.10g} calls a second with {words.at(rows).removeprefix('at ')} each, 99 % within {p99_ms:g} ms,"
    )
    workers = int(enough[0]) if len(enough) else None
    rarer = ["simulated with 1 call a second: what is enough for it is enough for calls that come further apart"]
    caveats = simulated.caveats(workers or int(table.index[-1]))
    return Plan(table, workers, asked, [*rarer * (rate_per_s < LEAST_PER_S), *caveats])


class Simulated:
    """Fleets of servers that were measured, and that differ in their number of workers.

    A machine is quicker at some times than at others. So there is a simulation for each of several paces, and the
    answer has the calls of all of them.

    Parameters
    ----------
    calls : what `service_times.of_model` returns
    n_calls : to simulate, at all paces together
    """

    def __init__(self, calls: pd.DataFrame, fleet: Fleet, seed: int = 0, n_calls: int = 0):
        self.measured = fit(calls, fleet.rows)
        by_block = paces(calls, self.measured.crowd_rows)
        n_paces = min(PACES, len(by_block))
        places = by_block.rank(method="first").sub(1).mul(n_paces).floordiv(len(by_block)).to_numpy(dtype=int)
        self._paces = [by_block[places == place].mean() for place in range(n_paces)]
        self._counts = pd.crosstab(by_block.index, places).to_numpy()  # how often each block had each pace
        self._fleet = replace(fleet, max_batch_rows=self.measured.limits.max_batch_rows)
        self._seed, self._n_calls = seed, (n_calls or CALLS) // n_paces
        self._outcomes: dict[int, list[Outcome]] = {}

    def outcomes(self, workers: int) -> list[Outcome]:
        """Return what becomes of the calls, at each pace."""
        if workers not in self._outcomes:
            fleet = replace(self._fleet, workers=workers, cores=self._fleet.cores if self._fleet.cores < workers else 0)
            self._outcomes[workers] = [
                simulate(at_pace(self.measured.times, pace), fleet, self._n_calls, self._seed + number)
                for number, pace in enumerate(self._paces)
            ]
        return self._outcomes[workers]

    def latency_ms(self, workers: int, share: float) -> float:
        """Return a quantile of all calls."""
        return float(np.quantile(np.concatenate([outcome.latency_ms for outcome in self.outcomes(workers)]), share))

    def intervals_ms(self, workers: int, shares: Sequence[float]) -> np.ndarray:
        """Return 95 % intervals of quantiles, bootstrapped over the blocks: an array of shape (2, shares)."""
        rng, times_ms = (
            np.random.default_rng(self._seed),
            np.array([some.latency_ms for some in self.outcomes(workers)]),
        )
        order = np.argsort(times_ms, axis=None)
        sorted_ms, pace_of = times_ms.ravel()[order], np.repeat(np.arange(len(times_ms)), times_ms.shape[1])[order]
        found = []
        for picked in rng.integers(len(self._counts), size=(RESAMPLES, len(self._counts))):
            weights = np.cumsum(self._counts[picked].sum(axis=0)[pace_of])
            found.append(sorted_ms[np.searchsorted(weights, np.array(shares) * weights[-1])])
        return np.quantile(found, [0.025, 0.975], axis=0)

    def keeps_up(self, workers: int) -> bool:
        return all(outcome.kept_up for outcome in self.outcomes(workers))

    def table(self, p99_ms: float, most: int) -> pd.DataFrame:
        """Return `Plan.table`: about the fewest workers that are enough, and the first whose interval is, too."""
        fewest, step = self.fewest(p99_ms, most), 1
        lines: dict[int, dict[str, Any]] = {}
        workers = max(1, fewest - 1)
        while workers <= most:
            lines[workers] = line = self.line(workers)
            if workers > fewest and line["p99_high"] <= p99_ms:
                break
            workers, step = workers + step, 2 * step if workers > fewest else 1
        return pd.DataFrame.from_dict(lines, orient="index")

    def fewest(self, p99_ms: float, most: int) -> int:
        """Return the fewest workers that are enough, found by halving; `most` where even they are not.

        Few are tried first, then twice as many: to simulate many takes long, and few are enough for most loads.
        """
        low, high = 1, most
        while low < high:
            middle = min((low + high) // 2, 2 * low - 1)
            is_enough = self.keeps_up(middle) and self.latency_ms(middle, 0.99) <= p99_ms
            low, high = (low, middle) if is_enough else (middle + 1, high)
        return low

    def line(self, workers: int) -> dict[str, Any]:
        """Return a row of `Plan.table`."""
        busy = float(np.mean([outcome.busy for outcome in self.outcomes(workers)]))
        line = {"cores": self._fleet.cores or workers, "busy": busy, "kept_up": self.keeps_up(workers)}
        shares = {"p50": 0.5, "p99": 0.99}
        for (name, share), (low, high) in zip(
            shares.items(), self.intervals_ms(workers, [*shares.values()]).T, strict=True
        ):
            line |= {f"{name}_ms": self.latency_ms(workers, share), f"{name}_low": low, f"{name}_high": high}
        return line

    def caveats(self, workers: int) -> Iterator[str]:
        """Yield a sentence for all that was not measured, and is taken to go on as what was."""
        measured, fleet = self.measured, self._fleet
        if workers > 1:
            yield f"extrapolated: one worker was measured, not {workers:,}; what they share beside cores is left out"
        most_per_s, per_s = max(measured.crowds.values(), default=0.0), fleet.rate_per_s / workers
        if per_s > most_per_s:
            highest = f"at most {most_per_s:,.0f}" if most_per_s else "no rate of many callers"
            yield f"extrapolated: each worker gets {per_s:,.0f} calls a second, and {highest} was measured"
        largest = max(int(outcome.batch_rows.max()) for outcome in self.outcomes(workers))
        if largest > measured.most_batch_rows:
            yield f"extrapolated: batches get {largest:,} rows, and at most {measured.most_batch_rows:,} were measured"
        if fleet.rows not in measured.sizes:
            sizes = ", ".join(f"{size:,}" for size in measured.sizes)
            yield f"extrapolated: calls were measured with {sizes} rows each, not with {fleet.rows:,}"
        elif fleet.rows != measured.crowd_rows:
            size = words.at(measured.crowd_rows).removeprefix("at ")
            yield f"extrapolated: many callers at once were measured with {size} in a call, not with {fleet.rows:,}"
        if fleet.cores > workers:
            yield f"{fleet.cores - workers} of {fleet.cores} cores have no worker"
        if not measured.has_pauses:
            yield "calls after a pause were not measured; they take longer than those that follow each other"
        for callers, rate in measured.crowds.items():
            looped = replace(fleet, workers=1, cores=0, rate_per_s=0.0, callers=callers, rows=measured.crowd_rows)
            again = simulate(measured.times, looped, CALLS // PACES, self._seed).calls_per_s
            if fleet.rows == measured.crowd_rows and abs(again / rate - 1) > MOST_OFF:
                yield (
                    f"the simulation is not exact here: {callers} callers get {again:,.0f} answers a second in it, and "
                    f"got {rate:,.0f}"
                )


def command(result: Path, **asked: Any) -> int:
    """Print the answer for `pred-server capacity`. Returns its exit code: 1 where no number of workers is enough."""
    found = plan(result, **asked)
    print("\n".join([*found.lines(), "", found.recommendation, *(f"note: {caveat}" for caveat in found.caveats)]))
    return 0 if found.workers else 1
