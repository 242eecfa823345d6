"""Reproduce a result: run the experiment that its file holds, here, and compare the verdicts.

    from pred_server.lab.reproduce import reproduce
    reproduce("data/results/hand_linear.parquet", quick=True)

In a terminal it is `pred-server reproduce`.
"""

import html
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pred_server.errors import InvalidInput
from pred_server.lab import experiments, machines, report, stats, verdicts
from pred_server.lab.rerun import able, comparisons, experiment_of, fitted, only

DEFAULT = machines.RESULTS / "hand_linear.parquet"
RATIOS = "Ratios: how many times as long the first takes as the second, with the 95 % interval."


@dataclass(frozen=True)
class Reproduction:
    """Two runs of one experiment, and their verdicts. Shows itself in a notebook and as text.

    Parameters
    ----------
    there, here : the calls (or block medians) of the result, and the calls that were measured here
    table : what `verdicts.compare` returns
    not_measured : how many of the result's verdicts have no counterpart here
    notes : how this run differs from the result's, a sentence each
    """

    there: pd.DataFrame
    here: pd.DataFrame
    table: pd.DataFrame
    not_measured: int
    notes: tuple[str, ...]

    @property
    def contradicted(self) -> pd.DataFrame:
        """The rows of the table with a verdict that is contradicted."""
        return self.table[self.table["verdict"] == verdicts.CONTRADICTED]

    @property
    def counts(self) -> str:
        missing = f"; {self.not_measured} of the result's not measured here" if self.not_measured else ""
        return f"{verdicts.counts(self.table)}{missing}"

    @property
    def title(self) -> str:
        there, here = (machines.name_of(calls.attrs["stamp"]) for calls in (self.there, self.here))
        experiment = self.there.attrs["experiment"]
        return f"{experiment['varies']}, model `{experiment['model']}`: there on {there}; here on {here}"

    @property
    def doubts(self) -> list[str]:
        """What the controls read, and what speaks against the run here."""
        control = stats.control(self.here)
        if control:
            runs = {"here": self.here, "there": self.there}
            read = [f"{where} {report.control_line(calls)}" for where, calls in runs.items()]
        else:
            read = ["no control was measured"]
        return read + [f"doubt: {doubt}" for doubt in stats.doubts(self.here, control)]

    def text(self) -> str:
        """Return a line for each verdict, what to know about the run, and last the counts."""
        lines = [verdicts.line(row) for row in self.table.itertuples()]
        return "\n".join([self.title, *self.notes, RATIOS, "", *lines, "", *self.doubts, "", self.counts])

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("verdict", "rows", "compared", "here", "there", ""))
        rows = ""
        for row in self.table.itertuples():
            here, there = verdicts.intervals(row)
            cells = (row.verdict, f"{row.rows:,}", f"{row.arm} ÷ {row.base}", here, there, row.why)
            rows += f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in cells)}</tr>"
        before, after = (
            "".join(f"<div>{html.escape(line)}</div>" for line in lines)
            for lines in ([*self.notes, RATIOS], self.doubts)
        )
        counts = f"<b>{html.escape(self.counts)}</b>"
        return f"<b>{html.escape(self.title)}</b>{before}<table><tr>{head}</tr>{rows}</table>{after}{counts}"


def reproduce(
    result: str | Path | pd.DataFrame = DEFAULT,
    *,
    quick: bool = False,
    model: str = "",
    rows: Sequence[int] = (),
    arms: Sequence[str] = (),
    out: Path | None = None,
    progress: bool = True,
) -> Reproduction:
    """Run the experiment of a result here, and compare the verdicts.

    Parameters
    ----------
    result : a result file, or the calls of one; by default the published study of rows with the `linear` model
    quick : measure less, in at most five minutes instead of an hour, and less sure
    model : another model than the result's: a name or a model directory, whose sample is sent
    rows : only these of the experiment's numbers of rows
    arms : only comparisons among these arms
    out : where to keep every call; an interrupted run with an `out` continues where it stopped

    Raises
    ------
    InvalidInput
        The result is none, its experiment cannot be run here, or `out` is the result itself.
    """
    there = result if isinstance(result, pd.DataFrame) else experiments.read(Path(result))
    if out and not isinstance(result, pd.DataFrame) and out.resolve() == Path(result).resolve():
        raise InvalidInput(f"{out} is the result to compare with: write to another file")
    declared, notes = experiment_of(there.attrs.get("experiment"))
    experiment = only(declared, rows, arms)
    if model:
        experiment = replace(experiment, model=model)
        notes.append(f"another model, `{model}` in place of `{declared.model}`: the verdicts are compared all the same")
    experiment = fitted(able(experiment, notes), there, quick, bool(model), notes)
    with tempfile.TemporaryDirectory() as scratch:
        here = experiments.run(experiment, out or Path(scratch) / "here.parquet", progress)
    table = verdicts.compare(there, here)
    return Reproduction(there, here, table, len(comparisons(declared)) - len(table), tuple(notes))


def command(
    *,
    out: Path,
    result: Path,
    quick: bool = False,
    model: str = "",
    rows: Sequence[int] = (),
    arms: Sequence[str] = (),
    contribute: bool = False,
) -> int:
    """Reproduce a result and print the verdicts: what `pred-server reproduce` does. Return 1 if one is contradicted.

    With `contribute`, the block medians are kept among the results of further machines. Raises InvalidInput if the
    result is not a published one, or if not all of its experiment is asked for.
    """
    if contribute:
        if model or rows or arms:
            raise InvalidInput("a contributed run is of the whole experiment: leave out --model, --rows and --arms")
        study = machines.published(result)
    found = reproduce(result, quick=quick, model=model, rows=rows, arms=arms, out=out)
    if contribute:
        print(f"for data/results/machines: {machines.contribute(found.here, study)}\n")
    print(found.text())
    n = len(found.contradicted)
    if n:
        print(f"pred-server: this machine contradicts the result in {n} of its verdicts", file=sys.stderr)
    return min(n, 1)
