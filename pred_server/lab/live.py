"""Watch an experiment while it is measured: a state after every block, and a stop that works at once.

`watch` measures in the process that calls it. A `Run` has a process of its own do so: its caller stays free for other
things, and to stop is to end that process, whatever it does at that moment.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import psutil

from pred_server.checkout import ROOT
from pred_server.lab.arms import TRAINED, trained
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.load import judged
from pred_server.lab.stamps import stamp

GRACE_S = 1.0  # for a process that is stopped to end what it has started; then it is done from outside
_CHILD = "import sys; sys.path.append(sys.argv[1]); from pred_server.lab.live import main; main()"


@dataclass(frozen=True)
class State:
    """How far an experiment is.

    Parameters
    ----------
    calls : all calls so far, as `experiments.run` returns them, with stamp and experiment in `attrs`; none yet while
        the servers start
    done, total : blocks; every number of rows has its own
    left_s : about how long the rest takes, in seconds; None before every number of rows was measured once
    """

    calls: pd.DataFrame = field(default_factory=pd.DataFrame)
    done: int = 0
    total: int = 0
    left_s: float | None = None


def watch(experiment: Experiment) -> Iterator[State]:
    """Measure block by block, all numbers of rows in turn; yield a state when the servers run, and after every block.

    So the whole curve is there after the first round, and its intervals narrow from round to round. What was started is
    closed at the end, and when the iterator is closed. Raises what `experiments.running` raises.
    """
    attrs = _attrs(experiment)
    with closing(_blocks(experiment)) as blocks:
        yield from _gathered(blocks, attrs)


def _attrs(experiment: Experiment) -> dict[Hashable | None, Any]:
    return {"stamp": stamp(experiment.seed, experiment.pinning), "experiment": experiment.described}


def _blocks(experiment: Experiment) -> Generator[State, None, None]:
    """Measure, and yield states with the calls of the last block alone."""
    for name in {arm.model or experiment.model for arm in experiment.arms} & set(TRAINED):
        trained(name)
    rounds = [
        [rows for rows in sorted(experiment.rows) if block < experiment.blocks_of(rows)]
        for block in range(experiment.blocks)
    ]
    turns = experiment.repetitions * [(block, rows) for block, sizes in enumerate(rounds) for rows in sizes]
    taken_s: dict[int, float] = {}
    done, total = 0, len(turns)
    for repetition in range(experiment.repetitions):
        with running(experiment) as bench:
            yield State(done=done, total=total)
            prepared = {}
            for block, rows in turns[: total // experiment.repetitions]:
                if rows not in prepared:
                    prepared[rows] = bench.prepare(rows)
                start_s = time.monotonic()
                calls = bench.run_blocks(prepared[rows], repetition, range(block, block + 1))
                taken_s[rows], done = time.monotonic() - start_s, done + 1
                left_s = (
                    sum(taken_s[rows] for _, rows in turns[done:]) if len(taken_s) == len(experiment.rows) else None
                )
                yield State(calls, done, total, left_s)


def _gathered(blocks: Iterable[State], attrs: Mapping[Hashable | None, Any]) -> Iterator[State]:
    calls = pd.DataFrame()
    for block in blocks:
        if len(block.calls):
            calls = judged(pd.concat([calls, block.calls], ignore_index=True), ["arm", "rows"])
        calls.attrs = attrs
        yield replace(block, calls=calls)


class Run:
    """An experiment in a process of its own. Iterate over its states; `stop` may come from any thread.

    It ends when the process that started it ends, and then everything ends that it has started.
    """

    def __init__(self, experiment: Experiment):
        self.stopped = False
        self._attrs = _attrs(experiment)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # deaf to Kernel -> Interrupt
        )
        self.pid = self._process.pid
        assert self._process.stdin and self._process.stdout
        self._orders, self._blocks = self._process.stdin, self._process.stdout
        self._send(experiment)

    def _send(self, experiment: Experiment) -> None:
        with suppress(BrokenPipeError):  # the process has ended; its log says why
            pickle.dump(experiment, self._orders)
            self._orders.flush()

    def __iter__(self) -> Iterator[State]:
        """Yield the states that `watch` yields, until the end or a stop. Raises RuntimeError if it fails."""
        try:
            yield from _gathered(self._received(), self._attrs)
        finally:
            self.stop()
            self._blocks.close()
            self._log.close()

    def _received(self) -> Iterator[State]:
        while True:
            try:
                received = pickle.load(self._blocks)
            except (EOFError, pickle.UnpicklingError):  # it has ended, perhaps in the middle of a message
                received = self._last_words()
            if self.stopped or received is None:
                return
            if isinstance(received, str):
                raise RuntimeError(received)
            yield received

    def _last_words(self) -> str:
        log = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0).decode(errors="replace")
        return f"the process of the experiment has ended; its last words:\n{log[-2000:].strip()}"

    def stop(self) -> None:
        """End the run, if it has not ended, and everything that it has started; return when nothing is left."""
        self.stopped = True
        started = _started_by(self.pid) if self._process.poll() is None else []
        with suppress(BrokenPipeError):
            self._orders.close()  # the process sees it, and ends what it has started, and itself
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            started = _started_by(self.pid)
            self._process.kill()
            self._process.wait()
        _end(started)


def _started_by(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, GRACE_S)


def main() -> None:
    """Be the process of a `Run`: read an experiment from standard input, write its blocks to standard output."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what others print goes to the log
        experiment = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_reader, daemon=True).start()

        def say(what: object) -> None:
            pickle.dump(what, out)
            out.flush()

        try:
            for block in _blocks(experiment):
                say(block)
            say(None)
        except Exception as error:
            say(str(error) or type(error).__name__)


def _end_with_reader() -> None:
    sys.stdin.buffer.read()
    _end(_started_by(os.getpid()))
    os._exit(0)
