"""Files of further machines: each is sound and names nobody, and what README claims none of them contradicts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pred_server.checkout import ROOT
from pred_server.cli import main
from pred_server.errors import InvalidInput
from pred_server.lab import experiments, figures, findings, machines, report, reproduce, stats, study_figures, verdicts
from pred_server.lab.claims import CLAIMS

README = (ROOT / "README.md").read_text()
RESULTS = sorted(machines.RESULTS.glob("*.parquet"))
LINEAR = machines.RESULTS / "rows_linear.parquet"
SHORT = [path for path in RESULTS if f"<!-- {path.stem}_short -->" in README]


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return experiments.read(LINEAR)


def elsewhere(published: pd.DataFrame, cpu: str = "Another CPU", swap: tuple[str, ...] = ()) -> pd.DataFrame:
    """The published calls, as if another machine had measured them; with two arms swapped."""
    calls = published.replace({"arm": dict(zip(swap, reversed(swap), strict=True))}) if swap else published.copy()
    calls.attrs = published.attrs | {"stamp": published.attrs["stamp"] | {"cpu": cpu}}
    return calls


@pytest.fixture
def folder(tmp_path: Path, published: pd.DataFrame) -> Path:
    """A folder of results with two further machines, one of which finds the article's server quicker than a tensor."""
    (tmp_path / LINEAR.name).symlink_to(LINEAR)
    machines.contribute(elsewhere(published), "rows_linear", tmp_path / "machines")
    machines.contribute(
        elsewhere(published, "Odd CPU", ("tensor", "the article's server")), "rows_linear", tmp_path / "machines"
    )
    return tmp_path


def test_each_file_of_a_further_machine_is_sound() -> None:
    for path in machines.MACHINES.glob("*"):
        assert path.suffix == ".parquet"
        machines.read(path)


@pytest.mark.parametrize("result", SHORT, ids=lambda path: path.stem)
def test_no_machine_contradicts_what_readme_claims(result: Path) -> None:
    against = report.contradicted_claims(result, experiments.read(result))
    assert not against, "withdraw from README.md:\n" + "\n".join(against)


def test_a_claim_that_a_machine_contradicts_is_found(folder: Path, published: pd.DataFrame) -> None:
    against = report.contradicted_claims(folder / LINEAR.name, published)
    assert any(
        line.startswith("contradicted  at 1,000 rows `tensor` ÷ the article's server: here ") for line in against
    )
    assert all(line.endswith(" (Odd CPU, 2 cores)") for line in against)
    assert not [line for line in against if "columns" in line or "at 10 rows" in line], "README does not show these"


@pytest.mark.parametrize("result", SHORT, ids=lambda path: path.stem)
def test_each_short_block_claims_comparisons_that_were_declared(result: Path) -> None:
    calls = experiments.read(result)
    claims = CLAIMS[findings.study_of(calls)](calls)
    pairs = {tuple(pair) for pair in calls.attrs["experiment"]["compare"]}
    assert claims
    assert {claim[:2] for claim in claims} <= pairs
    assert CLAIMS.keys() == report.SHORT.keys()


def all_confirmed(table: pd.DataFrame) -> str:
    """Return the counts where another machine finds the same; what could not be compared is not resolved."""
    failed = table["why"].str.contains("not compared").sum()
    return f"{len(table) - failed} confirmed, {failed} not resolved, 0 contradicted"


def test_block_medians_give_the_ratios_of_all_calls(published: pd.DataFrame) -> None:
    medians = machines.block_medians(published)
    assert len(medians) < len(published) / 20
    pd.testing.assert_frame_equal(stats.declared(medians), stats.declared(published))
    table = verdicts.compare(published, medians)
    assert verdicts.counts(table) == all_confirmed(table)


def test_a_contributed_file_is_small_and_names_nobody(tmp_path: Path, published: pd.DataFrame) -> None:
    calls = elsewhere(published, "Some CPU (R) @ 3 GHz")
    calls.attrs["stamp"] |= {"command": "python /home/somebody/.venv/bin/pred-server reproduce", "host": "somewhere"}
    path = machines.contribute(calls, "rows_linear", tmp_path)
    assert path.name == "rows_linear-some-cpu-r-3-ghz-2.parquet"
    assert b"somebody" not in path.read_bytes()
    assert b"somewhere" not in path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    kept = machines.read(path)
    assert kept.attrs["stamp"]["command"] == "pred-server reproduce data/results/rows_linear.parquet --contribute"
    assert set(experiments.stamp(0)) == machines.STAMP
    assert path.stat().st_size < 60_000


