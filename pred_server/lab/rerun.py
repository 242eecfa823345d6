"""The experiment of a result file, made to run here: what this version, this machine and the time allow of it."""

import itertools
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from typing import Any

import pandas as pd

from pred_server.errors import InvalidInput, PredServerError
from pred_server.lab import experiments, stats, words
from pred_server.lab.arms import TRAINED, trained
from pred_server.lab.experiments import Experiment
from pred_server.lab.ways import CARRIERS, WAYS, Arm, messages_of
from pred_server.limits import MIB
from pred_server.model.model import Model
from pred_server.store.loading import load

QUICK_S, WHOLE_S = 300, 3_600
SLOWER = 1.5  # this machine may be so many times slower than the one that was measured first
START_S = 2  # to start a server, or what calls it
BLOCKS = 6  # of a quick run
OWN_TABLE_BYTES = 256 * MIB  # a larger table of a model of one's own is left out; as text it is several times as large


def experiment_of(described: Any) -> tuple[Experiment, list[str]]:
    """Return the experiment that a result file describes, and notes on settings that this version does not have.

    Raises
    ------
    InvalidInput
        It is none, or its arms differ in a setting that this version does not have.
    """
    notes = []
    try:
        arms = [dict(arm) for arm in described["arms"]]
        known = {field.name for field in fields(Arm)}
        for name in sorted({name for arm in arms for name in arm} - known):
            values = {json.dumps(arm.pop(name, None)) for arm in arms}
            if len(values) > 1:
                raise InvalidInput(f"the arms of this result differ in `{name}`, a setting that this version lacks")
            notes.append(f"this version has no setting `{name}`, which is {values.pop()} for every arm of the result")
        settings = {field.name: described[field.name] for field in fields(Experiment) if field.name in described}
        settings["arms"] = [Arm(**{name: _tuples(value) for name, value in arm.items()}) for arm in arms]
        experiment = Experiment(**{name: _tuples(value) for name, value in settings.items()})
        if not comparisons(experiment):
            raise InvalidInput("this result compares nothing, so there is no verdict to reproduce")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidInput(f"this result holds no experiment that can be run: {error!r}") from error
    return experiment, notes


