"""What a server and a client take upon themselves, and no more. Each limit is a flag of `pred-server serve`."""

from dataclasses import dataclass, field

from pred_server.errors import DeadlineExceeded

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Limits:
    max_message_bytes: int = field(default=64 * MIB, metadata={"help": "largest message in either direction, in bytes"})
    max_rows: int = field(default=1_000_000, metadata={"help": "most rows in one message"})
    max_calls_in_flight: int = field(
        default=1_000, metadata={"help": "most calls at the same time, streams among them"}
    )
    max_bytes_in_flight: int = field(
        default=512 * MIB, metadata={"help": "most bytes in all messages that are being worked on"}
    )
    max_queued_rows: int = field(default=2_000_000, metadata={"help": "most rows that wait to be computed"})
    max_batch_rows: int = field(
        default=8_192, metadata={"help": "most rows of waiting requests that are computed as one; 1 turns this off"}
    )
    max_deadline_s: float = field(
        default=300.0, metadata={"help": "longest time for one call, or one chunk of a stream, in seconds"}
    )
    drain_timeout_s: float = field(
        default=30.0, metadata={"help": "how long a stop waits for accepted calls, in seconds"}
    )


def took_too_long(limits: Limits) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"this took longer than the server allows ({flag('max_deadline_s')} is {limits.max_deadline_s:g})"
    )


def flag(limit: str) -> str:
    return f"--{limit.replace('_', '-')}"
