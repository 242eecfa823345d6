"""SECURITY.md names tests that are there, and leads to the tables of limits; each limit says what it protects."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from pred_server.checkout import ROOT
from pred_server.limits import Limits, flag

SECURITY = (ROOT / "SECURITY.md").read_text()
NAMED = re.findall(r"`([\w/]+\.(?:py|go))::(\w+)`", SECURITY)
PROMISES = [line for line in SECURITY.split("## Promises", 1)[1].splitlines() if line.startswith("| ")][1:]


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_each_test_that_holds_a_promise_exists(file: str, name: str) -> None:
    defined = re.compile(rf"^(?:def|func) {name}\(", re.MULTILINE)
    assert defined.search((ROOT / file).read_text()), f"{file} has no {name}"


def test_each_promise_names_a_test() -> None:
    assert len(PROMISES) >= 7
    for promise in PROMISES:
        assert "::" in promise, promise


def rows_of(page: Path) -> dict[str, list[str]]:
    """The lines of the page's tables whose first cell is a flag: the cells behind the flag."""
    lines = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| `-")]
    return {cells[0].strip("`"): cells[1:] for cells in lines}


def test_the_table_names_every_limit_once_with_its_default_and_what_it_protects() -> None:
    table = rows_of(ROOT / "docs/server.md")
    assert set(table) == {flag(limit.name) for limit in fields(Limits)}
    for limit in fields(Limits):
        default, limits, protects = table[flag(limit.name)]
        assert default == f"{limit.default:,.10g}"
        assert limits and protects


def test_the_gateways_table_names_every_limit_that_is_a_flag() -> None:
    registered = re.compile(r'flags\.(?:\w+Var\([^"]*|Func\()"([a-z-]+)"')
    limits, flags = (
        set(registered.findall((ROOT / "gateway" / file).read_text()))
        for file in ("web/options.go", "cmd/gateway/flags.go")
    )
    table = {name for names in rows_of(ROOT / "docs/gateway.md") for name in re.findall(r"-([a-z][a-z-]+)", names)}
    assert limits <= table <= limits | flags
    assert len(limits) > 10
