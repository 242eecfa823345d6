"""`pred-server bench` and `pred-server plot`: which experiments there are, their report, their figures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pred_server.codecs import CODECS
from pred_server.errors import InvalidInput
from pred_server.lab import experiments, plots, stats
from pred_server.lab.calls import Arm, messages_of
from pred_server.lab.experiments import Experiment
from pred_server.model import load

ARTICLE = Arm("the article's server", "article")
IN_PROCESS = Arm("in process", "predict")


def by_rows(model: str, encodings: Sequence[str], rows: Sequence[int] = (), quick: bool = False) -> Experiment:
    """Latency of one call by rows: every encoding beside the article's server, REST, Arrow Flight and the floors."""
    served = tuple(Arm(encoding, encoding=encoding) for encoding in encodings)
    first, again = served[0], replace(served[0], name=f"{served[0].name}, again", process=1)
    echoes = tuple(Arm(f"echo of {arm.name}", "echo", arm.encoding) for arm in (served[:1] if quick else served))
    others = () if quick else (Arm("REST (JSON)", "rest"), Arm("Arrow Flight", "flight"))
    tcp = () if quick else (Arm("raw TCP", "tcp", first.encoding),)
    compare = [(arm.name, ARTICLE.name) for arm in served]
    compare += [(arm.name, first.name) for arm in (*served[1:], *others)]
    compare += [(first.name, IN_PROCESS.name)]
    held: dict[str, Any] = {"repetitions": 2, "blocks": 3, "calls": 10, "most_rows": 20_000} if quick else {}
    few, many = (1, 100, 10_000), (1, 10, 100, 1_000, 10_000, 100_000)
    return Experiment(
        (ARTICLE, *served, again, *others, IN_PROCESS, *echoes, *tcp),
        tuple(compare),
        (again.name, first.name),
        model=model,
        rows=tuple(rows) or (few if quick else many),
        **held,
    )


def by_load(model: str, encodings: Sequence[str], rows: Sequence[int] = (), quick: bool = False) -> Experiment:
    """Response time by offered load: an open loop at rising rates, ours beside the article's server."""
    rates = (50, 100, 200, 400) if quick else (25, 50, 100, 200, 400, 800, 1_600)
    arms = [
        replace(arm, name=f"{arm.name}, {rate}/s", rate_per_s=rate)
        for arm in (Arm(encodings[0], encoding=encodings[0]), ARTICLE)
        for rate in rates
    ]
    compare = tuple((ours.name, theirs.name) for ours, theirs in zip(arms, arms[len(rates) :], strict=False))
    again = replace(arms[0], name=f"{arms[0].name}, again", process=1)
    held: dict[str, Any] = {"repetitions": 2, "blocks": 3, "most_rows": 10**9, "seconds": 0.5 if quick else 2.0}
    control = (again.name, arms[0].name)
    return Experiment((*arms, again), compare, control, "load", model, tuple(rows) or (100,), **held)


def by_chunks(model: str, encodings: Sequence[str], rows: Sequence[int] = (), quick: bool = False) -> Experiment:
    """Throughput of a stream by the size of its chunks, beside raw TCP and one call with all rows."""
    total = max(rows, default=20_000 if quick else 200_000)
    sizes = [size for size in (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000) if size < total]
    encoding = encodings[0]
    whole = Arm("one message", encoding=encoding)
    streams = [Arm(f"chunks of {size:,}", encoding=encoding, chunk_rows=size) for size in sizes]
    again = replace(whole, name="one message, again", process=1)
    return Experiment(
        (whole, again, *streams, Arm("raw TCP", "tcp", encoding)),
        tuple((stream.name, whole.name) for stream in streams),
        (again.name, whole.name),
        "chunks",
        model,
        (total,),
        blocks=3,
        most_rows=total,
    )


VARIES = {"rows": by_rows, "load": by_load, "chunks": by_chunks}


def bench(
    varies: str, model: str, encodings: Sequence[str], rows: Sequence[int], out: Path, seed: int, quick: bool, pin: bool
) -> None:
    """Run one experiment, write its calls to `out`, and print what they say."""
    loaded = load(model)
    one_row = experiments.sample(experiments.table_of(loaded), 1, seed)
    able = []
    for encoding in encodings or CODECS:
        try:
            messages_of(Arm(encoding, encoding=encoding), one_row)
            able.append(encoding)
        except InvalidInput as error:
            print(f"left out: {encoding} cannot carry this model's table: {error}")
    if not able:
        raise InvalidInput("none of the encodings can carry this model's table")
    experiment = replace(VARIES[varies](model, able, rows, quick), seed=seed, pin=pin)
    calls = experiments.run(experiment, out)
    print(text(calls))
    print(f"\n{len(calls):,} calls: {out}; to draw them: pred-server plot {out}")


def text(calls: pd.DataFrame) -> str:
    """The report: medians, then a sentence for each declared comparison, then every doubt."""
    experiment = calls.attrs["experiment"]
    control = tuple(experiment["control"]) if experiment["control"] else None
    names = [arm["name"] for arm in experiment["arms"]]
    medians = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms").loc[names].round(2)
    medians.columns = [f"{rows:,}" for rows in medians.columns]
    lines = ["median latency in ms, by rows in one call", medians.to_string(index_names=False), ""]
    if experiment["varies"] != "rows":
        lines += [stats.throughput(calls).set_index("arm").loc[names].reset_index().round(3).to_string(index=False), ""]
    compared = stats.report(calls, [tuple(pair) for pair in experiment["compare"]], control)
    lines += [stats.sentence(row) for _, row in compared.iterrows()]
    doubts = stats.doubts(calls, control)
    return "\n".join([*lines, "", *(f"doubt: {doubt}" for doubt in doubts)])


def plot(results: Path, out: Path) -> None:
    """Draw what a result file holds; one PNG for each figure, which says in a sentence what is to be seen in it."""
    calls = experiments.read(results)
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in plots.of(calls).items():
        path = out / f"{results.stem}_{name}.png"
        plots.write(figure, path)
        print(f"{path}: {plots.alt(figure)}")
