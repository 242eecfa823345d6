"""The declared experiments: complete, consistent, and only for encodings that can carry the table."""

import functools

import pytest

from pred_server.client.client import CHUNK_BYTES
from pred_server.errors import InvalidInput
from pred_server.lab import stats, studies


def test_experiments_are_declared_for_what_can_carry_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "load", functools.cache(studies.load))  # once for all studies
    monkeypatch.setattr(studies, "with_onnx", lambda model: model)  # converting takes long, and is not the point here
    for varies in studies.STUDIES:
        experiment = studies.declared(varies, "flights", quick=True)
        assert "left out: tensor cannot carry this model's table" in capsys.readouterr().out
        assert not [arm for arm in experiment.arms if arm.encoding == "tensor"]
        names = [arm.name for arm in experiment.arms]
        assert len(set(names)) == len(names)
        assert {name for pair in (*experiment.compare, experiment.control or ()) for name in pair} <= set(names)
    assert set(studies.FIXED) == {"floor", "callers"}
    cases = studies.declared("floor", "flights")
    sides = [side for pair in cases.compare for side in pair]
    assert {name for side in sides for name in side.split(stats.SUM)} <= {arm.name for arm in cases.arms}
    with pytest.raises(InvalidInput, match="models and sizes of its own"):
        studies.declared("floor", "linear")
    (stream,) = [arm for arm in studies.declared("rows", "linear").arms if arm.name == "streamed tensor"]
    assert stream.chunk_rows == pytest.approx(CHUNK_BYTES / 80, rel=0.01), "ten doubles a row"


def test_a_ladder_begins_with_csv() -> None:
    with pytest.raises(InvalidInput, match="name it among --encodings"):
        studies.declared("ladder", "linear", encodings=["tensor"])
