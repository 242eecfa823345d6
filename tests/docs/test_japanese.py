"""The pages in Japanese say what the English ones say: the same commands, code and numbers."""

import ast
import re
from collections import Counter

import jupytext
import pytest
from nbformat import NotebookNode

from pred_server.checkout import ROOT

README, JAPANESE = ((ROOT / name).read_text() for name in ("README.md", "README.ja.md"))
SCRIPTS = ROOT / "notebooks/scripts"


# English writes these as words.
SPELLED = {"2": "two", "5": "five", "6": "Six", "10": "ten numbers", "15": "a quarter of an hour", "100": "a million"}


def commands(page: str) -> list[str]:
    """The lines of code, without comments."""
    lines, is_code = [], False
    for line in page.splitlines():
        is_code ^= line.startswith("```")
        if (is_code or line.startswith("    ")) and not line.startswith("```"):
            lines.append(re.sub(r"\s*# .*", "", line))
    return lines


def numbers(text: str) -> Counter[str]:
    """The numbers of a text, without those in the names of lessons and the targets of links."""
    return Counter(re.findall(r"\d[\d,.]*\d|\d", re.sub(r"\]\(\S*\)|\b0\d(?=\D)[bc]?", "", text)))


def test_commands_are_those_of_the_english_page() -> None:
    assert len(commands(JAPANESE)) > 20
    assert not Counter(commands(JAPANESE)) - Counter(commands(README))


def test_numbers_are_those_of_the_english_page() -> None:
    other = set(numbers(JAPANESE)) - set(numbers(README))
    assert other <= set(SPELLED)
    assert all(SPELLED[number] in README for number in other)


def test_every_lesson_is_on_the_japanese_page() -> None:
    lessons = re.findall(r"\(notebooks/(\w+)(?:\.ja)?\.ipynb\)", JAPANESE)
    assert set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", README)) <= set(lessons)


def without_text(cell: NotebookNode) -> str:
    """The structure of a cell's code: texts are one like the other, and joined to a neighbour they are one."""
    tree = ast.parse(cell.source)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            node.values = [value for value in node.values if isinstance(value, ast.FormattedValue)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_prose(node.value):
            node.value = ""
    return ast.dump(tree)


def is_prose(text: str) -> bool:
    """Whether a text is a sentence, and no name of a column, a file or a format."""
    return " " in text or not text.isascii()


def translated() -> list[str]:
    return [path.name.removesuffix(".ja.py") for path in sorted(SCRIPTS.glob("*.ja.py"))]


@pytest.mark.parametrize("lesson", translated())
def test_a_lesson_has_the_code_and_numbers_of_the_english_one(lesson: str) -> None:
    english, japanese = (jupytext.read(SCRIPTS / f"{lesson}{end}", fmt="py:percent").cells for end in (".py", ".ja.py"))
    assert [cell.cell_type for cell in english] == [cell.cell_type for cell in japanese]
    for first, second in zip(english, japanese, strict=True):
        assert first.metadata.get("tags") == second.metadata.get("tags")
        if first.cell_type == "code":
            assert without_text(first) == without_text(second), second.source
        else:
            assert not numbers(first.source) - numbers(second.source), second.source
