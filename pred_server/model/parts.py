"""What an estimator is made of."""

from collections.abc import Iterator
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
