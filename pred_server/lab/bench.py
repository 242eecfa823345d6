"""`pred-server bench` and `pred-server plot`: which experiments there are, their report, figures and numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pred_server.client.client import CHUNK_BYTES
from pred_server.errors import InvalidInput
from pred_server.lab import experiments, floor, ladder, plots, stats
from pred_server.lab.calls import Arm, messages_of
from pred_server.lab.experiments import Experiment
from pred_server.lab.floor import ROOMY
from pred_server.limits import MIB
from pred_server.model.sklearn_engine import ROW_BLOCK
from pred_server.model.store import load
from pred_server.wire.codec import CODECS

ARTICLE = Arm("the article's server", "article")
IN_PROCESS = Arm("in process", "predict")
STREAMED = ("tensor", "arrow", "columns", "csv")  # the first of them that can carry the table is also streamed


HTTP2_OPTIONS = {
    "frames of 1 MiB": ("--option", "grpc.http2.max_frame_size", str(MIB)),
    "a window of 16 MiB": ("--option", "grpc.http2.lookahead_bytes", str(16 * MIB)),
    "no probe of the bandwidth": ("--option", "grpc.http2.bdp_probe", "0"),
}


def by_rows(
    model: str, served: Sequence[Arm], stream: Arm, rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """Latency of one call by rows: every encoding beside the article's server, REST, Arrow Flight and the floors."""
    first, again = served[0], replace(served[0], name=f"{served[0].name}, again", process=1)
    whole = next(arm for arm in served if arm.encoding == stream.encoding)
    others = () if quick else (Arm("REST (JSON)", "rest"), Arm("Arrow Flight", "flight"))
    tcp = () if quick else (Arm("raw TCP", "tcp", whole.encoding),)
    echoes = tuple(replace(arm, name=f"echo of {arm.name}", server="echo", flags=()) for arm in (*served, stream))
    compare = [(arm.name, ARTICLE.name) for arm in (*served, stream, *others)]
    compare += [(arm.name, first.name) for arm in served[1:]]
    compare += [(stream.name, whole.name), (first.name, IN_PROCESS.name), (whole.name, IN_PROCESS.name)]
    return Experiment(
        (ARTICLE, *served, stream, again, *others, IN_PROCESS, *echoes, *tcp),
        tuple(dict.fromkeys(compare)),
        (again.name, first.name),
        model=model,
        rows=tuple(rows) or ((1, 100, 10_000) if quick else (1, 10, 100, 1_000, 10_000, 100_000)),
        blocks=3 if quick else 5,
        calls=8 if quick else 20,
        most_rows=20_000 if quick else 200_000,
    )


