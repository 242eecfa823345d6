"""Servers whose code was changed before they started: slow ones, and faulty ones."""

import sys

from pred_server.tutorial.background import Server


def patched(code: str, *flags: str, models: tuple[str, ...] = ("sum",)) -> Server:
    """A server whose code was changed before it started."""
    named = [word for model in models for word in ("--model", model)]
    arguments = ["serve", *named, "--address", "127.0.0.1:0", "--log-level", "info", *flags]
    main = f"\nfrom pred_server.cli import main\nraise SystemExit(main({arguments!r}))\n"
    return Server([sys.executable, "-c", code + main], start_timeout_s=60)
