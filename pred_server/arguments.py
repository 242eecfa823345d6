"""Numbers as people type them on a command line. What is none is an error that `argparse` shows in a line."""

import argparse

from pred_server.limits import SPLIT_ROWS


def at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {2**31 - 1}")
    return int(text)


def whole(text: str) -> int:
    return 0 if text == "0" else at_least_one(text)


def threads(text: str) -> tuple[int, ...]:
    """Return what `with_threads` takes: the number of threads, and the rows of the smallest table for them."""
    if text == "auto":
        return ()
    n_threads, _, from_rows = text.partition(":")
    return at_least_one(n_threads), at_least_one(from_rows or str(SPLIT_ROWS))


def seconds(text: str) -> float:
    return _number(text, 1e-9, "a number of seconds above 0")


def delay(text: str) -> float:
    return _number(text, 0, "a number of seconds, 0 or more")


def milliseconds(text: str) -> float:
    return _number(text, 0, "a number of milliseconds, 0 or more")


def _number(text: str, least: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not least <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number
