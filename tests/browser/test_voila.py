"""`make explorer` in a browser: a page without code that does what the notebook does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import explorer_steps
from tests.browser.jupyter import TOKEN, Served, make
from tests.ports import free_port


@pytest.fixture(scope="module")
def voila(browser: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flags = "--no-browser --Voila.port_retries=0"
    with make("explorer", free_port(), tmp_path_factory.mktemp("voila"), EXPLORER_FLAGS=flags) as served:
        yield served


def test_the_page_without_code(page: Page, voila: Served, screenshot: Callable[[str], Path]) -> None:
    page.goto(f"{voila.url}/?token={TOKEN}")
    expect(page).to_have_title("explorer")
    explorer_steps.whole(page, voila, screenshot)
    assert "import Explorer" not in page.content()


def test_nobody_without_the_token_sees_it(page: Page, voila: Served) -> None:
    page.goto(voila.url)
    assert not page.get_by_role("button", name="run", exact=True).count()
    assert page.get_by_label("password").or_(page.get_by_text("token")).count()