def _tuples(value: Any) -> Any:
    """Return a value as an experiment has it: lists, which JSON makes of tuples, become tuples again."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def comparisons(experiment: Experiment) -> list[tuple[str, str, int]]:
    """Return the declared comparisons, arm, base and rows, whose arms take part at these rows."""
    present = {rows: {arm.name for arm in experiment.arms_at(rows)} for rows in experiment.rows}
    return [
        (arm, base, rows)
        for arm, base in experiment.compare
        for rows, names in present.items()
        if set(stats.names_in(arm, base)) <= names
    ]


def only(experiment: Experiment, rows: Collection[int] = (), arms: Collection[str] = ()) -> Experiment:
    """Keep these numbers of rows, and the comparisons among these arms with the control; without any, all of them.

    Raises InvalidInput if a number of rows or an arm is not there, or no comparison is left.
    """
    names = [arm.name for arm in experiment.arms]
    asked = ("rows", [f"{n:,}" for n in rows], [f"{n:,}" for n in experiment.rows]), ("arms", arms, names)
    for what, wanted, there in asked:
        if missing := [item for item in wanted if item not in there]:
            raise InvalidInput(f"{what}: {missing[0]} is not in this experiment; it has {'; '.join(there)}")
    kept = set(arms or names)
    compare = tuple(pair for pair in experiment.compare if set(stats.names_in(*pair)) <= kept)
    control = experiment.control if set(experiment.control or ()) <= set(names) else None
    needed = {*kept, *(control or ())}
    needed |= {arm.beside for arm in experiment.arms if arm.name in needed and arm.beside}
    for carrier in [arm for arm in experiment.arms if arm.name in needed and arm.server in CARRIERS]:
        # `serve` says how large a reply to these bytes is.
        needed |= {arm.name for arm in experiment.arms if arm.server == "serve" and _same_bytes(arm, carrier)}
    narrowed = replace(
        experiment,
        arms=tuple(arm for arm in experiment.arms if arm.name in needed),
        compare=compare,
        control=control,
        rows=tuple(rows) or experiment.rows,
    )
    if not comparisons(narrowed):
        raise InvalidInput("none of the result's comparisons is left to be measured here")
    return narrowed


def _same_bytes(arm: Arm, other: Arm) -> bool:
    return all(getattr(arm, name) == getattr(other, name) for name in ("encoding", "chunk_rows", "frame", "model"))


def able(experiment: Experiment, notes: list[str]) -> Experiment:
    """Leave out the arms that this version or this machine cannot run, and note why.

    Each server is started once, by itself: what is not installed shows before the hour of measuring, not in it.
    """
    for name in {arm.model or experiment.model for arm in experiment.arms} & set(TRAINED):
        trained(name)
    tables = {arm.model or experiment.model: pd.DataFrame() for arm in experiment.arms}
    for name in tables:
        tables[name] = experiments.sample(experiments.table_of(load(name)), 10, experiment.seed)
    started: dict[tuple[Any, ...], str] = {}
    missing: dict[str, list[str]] = {}
    for arm in experiment.arms:
        model = arm.model or experiment.model
        key = (arm.server, arm.flags, model)
        if key not in started:
            started[key] = _trouble(arm, partial(_start, arm, model))
        if why := started[key] or _trouble(arm, partial(messages_of, arm, tables[model])):
            missing.setdefault(why, []).append(arm.name)
    notes += [f"left out: {', '.join(map(words.named, names))}: {why}" for why, names in missing.items()]
    lost = {name for names in missing.values() for name in names}
    lost |= {arm.name for arm in experiment.arms if arm.beside in lost}
    if not lost:
        return experiment
    try:
        kept = [arm for arm in experiment.arms if arm.name not in lost]
        control = experiment.control if not lost & set(experiment.control or ()) else None
        return only(replace(experiment, arms=tuple(kept), control=control))
    except InvalidInput as error:
        raise InvalidInput(f"{error}; {notes[-1]}") from error


def _start(arm: Arm, model: str) -> None:
    with ExitStack() as stack:
        WAYS[arm.server].start(arm, model, stack)


def _trouble(arm: Arm, attempt: Callable[[], object]) -> str:
    """Return why an attempt to use an arm fails here, or nothing."""
    if arm.server not in WAYS:
        return f"this version has no way to a prediction of the name `{arm.server}`"
    try:
        attempt()
    except (PredServerError, ImportError, OSError) as error:
        return str(error).strip().splitlines()[-1]
    return ""


def fitted(experiment: Experiment, there: pd.DataFrame, quick: bool, own_model: bool, notes: list[str]) -> Experiment:
    """Make an experiment fit into its time, by the latencies of the result: leave out the largest tables, and note it.

    A quick one has only the arms that are compared, six blocks, fewer calls in each, and shorter open loops. One whose
    servers start in each block has five blocks where six take too long: the fewest with an interval.
    """
    p50_ms = there.groupby(["arm", "rows"])["latency_ms"].median()
    most = WHOLE_S
    if quick:
        most, repetitions = QUICK_S, min(experiment.repetitions, max(2, math.ceil(BLOCKS / experiment.blocks)))
        experiment = only(experiment, arms=stats.names_in(*itertools.chain(*experiment.compare)))
        experiment = replace(
            experiment,
            arms=tuple(replace(arm, calls=min(arm.calls, max(8, 2 * arm.callers))) for arm in experiment.arms),
            repetitions=repetitions,
            blocks=min(experiment.blocks, BLOCKS // repetitions),
            calls=min(experiment.calls, 8),
            seconds=min(experiment.seconds, 0.5),
        )
    own_ms, rows_limit = dict.fromkeys(experiment.rows, 0.0), max(experiment.rows)
    if own_model:
        own_ms, rows_limit = _own_model(experiment)
    fits = [rows for rows in sorted(experiment.rows) if rows <= rows_limit]
    while len(fits) > 1 and seconds(replace(experiment, rows=tuple(fits)), p50_ms, own_ms) > most:
        fits.pop()
    if quick and seconds(replace(experiment, rows=tuple(fits)), p50_ms, own_ms) > most:
        experiment = replace(experiment, repetitions=max(1, stats.MIN_BLOCKS // experiment.blocks))
    if lost := [rows for rows in experiment.rows if rows not in fits]:
        sizes = ", ".join(f"{rows:,}" for rows in lost)
        notes.append(f"left out: tables of {sizes} rows, which need more than {most // 60} minutes, or too much memory")
    return only(experiment, fits)


def seconds(experiment: Experiment, p50_ms: "pd.Series[float]", own_ms: Mapping[int, float]) -> float:
    """Return how long an experiment takes on a slower machine (`SLOWER`) than the one that was measured first.

    Parameters
    ----------
    p50_ms : by arm and rows, as measured elsewhere
    own_ms : by rows, what the model needs here beyond the one that was measured
    """
    servers = len({(arm.server, arm.flags, arm.model, arm.process) for arm in experiment.arms})
    taken_s = 0.0
    for rows in experiment.rows:
        for arm in experiment.arms_at(rows):
            calls = experiment.calls_of(arm, rows)
            call_s = (p50_ms.get((arm.name, rows), 0.0) + own_ms[rows]) / 1e3
            if arm.share:  # of a capacity that is measured as it runs: its calls are as many as fit into `seconds`
                half_s = experiment.seconds + call_s
            elif arm.rate_per_s:
                half_s = calls / arm.rate_per_s + call_s
            else:
                half_s = calls * call_s / arm.callers
            if experiment.fresh or arm.beside:
                half_s += START_S
            taken_s += experiment.halves_of(arm) * half_s * experiment.blocks_of(rows)
    return experiment.repetitions * (SLOWER * taken_s + START_S * servers) + START_S * servers


def _own_model(experiment: Experiment) -> tuple[dict[int, float], int]:
    """Return, for a model of one's own, the milliseconds of `predict` by rows, and the most rows to ask it for."""
    model = load(experiment.model)
    table = experiments.table_of(model)
    some = experiments.sample(table, 1_000, experiment.seed)
    one_ms, thousand_ms = (min(_predict_ms(model, some.head(rows)) for _ in range(3)) for rows in (1, 1_000))
    row_bytes = table.memory_usage(index=False, deep=True).sum() / len(table)
    most_rows = max(min(experiment.rows), int(OWN_TABLE_BYTES / row_bytes))
    return {rows: one_ms + rows * thousand_ms / 1_000 for rows in experiment.rows}, most_rows


def _predict_ms(model: Model, table: pd.DataFrame) -> float:
    start_ns = time.perf_counter_ns()
    model.predict(table)
    return (time.perf_counter_ns() - start_ns) / 1e6
