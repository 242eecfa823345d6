"""What the explorer can be asked: arms, an axis, how often; as an experiment, and as code that measures it again."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from pred_server.errors import InvalidInput
from pred_server.lab.arms import ONNX
from pred_server.lab.experiments import Experiment
from pred_server.lab.findings import AGAIN, point_suffix
from pred_server.lab.ways import WAYS, Arm, Way
from pred_server.tutorial.background import GATEWAY
from pred_server.wire.codec import CODECS

ROWS = (1, 10, 100, 1_000, 10_000)
CHUNK_ROWS = 1_000
# What can stand on the axis, and its first points.
AXES: dict[str, tuple[int, ...]] = {"rows": ROWS, "callers": (1, 4, 16), "rate_per_s": (20, 100, 500)}
FEWEST_ARMS, MOST_ARMS = 2, 4
TITLES = {
    "serve": "our server", "article": "the article's server", "http": "our messages over HTTP",
    "gateway": "the gateway in Go", "predict": "in process", "echo": "echo (a floor)",
}  # fmt: skip
ENCODINGS = {"serve": tuple(CODECS), "http": tuple(CODECS), "echo": tuple(CODECS), "gateway": ("csv", "json")}
ENGINES, STREAMS = ("serve", "gateway"), ("serve", "echo")  # ways with a choice of engine, and of a stream
MOST = 10_000_000  # the highest point on the axis
LONG = 90  # a line of code
CODE = """\
from pred_server.lab import curves
from pred_server.lab.experiments import Experiment
from pred_server.lab.live import watch
from pred_server.lab.ways import Arm

experiment = {experiment}
for state in watch(experiment):
    print(f"\\r{{state.done}} of {{state.total}} blocks", end="")
calls = state.calls
print("", *curves.conclusions(calls), sep="\\n")
"""


@dataclass(frozen=True)
class Choice:
    """What to measure, side by side.

    Parameters
    ----------
    arms : two to four, with names that differ; the others are compared with the first. The same arm may come twice
    axis : what varies: "rows" in one call, "callers" who wait for each answer, or "rate_per_s", calls that come anyway
    points : on the axis; by default those in `AXES`
    rows : in one call, if a load is on the axis
    callers, rate_per_s : the load, if rows are on the axis; a rate above 0 makes an open loop
    blocks : at each point; a verdict needs five
    calls : of each arm in each half of a block; fewer if they would have very many rows

    Raises
    ------
    InvalidInput
        This cannot be compared; the message says why.
    """

    arms: tuple[Arm, ...]
    model: str = "flights"
    axis: str = "rows"
    points: tuple[int, ...] = ()
    rows: int = 1
    callers: int = 1
    rate_per_s: float = 0.0
    blocks: int = 8
    calls: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(sorted(set(self.points or AXES[self.axis]))))
        names = [arm.name for arm in self.arms]
        if not FEWEST_ARMS <= len(names) <= MOST_ARMS or len(set(names)) < len(names):
            raise InvalidInput(f"choose {FEWEST_ARMS} to {MOST_ARMS} arms, with names that differ")
        if min(*self.points, self.rows, self.callers, self.calls, self.blocks - 1) < 1 or max(self.points) > MOST:
            raise InvalidInput(
                f"numbers of rows, callers and calls, and rates, are 1 at least; blocks 2; points {MOST:,} at most"
            )
        for arm in self.arms:
            if arm.frame and type(WAYS[arm.server]).client is Way.client:
                raise InvalidInput(f"{arm.name} has no client that takes a table: time ready bytes")
            if arm.frame and (self.axis != "rows" or self.callers > 1 or self.rate_per_s):
                raise InvalidInput("a client is measured with one caller who waits: for another load, time ready bytes")

    @property
    def experiment(self) -> Experiment:
        """The experiment: every arm beside the first, and the first beside itself as a control, at every point."""
        base = self.arms[0]
        lines = (*self.arms, replace(base, name=base.name + AGAIN, process=base.process + 1))
        if self.axis == "rows":
            at = [[self._loaded(arm, callers=self.callers, rate_per_s=self.rate_per_s) for arm in lines]]
        else:
            at = [
                [self._loaded(replace(arm, name=arm.name + end), **{self.axis: point}) for arm in lines]
                for point in self.points
                for end in [point_suffix(self.axis, point)]
            ]
        controls = [(arms[-1].name, arms[0].name) for arms in at]
        return Experiment(
            arms=tuple(arm for arms in at for arm in arms),
            compare=(*((arm.name, arms[0].name) for arms in at for arm in arms[1:-1]), *controls[1:]),
            control=controls[0],
            varies="explorer",
            model=self.model,
            rows=self.points if self.axis == "rows" else (self.rows,),
            repetitions=1,
            blocks=self.blocks,
            calls=self.calls,
            most_rows=20_000,
            seconds=0.5,
            warmup=2,
        )

    def _loaded(self, arm: Arm, **load: Any) -> Arm:
        """Return the arm under a load: each of many callers makes at least two calls in half of a block."""
        arm = replace(arm, **load)
        return arm if arm.rate_per_s or arm.callers == 1 else replace(arm, calls=max(self.calls, 2 * arm.callers))


def offered() -> dict[str, str]:
    """Return the ways to a prediction that can be measured here, by title."""
    found = [way for way in WAYS.values() if (way.title or way.name in TITLES) and not way.missing()]
    return {title_of(way.name): way.name for way in found if way.name != "gateway" or GATEWAY.exists()}


def title_of(way: str) -> str:
    return TITLES.get(way) or WAYS[way].title


def with_names(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Name the arms that have no name by what they differ in; a number tells equal arms apart."""
    parts = [
        (
            title_of(arm.server),
            arm.encoding if arm.server in ENCODINGS else "",
            "ONNX Runtime" if ONNX[1] in arm.flags else "scikit-learn" if arm.server in ENGINES else "",
            "as a stream" if arm.chunk_rows else "",
            arm.model,
        )
        for arm in arms
    ]
    differ = [len(set(column)) > 1 for column in zip(*parts, strict=True)]
    named: list[Arm] = []
    for arm, said in zip(arms, parts, strict=True):
        whole = ", ".join(part for part, differs in zip(said, differ, strict=True) if differs and part)
        name = arm.name or whole or said[1] or said[0]
        taken = sum(other.name == name or other.name.startswith(f"{name} (") for other in named)
        named.append(replace(arm, name=f"{name} ({taken + 1})" if taken and not arm.name else name))
    return tuple(named)


def code_of(experiment: Experiment) -> str:
    """Return code that measures the experiment, for a cell of its own."""
    return CODE.format(experiment=_literal(experiment))


def _literal(value: Any) -> str:
    """Write a value as code: a dataclass by the fields that differ from their defaults, and what is long in lines."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple):
        return _bracketed("", [_literal(item) for item in value], "," if len(value) == 1 else "")
    if not isinstance(value, Experiment | Arm):
        return repr(value)
    differ = [
        f"{field.name}={_literal(getattr(value, field.name))}"
        for field in fields(value)
        if field.default is MISSING or getattr(value, field.name) != field.default
    ]
    return _bracketed(type(value).__name__, differ)


def _bracketed(name: str, items: list[str], end: str = "") -> str:
    line = f"{name}({', '.join(items)}{end})"
    if len(line) < LONG and "\n" not in line:
        return line
    return f"{name}(\n" + textwrap.indent("".join(f"{item},\n" for item in items), "    ") + ")"
