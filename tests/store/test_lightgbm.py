"""A model of another library: saved, served with the flags that `save` gives, equal to the bit."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from pred_server import load, save, serve
from pred_server.engines.onnx import with_onnx
from pred_server.errors import InvalidInput, ModelFileError, ServerStartError
from pred_server.tutorial.background import Server
from pred_server.wire.codec import CODECS

try:
    lightgbm = pytest.importorskip("lightgbm", reason="LightGBM is not installed; the extra `test` has it")
except OSError as error:
    pytest.skip(f"LightGBM lacks OpenMP's library (on Debian: apt install libgomp1): {error}", allow_module_level=True)

random = np.random.default_rng(0)
NUMBERS = pd.DataFrame(random.normal(size=(300, 4)), columns=list("abcd"))
MIXED = NUMBERS.assign(
    a=NUMBERS["a"].mask(NUMBERS["a"] > 1),
    c=pd.Series(random.choice(["red", "green", None], 300), dtype="str"),
    d=random.integers(0, 9, 300),
)
TARGET = NUMBERS["a"] * NUMBERS["b"]
LABELS = np.where(TARGET > 0.5, "late", np.where(TARGET > 0, "on time", "early"))
SETTINGS = {"n_estimators": 10, "min_child_samples": 5, "random_state": 0, "verbose": -1}


def coded(estimator: Any) -> Any:
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(make_column_transformer((encode, ["c"]), remainder="passthrough"), estimator)


def models() -> dict[str, tuple[Any, pd.DataFrame, Any]]:
    """Estimators that are not fitted yet, each with its table and its target."""
    regressor, classifier = lightgbm.LGBMRegressor(**SETTINGS), lightgbm.LGBMClassifier(**SETTINGS)
    return {
        "regressor": (regressor, NUMBERS, TARGET),
        "regressor-gaps": (regressor, MIXED[["a", "b", "d"]], TARGET),
        "classifier": (classifier, NUMBERS, LABELS),
        "two-classes": (classifier, NUMBERS, TARGET > 0),
        "pipeline": (make_pipeline(StandardScaler(), regressor), NUMBERS, TARGET),
        "mixed-pipeline": (coded(classifier), MIXED, LABELS),
        "search": (GridSearchCV(regressor, {"num_leaves": [5, 9]}, cv=2), NUMBERS, TARGET),
    }


@pytest.fixture(scope="module")
def fitted() -> dict[str, tuple[Any, pd.DataFrame]]:
    return {name: (clone(estimator).fit(table, target), table) for name, (estimator, table, target) in models().items()}


@pytest.fixture(scope="module")
def saved(fitted: dict[str, tuple[Any, pd.DataFrame]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By model directory, the line that `save` wrote to the log."""
    folder, lines = tmp_path_factory.mktemp("models"), {}
    log = logging.getLogger("pred_server.store.saving")
    for name, (estimator, table) in fitted.items():
        caught: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record, caught=caught: caught.append(record.getMessage())
        log.addHandler(handler)
        try:
            save(estimator, table, folder / name)
        finally:
            log.removeHandler(handler)
        (lines[str(folder / name)],) = caught
    return lines


def flags_in(line: str) -> list[str]:
    return re.findall(r"--trust \S+", line)


@pytest.fixture(scope="module")
def server(saved: dict[str, str]) -> Iterator[Server]:
    """All models, served with the flags of the log as they stand there, and with nothing else."""
    first, *others = saved
    further = [word for directory in others for word in ("--model", directory)]
    flags = dict.fromkeys(flag for line in saved.values() for flag in flags_in(line))
    with serve(first, *further, *(word for flag in flags for word in flag.split())) as running:
        yield running


def test_only_the_librarys_own_types_need_trust(saved: dict[str, str]) -> None:
    for directory, line in saved.items():
        kind = "LGBMClassifier" if "class" in directory or "mixed" in directory else "LGBMRegressor"
        assert flags_in(line) == ["--trust lightgbm.basic.Booster", f"--trust lightgbm.sklearn.{kind}"]
        with pytest.raises(ModelFileError, match=" ".join(flags_in(line))):
            load(directory)


@pytest.mark.parametrize("name", models())
def test_served_in_every_encoding_to_the_bit(
    name: str, fitted: dict[str, tuple[Any, pd.DataFrame]], server: Server
) -> None:
    estimator, table = fitted[name]
    encodings = CODECS if len(set(table.dtypes)) == 1 else [encoding for encoding in CODECS if encoding != "tensor"]
    with server.client(model=name) as client:
        for encoding in encodings:
            assert np.array_equal(client.predict(table, encoding=encoding), estimator.predict(table)), encoding
            assert client.predict(table.head(1), encoding=encoding)[0] == estimator.predict(table.head(1))[0]
            if hasattr(estimator, "classes_"):
                served = client.predict(table, encoding=encoding, output="probabilities").to_numpy()
                assert np.array_equal(served, estimator.predict_proba(table)), encoding
        streamed = client.predict(table, stream=True)
        assert np.array_equal(streamed, estimator.predict(table))


def test_onnx_refuses_it_in_a_sentence(saved: dict[str, str]) -> None:
    directory, line = next(iter(saved.items()))
    model = load(directory, [flag.removeprefix("--trust ") for flag in flags_in(line)])
    with pytest.raises(
        ServerStartError, match=r"\(LGBMRegressor\) cannot be converted to ONNX; serve it with --engine"
    ):
        with_onnx(model)


def test_what_cannot_be_served_is_a_sentence(tmp_path: Path) -> None:
    categories = NUMBERS.assign(c=pd.Categorical(random.choice(list("xyz"), 300)))
    by_category = lightgbm.LGBMRegressor(**SETTINGS).fit(categories, TARGET)
    with pytest.raises(InvalidInput, match="cannot predict the sample once it has the dtypes that are served"):
        save(by_category, categories, tmp_path / "mine")
    with pytest.raises(InvalidInput, match="not a fitted scikit-learn estimator: Booster"):
        save(by_category.booster_, categories, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
