"""Every limit there is, with its unit. Those of `Limits` are flags of `pred-server serve`; the others are fixed."""

import os
import sys
from dataclasses import dataclass, field

from pred_server.errors import DeadlineExceeded, LimitExceeded

KIB = 1024
MIB = 1024 * KIB

# Rows that are predicted together, where a row's prediction would else depend on its neighbours (`model.row_blocks`).
# Large tables are cut at multiples of it: a partial block is filled up, and costs extra.
ROW_BLOCK = 16
# Where a number of threads is given (`--threads`), tables of so many rows are split among them.
SPLIT_ROWS = 1_024
MAX_COLUMNS = 10_000  # of a table
MAX_RECORD_BYTES = 64 * MIB  # of a CSV file that is cut into chunks
# gRPC gives all metadata of a reply together 8 KiB. An error's message travels twice, and percent-encoded once.
MAX_ERROR_BYTES = 400
MAX_DETAIL_BYTES = 2_048
MAX_IGNORED_BYTES = 2_048
SAMPLE_ROWS = 1_000  # that a model directory keeps
SAMPLE_BYTES = 32 * MIB  # that these rows may take
MAX_MANIFEST_BYTES = 16 * MIB  # of a model directory
MAX_UNPACKED_BYTES = 4 * 1024**3  # of an estimator in a model directory


@dataclass(frozen=True)
class Limits:
    """What a server takes upon itself. Each limit is a command-line flag."""

    max_message_bytes: int = field(default=64 * MIB, metadata={"help": "largest message in either direction, in bytes"})
    max_rows: int = field(default=1_000_000, metadata={"help": "most rows in one message"})
    max_values: int = field(
        default=20_000_000, metadata={"help": "most values in one message: its rows, times the model's columns"}
    )
    max_calls_in_flight: int = field(
        default=1_000, metadata={"help": "most calls at the same time, streams among them"}
    )
    max_bytes_in_flight: int = field(
        default=512 * MIB,
        metadata={"help": "most bytes in all messages that are worked on, and in what is read of them"},
    )
    max_queued_rows: int = field(default=2_000_000, metadata={"help": "most rows that wait to be computed"})
    max_batch_rows: int = field(
        default=8_192, metadata={"help": "most rows of waiting requests that are computed as one; 1 turns this off"}
    )
    max_inline_ms: float = field(
        default=0.5, metadata={"help": "longest time for which a model may hold up the event loop; 0 turns this off"}
    )
    max_refusals_per_s: int = field(
        default=200,
        metadata={
            "help": "most refusals a second for one connection; further ones wait up to a second; 0: no limit",
            "or_none": True,
        },
    )
    max_deadline_s: float = field(
        default=300.0, metadata={"help": "longest time for one call, or one chunk of a stream, in seconds"}
    )
    idle_stream_s: float = field(
        default=120.0, metadata={"help": "longest time for which a stream may wait for its client, in seconds"}
    )
    max_streams_per_connection: int = field(
        default=2_000,
        metadata={"help": "most calls at the same time on one connection; others wait in the client"},
    )
    keepalive_s: float = field(
        default=60.0,
        metadata={"help": "after so long in silence a connection is asked whether it is there, in seconds"},
    )
    max_connection_idle_s: float = field(
        default=3_600.0, metadata={"help": "longest time for which a connection may have no call, in seconds"}
    )
    max_connection_age_s: float = field(
        default=86_400.0,
        metadata={"help": "a connection of this age takes no more calls, and its client opens another, in seconds"},
    )
    drain_delay_s: float = field(
        default=0.0,
        metadata={"help": "how long a stop still takes calls while health says NOT_SERVING, in seconds"},
    )
    drain_timeout_s: float = field(
        default=30.0, metadata={"help": "how long a stop waits for accepted calls after that, in seconds"}
    )


# For tables of one's own.
UNLIMITED = Limits(max_rows=sys.maxsize, max_values=sys.maxsize)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def flag(limit: str) -> str:
    return f"--{limit.replace('_', '-')}"


def took_too_long(limits: Limits) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"this took longer than the server allows ({flag('max_deadline_s')} is {limits.max_deadline_s:g})"
    )


def check_message_bytes(n_bytes: int, limits: Limits, what: str, remedy: str = "") -> None:
    """Raise LimitExceeded where a message is larger than allowed."""
    limit = limits.max_message_bytes
    if n_bytes > limit:
        raise LimitExceeded(f"{what} has {n_bytes:,} bytes{remedy}", limit=limit, flag=flag("max_message_bytes"))


def check_size(n_rows: int, n_columns: int, limits: Limits) -> None:
    """Raise LimitExceeded where a table has more rows, or more values, than allowed."""
    if n_rows > limits.max_rows:
        raise LimitExceeded(f"the table has {n_rows:,} rows", limit=limits.max_rows, flag=flag("max_rows"))
    if n_rows * n_columns > limits.max_values:
        message = f"the table has {n_rows:,} rows of {n_columns:,} columns; send fewer rows"
        raise LimitExceeded(message, limit=limits.max_values, flag=flag("max_values"))


def check_columns(n_columns: int) -> None:
    """Raise LimitExceeded where a table has more columns than any model."""
    if n_columns > MAX_COLUMNS:
        raise LimitExceeded(f"the table has more than {MAX_COLUMNS:,} columns")
