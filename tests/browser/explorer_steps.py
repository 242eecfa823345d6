"""What a person does with the explorer, wherever it is shown: choose, run, watch, read the verdict, stop."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from tests.browser.jupyter import Served
from tests.waits import wait_until


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def said(page: Page) -> Locator:
    return page.locator(".explorer-said")


def enter(page: Page, label: str, text: str, which: int = 0) -> None:
    """Write into a field, and leave it."""
    page.get_by_label(label, exact=True).nth(which).fill(text)
    page.keyboard.press("Tab")


def choose(page: Page) -> None:
    """Choose two arms that differ in their encoding, few points, and few calls."""
    for which, encoding in enumerate(("csv", "tensor")):
        enter(page, "model", "sum", which)
        page.get_by_label("encoding", exact=True).nth(which).select_option(encoding)
    enter(page, "points", "1, 2000")
    enter(page, "blocks", "6")
    enter(page, "calls in half a block", "3")


def run_and_watch(page: Page, screenshot: Callable[[str], Path]) -> None:
    """Run: points are drawn before the end, and at the end there is a verdict with its control."""
    button(page, "run").click()
    expect(button(page, "run")).to_be_disabled()
    expect(said(page)).to_contain_text("So far")
    expect(page.locator(".scatterlayer .point").first).to_be_attached()
    screenshot("running")
    expect(said(page)).to_contain_text("Control: csv against itself")
    expect(said(page)).to_contain_text("tensor against csv: at")
    expect(button(page, "run")).to_be_enabled()
    assert page.locator(".scatterlayer .point").count() == 2 * 2 + 2, "two medians of each arm, and two ratios"


def hover(page: Page) -> str:
    """Point at the first marker, and return what is said about it."""
    box = page.locator(".scatterlayer .point").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2 + 3, box["y"] + box["height"] / 2)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = page.locator(".hoverlayer .hovertext")
    expect(label).to_be_visible()
    return label.text_content() or ""


def code(page: Page) -> str:
    """Open the code of the experiment, and return it."""
    page.get_by_text("the code of this experiment", exact=True).click()
    shown = page.locator(".explorer-code")
    expect(shown).to_be_visible()
    return shown.text_content() or ""


def run_and_stop(page: Page, served: Served) -> None:
    """Run, and stop in the middle: no verdict, and no process more than before."""
    before = served.processes()
    button(page, "run").click()
    expect(page.get_by_text(re.compile(r"\d+ of 12 blocks"))).to_be_visible()
    assert len(served.processes()) > len(before)
    button(page, "stop").click()
    expect(said(page)).to_contain_text("no verdict")
    wait_until(lambda: served.processes() <= before, "what was started has ended")
    expect(button(page, "run")).to_be_enabled()


def whole(page: Page, served: Served, screenshot: Callable[[str], Path]) -> None:
    """Do all of it."""
    expect(button(page, "run")).to_be_visible()
    screenshot("opened")
    choose(page)
    run_and_watch(page, screenshot)
    about = hover(page)
    assert re.search(r"csv.*p50 .* ms.*12|36 calls, 0 failed", about), about
    screenshot("verdict")
    assert "Experiment(" in code(page)
    screenshot("code")
    run_and_stop(page, served)
    screenshot("stopped")
