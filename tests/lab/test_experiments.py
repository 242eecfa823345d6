"""Someone else's model, benchmarked with one command; killed half-way, resumed, drawn."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from pred_server import save
from pred_server.checkout import ROOT
from pred_server.cli import main
from pred_server.errors import InvalidInput
from pred_server.lab import experiments, report, stamps
from pred_server.lab.experiments import Experiment
from pred_server.lab.studies_load import service_times
from pred_server.lab.ways import Arm


def test_bench_and_plot_a_model_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features, target = load_wine(return_X_y=True, as_frame=True)
    classifier = RandomForestClassifier(n_estimators=5, random_state=0).fit(features, target)
    save(classifier, features, tmp_path / "wine", name="wine")
    out = tmp_path / "wine.parquet"
    options = ["--quick", "--model", tmp_path / "wine", "--encodings", "csv", "--rows", "5", "--out", out]
    arguments = ["bench", *map(str, options)]
    command = [sys.executable, "-m", "pred_server", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as killed:
        while not list(tmp_path.glob("wine.parts/*.parquet")):
            assert killed.poll() is None
            time.sleep(0.01)
        children = psutil.Process(killed.pid).children()
        killed.kill()
    assert psutil.wait_procs(children, timeout=30)[1] == [], "no process is left behind"
    assert not out.exists()
    (first,) = tmp_path.glob("wine.parts/*.parquet")
    measured = pd.read_parquet(first)

    assert main(arguments) == 0
    printed = capsys.readouterr().out
    calls = pd.read_parquet(out)
    rivals = {"the article's server", "FastAPI", "FastAPI, pydantic", "Arrow Flight"}
    arms = {"ours", "ours, again", "csv", "in process", "echo of csv", *rivals}
    keys = ["arm", "rows", "repetition", "block", "half", "call"]
    assert not calls.duplicated(keys).any()
    assert (calls["arm"].isin(arms)).sum() == len(arms) * 2 * 3 * 2 * 8  # arms, repetitions, blocks, halves, calls
    for_capacity = {arm.name for arm in service_times(Arm("csv", "serve", "csv"), 4)}
    assert set(calls["arm"]) == arms | for_capacity
    assert calls["ok"].all()
    merged = measured.merge(calls, on=[*keys, "sent_ns"])
    assert len(merged) == len(measured), "what was measured before the kill is kept"
    assert set(calls["block"]) == set(range(6))
    assert {"python", "grpcio", "cpu", "cores", "pinning", "revision", "seed", "command"} <= set(calls.attrs["stamp"])
    assert not (tmp_path / "wine.parts").exists()

    assert "median latency in ms, by rows in one call" in printed
    said = [line for line in printed.splitlines() if line.startswith("at 5 rows ") and "ours" in line]
    compared = [*rivals, "`csv`", "echo of csv + in process", "ours, again"]
    assert len(said) == len(compared), "all that was declared is reported, and the control"
    assert all(any(name in line for line in said) for name in compared)

    assert main(["plot", str(out), "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / "wine_latency.png") as image:
        assert image.width >= 800
        assert image.info["Description"] in capsys.readouterr().out
    assert main(["plot", str(tmp_path / "wine/sample.parquet")]) == 1
    assert "is not a result file of `pred-server bench`" in capsys.readouterr().err


def test_what_this_code_has_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = (Arm("in process", "predict"), Arm("again", "predict", process=1))
    experiment = Experiment(arms, (("again", "in process"),), model="sum", rows=(1,), blocks=1, calls=1)
    out, measured = tmp_path / "out.parquet", []

    def measure(experiment: Experiment, once: bool = True) -> int:
        """Return how many calls were measured."""
        run = experiments.run
        with monkeypatch.context() as patch:
            patch.setattr(experiments, "run", lambda *arguments: measured.append(run(*arguments)) or measured[-1])
            before = len(measured)
            report.bench(experiment, out, once)
        return sum(map(len, measured[before:]))

    def code_is(revision: str) -> None:
        for module in (experiments, stamps):
            monkeypatch.setattr(module, "revision", lambda: revision)

    code_is("abc")
    assert measure(experiment) > 0
    assert measure(experiment) == 0
    assert "out.parquet: measured already, here and with this code" in capsys.readouterr().out
    assert measure(experiment, once=False) > 0, "only where it is asked for"
    assert measure(replace(experiment, calls=2)) > measure(experiment) > 0, "another experiment"
    code_is("def")
    assert measure(experiment) > 0, "other code"
    code_is("def-dirty")
    assert measure(experiment) > 0 and measure(experiment) > 0, "code that may have changed"


def test_where_a_result_cannot_be_written_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "running", lambda experiment: pytest.fail("a server starts"))
    experiment = Experiment((Arm("in process", "predict"),), model="sum", rows=(1,))
    (tmp_path / "file").touch()
    for out, error in (
        (tmp_path, "is a directory: name a file in it"),
        (Path(), "is a directory: name a file in it"),
        (tmp_path / "file/result.parquet", "cannot be written: Not a directory: "),
    ):
        with pytest.raises(InvalidInput, match=error):
            experiments.run(experiment, out, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_compared_takes_turns_close_in_time() -> None:
    arms = [Arm(name) for name in "abcdef"]
    experiment = Experiment(tuple(arms), compare=(("a", "c + d"), ("f", "b")), control=("e", "a"))
    groups = [{arm.name for arm in group} for group in experiment.groups(arms)]
    assert sorted(groups, key=len) == [{"b", "f"}, {"a", "c", "d", "e"}]
    assert [[arm.name for arm in group] for group in experiment.groups(arms[:2])] == [["a", "b"]], "the rest, together"
