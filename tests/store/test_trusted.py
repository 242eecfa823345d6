"""What needs no trust: types that exist, and models of scikit-learn's own as people make them."""

import importlib
import json
import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.stats import loguniform
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest, mutual_info_regression
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, DotProduct, WhiteKernel
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, RepeatedKFold, TimeSeriesSplit
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, SplineTransformer, StandardScaler
from sklearn.svm import SVR

from pred_server import load, save
from pred_server.errors import InvalidInput, ModelFileError
from pred_server.store.trusted import REVIEWED, TRUSTED_TYPES

X = pd.DataFrame(np.random.default_rng(0).normal(size=(80, 3)), columns=list("abc"))
Y = X["a"] + X["b"]


def test_every_trusted_type_is_one_of_the_installed_packages_and_has_a_reason() -> None:
    for name in TRUSTED_TYPES:
        module, _, kind = name.rpartition(".")
        assert hasattr(importlib.import_module(module), kind), name
    assert all(len(reason.split()) > 1 for reason, _, _ in REVIEWED)
    assert not [name for name in TRUSTED_TYPES if "PyFunc" in name or "load" in name or "file" in name]


@pytest.mark.parametrize(
    "estimator",
    [
        GridSearchCV(Ridge(), {"alpha": [1, 2]}, scoring="neg_mean_squared_error", cv=RepeatedKFold(n_repeats=2)),
        GridSearchCV(Ridge(), {"alpha": [1, 2]}, scoring=["r2", "neg_max_error"], refit="r2", cv=TimeSeriesSplit(3)),
        RandomizedSearchCV(Ridge(), {"alpha": loguniform(0.1, 10)}, n_iter=2, random_state=0),
        GaussianProcessRegressor(1.0 * RBF() + WhiteKernel() * DotProduct() ** 2),
        make_pipeline(SelectKBest(mutual_info_regression, k=2), SplineTransformer(), Ridge()),
        make_pipeline(FunctionTransformer(np.log1p), FunctionTransformer(np.nan_to_num), Ridge()),
        make_pipeline(make_column_transformer((StandardScaler(), make_column_selector(pattern="a|b"))), Ridge()),
        KNeighborsRegressor(metric="canberra"),
        make_pipeline(OneHotEncoder(handle_unknown="ignore"), KNeighborsRegressor()),
        make_pipeline(OneHotEncoder(handle_unknown="ignore"), SVR()),
    ],
    ids=lambda estimator: "-".join(type(step).__name__ for _, step in getattr(estimator, "steps", [("", estimator)])),
)
def test_scikit_learns_own_needs_no_trust(estimator: Any, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        estimator.fit(X.abs(), Y)
    save(estimator, X.abs(), tmp_path / "mine")
    assert load(tmp_path / "mine").predict(X.abs()) == pytest.approx(estimator.predict(X.abs()), rel=1e-9)


@pytest.mark.parametrize("metric", ["manhattan", "chebyshev", "minkowski", "cosine", "braycurtis", "hamming"])
def test_neighbours_by_any_metric(metric: str, tmp_path: Path) -> None:
    estimator = KNeighborsRegressor(metric=metric).fit(X, Y)
    save(estimator, X, tmp_path / "mine")
    assert np.array_equal(load(tmp_path / "mine").predict(X), estimator.predict(X))


def test_what_reads_files_is_refused(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in "ab"]
    for name in names:
        Path(name).write_text(f"text {name}")
    texts = pd.Series(names)
    estimator = make_pipeline(TfidfVectorizer(input="filename"), LogisticRegression()).fit(texts, ["x", "y"])
    with pytest.raises(ModelFileError, match="TfidfVectorizer: it reads files"):
        save(estimator, texts, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def doubled(table: Any) -> Any:
    return 2 * table


@pytest.mark.parametrize("function", [lambda table: table, type("Local", (), {}).__init__])
def test_what_is_in_no_module_is_refused(function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = make_pipeline(FunctionTransformer(function if function.__name__ == "<lambda>" else doubled), Ridge())
    monkeypatch.setattr(estimator.steps[0][1].func, "__module__", "__main__")
    with pytest.raises(InvalidInput, match=r"holds __main__\.\S+, which exists in this program only; move it into a"):
        save(estimator.fit(X, Y), X, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


MINE = """
from sklearn.base import BaseEstimator, TransformerMixin

class First(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return X.iloc[:, :1]

class Second(First):
    def transform(self, X):
        return X[["a"]] * 2
"""


def test_types_of_a_module_of_ones_own_are_named_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "own_steps.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    own_steps = importlib.import_module("own_steps")
    estimator = make_pipeline(own_steps.First(), own_steps.Second(), Ridge()).fit(X, Y)
    flags = "--trust own_steps.First --trust own_steps.Second"
    with caplog.at_level(logging.WARNING):
        save(estimator, X, tmp_path / "mine")
    assert flags in caplog.text
    with pytest.raises(ModelFileError, match=flags):
        load(tmp_path / "mine")
    model = load(tmp_path / "mine", trust=["own_steps.First", "own_steps.Second"])
    assert np.array_equal(model.predict(X), estimator.predict(X))
    # Beside another directory the module is not found: no other process could load the model.
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ModelFileError, match=r"another process could not load it, with own_steps\.First"):
        save(estimator, X, tmp_path / "elsewhere" / "mine")


def test_a_refused_model_of_other_versions_is_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another version may have types that this one does not know: then trust is not what helps."""
    save(make_pipeline(FunctionTransformer(doubled), Ridge()).fit(X, Y), X, tmp_path / "mine")
    file = tmp_path / "mine" / "manifest.json"
    manifest = json.loads(file.read_text())
    with pytest.raises(ModelFileError, match="not trusted") as caught:
        load(tmp_path / "mine")
    assert "versions" not in str(caught.value)
    installed, manifest["libraries"]["scikit-learn"] = manifest["libraries"]["scikit-learn"], "99.0"
    file.write_text(json.dumps(manifest))
    differ = f"saved with: scikit-learn 99.0 (here {installed})"
    with pytest.raises(ModelFileError, match=re.escape(differ)):
        load(tmp_path / "mine")
    load(tmp_path / "mine", trust=[f"{__name__}.doubled"])
    assert f"mine was saved with scikit-learn 99.0 (here {installed})" in caplog.text


def test_a_module_beside_the_model_is_found_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "near_steps.py").write_text(MINE)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import near_steps, pandas as pd\n"
        "from pathlib import Path\nfrom sklearn.pipeline import make_pipeline\nfrom sklearn.linear_model import Ridge\n"
        "from pred_server import save\nX = pd.DataFrame({'a': [1.0, 2.0], 'b': [3.0, 4.0]})\n"
        "save(make_pipeline(near_steps.Second(), Ridge()).fit(X, X.a), X, Path(sys.argv[1]) / 'mine')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=120)
    load_it = (
        "import sys; from pred_server import load\n"
        "print(load(sys.argv[1], ['near_steps.Second']).schema.names, 'near_steps' in sys.modules)"
    )
    command = [sys.executable, "-c", load_it, str(tmp_path / "mine")]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "['a', 'b'] True"


def test_settings_of_the_process_that_saves_do_not_count(tmp_path: Path) -> None:
    needs_frames = make_pipeline(StandardScaler(), FunctionTransformer(len_of_names, validate=False), Ridge())
    with sklearn.config_context(transform_output="pandas"):
        needs_frames.fit(X, Y)
        with pytest.raises((InvalidInput, ModelFileError)):
            save(needs_frames, X, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def len_of_names(table: Any) -> Any:
    return table[["a"]]


def test_an_estimator_is_asked_with_one_job(tmp_path: Path) -> None:
    forest = RandomForestRegressor(4, n_jobs=2, random_state=0).fit(X, Y)
    search = GridSearchCV(make_pipeline(forest), {"randomforestregressor__max_depth": [2]}, n_jobs=2, cv=2)
    # Processes would stay for five minutes, and end while other tests count theirs.
    with joblib.parallel_config("threading"):
        search.fit(X, Y)
    model = save(search, X, tmp_path / "mine")
    assert model.estimator.best_estimator_[0].n_jobs == model.estimator.n_jobs == 1
    assert search.best_estimator_[0].n_jobs == 2, "the caller's own estimator is left as it was"
    assert len({model.predict(X).tobytes() for _ in range(10)}) == 1
