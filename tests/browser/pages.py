"""A page of a browser that is watched: whom it asks, and what the browser says against it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page

PATIENCE_MS = 240_000  # for a busy machine
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_here(url: SplitResult) -> bool:
    """Return whether an address is this machine's own."""
    return url.hostname in LOOPBACK


@contextmanager
def watched(browser: Browser, may_ask: Callable[[SplitResult], bool] = is_here, **options: Any) -> Iterator[Page]:
    """Open an empty page, in a context with these options. At the end it must have asked nobody else.

    Nor may it have broken a Content-Security-Policy: a browser says so on its console, also where scripts are off.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 1100}, "locale": "en-GB"} | options)
    context.set_default_timeout(PATIENCE_MS)
    elsewhere: list[str] = []
    broken: list[str] = []

    def note(url: str) -> None:
        address = urlsplit(url)
        if address.scheme in ("http", "https", "ws", "wss") and not may_ask(address):
            elsewhere.append(url)

    def read(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            broken.append(message.text)

    context.on("request", lambda request: note(request.url))
    context.on("console", read)
    page = context.new_page()
    page.on("websocket", lambda socket: note(socket.url))
    try:
        yield page
    finally:
        context.close()
    assert not elsewhere, f"the page asked {', '.join(elsewhere)}"
    assert not broken, "\n".join(broken)
