"""Every estimator of scikit-learn that predicts: saved, served from a fresh process, equal to the bit; or refused.

PRED_SERVER_SWEEP=all takes all classes, else one of six; PRED_SERVER_WRITE=1 then writes data/MODELS.md anew.
"""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from pred_server import Model, save, serve
from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, ModelFileError
from pred_server.tutorial.background import Server
from pred_server.wire.tables import ROW_BLOCK
from tests import sweep

PAGE = ROOT / "data" / "MODELS.md"
ALL = os.environ.get("PRED_SERVER_SWEEP") == "all"
KINDS = ("numbers", "mixed")
EQUAL = "equal"


def mixed_table(n_rows: int, seed: int) -> pd.DataFrame:
    """Numbers and text with gaps, integers, booleans. No number is below 0 or above 8: some estimators ask for that."""
    rng = np.random.default_rng(seed)
    numbers = rng.gamma(3.0, 1.0, size=(n_rows, 2)).clip(max=8)
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "size": numbers[:, 0],
            "weight": numbers[:, 1],
            "count": rng.integers(0, 9, n_rows),
            "new": rng.random(n_rows) < 0.5,
            "colour": pd.Series(rng.choice(["red", "green", "blue", None], n_rows), dtype="str"),
        }
    )


def fit_mixed(name: str) -> Any:
    """An estimator of that class behind a ColumnTransformer, fitted on a mixed table."""
    estimator = clone(sweep.fitted(name))
    table = mixed_table(120, seed=0)
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer(
        (SimpleImputer(add_indicator=True), ["size", "weight"]), (encode, ["colour"]), remainder="passthrough"
    )
    target: Any = table["size"].fillna(3) + table["count"] * table["new"] + 0.1
    if is_classifier(estimator):
        places = np.digitize(target, np.quantile(target, [0.5] if name in sweep._TWO_LABELS else [0.4, 0.8]))
        target = places if name in sweep._SEVERAL_TARGETS else np.array(["low", "middle", "high"], object)[places]
    if name in sweep._SEVERAL_TARGETS:
        target = np.column_stack([target, target[::-1]])
    with warnings.catch_warnings(action="ignore"):
        return make_pipeline(columns, estimator).fit(table, target)


def fitted(name: str, kind: str) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    """An estimator, some rows that it was fitted on, and fresh ones: whole blocks of rows."""
    if kind == "mixed":
        return fit_mixed(name), mixed_table(120, seed=0), mixed_table(7 * ROW_BLOCK, seed=1)
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
        if kind == "mixed" and name in sweep._ONE_COLUMN:
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


def line(name: str, saved: dict[str, Any]) -> str:
    outcomes = (saved[f"{name}-{kind}"] for kind in KINDS)
    return f"| {name} | {' | '.join(text if isinstance(text, str) else EQUAL for text in outcomes)} |"


def test_the_page_says_which_are_refused_and_why(saved: dict[str, Any]) -> None:
    lines = [line(name, saved) for name in sweep.names()]
    if ALL and os.environ.get("PRED_SERVER_WRITE"):
        PAGE.write_text(page(lines))
    text = PAGE.read_text()
    if ALL:
        assert text == page(lines), "run `PRED_SERVER_WRITE=1 make sweep`"
    assert [wanted for wanted in lines if wanted not in text.splitlines()] == []


def page(lines: list[str]) -> str:
    served = sum(re.fullmatch(r"\| \w+ \| equal \|.*", text) is not None for text in lines)
    behind = sum(text.endswith("| equal |") for text in lines)
    return "\n".join(
        [
            "# Which estimators of scikit-learn are served",
            "",
            "Each class of scikit-learn that has `predict` is fitted on small data, saved, and served from a fresh",
            "process without `--trust`. *Numbers* is a table of numbers. *Mixed* is a table of numbers and text with",
            "missing values, integers and booleans, behind a ColumnTransformer. *equal* means that the served",
            "predictions are those of the estimator itself, to the bit, in every encoding that can carry the table;",
            "probabilities, too. Any other entry is the sentence with which `save` refuses the model.",
            "",
            f"Of {len(lines)} classes {served} are served equal on numbers, {behind} on mixed data. None is wrong.",
            "",
            "`make sweep` checks this page, and `PRED_SERVER_WRITE=1 make sweep` writes it.",
            "",
            "| class | numbers | mixed |",
            "|---|---|---|",
            *lines,
            "",
        ]
    )


def test_nearly_all_are_served() -> None:
    served = re.search(r"Of (\d+) classes (\d+) are served equal on numbers", PAGE.read_text())
    assert served
    assert int(served[2]) >= 0.9 * int(served[1])
