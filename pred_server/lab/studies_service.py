"""The declared experiments on what a service meets: distance, enormous tables, other callers' tables, its own start."""

from collections.abc import Sequence
from dataclasses import replace

from pred_server.client.client import CHUNK_BYTES
from pred_server.lab.arms import ARTICLE, IN_PROCESS, ROOMY, installed, onnx_flags
from pred_server.lab.experiments import Experiment
from pred_server.lab.findings import OURS
from pred_server.lab.findings_service import BESIDE, IN_CHUNKS, far
from pred_server.lab.ways import WAYS, Arm
from pred_server.lab.ways.flight import BATCH_BYTES
from pred_server.lab.ways.open_inference import OpenInference
from pred_server.limits import ROW_BLOCK

ROW_BYTES = 80  # of ten doubles
ENORMOUS = 10_000_000
BESIDE_RATE, BESIDE_ROWS = 100, 1_000_000
TEXT_ROWS = 100_000  # of a large table as text: a million rows go in ten calls


def distance(quick: bool = False) -> Experiment:
    """From a table to predictions over distances, at the caller's hand; only binary encodings take 1,000,000 rows."""
    sizes = (1, 100_000) if quick else (1, 1_000, 100_000, 1_000_000)
    as_text = tuple(rows for rows in sizes if rows <= TEXT_ROWS)
    ours = Arm(OURS, encoding="auto", flags=ROOMY, frame=True)
    arms = [ours, *_rivals(("flight", "kserve", "rest"), quick), replace(ARTICLE, frame=True)]
    arms = [replace(arm, rows=as_text) if arm.server in ("rest", "article") else arm for arm in arms]
    again = replace(ours, name=f"{OURS}, again", process=1)
    away = [
        [replace(arm, name=far(arm.name, rtt_ms), rtt_ms=rtt_ms) for arm in arms]
        for rtt_ms in ((20.0,) if quick else (1.0, 20.0, 100.0))
    ]
    return Experiment(
        (*arms, again, *(arm for there in away for arm in there)),
        _against_first(arms) + tuple(pair for there in away for pair in _against_first(there)),
        (again.name, ours.name),
        "distance",
        "linear",
        sizes,
        blocks=3 if quick else 5,
        calls=4 if quick else 10,
        most_rows=100_000 if quick else 200_000,
        pin=False,
    )


def enormous(quick: bool = False) -> Experiment:
    """A table of 10,000,000 rows, whole and chunk by chunk: its time, and how much memory both ends need for it.

    Each call is made by a new process, and each arm has a server of its own. As text it would have no room: 2 GB.
    """
    whole = Arm(OURS, encoding="auto", flags=ROOMY, frame=True)
    flight = Arm(WAYS["flight"].title, "flight", frame=True)
    ours_in_chunks, flight_in_chunks = (
        replace(arm, name=f"{arm.name}{IN_CHUNKS}", chunk_rows=_rows_of(n_bytes), process=1)
        for arm, n_bytes in ((whole, CHUNK_BYTES), (flight, BATCH_BYTES))
    )
    again = replace(whole, name=f"{OURS}, again", process=2)
    in_process = replace(IN_PROCESS, frame=True)
    pairs = ((flight, whole), (flight_in_chunks, ours_in_chunks), (ours_in_chunks, whole), (whole, in_process))
    return Experiment(
        (whole, ours_in_chunks, flight, flight_in_chunks, in_process, again),
        tuple((arm.name, base.name) for arm, base in pairs),
        (again.name, whole.name),
        "enormous",
        "linear",
        (ENORMOUS // 10 if quick else ENORMOUS,),
        blocks=3,
        pin=False,
        fresh=True,
    )


def _rows_of(n_bytes: int) -> int:
    return n_bytes // ROW_BYTES // ROW_BLOCK * ROW_BLOCK


def beside(quick: bool = False) -> Experiment:
    """One row at a time, alone and beside large tables that another process sends all the while.

    Ours takes the large table as a stream. The others take text, in calls of 100,000 rows: in one call of a million
    they would be held up for longer at a time.
    """
    ours = Arm(OURS, encoding="columns", flags=ROOMY, rate_per_s=BESIDE_RATE, generator="go")
    stream = Arm("a stream", encoding="tensor", flags=ROOMY, chunk_rows=_rows_of(CHUNK_BYTES), rows=(BESIDE_ROWS,))
    theirs = [
        replace(arm, frame=False, rate_per_s=BESIDE_RATE, generator="go")
        for arm in (*_rivals(("rest",), quick), ARTICLE)
    ]
    large = [Arm(f"{arm.name}, large tables", arm.server, rows=(TEXT_ROWS,)) for arm in theirs]
    alone, others = [ours, *theirs], [stream, *large]
    busy = [
        replace(arm, name=f"{arm.name}{BESIDE}", beside=other.name) for arm, other in zip(alone, others, strict=True)
    ]
    again = replace(ours, name=f"{OURS}, again", process=1)
    pairs = [*((arm.name, base.name) for arm, base in zip(busy, alone, strict=True)), *_against_first(busy)]
    return Experiment(
        (*alone, *busy, *others, again),
        tuple(pairs),
        (again.name, ours.name),
        "beside",
        "linear",
        (1,),
        blocks=3,
        seconds=0.5 if quick else 2.0,
        warmup=20,
    )


def start(quick: bool = False) -> Experiment:
    """A cold start: until the server is ready, and its first answer. Files are in the system's cache already."""
    ours = Arm(OURS, encoding="auto", flags=ROOMY, frame=True, cold=True)
    rivals = [*_rivals(("rest", "flight", "kserve", "mlserver"), quick), replace(ARTICLE, frame=True)]
    onnx = onnx_flags("linear")
    arms = [
        ours,
        replace(ours, name=f"{OURS}, flights", model="flights"),
        *([replace(ours, name=f"{OURS}, ONNX", flags=(*ROOMY, *onnx))] if onnx else []),
        *(replace(arm, cold=True) for arm in rivals),
    ]
    again = replace(ours, name=f"{OURS}, again", process=1)
    return Experiment(
        (*arms, again),
        _against_first(arms),
        (again.name, ours.name),
        "start",
        "linear",
        (1,),
        repetitions=5 if quick else 10,
        blocks=1,
        calls=1,
        warmup=0,
        pin=False,
    )


def _rivals(names: Sequence[str], quick: bool) -> list[Arm]:
    """Return the rivals of these names that are installed; a quick run needs no environment but our own."""
    ways = [WAYS[name] for name in names if not (quick and isinstance(WAYS[name], OpenInference))]
    return installed(Arm(way.title, way.name, frame=True) for way in ways)


def _against_first(arms: Sequence[Arm]) -> tuple[tuple[str, str], ...]:
    return tuple((arm.name, arms[0].name) for arm in arms[1:])
