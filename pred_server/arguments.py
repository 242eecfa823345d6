"""What people type on a command line: numbers, and the arguments that several commands share or that are many.

What is no number is an error that `argparse` shows in a line.
"""

import argparse
import re
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from pred_server.limits import SPLIT_ROWS, Limits, flag

MOST = 1e6  # a number that may have a fraction is smaller


def at_least_one(text: str) -> int:
    return _count(text, 1)


def whole(text: str) -> int:
    return _count(text, 0)


def _count(text: str, least: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {2**31 - 1}")
    return int(text)


def threads(text: str) -> tuple[int, ...]:
    """Return what `with_threads` takes: the number of threads, and the rows of the smallest table for them."""
    if text == "auto":
        return ()
    n_threads, _, from_rows = text.partition(":")
    return at_least_one(n_threads), at_least_one(from_rows or str(SPLIT_ROWS))


def mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a mode of a file in octal, such as 600")
    return int(text, 8)


def seconds(text: str) -> float:
    return _number(text, 1e-9, "a number of seconds above 0")


def delay(text: str) -> float:
    return _number(text, 0, "a number of seconds, 0 or more")


def milliseconds(text: str) -> float:
    return _number(text, 0, "a number of milliseconds, 0 or more")


def above_zero(text: str) -> float:
    return _number(text, 1e-9, "a number above 0")


def _number(text: str, least: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not least <= number < MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}{f', and below {MOST:,.0f}' * (number > 1)}")
    return number


Argument = tuple[str, dict[str, Any]]


def argument(name: str, help: str, **settings: Any) -> Argument:
    return name, {"help": help, **settings}


def limit_argument(limit: Field[Any]) -> Argument:
    of_unit = milliseconds if limit.name.endswith("_ms") else seconds if limit.default else delay
    of_count = whole if limit.metadata.get("or_none") else at_least_one
    number = of_count if isinstance(limit.default, int) else of_unit
    return argument(flag(limit.name), limit.metadata["help"], type=number, default=limit.default)


WORKERS = "run so many servers, at as many ports from the address on; start again what dies; limits are for each"
ADDRESS = argument("--address", "HOST:PORT of the server, or unix:/PATH", default="127.0.0.1:50051")
PROTECTION = [
    argument("--tls", "the server is encrypted, with a certificate that a public CA signed", action="store_true"),
    argument("--tls-ca", "it is encrypted, with a certificate of this CA", metavar="FILE"),
    argument("--tls-cert", "the certificate to show it, if it asks for one", metavar="FILE"),
    argument("--tls-key", "the certificate's key", metavar="FILE"),
    argument("--tls-name", "the name in its certificate, where that is not the host", metavar="NAME"),
    argument("--token-file", "it asks for a token: the one in this file", type=Path, metavar="FILE"),
]

# What `serve` and `ray` have in common.
SERVED = [
    argument(
        "--model",
        "sum, linear, wide, flights, or a model directory; may be repeated (default: flights)",
        action="append",
        default=argparse.SUPPRESS,
    ),
    argument("--engine", "what computes the predictions", default="sklearn", choices=["sklearn", "onnx"]),
    argument(
        "--threads",
        "how many compute a large table, and how large is large; auto finds out at the start",
        type=threads,
        default="auto",
        metavar="N:ROWS",
    ),
    argument("--trust", "a further type for model.skops; may be repeated", action="append", default=[], metavar="TYPE"),
    argument("--log-level", "to stderr", default="warning", choices=["debug", "info", "warning", "error"]),
    argument("--log-format", "how a line of the log is written", default="text", choices=["text", "json"]),
    argument("--no-timing", "leave server-timing out of the replies", action="store_true"),
    argument("--expose-to-network", "allow an address that others can reach, without encryption", action="store_true"),
]
SERVE = [
    *SERVED,
    argument("--address", "HOST:PORT; port 0 picks a free one; or unix:/PATH of a socket", default="127.0.0.1:50051"),
    argument("--socket-mode", "who may use that socket, as chmod says it", type=mode, default="600"),
    argument("--reload", "read models anew when their files change, and at SIGHUP", action="store_true"),
    argument("--workers", WORKERS, type=at_least_one, default=argparse.SUPPRESS, metavar="N"),
    argument("--spares", "with --workers: processes that wait to replace one", type=whole, default=1),
    argument("--reuse-port", "share the port with other processes (SO_REUSEPORT)", action="store_true"),
    argument("--as-worker", argparse.SUPPRESS, action="store_true"),
    argument("--tls-cert", "encrypt, with this certificate, and those between it and its CA, in PEM", metavar="FILE"),
    argument("--tls-key", "the certificate's key, in PEM, without a passphrase", metavar="FILE"),
    argument("--tls-client-ca", "ask clients for a certificate of this CA", metavar="FILE"),
    argument("--token-file", "ask each call for one of these tokens; NAME TOKEN on each line", metavar="FILE"),
    argument("--health-token", "ask for a token also where health is asked for", action="store_true"),
    argument("--metrics", "let Prometheus read what happens, at HOST:PORT; port 0 picks a free one", metavar="ADDRESS"),
    argument("--no-reflection", "do not tell tools the contract", action="store_true"),
    *map(limit_argument, fields(Limits)),
]
# Limits of connections, and of a stop: with Ray, its proxy holds the connections.
OF_CONNECTIONS = {
    "max_streams_per_connection", "keepalive_s", "max_connection_idle_s", "max_connection_age_s", "drain_delay_s",
}  # fmt: skip
RAY = [
    *SERVED,
    argument("--address", "HOST:PORT; port 0 picks a free one", default="127.0.0.1:50051"),
    argument("--replicas", "how many, or a range: Serve then goes by the calls in flight", default="1"),
    argument("--target-calls", "calls in flight for each replica, in a range", type=at_least_one, default=16),
    argument("--cluster", "HOST:PORT of a Ray cluster; else one is started here", default=""),
    argument(
        "--object-store-mib",
        "shared memory for messages over 100 KB, in MiB; for the cluster that is started here",
        type=at_least_one,
        default=512,
    ),
    *(limit_argument(limit) for limit in fields(Limits) if limit.name not in OF_CONNECTIONS),
]
