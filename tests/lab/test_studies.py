"""The declared experiments: complete, consistent, and only for encodings that can carry the table."""

import functools
from pathlib import Path

import pytest

from pred_server.cli import COMMANDS
from pred_server.client.client import CHUNK_BYTES
from pred_server.errors import InvalidInput
from pred_server.lab import arms, stats, studies, ways
from pred_server.lab.ways import open_inference


def test_experiments_are_declared_for_what_can_carry_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "load", functools.cache(studies.load))  # once for all studies
    monkeypatch.setattr(arms, "with_onnx", lambda model: model)  # converting takes long, and is not the point here
    for varies in studies.STUDIES:
        experiment = studies.declared(varies, "flights", quick=True)
        assert "left out: tensor cannot carry this model's table" in capsys.readouterr().out
        assert not [arm for arm in experiment.arms if arm.encoding == "tensor"]
        names = [arm.name for arm in experiment.arms]
        assert len(set(names)) == len(names)
        sides = [side for pair in (*experiment.compare, experiment.control or ()) for side in pair]
        assert set(stats.names_in(*sides)) <= set(names)
    fixed = {"callers", "distance", "enormous", "beside", "start", "ways", "capacity", "layers"}
    assert set(studies.FIXED) == fixed
    (offered,) = [settings["choices"] for name, settings in COMMANDS["bench"][2] if name == "--varies"]
    assert {*studies.STUDIES, *studies.FIXED} == set(offered)
    with pytest.raises(InvalidInput, match="models and sizes of its own"):
        studies.declared("callers", "linear")
    (stream,) = [arm for arm in studies.declared("rows", "linear").arms if arm.name == "streamed tensor"]
    assert stream.chunk_rows == pytest.approx(CHUNK_BYTES / 80, rel=0.01), "ten doubles a row"


def test_rows_are_compared_at_the_callers_hand_and_ours_is_asked_with_its_clients_bytes() -> None:
    experiment = studies.declared("rows", "linear", rows=[1, 10_000, 100_000])
    arms = {arm.name: arm for arm in experiment.arms}
    assert all(arms[name].frame for name in ("ours", "the article's server", "FastAPI", "Arrow Flight"))
    assert arms["ours"].encoding == "auto"
    assert arms["FastAPI, pydantic"].rows == (1, 10_000), "a million pydantic rows take minutes"
    assert (arms["tensor"].rows, arms["streamed tensor"].rows) == ((1, 10_000), (100_000,))
    assert {("Arrow Flight", "ours"), ("ours", "echo of tensor + in process")} <= set(experiment.compare)

    flights = studies.declared("rows", "flights", rows=[1, 100])
    ready = {arm.name: arm.rows for arm in flights.arms if arm.server == "serve" and not arm.frame}
    ready = {name: rows for name, rows in ready.items() if ", " not in name}  # the others are for `capacity`
    assert ready == {"columns": (1,), "arrow": (100,)}
    (ours, *_) = studies.declared("rows", "linear", encodings=["csv"], quick=True).arms
    assert ours.encoding == "csv", "as asked for"


def test_a_quick_run_needs_no_environment_but_our_own() -> None:
    quick = studies.declared("rows", "linear", quick=True)
    assert not {"kserve", "mlserver"} & {arm.server for arm in quick.arms}


def test_a_rival_that_is_not_installed_is_left_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(open_inference, "ENVIRONMENTS", tmp_path)
    experiment = studies.declared("rows", "linear")
    assert not {"kserve", "mlserver"} & {arm.server for arm in experiment.arms}
    assert "left out: KServe is not installed: run `make rivals`" in capsys.readouterr().out


def test_encodings_are_compared_over_both_transports_and_asked_from_go(monkeypatch: pytest.MonkeyPatch) -> None:
    for quick in (False, True):
        experiment = studies.declared("encodings", "linear", quick=quick)
        pairs = set(experiment.compare)
        assert {("csv over HTTP", "csv"), ("tensor over HTTP", "tensor"), ("arrow over HTTP", "arrow")} <= pairs
        assert {("tensor", "csv"), ("tensor over HTTP", "csv over HTTP"), ("streamed tensor", "tensor")} <= pairs
        from_python = {arm.name for arm in experiment.arms if arm.generator == "python"}
        assert from_python == {"in process"}, "or a client's library would count as the transport's"
    (http,) = {arm.server for arm in experiment.arms if arm.name.endswith(" over HTTP")}
    monkeypatch.setattr(type(ways.WAYS[http]), "packages", ("not_to_be_found",))
    alone = studies.declared("encodings", "linear")
    assert not [arm for arm in alone.arms if arm.server == http]
    assert ("tensor", "csv") in alone.compare


def test_a_ladder_begins_with_csv() -> None:
    with pytest.raises(InvalidInput, match="name it among --encodings"):
        studies.declared("ladder", "linear", encodings=["tensor"])
