"""A real browser, Debian's Chromium, driven by playwright: for pages that this machine serves to itself.

Where there is no Chromium the tests are skipped, but not in CI. Every page may ask this machine alone: a request to any
other host fails the test. Screenshots, for people to look at, are kept in `tests/browser/screenshots`.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from pred_server.checkout import ROOT
from tests.browser.pages import PATIENCE_MS, watched

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
SCREENSHOTS = ROOT / "tests/browser/screenshots"
# As root Chromium has no sandbox. It asks hosts of its own for updates unless it is told not to.
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-gpu"]


@pytest.fixture(scope="module")  # while it is there, an event loop runs in this thread, and other tests have their own
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        why = f"there is no {CHROMIUM}: on Debian `apt-get install chromium`, elsewhere name one in CHROMIUM"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page. At the end it must have asked nobody but this machine."""
    with watched(browser) as page:
        yield page


@pytest.fixture
def screenshot(page: Page, request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Take a picture of the whole page, under the test's name and one of its own."""

    def take(name: str) -> Path:
        path = SCREENSHOTS / f"{Path(request.node.path).stem}-{name}.png"
        page.screenshot(path=path, full_page=True)
        return path

    return take
