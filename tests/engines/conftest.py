"""A fixture for tests that convert many models: without a process for each."""

import pickle
from collections.abc import Sequence
from typing import Any

import pytest

from pred_server.engines import onnx as onnx_engine
from pred_server.engines.convert import SinglePrecision, graph_of
from pred_server.errors import ServerStartError


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert in the test's own process; a fresh one takes seconds."""

    def convert(name: str, estimator: Any, text: Sequence[bool]) -> bytes:
        try:
            return graph_of(pickle.loads(pickle.dumps(estimator)), text)
        except Exception as error:
            single = isinstance(error, SinglePrecision)
            problem = (
                "would be computed in single precision by ONNX Runtime" if single else "cannot be converted to ONNX"
            )
            part = type(estimator).__name__
            raise ServerStartError(f"model {name!r} ({part}) {problem}; serve it with --engine sklearn") from error

    monkeypatch.setattr(onnx_engine, "convert", convert)
