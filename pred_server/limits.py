"""What a server and a client take upon themselves, and no more. Each limit is a flag of `pred-server serve`."""

from dataclasses import dataclass, field

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    max_message_bytes: int = field(default=64 * MIB, metadata={"help": "largest message in either direction, in bytes"})
    max_rows: int = field(default=1_000_000, metadata={"help": "most rows in one table"})
    drain_timeout_s: float = field(
        default=30.0, metadata={"help": "how long a stop waits for accepted calls, in seconds"}
    )
