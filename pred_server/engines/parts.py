"""How the parts of an estimator are called in messages."""

from collections.abc import Iterable
from typing import Any

from pred_server.model.parts import estimators


def label(estimator: Any, part: Any) -> str:
    """Return how to name a part in a message: by its class, and by the step of the pipeline that it belongs to."""
    kind = type(part).__name__
    for name, step in _steps(estimator):
        if any(inner is part for inner in estimators(step)):
            return f"step {name!r}, {kind}"
    return kind


def _steps(estimator: Any) -> Iterable[tuple[str, Any]]:
    for name in ("steps", "transformers_", "estimators"):
        listed = getattr(estimator, name, None)
        if isinstance(listed, list) and all(isinstance(entry, tuple) for entry in listed):
            return [(entry[0], entry[1]) for entry in listed]
    return []
