"""What a server and a client take upon themselves, and no more. Each limit is a flag of `pred-server serve`."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    max_message_bytes: int = 64 * MIB
    """Largest message in either direction; gRPC's own default is 4 MiB for those received."""

    max_rows: int = 1_000_000
    """Most rows in one table."""

    drain_timeout_s: float = 30.0
    """How long accepted calls may take to finish once the server is told to stop."""