def by_load(
    model: str, served: Sequence[Arm], stream: Arm, rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """Response time by offered load: an open loop at rising rates, ours beside the article's server."""
    rates = (50, 200, 800) if quick else (50, 100, 200, 400, 800)
    arms = [
        replace(arm, name=f"{arm.name}, {rate}/s", rate_per_s=rate) for arm in (served[0], ARTICLE) for rate in rates
    ]
    compare = tuple((ours.name, theirs.name) for ours, theirs in zip(arms, arms[len(rates) :], strict=False))
    again = replace(arms[0], name=f"{arms[0].name}, again", process=1)
    held: dict[str, Any] = {"blocks": 3, "most_rows": 10**9, "seconds": 0.5 if quick else 1.5}
    return Experiment((*arms, again), compare, (again.name, arms[0].name), "load", model, tuple(rows) or (1,), **held)


def by_chunks(
    model: str, served: Sequence[Arm], stream: Arm, rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """Throughput of a stream by the size of its chunks, beside raw TCP and one call with all rows.

    HTTP/2 is the receiver's to tune, so its options are tried on an echo, with chunks of about the client's size.
    """
    total = max(rows, default=20_000 if quick else 200_000)
    sizes = [size for size in (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000) if total // 1_000 <= size < total]
    whole = replace(stream, name="one message", chunk_rows=0)
    streams = [replace(stream, name=f"chunks of {size:,}", chunk_rows=size) for size in sizes]
    again = replace(whole, name="one message, again", process=1)
    usual = min(streams, key=lambda each: abs(each.chunk_rows - stream.chunk_rows))
    echo = replace(usual, name="echo", server="echo", flags=())
    tuned = [replace(echo, name=f"echo with {name}", flags=flags) for name, flags in HTTP2_OPTIONS.items()]
    return Experiment(
        (whole, again, *streams, Arm("raw TCP", "tcp", stream.encoding), echo, *tuned),
        (*((each.name, whole.name) for each in streams), *((each.name, echo.name) for each in tuned)),
        (again.name, whole.name),
        "chunks",
        model,
        (total,),
        blocks=3 if quick else 5,
        calls=2,
        most_rows=2 * total,
    )


VARIES = {"rows": by_rows, "load": by_load, "chunks": by_chunks, "ladder": ladder.by_step}
plots.FIGURES |= {"ladder": ladder.of_ladder, "floor": floor.of_cases}


def declared(
    varies: str, model: str, encodings: Sequence[str] = (), rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """One of the experiments, for this model and the encodings that can carry its table."""
    if varies == "floor":
        if model != "flights" or encodings or rows:
            raise InvalidInput("floor has models and sizes of its own; leave out --model, --encodings and --rows")
        return floor.by_case(quick)
    loaded = load(model)
    table = experiments.sample(experiments.table_of(loaded), 1_000, seed=0)
    able = {}
    for encoding in encodings or CODECS:
        arm = Arm(encoding, encoding=encoding, flags=ROOMY)
        try:
            able[encoding] = arm, len(messages_of(arm, table)[0])
        except InvalidInput as error:
            print(f"left out: {encoding} cannot carry this model's table: {error}")
    if not able:
        raise InvalidInput("none of the encodings can carry this model's table")
    arm, n_bytes = next(able[encoding] for encoding in STREAMED if encoding in able)
    chunk_rows = max(1, CHUNK_BYTES * len(table) // n_bytes // ROW_BLOCK) * ROW_BLOCK
    stream = replace(arm, name=f"streamed {arm.name}", chunk_rows=chunk_rows)
    return VARIES[varies](model, [arm for arm, _ in able.values()], stream, rows, quick)


def bench(experiment: Experiment, out: Path) -> None:
    """Run an experiment, write its calls to `out`, and print what they say."""
    calls = experiments.run(experiment, out)
    print(text(calls))
    print(f"\n{len(calls):,} calls: {out}; to draw them: pred-server plot {out}")


def text(calls: pd.DataFrame) -> str:
    """The report: medians, then a sentence for each declared comparison, then every doubt."""
    experiment = calls.attrs["experiment"]
    names = [arm["name"] for arm in experiment["arms"] if arm["name"] in set(calls["arm"])]
    medians = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms").loc[names].round(2)
    medians.columns = [f"{rows:,}" for rows in medians.columns]
    lines = ["median latency in ms, by rows in one call", medians.to_string(index_names=False, na_rep=""), ""]
    if experiment["varies"] == "floor":
        lines += floor.table(floor.cases(calls))
    elif experiment["varies"] != "rows":
        lines += [stats.throughput(calls).set_index("arm").loc[names].reset_index().round(3).to_string(index=False), ""]
    if experiment["varies"] != "floor":
        lines += [stats.sentence(row) for _, row in stats.declared(calls).iterrows()]
    return "\n".join([*lines, "", *(f"doubt: {doubt}" for doubt in stats.doubts(calls, stats.control(calls)))])


def markdown(calls: pd.DataFrame) -> str:
    """What a result says, for a page: of a sweep over rows a table and sentences, else the titles of its figures."""
    varies, stamp = calls.attrs["experiment"]["varies"], calls.attrs["stamp"]
    if varies == "rows":
        lines = _table(calls)
    elif varies == "floor":
        lines = [*floor.table(floor.cases(calls)), "", _control(calls)]
    else:
        lines = ["- " + figure.get_suptitle().replace("\n", " ") + "." for figure in plots.of(calls).values()]
    if varies == "chunks":
        tuned = stats.declared(calls).query("base == 'echo'")
        lines += [f"- {plots.capital(stats.sentence(row))}." for _, row in tuned.iterrows()]
    machine = f"{stamp['cpu']}, {stamp['cores']} cores, pinned: {stamp['pinning']}; Python {stamp['python']}"
    libraries = f"grpcio {stamp['grpcio']}, scikit-learn {stamp['scikit-learn']}; revision {stamp['revision']}"
    return "\n".join([*lines, "", f"<sub>{machine}, {libraries}.</sub>"])


def _table(calls: pd.DataFrame) -> list[str]:
    experiment, base = calls.attrs["experiment"], ARTICLE.name
    compared, echo = stats.declared(calls), plots.echo_of(calls)
    told = compared[compared["base"] == base]
    p50_ms = stats.summary(calls).set_index(["arm", "rows"])["p50_ms"]
    ratios = told.set_index(["arm", "rows"])["ratio"]
    sizes = experiment["rows"]
    lines = ["| rows | " + " | ".join(f"{rows:,}" for rows in sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
    floors = (echo, IN_PROCESS.name)
    for arm in [arm["name"] for arm in experiment["arms"]]:
        if arm in (base, *floors, *told["arm"]):
            cells = [f"{arm} (floor)" if arm in floors else arm]
            for at in ((arm, rows) for rows in sizes):
                factor = f" ({ratios[at]:.2g})" if at in ratios.index else ""
                cells.append(f"{_ms(p50_ms[at])}{factor}" if at in p50_ms.index else "")
            lines.append("| " + " | ".join(cells) + " |")
    many, few = (
        told["rows"] == max(sizes),
        (told["rows"] == min(sizes)) & (told["arm"] == echo.removeprefix("echo of ")),
    )
    sentences = [stats.sentence(row) for _, row in pd.concat([told[many], told[few]]).iterrows()]
    return [
        *lines,
        "",
        *(f"- {plots.capital(sentence)}." for sentence in sentences),
        _control(calls),
    ]


def _control(calls: pd.DataFrame) -> str:
    again, once = stats.control(calls) or ("", "")
    found = stats.ratio(calls, again, once)
    read = ", ".join(f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.itertuples())
    return (
        f"- The control, `{once}` against itself, reads{', from few rows to many' if len(found) > 1 else ''}: {read}."
    )


def _ms(ms: float) -> str:
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def plot(results: Sequence[Path], out: Path, readme: Path | None = None) -> None:
    """Draw what result files hold; one PNG for each figure, which says in a sentence what is to be seen in it."""
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        calls = experiments.read(result)
        for name, figure in plots.of(calls).items():
            path = out / f"{result.stem}_{name}.png"
            plots.write(figure, path)
            print(f"{path}: {plots.alt(figure)}")
        begin = f"<!-- {result.stem} -->\n"
        if readme and begin in readme.read_text():
            readme.write_text(with_block(readme.read_text(), begin, markdown(calls)))


def with_block(page: str, begin: str, block: str) -> str:
    """The page with a block between `begin` and the next `<!-- end -->`."""
    head, rest = page.split(begin)
    return f"{head}{begin}{block}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
