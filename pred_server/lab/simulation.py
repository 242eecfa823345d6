"""A simulation of our servers under load: calls come, event loops read them, batches form, replies leave.

It follows `server/predictor.py`. The loop of a worker reads calls and writes replies, one after the other. It computes
quick batches itself; all others are computed on the thread, which takes all calls that have been read. Loop and thread
share Python's lock, and so one core: they take turns, in the middle of a batch, too.

SimPy is the engine: its processes read like the server's code, and its resources queue as locks and cores do.
"""

import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

SETTLING = 0.1  # the first share of the calls is not counted: the queues were empty when they came
SLICE_MS = 0.5  # NumPy and compiled code let go of the lock many times in one batch
# The queue grows where so many calls (of all) are unanswered when the last has come, and calls of the last quarter took
# so many times as long as those of the second.
MANY_UNANSWERED, LONGER = 0.02, 1.5

Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Times:
    """How long each part of a server's work takes, in milliseconds.

    Parameters
    ----------
    predict_ms : of a batch, by its rows
    is_quick : whether a batch of so many rows is computed on the loop
    call_ms : what the loop needs for a call, half to read it and half to answer it, by the calls that its worker has
    hop_ms : from the loop to the compute thread, where that sleeps
    outside_ms : what passes between caller and loop, of one call: nobody else waits for that
    slice_ms : how long loop and thread keep the lock, at least, where the other one waits for it
    gather : how likely the loop reads one more call that has come before it computes a quick batch
    extra : draws how much longer (or shorter) than usual the reading of a call takes, and the batch that it begins,
        after a pause of so many milliseconds
    stop_ms : draws when a worker is interrupted next, and for how long; None for never
    """

    predict_ms: Callable[[int, random.Random], float]
    is_quick: Callable[[int], bool] = lambda rows: False
    call_ms: Callable[[int], float] = lambda calls: 0.0
    hop_ms: float = 0.0
    outside_ms: float = 0.0
    slice_ms: float = SLICE_MS
    gather: float = 1.0
    extra: Callable[[float, random.Random], tuple[float, float]] = lambda pause_ms, draw: (0.0, 0.0)
    stop_ms: Callable[[random.Random], tuple[float, float]] | None = None


@dataclass(frozen=True)
class Fleet:
    """What is simulated: workers, and who calls them.

    Parameters
    ----------
    cores : that all workers share; 0 gives each one of its own
    rate_per_s : of an open loop with Poisson arrivals; 0 makes a closed loop of `callers`
    clients : how many share the calls of the open loop; each goes round the workers, as gRPC's `round_robin` does
    rows : in one call
    max_batch_rows : as the server's limit
    """

    workers: int = 1
    cores: int = 0
    rate_per_s: float = 0.0
    callers: int = 1
    clients: int = 1
    rows: int = 1
    max_batch_rows: int = 8_192


@dataclass(frozen=True)
class Outcome:
    """What became of the calls.

    Attributes
    ----------
    latency_ms : of each call that was counted, with what passes outside
    waited_ms : of each of them, from its arrival until its batch was computed
    batch_rows : that were computed together with each of them
    calls_per_s : that were answered
    busy : which share of the cores' time was used
    kept_up : False if the queue grew as long as calls came
    """

    latency_ms: np.ndarray
    waited_ms: np.ndarray
    batch_rows: np.ndarray
    calls_per_s: float
    busy: float
    kept_up: bool

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.latency_ms, share))


@dataclass(eq=False)
class Call:
    """One call on its way."""

    came_ms: float
    answered: simpy.Event | None = None
    began_ms: float = 0.0
    left_ms: float = 0.0
    batch_rows: int = 0


