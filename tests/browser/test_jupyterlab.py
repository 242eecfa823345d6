"""JupyterLab in a browser: the first lesson runs whole, and the explorer does what its page says."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import explorer_steps
from tests.browser.jupyter import PATIENCE_S, TOKEN, Served, copy_of_notebooks, make
from tests.ports import free_port
from tests.waits import wait_until

SMALL = "ROWS, CALLS = (1, 10), 3"  # of lesson 00
# JupyterLab draws a kernel as idle before it has one, and forgets cells that are run then.
CONNECTED = """() => {
  const session = window.jupyterapp.shell.currentWidget?.sessionContext
  const kernel = session?.isReady && session.session?.kernel
  return kernel && kernel.connectionStatus === "connected" && kernel.status === "idle"
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_notebooks(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def lab(browser: object, folder: Path) -> Iterator[Served]:
    flags = f"--no-browser --ServerApp.root_dir={folder.parent} --ServerApp.port_retries=0"
    with make("lab", free_port(), folder.parent, LAB_FLAGS=f"{flags} --LabApp.expose_app_in_browser=True") as served:
        yield served


def in_front(page: Page) -> Locator:
    """The notebook in front. JupyterLab opens those of the last visit again, behind it."""
    return page.locator(".jp-NotebookPanel:visible")


def open_notebook(page: Page, lab: Served, name: str) -> None:
    page.goto(f"{lab.url}/lab/tree/notebooks/{name}?token={TOKEN}")
    expect(page.get_by_role("tab", name=name, selected=True)).to_be_visible()
    expect(in_front(page).locator(".jp-Cell").first).to_be_visible()
    page.wait_for_function(CONNECTED)


def run_all_cells(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    expect(in_front(page).locator(".jp-InputPrompt", has_text=re.compile(r"\[[\d*]+\]")).first).to_be_attached()


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def without_outputs(path: Path, last: str = "", parameters: str = "") -> None:
    """Empty the outputs of a notebook; leave out the cells after one that begins so; set parameters."""
    notebook = nbformat.read(path, as_version=4)
    kept = []
    for cell in notebook.cells:
        kept.append(cell)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if parameters and "parameters" in cell.metadata.get("tags", ()):
                kept.append(nbformat.v4.new_code_cell(parameters))
            if last and cell.source.startswith(last):
                break
    notebook.cells = kept
    nbformat.write(notebook, path)


def test_lesson_00_runs_whole(page: Page, lab: Served, folder: Path, screenshot: Callable[[str], Path]) -> None:
    path = folder / "00_start_here.ipynb"
    without_outputs(path, parameters=SMALL)
    open_notebook(page, lab, path.name)
    run_all_cells(page)

    def saved() -> bool:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)
        return all(cell.execution_count for cell in code_cells(path))

    wait_until(saved, "every cell has run", PATIENCE_S)
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "it draws"
    screenshot("lesson-00")


def test_the_explorer_is_chosen_run_watched_read_and_stopped(
    page: Page, lab: Served, folder: Path, screenshot: Callable[[str], Path]
) -> None:
    without_outputs(folder / "explorer.ipynb", last="from pred_server.lab.explorer import Explorer")
    open_notebook(page, lab, "explorer.ipynb")
    run_all_cells(page)
    explorer_steps.whole(page, lab, screenshot)
