"""The command line as it is typed: what an argument is where nobody gives it, and which numbers it takes."""

import argparse
from typing import Any

import pytest

from pred_server.cli import COMMANDS, _parser
from pred_server.lab.reproduce import DEFAULT

NEEDED = {"predict": ["FILE"], "capacity": ["RESULT", "--rate", "1", "--p99-ms", "1"], "plot": ["RESULT"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_nobody_gives_is_left_out_or_what_it_is_by_default(command: str) -> None:
    """`argparse` hands a default that is text to `type`, also where it says to leave the argument out."""
    given = vars(_parser().parse_args([command, *NEEDED.get(command, [])]))
    assert not [name for name, value in given.items() if argparse.SUPPRESS in str(value)]


def test_reproduce_has_the_result_that_its_help_names() -> None:
    assert _parser().parse_args(["reproduce"]).result == DEFAULT


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["--rate", "2e6"], "'2e6' is not a number above 0, and below 1,000,000"),
        (["--rate", "none"], "'none' is not a number above 0\n"),
        (["--seed", "-1"], "'-1' is not a whole number from 0 to 2147483647"),
        (["--rows", "0"], "'0' is not a whole number from 1 to 2147483647"),
    ],
)
def test_a_number_that_cannot_be_is_told_with_its_bounds(typed: list[str], sentence: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["capacity", *NEEDED["capacity"], *typed])
    assert f"argument {typed[0]}: {sentence}" in capsys.readouterr().err
