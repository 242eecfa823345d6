"""Every lesson runs, whole, with small parameters; and what is committed is what its script gives."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

from pred_server.checkout import ROOT
from pred_server.tutorial.background import GATEWAY

spec = importlib.util.spec_from_file_location("build", ROOT / "notebooks/build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

SMALL: dict[str, dict[str, object]] = {
    "00_start_here": {"ROWS": (1, 10), "CALLS": 3},
    "01_train_a_model": {"TRAINING_ROWS": 5_000, "ITERATIONS": 10, "REPEATS": 2},
    "02_write_the_contract": {"ROWS": 10},
    "03_serve_and_call": {"SLOW_S": 0.5},
    "03b_under_the_hood": {"ROWS": 500, "REPEATS": 3},
    "03c_streams": {"STREAM_ROWS": 100_000},
    "04_call_it_from_go": {"BLOCKS": 2, "CALLS": 4},
    "05_how_fast_is_it": {"ROWS": (1, 100), "BLOCKS": 2, "CALLS": 2},
    "06_under_load": {"STOP_CALLS": 400, "CALLERS": (1, 4), "BLOCKS": 1, "LOADS": (0.3, 1.2), "SECONDS": 0.2},
    "07_make_it_fast": {"ROWS": 500, "REPEATS": 2, "CALLERS": 4, "CALLS": 3, "BUSY_CALLS": 200},
    "08_break_it": {
        "STALL_S": 1.2,
        "MUTANTS": 100,
        "BOMB_MIB": 4,
        "FLOOD_CALLS": 200,
        "FLOOD_WAVES": 1,
        "AFTER_S": 0.3,
    },
    "09_which_way": {"SIZES": (1, 10), "BLOCKS": 3, "CALLS": 2, "FLIGHTS": 500},
    "10_scale_out": {
        "CALLS": 2,
        "BLOCKS": 2,
        "SECONDS": 0.1,
        "DRAWS": 2,
        "SWAP_S": 1.0,
        "AFTER_S": 0.2,
        "CHECK_S": 0.3,
        "LAYER_CALLS": 2,
    },
    "explorer": {"ROWS": (1, 10), "CALLS": 2},
}
SMALL["00_start_here.ja"] = SMALL["00_start_here"]
LESSONS = sorted(path.stem for path in build.SCRIPTS.glob("*.py"))


def committed(lesson: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / f"notebooks/{lesson}.ipynb", as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(cell: nbformat.NotebookNode) -> list[object]:
    return [
        {key: value for key, value in output.items() if key not in ("execution_count", "metadata")}
        for output in cell.outputs
    ]


def test_every_lesson_is_built_tested_and_on_the_map() -> None:
    assert LESSONS == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(SMALL)
    for page in (ROOT / "README.md", ROOT / "notebooks/README.md"):
        for lesson in LESSONS:
            assert f"{lesson}.ipynb" in page.read_text(), f"{page} does not mention {lesson}"


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_committed_notebook_is_fresh_and_tidy(lesson: str) -> None:
    notebook, script = committed(lesson), build.read_script(build.SCRIPTS / f"{lesson}.py")
    stale = f"{lesson} is stale: run `make notebooks ONLY={lesson[:2]}`"
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in script.cells], stale
    assert notebook.metadata["pred_server"]["fingerprint"] == build.fingerprint(script), stale
    path = ROOT / f"notebooks/{lesson}.ipynb"
    assert path.stat().st_size < 300_000
    assert "widget-state" not in path.read_text()
    for cell in code_cells(notebook):
        assert cell.execution_count, "a cell was not run"
        assert not [output for output in cell.outputs if output.output_type == "error"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                assert output.metadata["image/png"]["alt"], "a figure without a text for those who cannot see it"
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    parts = ["必要なもの:", "所要時間:"] if lesson.endswith(".ja") else ["Needs:", "Takes:"]
    if lesson.endswith(".ja"):
        parts += ["このレッスンですること", "わかったこと", "## 練習", "<details>"]
    elif lesson != "explorer":  # it teaches nothing, and asks nothing
        parts += ["You will", "What we found", "## Exercises", "<details>"]
    for part in parts:
        assert part in text, f"{lesson} has no {part!r}"
    assert any("parameters" in cell.metadata.get("tags", ()) for cell in notebook.cells)


def test_the_go_code_that_lesson_04_shows_is_fresh() -> None:
    names: dict[str, object] = {"ROOT": ROOT}
    for cell in code_cells(committed("04_call_it_from_go")):
        if "def go_code" in cell.source or cell.source.startswith("ARTICLE ="):
            exec(cell.source, names)
        elif cell.source.startswith("go_code("):
            shown = eval(cell.source, names).data
            there = cell.outputs[0].data["text/markdown"]
            assert shown == there, f"{cell.source} is stale: run `make notebooks ONLY=04`"


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_lesson_runs_whole(lesson: str, request: pytest.FixtureRequest) -> None:
    if any(word in lesson for word in ("go", "way", "scale")):
        build_go = request.getfixturevalue("go")
        build_go("build", "-o", str(GATEWAY.parent), "./gateway/loadgen")
    ran = build.execute(build.read_script(build.SCRIPTS / f"{lesson}.py"), SMALL[lesson])
    build.tidy(ran, lesson)
    there = {cell.source: cell for cell in code_cells(committed(lesson))}
    for cell in code_cells(ran):
        if "deterministic" in cell.metadata.get("tags", ()):
            assert outputs(cell) == outputs(there[cell.source]), cell.source


def test_a_changed_cell_is_noticed(tmp_path: Path) -> None:
    script = build.read_script(build.SCRIPTS / "00_start_here.py")
    before = build.fingerprint(script)
    code_cells(script)[0].source += "\n1"
    assert build.fingerprint(script) != before
