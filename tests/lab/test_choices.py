"""What the explorer can be asked, as an experiment and as code."""

import io
import re
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from pred_server.errors import InvalidInput
from pred_server.lab.choices import AXES, Choice, code_of, offered, with_names
from pred_server.lab.ways import Arm

CSV, TENSOR = Arm("csv"), Arm("tensor", encoding="tensor")


def test_on_rows_all_arms_are_compared_with_the_first_which_is_its_own_control() -> None:
    experiment = Choice((CSV, TENSOR, Arm("REST", "rest")), "linear", points=(100, 1, 100), callers=4).experiment
    assert experiment.rows == (1, 100)
    assert [arm.name for arm in experiment.arms] == ["csv", "tensor", "REST", "csv, again"]
    assert experiment.compare == (("tensor", "csv"), ("REST", "csv"))
    assert experiment.control == ("csv, again", "csv")
    assert {arm.callers for arm in experiment.arms} == {4}
    assert min(arm.calls for arm in experiment.arms) >= 8, "every caller makes more than one call"
    assert [arm.process for arm in experiment.arms] == [0, 0, 0, 1], "a control has a server of its own"
    assert experiment.groups(experiment.arms) == [list(experiment.arms)], "all take their turns close in time"


@pytest.mark.parametrize(
    ("axis", "names"),
    [
        ("callers", ["csv", "csv, 4 callers", "csv, 16 callers"]),
        ("rate_per_s", ["csv, 20/s", "csv, 100/s", "csv, 500/s"]),
    ],
)
def test_on_a_load_every_point_has_its_own_comparison_and_control(axis: str, names: list[str]) -> None:
    experiment = Choice((CSV, TENSOR), axis=axis, rows=10).experiment
    assert experiment.rows == (10,)
    assert [arm.name for arm in experiment.arms[::3]] == names
    assert [getattr(arm, axis) for arm in experiment.arms[::3]] == list(AXES[axis])
    assert len(experiment.groups(experiment.arms)) == 3
    pairs = {*experiment.compare, experiment.control}
    assert pairs == {
        pair
        for name in names
        for pair in ((name.replace("csv", "tensor"), name), (name.replace("csv", "csv, again"), name))
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arms": (CSV,)}, "2 to 4 arms"),
        ({"arms": (CSV, replace(TENSOR, name="csv"))}, "names that differ"),
        ({"arms": tuple(Arm(str(number)) for number in range(5))}, "2 to 4 arms"),
        ({"points": (0, 1)}, "1 at least"),
        ({"points": (1, 10_000_001)}, "points 10,000,000 at most"),
        ({"blocks": 0}, "1 at least"),
        ({"arms": (replace(CSV, frame=True), Arm("gateway", "gateway", frame=True))}, "gateway has no client"),
        ({"arms": (replace(CSV, frame=True), TENSOR), "callers": 4}, "one caller who waits"),
        ({"arms": (replace(CSV, frame=True), TENSOR), "axis": "rate_per_s"}, "one caller who waits"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_sentence(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Choice(**{"arms": (CSV, TENSOR)} | change)


def test_arms_are_named_by_what_they_differ_in() -> None:
    onnx = Arm("", flags=("--engine", "onnx"))
    named = with_names([Arm(""), Arm("", encoding="arrow"), onnx, Arm("mine", "rest")])
    assert [arm.name for arm in named] == [
        "our server, csv, scikit-learn", "our server, arrow, scikit-learn", "our server, csv, ONNX Runtime", "mine",
    ]  # fmt: skip
    assert [arm.name for arm in with_names([Arm(""), Arm("", encoding="tensor")])] == ["csv", "tensor"]
    assert [arm.name for arm in with_names([Arm(""), Arm("")])] == ["csv", "csv (2)"], "the same twice"
    assert [arm.name for arm in with_names([Arm(""), Arm("", chunk_rows=1_000)])] == ["csv", "as a stream"]
    assert [arm.name for arm in with_names([Arm("", model="a"), Arm("", model="b")])] == ["a", "b"]


def test_what_is_offered_is_installed_here() -> None:
    ways = offered()
    assert {"our server": "serve", "the article's server": "article", "in process": "predict"}.items() <= ways.items()
    assert {"rest", "flight", "http"} <= set(ways.values())
    assert "tcp" not in ways.values()


def test_the_code_is_the_experiment() -> None:
    arms = (Arm("a", encoding="tensor", flags=("--engine", "onnx")), Arm("b", "rest", frame=False, model="x"))
    for axis in AXES:
        experiment = Choice(arms, "linear", axis).experiment
        names: dict[str, object] = {}
        exec(code_of(experiment).partition("for state in")[0], names)
        assert names["experiment"] == experiment
    assert "half" not in code_of(experiment), "defaults are left out"


def test_the_code_runs_in_a_cell_of_its_own() -> None:
    arms = (Arm("in process", "predict"), Arm("again", "predict"))
    experiment = Choice(arms, "sum", points=(1,), blocks=5, calls=2).experiment
    names: dict[str, object] = {}
    with redirect_stdout(io.StringIO()) as printed:
        exec(code_of(experiment), names)
    assert len(names["calls"]) == 5 * 2 * 2 * 3
    assert "5 of 5 blocks" in printed.getvalue()
    assert re.search(
        r"\n`again` against in process: at 1 row .*\nControl: in process against itself", printed.getvalue()
    )
