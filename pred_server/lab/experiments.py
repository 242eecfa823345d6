"""Experiments: call things side by side, in blocks of shuffled A-B-B-A order, and keep every single latency."""

import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import psutil
from tqdm.auto import tqdm

from pred_server.checkout import FLIGHTS
from pred_server.errors import InvalidInput
from pred_server.lab import native
from pred_server.lab.load import Generator, Segment, on_cores
from pred_server.lab.memory import growth_mib, resident_mib
from pred_server.lab.result_files import read as read
from pred_server.lab.result_files import write as write
from pred_server.lab.stamps import revision, stamp
from pred_server.lab.stats import names_in
from pred_server.lab.ways import CARRIERS, WAYS, Arm, Target, messages_of, start_distance
from pred_server.model.model import Model
from pred_server.store.loading import load

MANY_CALLERS, FIRST_CALLS = 32, 200  # of the closed loop that finds a server's capacity


@dataclass(frozen=True)
class Experiment:
    """What varies (arms and rows), what is fixed (the rest), and what will be compared; declared before the run.

    Parameters
    ----------
    arms : a stream takes part only where it has more rows than a chunk
    compare : pairs of names: an arm, and its base
    control : the same thing twice, as such a pair
    model : `sum`, `linear`, `wide`, `flights` or a model directory, whose sample.parquet supplies the rows
    repetitions : servers are restarted between repetitions
    blocks : in each repetition. In a block, each group of arms runs in a shuffled order, and then in the reverse order
    calls : of each arm in each half of a block; fewer if they would have more than `most_rows` rows, but at least one.
        If a single call has more than `most_rows` rows, there are half as many blocks, but at least three
    seconds : how long each half lasts in an open loop
    pin : put the servers on one core and the generator on another, if there are two
    fresh : make the calls of each arm in a block from a new process, without a warm-up, so that its memory is theirs
    """

    arms: tuple[Arm, ...]
    compare: tuple[tuple[str, str], ...] = ()
    control: tuple[str, str] | None = None
    varies: str = "rows"
    model: str = "flights"
    rows: tuple[int, ...] = (1, 10, 100, 1_000, 10_000, 100_000)
    repetitions: int = 2
    blocks: int = 5
    calls: int = 20
    most_rows: int = 50_000
    seconds: float = 1.0
    warmup: int = 3
    seed: int = 0
    pin: bool = True
    fresh: bool = False

    def calls_of(self, arm: Arm, rows: int) -> int:
        """Return the calls of an arm in each half of a block."""
        most = max(1, self.most_rows // rows)
        return arm.calls or min(most, round(arm.rate_per_s * self.seconds) or self.calls)

    def blocks_of(self, rows: int) -> int:
        return self.blocks if rows <= self.most_rows else min(self.blocks, max(3, self.blocks // 2))

    def halves_of(self, arm: Arm) -> int:
        """Return how often an arm runs in a block: there and back, or once where each run has a new process."""
        return 1 if arm.cold or self.fresh else 2

    def arms_at(self, rows: int) -> list[Arm]:
        """Return the arms that take part. A stream of one chunk does not if the same table also goes as one message."""
        present = [arm for arm in self.arms if not arm.rows or rows in arm.rows]
        whole = {replace(arm, name="") for arm in present}
        return [arm for arm in present if arm.chunk_rows < rows or replace(arm, name="", chunk_rows=0) not in whole]

    def groups(self, arms: Sequence[Arm]) -> list[list[Arm]]:
        """Group arms that are compared, directly or by way of others: a group takes its turns close in time.

        Arms that are compared with nothing form one more group.
        """
        groups = [{arm.name} for arm in arms]
        for pair in (*self.compare, self.control or ()):
            names = set(names_in(*pair))
            joined = set().union(*(group for group in groups if group & names))
            groups = [group for group in groups if not group & names] + ([joined] if joined else [])
        several = [group for group in groups if len(group) > 1]
        rest = set().union(*(group for group in groups if len(group) == 1))
        return [[arm for arm in arms if arm.name in group] for group in (*several, rest) if group]

    @property
    def cores(self) -> tuple[set[int] | None, set[int] | None]:
        """The cores of the servers and of the generator; None if they are not pinned."""
        usable = sorted(os.sched_getaffinity(0)) if self.pin and hasattr(os, "sched_setaffinity") else []
        return ({usable[0]}, {usable[-1]}) if len(usable) > 1 else (None, None)

    @property
    def described(self) -> dict[str, Any]:
        """The experiment as a result file holds it."""
        return json.loads(json.dumps(asdict(self)))

    @property
    def pinning(self) -> str:
        servers, generator = self.cores
        return f"servers {servers}, generator {generator}" if servers else "none"


def run(experiment: Experiment, out: Path, progress: bool = True) -> pd.DataFrame:
    """Measure, and write the result to `out` as Parquet. An interrupted run continues where it stopped.

    Returns
    -------
    What `read` returns: one row a call, with the columns of `load.Generator.run` (without scheduled_ns) and of `Arm`,
    and rows, repetition, block, half, client_encode_ms, start_ms (until all of its server's processes are ready),
    server_ready_mib (their memory then), server_peak_mib (their largest growth since); `attrs`: stamp and experiment.

    Raises
    ------
    InvalidInput
        `out` cannot be written, or beside it lies the beginning of another experiment, or of this one with other code.
    """
    claim = {"experiment": experiment.described, "revision": revision()}
    if out.is_dir():
        raise InvalidInput(f"{out} is a directory: name a file in it, such as {out / 'latency.parquet'}")
    parts = out.with_suffix(".parts")
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written: {error.strerror}: {error.filename}") from error
    claimed = parts / "experiment.json"
    if not claimed.exists():
        claimed.write_text(json.dumps(claim))
    elif json.loads(claimed.read_text()) != claim:
        raise InvalidInput(
            f"{parts} holds the beginning of another experiment, or of this one with other code; remove it"
        )
    files = {
        (repetition, rows): parts / f"{repetition}-{rows}.parquet"
        for repetition in range(experiment.repetitions)
        for rows in experiment.rows
    }
    with tqdm(total=len(files), desc="measure", disable=not progress) as bar:
        for repetition in range(experiment.repetitions):
            missing = [rows for rows in experiment.rows if not files[repetition, rows].exists()]
            bar.update(len(experiment.rows) - len(missing))
            if not missing:
                continue
            with running(experiment) as bench:
                for rows in missing:
                    bar.set_postfix_str(f"{rows:,} rows, repetition {repetition + 1} of {experiment.repetitions}")
                    unfinished = files[repetition, rows].with_suffix(".tmp")
                    bench.measure(rows, repetition).to_parquet(unfinished)
                    unfinished.rename(files[repetition, rows])  # atomic: a file is a whole part
                    bar.update()
    calls = pd.concat([pd.read_parquet(file) for file in files.values()], ignore_index=True)
    # The revision is that of the beginning: somebody may commit during the run.
    stamped = stamp(experiment.seed, experiment.pinning) | {"revision": claim["revision"]}
    calls.attrs = {"stamp": stamped, "experiment": experiment.described}
    write(calls, out)
    shutil.rmtree(parts)
    return read(out)


@contextmanager
def running(experiment: Experiment) -> Iterator["Bench"]:
    """Start the servers of an experiment and the generator; stop them at the end of the `with` block.

    Raises
    ------
    InvalidInput
        An arm is to be called from Go, and its way speaks neither gRPC nor HTTP.
    ServerStartError
        A server cannot start, or the generator in Go is not built.
    """
    for arm in experiment.arms:
        native.check(arm)
    models = {arm.model or experiment.model for arm in experiment.arms}
    tables = {model: table_of(load(model)) for model in models}
    on_servers, on_generator = experiment.cores
    started: dict[tuple[Any, ...], tuple[str, float, dict[int, float]]] = {}
    with ExitStack() as stack:
        bench = Bench(experiment, tables, stack.enter_context(Generator(on_generator)), {}, {})
        with on_cores(on_servers):
            for arm in experiment.arms:
                key = (arm.server, arm.flags, arm.process, model := arm.model or experiment.model)
                if key not in started:
                    WAYS[arm.server].prepare(model)
                    before, start_ns = _children(), time.perf_counter_ns()
                    address = WAYS[arm.server].start(arm, model, stack)
                    start_ms = (time.perf_counter_ns() - start_ns) / 1e6
                    started[key] = address, start_ms, resident_mib(_children() - before)
                address, bench.start_ms[arm.name], bench.resident_mib[arm.name] = started[key]
                bench.pids[arm.name] = tuple(bench.resident_mib[arm.name])
                if arm.rtt_ms:
                    address = stack.enter_context(start_distance(address, arm.rtt_ms)).address
                bench.addresses[arm.name] = address
        yield bench


def _children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


@dataclass(frozen=True)
class Bench:
    """The running servers of an experiment, and the generator that calls them.

    Parameters
    ----------
    tables : by model, the rows to ask it for
    addresses : of the servers, by the arm's name
    pids : of the processes that were started for an arm, by its name
    start_ms, resident_mib : how long they took to become ready, and their memory then, by process; by the arm's name
    """

    experiment: Experiment
    tables: dict[str, pd.DataFrame]
    generator: Generator
    addresses: dict[str, str]
    pids: dict[str, tuple[int, ...]]
    start_ms: dict[str, float] = field(default_factory=dict)
    resident_mib: dict[str, dict[int, float]] = field(default_factory=dict)

    def measure(self, rows: int, repetition: int) -> pd.DataFrame:
        """Run all blocks of one number of rows."""
        return self.run_blocks(self.prepare(rows), repetition, range(self.experiment.blocks_of(rows)))

    def prepare(self, rows: int) -> "Prepared":
        """Write the messages of one number of rows, and measure the capacities that its arms need."""
        arms = self.experiment.arms_at(rows)
        targets, encode_ms = self._targets(arms, rows)
        return Prepared(rows, self._at_rates(arms, targets), targets, encode_ms)

    def run_blocks(self, prepared: "Prepared", repetition: int, blocks: range) -> pd.DataFrame:
        """Run some blocks of one number of rows, one after the other, over the same connections."""
        experiment, (rows, arms, targets, encode_ms) = self.experiment, prepared
        order, groups = random.Random(f"{experiment.seed} {repetition} {rows} {blocks}"), experiment.groups(arms)
        segments = [
            Segment(arm.name, min(experiment.warmup, experiment.calls_of(arm, rows)), warmup=True)
            for arm in arms
            if experiment.warmup
        ]
        for block in blocks:
            place = {"rows": rows, "repetition": repetition, "block": repetition * experiment.blocks + block}
            turns = []
            for group in order.sample(groups, len(groups)):
                forth = order.sample(group, len(group))
                back = (arm for arm in reversed(forth) if experiment.halves_of(arm) > 1)
                turns += [*((0, arm) for arm in forth), *((1, arm) for arm in back)]
            for half, arm in turns:
                labels = asdict(arm) | {"flags": " ".join(arm.flags), **place, "half": half}
                labels["client_encode_ms"] = encode_ms[arm.name]
                del labels["name"]
                segments.append(
                    Segment(
                        arm.name, experiment.calls_of(arm, rows), arm.callers, arm.rate_per_s, arm.arrivals,
                        seed=order.randrange(2**32), labels=labels,
                    )
                )  # fmt: skip
        calls = self._run(targets, segments)
        start_ms = calls["arm"].map(self.start_ms)
        calls["latency_ms"] += start_ms.where(calls["cold"], 0)
        return calls.assign(start_ms=start_ms)

    def _run(self, targets: dict[str, Target], segments: Sequence[Segment]) -> pd.DataFrame:
        """Make the calls of all segments: with one generator, or each with a new one."""
        if not self.experiment.fresh:
            return self._with_peaks(self.generator.run(list(targets.values()), segments))
        frames = []
        for segment in segments:
            if not segment.warmup:
                with Generator(self.experiment.cores[1]) as generator:
                    frames.append(self._with_peaks(generator.run([targets[segment.target]], [segment])))
        return pd.concat(frames, ignore_index=True)

    def _with_peaks(self, calls: pd.DataFrame) -> pd.DataFrame:
        grown = {name: growth_mib(before) for name, before in self.resident_mib.items()}
        ready = {name: sum(mib.values()) or np.nan for name, mib in self.resident_mib.items()}
        return calls.assign(server_peak_mib=calls["arm"].map(grown), server_ready_mib=calls["arm"].map(ready))

    def _at_rates(self, arms: Sequence[Arm], targets: dict[str, Target]) -> list[Arm]:
        """Return the arms, with a rate in place of a share of the capacity, which is measured for each way."""
        capacities: dict[Arm, float] = {}
        rated = []
        for arm in arms:
            if arm.share:
                way = replace(arm, name="", share=0.0, arrivals="", process=0)
                if way not in capacities:
                    capacities[way] = self._capacity(targets[arm.name])
                arm = replace(arm, rate_per_s=arm.share * capacities[way])
            rated.append(arm)
        return rated

    def _capacity(self, target: Target) -> float:
        """Return the answers a second that many callers get, from a closed loop about as long as half of a block."""
        first = self._rate(target, FIRST_CALLS)
        return self._rate(target, max(FIRST_CALLS, round(first * self.experiment.seconds)))

    def _rate(self, target: Target, calls: int) -> float:
        made = self.generator.run([target], [Segment(target.arm.name, calls, MANY_CALLERS)])
        if not made["ok"].any():
            raise InvalidInput(f"{target.arm.name}: its capacity cannot be measured, since no call was answered")
        return float(made["ok"].sum() / (made["done_ns"].max() - made["sent_ns"].min()) * 1e9)

    def _targets(self, arms: Sequence[Arm], rows: int) -> tuple[dict[str, Target], dict[str, float]]:
        """Return, by arm, where its calls go, and the milliseconds that its messages take to encode."""
        sent: dict[tuple[Any, ...], tuple[tuple[bytes, ...], float]] = {}
        targets: dict[str, Target] = {}
        encode_ms = {}
        for arm in sorted(arms, key=lambda arm: arm.server in CARRIERS):  # they must know the size of `serve`'s replies
            model = arm.model or self.experiment.model
            # Equal for arms that send the same bytes, as `serve`, `echo` and `tcp` do, or are given the same table.
            how: tuple[Any, ...] = (type(WAYS[arm.server]).messages, arm.encoding, arm.chunk_rows)
            recipe = ((arm.chunk_rows, arm.generator) if arm.frame else how, model)
            if recipe not in sent:
                sent[recipe] = self._encoded(arm, rows)
            messages, took_ms = sent[recipe]
            encode_ms[arm.name] = 0.0 if arm.frame else took_ms  # a client writes its message in the measured time
            targets[arm.name] = self._target(arm, rows, messages)
            if arm.beside:
                (other,) = [other for other in self.experiment.arms if other.name == arm.beside]
                beside = self._target(other, other.rows[0], self._encoded(other, other.rows[0])[0])
                targets[arm.name] = replace(targets[arm.name], beside=beside)
            served = [like for like in targets.values() if like.messages is messages and like.arm.server == "serve"]
            if arm.server in CARRIERS and served:
                reply = self.generator.run(served[:1], [Segment(served[0].arm.name, 1)])
                targets[arm.name] = replace(targets[arm.name], reply_bytes=int(reply["reply_bytes"].iloc[0]))
        return targets, encode_ms

    def _target(self, arm: Arm, rows: int, messages: tuple[bytes, ...]) -> Target:
        address, ca = self.addresses[arm.name], WAYS[arm.server].authority()
        return Target(arm, address, messages, pids=self.pids[arm.name], rows=rows, ca=ca)

    def _encoded(self, arm: Arm, rows: int) -> tuple[tuple[bytes, ...], float]:
        """Return what an arm sends, and the milliseconds to encode it: of three the median, of large tables one."""
        n_rows = min(rows, arm.chunk_rows or rows) if arm.frame else rows
        table = sample(self.tables[arm.model or self.experiment.model], n_rows, self.experiment.seed)
        taken_ms: list[float] = []
        while len(taken_ms) < 3 and sum(taken_ms) < 100:
            start_ns = time.perf_counter_ns()
            messages = messages_of(arm, table)
            taken_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
        return messages, float(np.median(taken_ms))


class Prepared(NamedTuple):
    """What the calls of one number of rows need, so that their blocks can be run one by one."""

    rows: int
    arms: list[Arm]
    targets: dict[str, Target]
    encode_ms: dict[str, float]


def table_of(model: Model) -> pd.DataFrame:
    """Return rows to ask a model for: the flights, or the model's sample, or random numbers if it has none."""
    if model.name == "flights" and FLIGHTS.exists():
        return pd.read_parquet(FLIGHTS)[model.schema.names]
    if model.sample is not None:
        return model.sample
    rng = np.random.default_rng(0)
    return pd.DataFrame({column.name: rng.normal(size=1_000).astype(column.dtype) for column in model.schema.columns})


def sample(table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    """Draw rows of a table; with repetition if it has fewer."""
    return table.sample(rows, replace=rows > len(table), random_state=seed).reset_index(drop=True)
