"""Pages and figures are those of the published result files."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pred_server.checkout import ROOT
from pred_server.lab import experiments, report
from pred_server.limits import MIB

RESULTS = sorted((ROOT / "data/results").glob("*.parquet"))
README, JAPANESE, PAGE = (ROOT / name for name in ("README.md", "README.ja.md", "data/RESULTS.md"))


@pytest.mark.parametrize("result", RESULTS, ids=lambda path: path.stem)
def test_the_pages_show_what_the_result_files_give(result: Path) -> None:
    calls = experiments.read(result)
    assert {"python", "grpcio", "cpu", "cores", "pinning", "revision", "seed", "command"} <= set(calls.attrs["stamp"])
    assert str(Path.home()) not in calls.attrs["stamp"]["command"]
    assert result.stat().st_size < 4 * MIB
    assert f"<!-- {result.stem} -->\n" in PAGE.read_text()
    for page in (README, JAPANESE, PAGE):
        text = page.read_text()
        assert report.with_blocks(text, result.stem, calls) == text, f"{page.name} is stale: run `make plots`"


def test_the_published_figures_are_those_of_the_result_files() -> None:
    names = {f"{path.stem}_{name}.png" for path in RESULTS for name in report.drawn(path, experiments.read(path))}
    assert {path.name for path in (ROOT / "data/figures").iterdir()} == names, "run `make plots`"


def test_a_result_is_drawn_and_written_without_further_imports(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ladder_short -->\nold\n<!-- end -->\nafter\n<!-- other -->\nkept\n<!-- end -->\n")
    code = (
        "import sys; from pathlib import Path; from pred_server.lab import report; "
        "result, out, page = map(Path, sys.argv[1:]); report.plot([result], out, [page])"
    )
    command = [sys.executable, "-c", code, ROOT / "data/results/ladder.parquet", tmp_path, page]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    drawn = sorted(path.name for path in tmp_path.glob("*.png"))
    assert drawn == ["ladder_ladder_1.png", "ladder_ladder_100000.png", "ladder_ladder_1_callers_32.png"]
    text = page.read_text()
    assert text.startswith("before\n<!-- ladder_short -->\n- At 1 row and 1 caller ours with all steps is ")
    assert text.endswith(" times).\n<!-- end -->\nafter\n<!-- other -->\nkept\n<!-- end -->\n"), "the rest stays"
    assert "old" not in text


def test_every_published_result_has_a_short_block() -> None:
    blocks = {}
    for result in RESULTS:
        calls: pd.DataFrame = experiments.read(result)
        blocks[result.stem] = report.short(calls)
        assert 1 <= len(blocks[result.stem]) <= 16  # at the most a line for each rival and floor
    assert blocks["rows_linear"][0] == "| rows | 1 | 1,000 | 100,000 | 1,000,000 |"
    assert blocks["rows_linear"][-1].startswith("At 1,000,000 rows ")
    assert " faster than the article's server. Binary in place of text takes " in blocks["rows_linear"][-1]
    assert [line.split(" | ")[0] for line in blocks["rows_linear"][2:-2]] == [
        "| the article's server", "| csv", "| tensor", "| streamed tensor", "| csv over HTTP", "| tensor over HTTP",
        "| in process (floor)", "| echo of tensor (floor)",
    ]  # fmt: skip
    assert "`predict` in process takes" in blocks["rows_flights"][0]
    assert "99 % of calls end within" in blocks["load"][0]
    assert "targets are met. Missed: " in blocks["callers"][-1]
    if "hand_linear" in blocks:
        assert "targets are met. Missed: " in blocks["hand_linear"][-1]