Spoil = Callable[[pd.DataFrame], pd.DataFrame]


def attrs(part: str, **changes: Any) -> Spoil:
    def change(medians: pd.DataFrame) -> pd.DataFrame:
        changed = medians.copy()
        changed.attrs = medians.attrs | {part: medians.attrs[part] | changes}
        return changed

    return change


def other_flags(medians: pd.DataFrame) -> pd.DataFrame:
    arms = medians.attrs["experiment"]["arms"]
    return attrs("experiment", arms=[arms[0] | {"flags": ["--max-rows", "5"]}, *arms[1:]])(medians)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda medians: medians.drop(columns="valid"), "its columns are"),
        (attrs("stamp", host="somewhere"), "nothing else"),
        (attrs("stamp", cpu="CPU of /home/somebody"), "it holds a path: CPU of /home/somebody"),
        (attrs("stamp", os=r"C:\Users\somebody"), "it holds a path"),
        (attrs("stamp", command="python bench"), "its command is not"),
        (attrs("experiment", model="models/mine"), "the models differ"),
        (attrs("experiment", compare=[["csv", "arrow"]]), "the comparisons differ"),
        (attrs("experiment", control=None), "the controls differ"),
        (attrs("experiment", arms=None), "its experiment cannot be read"),
        (other_flags, "the arms `the article's server` differ; run it again"),
        (lambda medians: medians[medians["arm"] != "csv, again"], "it has no control"),
    ],
)
def test_a_file_that_is_not_sound_is_refused(
    spoil: Spoil, complaint: str, tmp_path: Path, published: pd.DataFrame
) -> None:
    path = machines.contribute(elsewhere(published), "rows_linear", tmp_path)
    medians = machines.read(path)
    spoilt = spoil(medians)
    assert spoilt.attrs, "what is spoilt is only what the case says"
    spoilt.to_parquet(path)
    with pytest.raises(InvalidInput, match="cannot stand among the results of further machines") as refused:
        machines.read(path)
    assert complaint in str(refused.value)


def test_what_would_be_refused_is_not_written(tmp_path: Path, published: pd.DataFrame) -> None:
    with pytest.raises(InvalidInput, match="it holds a path"):
        machines.contribute(elsewhere(published, "/dev/cpu"), "rows_linear", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_figure_has_a_row_for_each_machine_and_says_what_they_found(folder: Path, published: pd.DataFrame) -> None:
    table = machines.verdicts_on(folder / LINEAR.name, published)
    figure = study_figures.machines(table)
    title = figure.get_suptitle().replace("\n", " ")
    assert title == f"On 2 other machines, of {len(table)} verdicts: {verdicts.counts(table)}"
    alt = figures.alt(figure)
    assert title in alt
    assert f"Another CPU, 2 cores: {all_confirmed(table[table['machine'] == 'Another CPU, 2 cores'])}" in alt
    assert "Odd CPU, 2 cores contradicts tensor ÷ the article's server at 1, 10, 100, 1,000, " in alt
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Another CPU, 2 cores", "Odd CPU, 2 cores"]
    assert sum(len(line.get_xdata()) for line in axes.get_lines()) == len(table)  # type: ignore[arg-type]
    assert len({(line.get_marker(), line.get_fillstyle()) for line in axes.get_lines()}) == 3, "not by colour alone"


def test_a_result_is_drawn_with_the_machines_beside_it(tmp_path: Path) -> None:
    parts = machines.RESULTS / "parts.parquet"
    calls = experiments.read(parts)
    (tmp_path / parts.name).symlink_to(parts)
    assert report.drawn(tmp_path / parts.name, calls) == {}
    machines.contribute(elsewhere(calls), "parts", tmp_path / "machines")
    report.plot([tmp_path / parts.name], tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["parts_machines.png"]
    (other,) = (tmp_path / "machines").iterdir()
    with pytest.raises(InvalidInput, match="is drawn with the published result"):
        report.plot([other], tmp_path)


def test_one_command_contributes_a_run(
    tmp_path: Path, published: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = elsewhere(published)
    table = verdicts.compare(published, here)
    found = reproduce.Reproduction(published, here, table, not_measured=0, notes=())
    monkeypatch.setattr(reproduce, "reproduce", lambda result, **options: found)
    monkeypatch.setattr(machines, "MACHINES", tmp_path)
    assert main(["reproduce", str(LINEAR), "--contribute"]) == 0
    machines.read(tmp_path / "rows_linear-another-cpu-2.parquet")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("for data/results/machines: ")
    assert printed[-1] == all_confirmed(table)
