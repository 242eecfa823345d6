"""An experiment that ran once is run again, from its file alone: what fits, what is left out, and what it says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server.checkout import ROOT
from pred_server.cli import main
from pred_server.errors import InvalidInput
from pred_server.lab import experiments, rerun
from pred_server.lab.experiments import Experiment
from pred_server.lab.reproduce import reproduce
from pred_server.lab.ways import Arm

# In process there is no message: several times as fast as the article's server with 1,000 rows as text.
SMALL = Experiment(
    (Arm("the article's server", "article"), Arm("in process", "predict")),
    compare=(("the article's server", "in process"),),
    model="sum",
    rows=(1_000,),
    repetitions=1,
    blocks=6,
    calls=8,  # so many that one which the machine delays is not the median
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return experiments.run(SMALL, tmp_path_factory.mktemp("measured") / "small.parquet", progress=False)


def described(calls: pd.DataFrame, **changes: Any) -> pd.DataFrame:
    """The same calls, with another experiment."""
    changed = calls.copy()
    changed.attrs = calls.attrs | {"experiment": calls.attrs["experiment"] | changes}
    assert changed.attrs["stamp"]
    return changed


def test_arms_that_were_swapped_are_contradicted(
    measured: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = measured.attrs["experiment"]
    arms = [*once["arms"], once["arms"][0] | {"name": "gone", "server": "a way of old"}]
    names = {"in process": "the article's server", "the article's server": "in process"}
    swapped = described(measured.replace({"arm": names}), arms=arms, compare=[*once["compare"], ["gone", "in process"]])
    swapped.to_parquet(tmp_path / "swapped.parquet")
    out = tmp_path / "here.parquet"
    assert main(["reproduce", str(tmp_path / "swapped.parquet"), "--quick", "--out", str(out)]) == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("rows, model `sum`: there on ")
    assert "left out: `gone`: this version has no way to a prediction of the name `a way of old`" in lines
    (verdict,) = [line for line in lines if line.startswith("contradicted  ")]
    assert verdict.startswith("contradicted  at 1,000 rows the article's server ÷ in process: here ")
    assert lines[-1] == "0 confirmed, 0 not resolved, 1 contradicted; 1 of the result's not measured here"
    assert printed.err.endswith("pred-server: this machine contradicts the result in 1 of its verdicts\n")
    assert len(experiments.read(out)) == 2 * 6 * 2 * 8, "every call is kept"


def test_a_result_is_reproduced_in_one_cell_with_a_model_of_ones_own(measured: pd.DataFrame) -> None:
    again = reproduce(measured, quick=True, model="linear", progress=False)
    assert again.table["verdict"].tolist() == ["confirmed"]
    assert again.contradicted.empty
    note = "another model, `linear` in place of `sum`: the verdicts are compared all the same"
    assert note in again.notes
    assert again.here.attrs["experiment"]["model"] == "linear"
    text, page = repr(again), again._repr_html_()
    assert text.splitlines()[-1] == "1 confirmed, 0 not resolved, 0 contradicted"
    assert "no control was measured" in text
    assert "<td>confirmed</td><td>1,000</td><td>the article&#x27;s server ÷ in process</td>" in page
    assert "<script" not in page
    assert note in page


def test_a_published_result_can_be_run_again_by_itself() -> None:
    for path in sorted((ROOT / "data/results").glob("*.parquet")):
        calls = experiments.read(path)
        experiment, _ = rerun.experiment_of(calls.attrs["experiment"])
        assert rerun.comparisons(experiment)
        for quick, most_s in ((False, rerun.WHOLE_S), (True, rerun.QUICK_S)):
            fits = rerun.fitted(experiment, calls, quick, own_model=False, notes=[])
            p50_ms = calls.groupby(["arm", "rows"])["latency_ms"].median()
            assert rerun.seconds(fits, p50_ms, dict.fromkeys(fits.rows, 0.0)) <= most_s, path.name
            assert fits.repetitions * fits.blocks >= 5, "fewer blocks would not be compared"


def test_what_needs_too_long_is_left_out_and_noted() -> None:
    rows = (1, 1_000, 1_000_000)
    experiment = Experiment((Arm("a"), Arm("b")), (("a", "b"),), rows=rows)
    slow = pd.DataFrame({"arm": np.repeat(["a", "b"], 3), "rows": [*rows, *rows], "latency_ms": [1.0, 2.0, 40_000] * 2})
    notes: list[str] = []
    fits = rerun.fitted(experiment, slow, True, own_model=False, notes=notes)
    assert fits.rows == (1, 1_000)
    assert notes == ["left out: tables of 1,000,000 rows, which need more than 5 minutes, or too much memory"]
    notes.clear()
    wide = rerun.fitted(replace(experiment, model="wide"), slow.assign(latency_ms=1.0), False, True, notes)
    assert wide.rows == (1, 1_000), "40 kB a row: a million would be 40 GB"


def test_an_open_loop_lasts_as_long_as_its_schedule() -> None:
    experiment = Experiment((Arm("a", rate_per_s=100), Arm("b")), (("a", "b"),), rows=(1,), blocks=5, seconds=2.0)
    late_ms = pd.Series({("a", 1): 1_000.0, ("b", 1): 1.0})
    taken_s = rerun.seconds(experiment, late_ms, {1: 0.0})
    halves_s = (2.0 * 10 / 10 + 1.0) + 20 * 0.001  # of `a` 200 calls by schedule and the last answer; of `b` 20 calls
    assert taken_s == pytest.approx(2 * (1.5 * 2 * 5 * halves_s) + 3 * 2)


ARMS = (
    Arm("csv"), Arm("tensor", encoding="tensor"), Arm("csv, again", process=1), Arm("in process", "predict"),
    Arm("echo of tensor", "echo", "tensor"),
)  # fmt: skip
FIVE = Experiment(
    ARMS,
    (("tensor", "csv"), ("tensor", "in process + echo of tensor"), ("csv", "in process")),
    ("csv, again", "csv"),
    rows=(1, 10),
)


def test_only_some_rows_and_arms() -> None:
    assert rerun.only(FIVE) == FIVE
    assert rerun.only(FIVE, rows=[10]).rows == (10,)
    some = rerun.only(FIVE, arms=["tensor", "csv"])
    assert some.compare == (("tensor", "csv"),)
    assert [arm.name for arm in some.arms] == ["csv", "tensor", "csv, again"], "the control is measured in any case"
    for asked, complaint in (
        ({"rows": [5]}, "rows: 5 is not in this experiment; it has 1; 10"),
        ({"arms": ["gone"]}, "arms: gone is not in this experiment; it has csv; tensor; "),
        ({"arms": ["csv"]}, "none of the result's comparisons is left"),
    ):
        with pytest.raises(InvalidInput, match=complaint):
            rerun.only(FIVE, **asked)


def test_an_echo_brings_the_server_along_whose_replies_it_measures() -> None:
    of_echo = replace(FIVE, compare=(("echo of tensor", "in process"),), control=None)
    kept = [arm.name for arm in rerun.only(of_echo, arms=["echo of tensor", "in process"]).arms]
    assert kept == ["tensor", "in process", "echo of tensor"]


def test_what_a_file_of_another_version_says_is_read_or_refused(measured: pd.DataFrame) -> None:
    once = measured.attrs["experiment"]
    experiment, notes = rerun.experiment_of(once)
    assert (experiment, notes) == (SMALL, [])
    older = [arm | {"pipes": 1} for arm in once["arms"]]
    experiment, notes = rerun.experiment_of(once | {"arms": older})
    assert experiment == SMALL
    assert notes == ["this version has no setting `pipes`, which is 1 for every arm of the result"]
    older[0]["pipes"] = 2
    for changed, complaint in (
        (once | {"arms": older}, "differ in `pipes`, a setting that this version lacks"),
        (once | {"compare": []}, "compares nothing"),
        (once | {"arms": [{"server": "serve"}]}, "no experiment that can be run"),
        ({}, "no experiment that can be run"),
        (None, "no experiment that can be run"),
    ):
        with pytest.raises(InvalidInput, match=complaint):
            rerun.experiment_of(changed)


def test_an_arm_that_cannot_carry_the_model_s_table_is_left_out() -> None:
    arms = (Arm("in process", "predict"), Arm("the same", "predict", process=1), Arm("typed", "tcp", "tensor"))
    experiment = Experiment(
        arms, (("in process", "the same"), ("typed", "the same")), ("typed", "typed"), model="flights"
    )
    notes: list[str] = []
    kept = rerun.able(experiment, notes)
    assert ([arm.name for arm in kept.arms], kept.control) == (["in process", "the same"], None)
    (note,) = notes
    assert note.startswith("left out: `typed`: ")
    assert "carrier" in note, "the column of text"


def test_nothing_is_left_where_no_arm_can_be_run(measured: pd.DataFrame) -> None:
    once = measured.attrs["experiment"]
    gone = [arm | {"server": "gone"} for arm in once["arms"]]
    with pytest.raises(InvalidInput, match=r"none of the result's comparisons is left.*no way to a prediction"):
        reproduce(described(measured, arms=gone), progress=False)


def test_a_result_is_not_overwritten_and_a_contribution_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = str(ROOT / "data/results/rows_linear.parquet")
    other = str(tmp_path / "other.parquet")
    for arguments, complaint in (
        ([published, "--out", published], "is the result to compare with: write to another file"),
        ([published, "--contribute", "--rows", "1"], "leave out --model, --rows and --arms"),
        ([other, "--contribute"], "other.parquet is not one of the published results"),
        ([other], "other.parquet does not exist"),
    ):
        assert main(["reproduce", *arguments]) == 1
        assert complaint in capsys.readouterr().err
