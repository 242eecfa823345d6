"""The declared experiments: what `pred-server bench --varies` offers.

A study takes the model, the served arms (one for each encoding), the streamed arm, the numbers of rows (empty for its
default) and whether to be quick. Those in `FIXED` have models and sizes of their own.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pred_server.client.client import CHUNK_BYTES
from pred_server.client.prepare import FEW_ROWS, Known, prepare
from pred_server.errors import InvalidInput
from pred_server.lab import studies_layers, studies_load, studies_service, studies_ways
from pred_server.lab.arms import ARTICLE, IN_PROCESS, ROOMY, TRAINED, installed, onnx_flags, trained
from pred_server.lab.experiments import Experiment, sample, table_of
from pred_server.lab.findings import AS_AN_END, OURS, OVER_HTTP, callers_suffix
from pred_server.lab.stats import SUM, Comparison
from pred_server.lab.ways import RIVALS, WAYS, Arm, messages_of
from pred_server.limits import MIB, ROW_BLOCK
from pred_server.store.loading import load
from pred_server.wire.codec import CODECS
from pred_server.wire.description import Description

STREAMED = ("tensor", "arrow", "columns", "csv")  # the first of them that can carry the table is also streamed
CALLERS = 32
HTTP2_OPTIONS = {
    "frames of 1 MiB": ("--option", "grpc.http2.max_frame_size", str(MIB)),
    "a window of 16 MiB": ("--option", "grpc.http2.lookahead_bytes", str(16 * MIB)),
    "no probe of the bandwidth": ("--option", "grpc.http2.bdp_probe", "0"),
}


def declared(
    varies: str, model: str, encodings: Sequence[str] = (), rows: Sequence[int] = (), quick: bool = False
) -> Experiment:
    """Return a study as an experiment, for this model and the encodings that can carry its table.

    Parameters
    ----------
    varies : a key of `STUDIES` or `FIXED`
    encodings : all of them by default
    rows : rows in one call; by default a sweep
    quick : measure less, in two minutes instead of fifteen

    Raises
    ------
    InvalidInput
        No encoding can carry the table, or another model, encodings or rows were named for a study that has its own.
    """
    if varies in FIXED:
        if model != "flights" or encodings or rows:
            raise InvalidInput(f"{varies} has models and sizes of its own; leave out --model, --encodings and --rows")
        return FIXED[varies](quick)
    loaded = load(trained(model) if model in TRAINED else model)
    table = sample(table_of(loaded), 1_000, seed=0)
    arms, sizes = {}, {}
    for encoding in encodings or CODECS:
        arm = Arm(encoding, encoding=encoding, flags=ROOMY)
        try:
            sizes[encoding] = len(messages_of(arm, table)[0])
            arms[encoding] = arm
        except InvalidInput as error:
            print(f"left out: {encoding} cannot carry this model's table: {error}")
    if not arms:
        raise InvalidInput("none of the encodings can carry this model's table")
    best = next(encoding for encoding in STREAMED if encoding in arms)
    chunk_rows = max(1, CHUNK_BYTES * len(table) // sizes[best] // ROW_BLOCK) * ROW_BLOCK
    stream = replace(arms[best], name=f"streamed {best}", chunk_rows=chunk_rows)
    return STUDIES[varies](model, list(arms.values()), stream, tuple(rows), quick)


def rows(model: str, served: Sequence[Arm], stream: Arm, rows: tuple[int, ...], quick: bool) -> Experiment:
    """Latency at the caller's hand, from a DataFrame to predictions: our client and the rivals with theirs.

    Beside it stand what `pred-server capacity` needs to know of our server, with the fewest rows; our server alone,
    asked with the bytes that our client would send; and the floors. Python's gRPC
    sends these bytes, as it sends those of our client. So ours and its ready bytes differ by our client's own work, and
    ready bytes and their echo by our server's. From Go, both would differ by the libraries of two languages as well.
    """
    rows = rows or _sizes(quick)
    by_encoding, chosen = {arm.encoding: arm for arm in served}, _as_our_client_chooses(model, rows)
    encoding = "auto" if set(chosen.values()) <= set(by_encoding) else stream.encoding
    ours = Arm(OURS, encoding=encoding, flags=ROOMY, frame=True)
    again = replace(ours, name=f"{OURS}, again", process=1)
    rivals = [replace(ARTICLE, frame=True), *_rivals(rows, quick)]
    sizes: dict[Arm, list[int]] = {}
    for n_rows in rows:
        sent = by_encoding[chosen[n_rows] if encoding == "auto" else encoding]
        in_chunks = sent.encoding == stream.encoding and n_rows > stream.chunk_rows
        sizes.setdefault(stream if in_chunks else sent, []).append(n_rows)
    ready = [replace(arm, rows=tuple(its_sizes)) for arm, its_sizes in sizes.items()]
    echoes = [replace(arm, name=f"echo of {arm.name}", server="echo", flags=()) for arm in ready]
    tcp = [] if quick else [replace(ready[-1], name="raw TCP", server="tcp", flags=())]  # for the largest tables
    compare = [(arm.name, ours.name) for arm in (*rivals, *ready)]
    compare += [(ours.name, SUM.join([echo.name, IN_PROCESS.name])) for echo in echoes]
    few = replace(ready[0], rows=rows[:1])
    times = studies_load.service_times(few, 4 if quick else 8) if rows[0] <= FEW_ROWS and not few.chunk_rows else []
    arms = (ours, again, *rivals, *ready, IN_PROCESS, *echoes, *tcp, *times)
    return _sweep(arms, compare, (again.name, ours.name), "rows", model, rows, quick)


def _sizes(quick: bool) -> tuple[int, ...]:
    return (1, 100, 10_000) if quick else (1, 10, 100, 1_000, 10_000, 100_000)


def _sweep(
    arms: Sequence[Arm],
    compare: Sequence[Comparison],
    control: Comparison,
    varies: str,
    model: str,
    rows: tuple[int, ...],
    quick: bool,
) -> Experiment:
    """Return an experiment over numbers of rows, which measures as much as all such experiments do."""
    return Experiment(
        tuple(arms),
        tuple(dict.fromkeys(compare)),
        control,
        varies,
        model,
        rows,
        blocks=3 if quick else 5,
        calls=8 if quick else 20,
        most_rows=20_000 if quick else 200_000,
    )


def _rivals(rows: Sequence[int], quick: bool) -> Iterator[Arm]:
    """Yield the rivals that are installed and take any of these numbers of rows."""
    for way in installed(RIVALS, quick):
        sizes = tuple(n_rows for n_rows in rows if n_rows <= way.most_rows)
        if sizes:
            yield Arm(way.title, way.name, frame=True, rows=() if len(sizes) == len(rows) else sizes)


def _as_our_client_chooses(model: str, rows: Sequence[int]) -> dict[int, str]:
    """Return the encoding that our client chooses for a table of the model, by its rows."""
    loaded = load(model)
    known, table = Known(Description(loaded.name, "", loaded.schema, encodings=tuple(CODECS))), table_of(loaded)
    return {n_rows: prepare(sample(table, n_rows, seed=0), "auto", known).codec.name for n_rows in rows}


def encodings(model: str, served: Sequence[Arm], stream: Arm, rows: tuple[int, ...], quick: bool) -> Experiment:
    """Latency of ready bytes by rows: every encoding over gRPC and over HTTP/1.1, the article's server and the floors.

    What two encodings over one transport differ by is the encoding's; what one encoding differs by over two transports
    is the transport's. All servers are asked by the generator in Go. From Python, the difference between grpcio and
    httpx would count as the transport's, and is larger. Raw TCP cannot be asked from Go, and rivals are in `rows`.
    """
    article, stream, *served = (replace(arm, generator="go") for arm in (ARTICLE, stream, *served))
    first, whole = served[0], replace(stream, name=stream.encoding, chunk_rows=0)
    again = replace(first, name=f"{first.name}, again", process=1)
    over_http = [replace(arm, name=f"{arm.name}{OVER_HTTP}", server="http", flags=()) for arm in served]
    over_http = over_http if installed([WAYS["http"]], quick) else []
    echoes = [replace(arm, name=f"echo of {arm.name}", server="echo", flags=()) for arm in (*served, stream)]
    compare = [(arm.name, article.name) for arm in (*served, stream, *over_http)]
    compare += [(arm.name, some[0].name) for some in (served, over_http) for arm in some[1:]]
    compare += [(http.name, arm.name) for http, arm in zip(over_http, served, strict=False)]
    compare += [(stream.name, whole.name), (first.name, IN_PROCESS.name), (whole.name, IN_PROCESS.name)]
    arms = (article, *served, stream, again, *over_http, IN_PROCESS, *echoes)
    return _sweep(arms, compare, (again.name, first.name), "encodings", model, rows or _sizes(quick), quick)


def chunks(model: str, served: Sequence[Arm], stream: Arm, rows: tuple[int, ...], quick: bool) -> Experiment:
    """Throughput of a stream by the size of its chunks, beside raw TCP and one message with all rows.

    The receiver sets HTTP/2's options, so they are tried on an echo, with chunks of about the client's size.
    """
    total = max(rows, default=20_000 if quick else 200_000)
    sizes = [size for size in (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000) if total // 1_000 <= size < total]
    whole = replace(stream, name="one message", chunk_rows=0)
    again = replace(whole, name="one message, again", process=1)
    streams = [replace(stream, name=f"chunks of {size:,}", chunk_rows=size) for size in sizes]
    usual = min(streams, key=lambda arm: abs(arm.chunk_rows - stream.chunk_rows))
    echo = replace(usual, name="echo", server="echo", flags=())
    tuned = [replace(echo, name=f"echo with {option}", flags=flags) for option, flags in HTTP2_OPTIONS.items()]
    return Experiment(
        (whole, again, *streams, Arm("raw TCP", "tcp", stream.encoding), echo, *tuned),
        (*((arm.name, whole.name) for arm in streams), *((arm.name, echo.name) for arm in tuned)),
        (again.name, whole.name),
        "chunks",
        model,
        (total,),
        blocks=3 if quick else 5,
        calls=2,
        most_rows=2 * total,
    )


def ladder(model: str, served: Sequence[Arm], stream: Arm, rows: tuple[int, ...], quick: bool) -> Experiment:
    """Each step against the step before it: one caller by rows, and many callers with few rows.

    The first and the last step, the ends, are also measured against each other, with servers and calls of their own.
    If they shared the calls of the steps, the steps' product would equal the ratio of the ends by arithmetic alone.
    """
    rows = rows or ((1, 2_000) if quick else (1, 100_000))
    by_encoding = {arm.encoding: arm for arm in served}
    if "csv" not in by_encoding:
        raise InvalidInput("the ladder begins with CSV; name it among --encodings")
    csv = replace(by_encoding["csv"], name="ours, CSV as well")
    single = replace(csv, name="ours, no batching", flags=(*csv.flags, "--max-batch-rows", "1"))
    again = replace(csv, name=f"{csv.name}, again", process=1)
    onnx = onnx_flags(model)

    def typed(n_rows: int) -> list[Arm]:
        """Return the steps after CSV, with the encoding that our client would choose."""
        few = n_rows <= FEW_ROWS and stream.encoding == "arrow"
        arm = by_encoding.get("columns", stream) if few else stream
        steps, how = [replace(arm, name=f"{arm.encoding} in place of CSV", chunk_rows=0)], arm.encoding
        if n_rows > stream.chunk_rows:
            how = "as a stream"
            steps.append(replace(stream, name=how))
        if onnx:
            steps.append(replace(steps[-1], name=f"ONNX Runtime, {how}", flags=(*stream.flags, *onnx)))
        return steps

    climbs = [(n_rows, [ARTICLE, csv, *typed(n_rows)]) for n_rows in rows]
    if min(rows) <= FEW_ROWS:
        crowd = [ARTICLE, single, replace(csv, name="batching"), *typed(min(rows))]
        calls = CALLERS * (2 if quick else 8)
        crowd = [replace(arm, name=arm.name + callers_suffix(CALLERS), callers=CALLERS, calls=calls) for arm in crowd]
        climbs.append((min(rows), crowd))
    sizes: dict[Arm, list[int]] = {again: list(rows)}
    pairs = []
    for n_rows, steps in climbs:
        ends = [replace(arm, name=arm.name + AS_AN_END, process=1) for arm in (steps[0], steps[-1])]
        for arm in (*steps, *ends):
            sizes.setdefault(arm, []).append(n_rows)
        pairs += [(after.name, before.name) for before, after in (*itertools.pairwise(steps), ends)]
    arms = [replace(arm, rows=tuple(its_sizes)) for arm, its_sizes in sizes.items()]
    return _sweep(arms, pairs, (again.name, csv.name), "ladder", model, rows, quick)


def parts(model: str, served: Sequence[Arm], stream: Arm, rows: tuple[int, ...], quick: bool) -> Experiment:
    """What an optional part of the server gives: a quick model on the event loop, for one caller and for many."""
    loop = replace(stream, name="on the event loop", chunk_rows=0)
    thread = replace(loop, name="on the thread", flags=(*loop.flags, "--max-inline-ms", "0"))
    again = replace(loop, name="on the event loop, again", process=1)
    calls = CALLERS * (2 if quick else 8)
    many = [
        replace(arm, name=arm.name + callers_suffix(CALLERS), callers=CALLERS, calls=calls) for arm in (loop, thread)
    ]
    return Experiment(
        (loop, thread, again, *many),
        ((thread.name, loop.name), (many[1].name, many[0].name)),
        (again.name, loop.name),
        "parts",
        model,
        rows or (1,),
        blocks=3 if quick else 10,
        calls=8 if quick else 50,
    )


def against(experiment: Experiment, checkout: Path) -> Experiment:
    """Compare each of our servers in an experiment with the same server of another checkout, and nothing else."""
    ours = [arm for arm in experiment.arms if arm.server == "serve"]
    theirs = [
        replace(
            arm,
            name=f"{arm.name}, there",
            server="checkout",
            flags=(str(checkout), *arm.flags),
            beside=arm.beside and f"{arm.beside}, there",
        )
        for arm in ours
        if arm.process == 0
    ]
    compare = tuple((arm.name.removesuffix(", there"), arm.name) for arm in theirs)
    return replace(experiment, arms=(*ours, *theirs), compare=compare, varies="rows")


FIXED = {
    "callers": studies_load.callers, "capacity": studies_load.capacity,
    "distance": studies_service.distance,
    "enormous": studies_service.enormous, "beside": studies_service.beside, "start": studies_service.start,
    "ways": studies_ways.ways, "layers": studies_layers.layers,
}  # fmt: skip
STUDIES = {
    "rows": rows, "encodings": encodings, "load": studies_load.load, "chunks": chunks, "ladder": ladder, "parts": parts,
}  # fmt: skip
