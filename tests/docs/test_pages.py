"""What README and the pages beside it promise: their examples give what they show, their links lead somewhere."""

import doctest
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from pred_server.checkout import ROOT
from pred_server.engines.convert import CONVERT_S
from pred_server.engines.parity import TOLERANCE
from pred_server.limits import MAX_COLUMNS, Limits, flag
from pred_server.ops.side_streams import MOST_STREAMS

README = (ROOT / "README.md").read_text()
PAGES = [
    *(ROOT / name for name in ("README.md", "README.ja.md", "SECURITY.md", "notebooks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def without_code(page: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]*`", "", page, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{link}: the page has no such heading"


def test_the_six_lines_of_python_print_what_stands_below_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    typed = doctest.DocTestParser().get_doctest(PYTHON[0], {}, "README", "README.md", 0)
    assert len(typed.examples) == 6
    printed: list[str] = []
    result = doctest.DocTestRunner().run(typed, out=printed.append)
    assert result.failed == 0, "".join(printed)


def test_a_model_of_your_own_in_three_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"age": [1.0, 2.0, 4.0], "rooms": [3, 1, 2]})
    estimator = LinearRegression().fit(table, [1.0, 2.0, 3.0])
    exec(PYTHON[1].replace("models/mine", str(tmp_path / "mine")), {"estimator": estimator, "table": table})
    printed = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:3]]
    assert np.allclose(printed, estimator.predict(table), atol=1e-6)


def test_every_limit_of_the_server_stands_on_its_page() -> None:
    page = (ROOT / "docs/server.md").read_text()
    for limit in fields(Limits):
        assert f"| `{flag(limit.name)}` | {limit.default:,.10g} |" in page


def test_the_limits_that_are_fixed_stand_where_they_are_explained() -> None:
    page, lesson = (ROOT / "docs/server.md").read_text(), (ROOT / "notebooks/scripts/07_make_it_fast.py").read_text()
    assert f"up to {MAX_COLUMNS:,} columns" in page
    assert f"at most {MOST_STREAMS} streams for health and reflection" in page
    assert f"The conversion has {CONVERT_S} seconds" in page
    assert f"ended after {CONVERT_S} seconds" in lesson
    assert TOLERANCE == 1e-5
    assert all("hundred-thousandth" in text for text in (page, lesson))
