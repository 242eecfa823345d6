"""Every error that this package raises on purpose, as one tree.

    PredServerError
    ├── InvalidInput          INVALID_ARGUMENT     the table or the request is at fault; `violations` say where
    ├── ModelNotFound         NOT_FOUND            the server has no model of that name and version
    ├── Unauthenticated       UNAUTHENTICATED      the server asks for a token, and the call had none that it knows
    ├── LimitExceeded         RESOURCE_EXHAUSTED   too large, or too much at once; `reason` says which
    ├── SchemaChanged         FAILED_PRECONDITION  the model has other columns than the caller expects
    ├── DeadlineExceeded      DEADLINE_EXCEEDED    no answer within the deadline
    ├── Unavailable           UNAVAILABLE          nobody answers at that address, or the server is stopping
    ├── Cancelled             CANCELLED            the caller took the call back
    ├── ServerFault           INTERNAL             a fault of the server; its log has the request id
    ├── RemoteError           (any other code)     what a server answered that is none of the above
    ├── ModelFileError        not sent             a model directory that is damaged, hostile or missing
    └── ServerStartError      not sent             a server that could not start

`code` is the name of the gRPC status code. Only `wire.status` turns errors into statuses and back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def clip(text: str, most: int = 60) -> str:
    """Return the beginning of a text that a caller made up: as much as a message may quote."""
    return text if len(text) <= most else text[:most] + "…"


class PredServerError(Exception):
    """The root of the tree."""

    code = "UNKNOWN"
    answered: Any = None
    """The predictions that a stream had returned before it broke: a Series, or None."""


@dataclass(frozen=True)
class Violation:
    """One thing wrong with a request: `field` is a column, or a field of the message."""

    field: str
    description: str

    def __str__(self) -> str:
        return f"{clip(self.field)}: {self.description}"


class InvalidInput(PredServerError):
    code = "INVALID_ARGUMENT"
    max_violations = 10

    def __init__(self, message: str, violations: Sequence[Violation] = ()):
        super().__init__(message)
        self.violations = tuple(violations[: self.max_violations])

    @classmethod
    def field(cls, name: str, description: str) -> "InvalidInput":
        """Return an error about one column, or one field of the message."""
        return cls.at([Violation(name, description)])

    @classmethod
    def at(cls, violations: Sequence[Violation]) -> "InvalidInput":
        """Return an error whose message is its first violation, and how many more there are."""
        more = min(len(violations), cls.max_violations) - 1
        return cls(f"{violations[0]}" + (f" (and {more} more)" if more else ""), violations)


class ModelNotFound(PredServerError):
    code = "NOT_FOUND"

    def __init__(self, message: str, asked: Mapping[str, str] | None = None):
        """`asked` is the metadata that named the model: model-name, model-version."""
        super().__init__(message)
        self.asked = dict(asked or {})


class Unauthenticated(PredServerError):
    code = "UNAUTHENTICATED"


class LimitExceeded(PredServerError):
    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, reason: str = "TOO_LARGE", limit: float | None = None, flag: str = ""):
        """`reason` is TOO_LARGE (send less at once) or OVERLOADED (come back later)."""
        super().__init__(f"{message} ({flag} is {limit:,})" if flag else message)
        self.reason = reason
        self.limit = limit
        self.flag = flag


class SchemaChanged(PredServerError):
    code = "FAILED_PRECONDITION"


class DeadlineExceeded(PredServerError):
    code = "DEADLINE_EXCEEDED"


class Unavailable(PredServerError):
    code = "UNAVAILABLE"


class Cancelled(PredServerError):
    code = "CANCELLED"


class ServerFault(PredServerError):
    code = "INTERNAL"


class RemoteError(PredServerError):
    def __init__(self, message: str, code: str = "UNKNOWN"):
        super().__init__(message)
        self.code = code


class ModelFileError(PredServerError):
    pass


class ServerStartError(PredServerError):
    pass
