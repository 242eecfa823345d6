"""Every estimator of scikit-learn that predicts: saved, served from a fresh process, equal to the bit; or refused.

PRED_SERVER_SWEEP=all takes all classes, else one of six.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server import Model, save, serve
from pred_server.errors import InvalidInput, ModelFileError
from pred_server.tutorial.background import Server
from pred_server.wire.tables import ROW_BLOCK
from tests import models_page, sweep

KINDS = models_page.SKLEARN


def fitted(name: str, kind: str) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    """An estimator, some rows that it was fitted on, and fresh ones: whole blocks of rows."""
    if kind == "mixed":
        return sweep.fitted_on_mixed(name), sweep.mixed_table(120, seed=0), sweep.mixed_table(7 * ROW_BLOCK, seed=1)
    return sweep.fitted(name), sweep.table(name), sweep.table(name, n_rows=7 * ROW_BLOCK, seed=1)


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[str, str]]:
    """The name that a model is saved under: its class, and the kind of its table."""
    return {f"{name}-{kind}": (name, kind) for name in sweep.names() for kind in KINDS}


@pytest.fixture(scope="module")
def saved(
    cases: dict[str, tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Any, pd.DataFrame, Model, Path] | str]:
    """Each estimator with fresh rows, what was saved of it, and where; or the sentence that refuses it."""
    folder, outcomes = tmp_path_factory.mktemp("sweep"), {}
    for label, (name, kind) in cases.items():
        if kind == "mixed" and name in sweep.ONE_COLUMN:
            outcomes[label] = "takes one column"
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # of convergence, and of classes that are to go
                estimator, sample, fresh = fitted(name, kind)
        except np.linalg.LinAlgError as error:
            outcomes[label] = f"scikit-learn cannot fit it: {error}"
            continue
        try:
            with warnings.catch_warnings(action="ignore"):
                outcomes[label] = estimator, fresh, save(estimator, sample, folder / label), folder / label
        except (InvalidInput, ModelFileError) as error:
            outcomes[label] = str(error)
    return outcomes


@pytest.fixture(scope="module")
def server(saved: dict[str, Any]) -> Iterator[Server]:
    """One fresh process for all: it does not start if it refuses a model that was saved."""
    first, *others = [outcome[-1] for outcome in saved.values() if not isinstance(outcome, str)]
    flags = [word for directory in others for word in ("--model", str(directory))]
    with serve(first, *flags, start_timeout_s=240) as running:
        yield running


def differences(label: str, outcome: tuple[Any, pd.DataFrame, Model, Path], server: Server) -> list[str]:
    """The encodings in which a served prediction is not what the estimator itself predicts."""
    estimator, fresh, model, _ = outcome
    rows = model.schema.frame_to_rows(fresh).to_frame(model.schema.index)
    wrong = []
    with server.client(model=label) as client:
        for output in ("labels", "probabilities") if model.classes else ("labels",):
            with warnings.catch_warnings(action="ignore"):
                expected: Any = (estimator.predict if output == "labels" else estimator.predict_proba)(rows)
            expected = np.hstack(expected) if isinstance(expected, list) else np.asarray(expected)
            for encoding in ("csv", "columns", "arrow", "tensor")[: 4 if model.schema.uniform else 3]:
                served = client.predict(fresh, encoding=encoding, output=output).to_numpy()
                if not np.array_equal(served, expected.reshape(served.shape), equal_nan=expected.dtype.kind == "f"):
                    wrong.append(f"{label}: {output} in {encoding}")
    return wrong


def test_each_is_served_equal_to_the_bit_in_every_encoding(saved: dict[str, Any], server: Server) -> None:
    wrong = []
    for label, outcome in saved.items():
        if not isinstance(outcome, str):
            wrong += differences(label, outcome, server)
    assert not wrong


def test_the_page_says_which_are_refused_and_why(saved: dict[str, Any]) -> None:
    def entry(outcome: Any) -> str:
        return outcome if isinstance(outcome, str) else models_page.EQUAL

    models_page.check({name: {kind: entry(saved[f"{name}-{kind}"]) for kind in KINDS} for name in sweep.names()})


def test_nearly_all_are_served() -> None:
    for kind in KINDS:
        served, refused, not_tried = models_page.counts(models_page.read(), kind)
        assert served >= 0.9 * (served + refused + not_tried)
