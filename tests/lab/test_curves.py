"""From calls to curves and sentences: along rows or a load, of one's own results and of published ones."""

import re

import pandas as pd
import pytest

from pred_server.lab import curves, experiments
from pred_server.lab.choices import AXES, Choice
from pred_server.lab.machines import RESULTS
from pred_server.lab.study_figures import figures_of
from pred_server.lab.ways import Arm
from tests.lab.synthetic import calls_of

ARMS = (Arm("csv"), Arm("tensor", encoding="tensor"))


def explored(axis: str = "rows", factor: float = 0.5, **choice: object) -> pd.DataFrame:
    experiment = Choice(ARMS, axis=axis, calls=4, **choice).experiment
    return calls_of(
        experiment, lambda arm, rows: 1.0 if arm.encoding == "csv" or (rows == 1 and axis == "rows") else factor
    )


@pytest.mark.parametrize("axis", list(AXES))
def test_every_axis_has_its_curves_and_ratios_with_a_control_at_every_point(axis: str) -> None:
    calls = explored(axis)
    assert curves.axis_of(calls) == axis
    points, ratios = curves.points(calls), curves.ratios(calls)
    assert points.groupby("line")["x"].apply(sorted).to_dict() == {"csv": list(AXES[axis]), "tensor": list(AXES[axis])}
    assert ratios[ratios["control"]]["x"].tolist() == list(AXES[axis])
    assert set(ratios[~ratios["control"]]["line"]) == {"tensor"}
    assert set(ratios["base_line"]) == {"csv"}
    expected = [1.0] * (axis == "rows") + [0.5] * (len(AXES[axis]) - (axis == "rows"))
    assert ratios[~ratios["control"]]["ratio"].tolist() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("axis", "sentence"),
    [
        (
            "rows",
            r"at 1 row no difference found \(\d.\d\d \[.*\] times as long\); "
            r"at 10 to 10,000 rows \d.\d\d× to 2.0\d× faster.",
        ),
        ("callers", r"at 1 to 16 callers (\d.\d\d× to )?2.\d\d× faster."),
        ("rate_per_s", r"at 20 to 500 calls/s (\d.\d\d× to )?2.\d\d× faster."),
    ],
)
def test_the_conclusion_is_a_sentence(axis: str, sentence: str) -> None:
    first, control = curves.conclusions(explored(axis))
    assert re.fullmatch(f"`tensor` against `csv`: {sentence}", first)
    assert control.startswith("Control: `csv` against itself, in the same run, reads ")


def test_the_same_thing_twice_is_no_difference() -> None:
    (sentence, control) = curves.conclusions(explored(factor=1.0))
    assert sentence == "`tensor` against `csv`: at 1 to 10,000 rows no difference found."
    assert "smaller differences count as none" in control


def test_a_control_that_misses_1_is_a_warning() -> None:
    experiment = Choice(ARMS, points=(1, 10), calls=4).experiment
    calls = calls_of(experiment, lambda arm, rows: 1.2 if arm.process and rows == 10 else 1.0)
    assert "It misses 1 at 10 rows" in curves.conclusions(calls)[-1]


def test_too_few_blocks_are_no_verdict() -> None:
    assert "not compared: 3 blocks are too few" in curves.conclusions(explored(blocks=3))[0]


def test_failed_calls_are_no_verdict() -> None:
    calls = explored()
    calls.loc[calls["arm"] == "tensor", "ok"] = False
    assert "calls failed" in curves.conclusions(calls)[0]


@pytest.mark.parametrize("axis", list(AXES))
def test_the_figure_of_a_saved_result_says_what_was_found(axis: str) -> None:
    calls = explored(axis)
    (figure,) = figures_of(calls).values()
    assert figure.get_suptitle().replace("\n", " ") == curves.conclusions(calls)[0]
    assert figure.axes[0].get_xlabel() == curves.LABELS[axis]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["csv", "tensor"]


@pytest.mark.parametrize("result", sorted(path.stem for path in RESULTS.glob("*.parquet")))
def test_every_published_result_has_curves_and_sentences(result: str) -> None:
    calls = experiments.read(RESULTS / f"{result}.parquet")
    points = curves.points(calls)
    assert len(points)
    assert points["x"].notna().all()
    assert not [line for line in points["line"] if line.endswith(", again")]
    assert curves.conclusions(calls)
