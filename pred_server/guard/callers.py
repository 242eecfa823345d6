"""Who makes a call: whoever lets it in says so, and the log does."""

from contextvars import ContextVar
from typing import Any

from pred_server.errors import clip

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The name of the token that came with the call. Each call runs in a task, and so in a context, of its own."""

# Of gRPC's names for what a client's certificate says.
CERTIFIED = ("x509_common_name", "x509_subject_alternative_name")


def caller_of(context: Any) -> str:
    """Return the name of the call's token, or of its client's certificate; nothing where it has neither."""
    if name := CALLER.get():
        return name
    known = context.auth_context()
    certified = (text for key in CERTIFIED for text in known.get(key, ()) if text)
    return clip(next(certified, b"").decode(errors="replace"), 128)
