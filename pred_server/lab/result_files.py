"""Result files: every call of an experiment as Parquet, with stamp and experiment in `attrs`, and no time twice."""

from pathlib import Path

import pandas as pd

from pred_server.errors import InvalidInput

# Columns of every result, and further ones of a result that holds single calls. Some hold medians of blocks alone.
COLUMNS = ("arm", "rows", "block", "ok")
OF_CALLS = (
    "half", "valid", "sent_ns", "code", "server", "model", "encoding", "flags", "frame", "chunk_rows", "process",
    "callers", "rate_per_s", "arrivals", "client_encode_ms", "decode_ms", "queue_ms", "predict_ms", "encode_ms",
)  # fmt: skip
OF_EXPERIMENT = ("arms", "compare", "control", "model", "rows", "varies")
DIFFERENCES = ("call", "sent_ns", "took_ns", "late_ns")  # columns in which each number is near the one before


def write(calls: pd.DataFrame, out: Path) -> None:
    """Write a result file: calls, with stamp and experiment in their `attrs`.

    Of a call's times it holds when it was sent, how long it took, and how late it was sent: as differences, and no
    time twice, a file of a million numbers takes half the room.
    """
    took_ns = calls["done_ns"] - calls["sent_ns"]
    late_ns = (calls["latency_ms"] * 1e6).round().astype("int64") - took_ns
    calls = calls.drop(columns=["scheduled_ns", "done_ns", "service_ms", "latency_ms"], errors="ignore")
    calls = calls.astype(dict.fromkeys(calls.select_dtypes("float64"), "float32"))
    calls.assign(took_ns=took_ns, late_ns=late_ns).to_parquet(
        out,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in calls if name not in DIFFERENCES],
        column_encoding=dict.fromkeys(DIFFERENCES, "DELTA_BINARY_PACKED"),
    )


def read(path: Path) -> pd.DataFrame:
    """Return the calls of a result file, with `attrs`. Raises InvalidInput if it is none, or lacks what is needed."""
    try:
        calls = pd.read_parquet(path)
        experiment = dict(calls.attrs["experiment"])  # KeyError: another Parquet file
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} is not a result file of `pred-server bench`" if path.exists() else f"{path} does not exist"
        ) from error
    needed = [*COLUMNS, "late_ns" if "took_ns" in calls else "latency_ms", *(OF_CALLS if "call" in calls else ())]
    lacks = [
        *(f"column `{name}`" for name in needed if name not in calls),
        *(f"`{name}` in its experiment" for name in OF_EXPERIMENT if name not in experiment),
    ]
    if lacks or calls.empty:
        raise InvalidInput(f"{path} is damaged, or of another version: it has no {', no '.join(lacks or ['rows'])}")
    calls = calls.astype(dict.fromkeys(calls.select_dtypes("float32"), "float64"))
    if "took_ns" not in calls:  # it has medians of another machine
        return calls
    took_ns, late_ns = calls.pop("took_ns"), calls.pop("late_ns")
    times = {"latency_ms": (took_ns + late_ns) / 1e6, "service_ms": took_ns / 1e6}
    return calls.assign(done_ns=calls["sent_ns"] + took_ns, **times)
