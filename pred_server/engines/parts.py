"""What an estimator is made of."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator


def parts(estimator: Any) -> Iterator[Any]:
    """Yield the estimator and all estimators inside it, at any depth, those that only served to fit among them."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, BaseEstimator):
            yield value
            waiting.extend(vars(value).values())
        elif isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())


def label(estimator: Any, part: Any) -> str:
    """Return how to name a part in a message: by its class, and by the step of the pipeline that it belongs to."""
    kind = type(part).__name__
    for name, step in _steps(estimator):
        if any(inner is part for inner in parts(step)):
            return f"step {name!r}, {kind}"
    return kind


def _steps(estimator: Any) -> Iterable[tuple[str, Any]]:
    for name in ("steps", "transformers_", "estimators"):
        listed = getattr(estimator, name, None)
        if isinstance(listed, list) and all(isinstance(entry, tuple) for entry in listed):
            return [(entry[0], entry[1]) for entry in listed]
    return []