@dataclass(eq=False)
class Worker:
    """One server process: its loop, and its compute thread.

    Parameters
    ----------
    cores : shared with other workers; None for one of its own
    """

    env: simpy.Environment
    cores: simpy.Resource | None
    times: Times
    fleet: Fleet
    draw: random.Random
    tasks: deque[Call] = field(default_factory=deque)  # for the loop: calls to read, and to answer
    waiting: deque[Call] = field(default_factory=deque)  # that are read, and wait for a batch
    n_calls: int = 0  # that it has
    is_computing: bool = False
    is_due: bool = False  # a quick batch, though more calls have come
    loop_sleeps: simpy.Event | None = None
    thread_sleeps: simpy.Event | None = None
    batch_extra_ms: float = 0.0
    owed_ms: float = 0.0  # work that cannot take less than no time, so the next takes less
    used_ms: float = 0.0
    last_ms: float = 0.0  # when it last did anything

    def __post_init__(self) -> None:
        self.lock = simpy.Resource(self.env)
        self.env.process(self.loop())
        self.env.process(self.compute())
        if self.times.stop_ms:
            self.env.process(self.stop(self.times.stop_ms))

    def take(self, calls: list[Call]) -> None:
        """Give the loop calls to read, or to answer. It answers first: those to be read wait in gRPC's core."""
        if calls[0].batch_rows:
            self.tasks.extendleft(reversed(calls))
        else:
            self.tasks.extend(calls)
            self.n_calls += len(calls)
        if self.loop_sleeps:
            self.loop_sleeps.succeed()
            self.loop_sleeps = None

    def work(self, ms: float) -> Steps:
        """Use a core, under the lock."""
        ms += self.owed_ms
        self.owed_ms, ms = min(ms, 0.0), max(ms, 0.0)
        self.used_ms += ms
        if self.cores is None:
            yield self.env.timeout(ms)
        else:
            with self.cores.request() as core:
                yield core
                yield self.env.timeout(ms)
        self.last_ms = self.env.now

    def loop(self) -> Steps:
        while True:
            if not self.tasks:
                self.loop_sleeps = self.env.event()
                yield self.loop_sleeps
            while self.tasks or self.gathers():
                with self.lock.request() as lock:
                    yield lock
                    until_ms = self.env.now + self.times.slice_ms
                    while (self.tasks or self.gathers()) and not (self.lock.queue and self.env.now >= until_ms):
                        yield from self.task()

    def gathers(self) -> bool:
        """Whether the loop computes the next batch itself. Where it does not, wake the thread."""
        if not self.waiting:
            return False
        is_quick = self.times.is_quick(self.fleet.rows) and self.times.is_quick(len(self.waiting) * self.fleet.rows)
        if not is_quick:
            self.wake_thread()
        return is_quick and not self.is_computing and (self.is_due or not self.tasks)

    def task(self) -> Steps:
        """Do the loop's next task."""
        if self.gathers():
            batch, self.is_due = self.next_batch(), False
            yield from self.work(self.begin(batch))
            self.take(batch)
        elif (call := self.tasks.popleft()).batch_rows:
            yield from self.work(self.times.call_ms(self.n_calls) / 2)
            call.left_ms, self.n_calls = self.env.now, self.n_calls - 1
            if call.answered:
                call.answered.succeed()
        else:
            extra_ms, batch_extra_ms = self.times.extra(self.env.now - self.last_ms, self.draw)
            if not self.waiting:  # it opens a batch
                self.batch_extra_ms = batch_extra_ms
            yield from self.work(self.times.call_ms(self.n_calls) / 2 + extra_ms)
            self.waiting.append(call)
            self.is_due = self.draw.random() >= self.times.gather
            if self.is_computing or not self.times.is_quick(self.fleet.rows):
                self.wake_thread()

    def next_batch(self) -> list[Call]:
        n_calls = min(len(self.waiting), max(1, self.fleet.max_batch_rows // self.fleet.rows))
        return [self.waiting.popleft() for _ in range(n_calls)]

    def begin(self, batch: list[Call]) -> float:
        """Return how long it takes to compute a batch."""
        rows = len(batch) * self.fleet.rows
        for call in batch:
            call.began_ms, call.batch_rows = self.env.now, rows
        return max(0.0, self.times.predict_ms(rows, self.draw) + self.batch_extra_ms)

    def wake_thread(self) -> None:
        if self.thread_sleeps:
            self.thread_sleeps.succeed()
            self.thread_sleeps = None

    def compute(self) -> Steps:
        batch: list[Call] = []
        left_ms = 0.0
        while True:
            if not (batch or self.waiting):
                self.thread_sleeps = self.env.event()
                yield self.thread_sleeps
                yield self.env.timeout(self.times.hop_ms)
            with self.lock.request() as lock:
                yield lock
                if not batch and self.waiting:  # else the loop was quicker
                    batch = self.next_batch()
                    self.is_computing, left_ms = True, self.begin(batch)
                is_free = True
                while is_free and left_ms > 0:
                    yield from self.work(min(left_ms, self.times.slice_ms))
                    left_ms -= self.times.slice_ms
                    is_free = not self.lock.queue
            if batch and left_ms <= 0:
                self.is_computing = False
                self.take(batch)
                batch = []

    def stop(self, draw_ms: Callable[[random.Random], tuple[float, float]]) -> Steps:
        """Keep loop and thread from working, again and again: other processes and the system need the core, too."""
        while True:
            until_ms, for_ms = draw_ms(self.draw)
            yield self.env.timeout(until_ms)
            with self.lock.request() as lock:
                yield lock
                yield self.env.timeout(for_ms)


def simulate(times: Times, fleet: Fleet, calls: int = 10_000, seed: int = 0) -> Outcome:
    """Simulate so many calls. Equal arguments give equal outcomes."""
    env, draw = simpy.Environment(), random.Random(seed)
    cores = simpy.Resource(env, fleet.cores) if fleet.cores else None
    workers = [Worker(env, cores, times, fleet, draw) for _ in range(fleet.workers)]
    made: list[Call] = []
    if fleet.rate_per_s:
        everything: simpy.Event = env.process(_open_loop(env, workers, fleet, calls, draw, made))
    else:
        callers = [_caller(env, workers[n % len(workers)], calls, made) for n in range(fleet.callers)]
        everything = env.all_of([env.process(caller) for caller in callers])
    env.run(everything)
    unanswered = sum(not call.left_ms for call in made)
    for call in made:
        while not call.left_ms:  # it is still on its way
            env.step()
    over_ms = max(call.left_ms for call in made)
    counted = made[round(SETTLING * calls) :]
    quarters = np.array_split([call.left_ms - call.came_ms for call in made], 4)
    second_ms, last_ms = (float(np.median(quarters[place])) for place in (1, 3))
    came_ms, began_ms, left_ms = np.array([(call.came_ms, call.began_ms, call.left_ms) for call in counted]).T
    return Outcome(
        latency_ms=left_ms - came_ms + times.outside_ms,
        waited_ms=began_ms - came_ms,
        batch_rows=np.array([call.batch_rows for call in counted]),
        calls_per_s=1e3 * calls / (over_ms - made[0].came_ms),
        busy=sum(worker.used_ms for worker in workers) / over_ms / (fleet.cores or fleet.workers),
        kept_up=unanswered < max(50, MANY_UNANSWERED * calls) or last_ms < LONGER * second_ms,
    )


def _open_loop(
    env: simpy.Environment, workers: list[Worker], fleet: Fleet, calls: int, draw: random.Random, made: list[Call]
) -> Steps:
    nexts = [draw.randrange(len(workers)) for _ in range(fleet.clients)]
    for _ in range(calls):
        yield env.timeout(draw.expovariate(fleet.rate_per_s / 1e3))
        client = draw.randrange(fleet.clients)
        nexts[client] = (nexts[client] + 1) % len(workers)
        made.append(Call(env.now))
        workers[nexts[client]].take(made[-1:])


def _caller(env: simpy.Environment, worker: Worker, calls: int, made: list[Call]) -> Steps:
    """Ask, wait for the answer, and ask again, until all callers together have made the calls."""
    while len(made) < calls:
        made.append(Call(env.now, answered := env.event()))
        worker.take(made[-1:])
        yield answered
        yield env.timeout(worker.times.outside_ms)
