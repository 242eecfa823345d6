"""What happens to calls, in plain numbers: how many there were, how they ended, how long they took.

To count a call takes some microseconds of the event loop. Names are those that the server knows, and never what a
caller made up: their number is bounded, whatever is asked for. `metrics` makes text of the numbers.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any, Protocol

RPCS = ("Predict", "PredictStream", "Describe")
# Limits over which a call is refused; "other" is memory that is not there.
REFUSING = (
    *("max_calls_in_flight", "max_bytes_in_flight", "max_queued_rows"),
    *("max_message_bytes", "max_rows", "max_values", "other"),
)
SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576)


class Call(Protocol):
    """What is counted of a call, as `server.call.Call` has it."""

    rpc: str
    identity: str
    encoding: str
    rows: int
    start_ns: int

    @property
    def watch(self) -> Any: ...


class Histogram:
    """Counts by upper bound, and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]):
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the counts as Prometheus has them: of all values up to a bound."""
        count, buckets = 0.0, []
        for bound, more in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            count += more
            buckets.append((str(bound), count))
        return buckets


class OfModel:
    """What is kept for each model: identities are the server's own, so there are few."""

    def __init__(self, label: str):
        self.label = label
        self.rows = 0
        self.batch_rows = Histogram(ROWS)
        self.seconds: dict[str, Histogram] = {}
        self.phases: dict[str, Histogram] = {}


class Calls:
    """Counts calls. Only the event loop adds; another thread may read meanwhile."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str, str, str]] = Counter()
        """By rpc, model, encoding and status code; each is empty where the call did not come so far."""
        self.refusals: Counter[str] = Counter(
            dict.fromkeys(REFUSING, 0)
        )  # a rate begins at 0, not at the first refusal
        """By the limit."""
        self.of_models: dict[str, OfModel] = {}
        """By NAME/VERSION; that of calls without a model is empty."""
        self._by_identity: dict[str, OfModel] = {}

    def observe(self, call: Call, code: str, error: BaseException | None) -> None:
        """Count a call: it is what `server.call.Observer` describes."""
        of = self._by_identity.get(call.identity)
        if of is None:
            label = call.identity.rpartition("/")[0].rpartition("/")[0]
            of = self._by_identity[call.identity] = self.of_models.setdefault(label, OfModel(label))
        self.ended[call.rpc, of.label, call.encoding, code] += 1
        if code == "RESOURCE_EXHAUSTED":
            self.refusals[getattr(error, "flag", "").strip("-").replace("-", "_") or "other"] += 1
        if not of.label:  # it never came as far as a model
            return
        watch = call.watch
        of.rows += call.rows
        if call.rpc not in of.seconds:
            of.seconds[call.rpc] = Histogram(SECONDS)
        of.seconds[call.rpc].add((perf_counter_ns() - call.start_ns) / 1e9)
        for phase, ms in list(watch.phases_ms.items()):
            if phase not in of.phases:
                of.phases[phase] = Histogram(SECONDS)
            of.phases[phase].add(ms / 1e3)
        if watch.batch_rows:
            of.batch_rows.add(watch.batch_rows)

    def refused(self, method: str) -> None:
        """Count a call without a token that is known. It may have named any method."""
        rpc = method.rpartition("/")[2]
        self.ended[rpc if rpc in RPCS else "other", "", "", "UNAUTHENTICATED"] += 1
