"""The log: a line a record, as text or as JSON. What callers sent is escaped here, and nowhere else.

Request ids, names of models and columns, the words of an exception: a caller may have made up any of them. With a line
feed in it, one would forge a second line; with an escape sequence, repaint the operator's terminal.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"
# How often to look whether there are file descriptors, in seconds.
LOOK_S = 1.0

# https://www.w3.org/TR/trace-context/: version, trace, span and flags; a version to come may say more behind them.
TRACE = re.compile("(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
MAX_TRACE = 512

logger = logging.getLogger(__name__)


def set_up(level: str, form: str, names_process: bool = False) -> None:
    """Send the log of this process, Python's warnings included, to stderr; `form` is "text" or "json"."""
    handler = logging.StreamHandler()
    fields = FIELDS.replace("%(name)s", "%(process)d %(name)s") if names_process else FIELDS
    handler.setFormatter(Json(fields) if form == "json" else Text(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


class Text(logging.Formatter):
    """One line a record. The lines of a traceback follow, each marked, so that none looks like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join(f"  | {escape(line)}" for line in super().formatException(ei).split("\n"))


class Json(JsonFormatter):
    """One JSON object a record, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("\x7f", "\\u007f")  # the one control character that JSON leaves as it is


def escape(text: str) -> str:
    r"""Return a text without control characters, line ends and invisible marks; `\n` stands for a line feed."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def as_text(fields: Mapping[str, Any]) -> str:
    """Return fields as KEY=VALUE, in quotes where a value could be taken for further fields."""
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def trace_id(traceparent: str) -> str:
    """Return the id of the trace that a call belongs to, as the header says; nothing where that is malformed."""
    known = TRACE.fullmatch(traceparent) if len(traceparent) <= MAX_TRACE else None
    return known[2] if known and not (known[1] == "00" and known[3]) else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(char in text for char in ' "=\\') else text


async def watch_descriptors() -> None:
    """Say once when the process has no file descriptor left, and once when it has some again; forever.

    gRPC says nothing: it takes no new connections until some are closed.
    """
    out = False
    while True:
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            if not out:
                logger.error("no file descriptor is left (ulimit -n): new connections wait until others are closed")
            out = True
        else:
            if out:
                logger.warning("there are file descriptors again")
            out = False
        await asyncio.sleep(LOOK_S)


def use_all_descriptors() -> None:
    """Raise the soft limit on file descriptors to the hard one: it is there for programs that use select()."""
    with suppress(ImportError, OSError, ValueError):  # not on Windows; macOS allows fewer than it says
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
