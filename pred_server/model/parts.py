"""What an estimator is made of."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

_PLAIN = (str, bytes, bool, int, float, complex, np.generic, type, type(None))


def parts(estimator: Any) -> Iterator[Any]:
    """Yield everything inside an estimator that is more than a number or a text, each thing once."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if isinstance(part, _PLAIN) or id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, Mapping):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple | set):
            waiting.extend(part)
        elif isinstance(part, np.ndarray) and part.dtype == object:
            waiting.extend(part.ravel().tolist())
        elif isinstance(part, partial):
            waiting += [part.func, *part.args, *part.keywords.values()]
        waiting.extend(getattr(part, "__dict__", {}).values())


def estimators(estimator: Any) -> Iterator[Any]:
    """Yield the estimator and all estimators inside it, at any depth, those that only served to fit among them."""
    return (part for part in parts(estimator) if isinstance(part, BaseEstimator))
