"""Save a fitted estimator as a model directory (`loading` says what is in it), and prove that it can be loaded."""

import copy
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pred_server.errors import InvalidInput, ModelFileError
from pred_server.model.model import Model
from pred_server.store import directory as files
from pred_server.store import estimator_file
from pred_server.store.derive import Derived, derive, is_same
from pred_server.store.loading import LIBRARIES, assemble, check_label
from pred_server.store.trusted import flags

logger = logging.getLogger(__name__)


def save(
    estimator: Any,
    sample: pd.DataFrame | pd.Series | np.ndarray,
    directory: str | Path,
    *,
    name: str = "",
    version: str = "1",
    target: str | Sequence[str] = "prediction",
    target_unit: str = "",
    scores: Mapping[str, Any] | None = None,
    training_rows: int | None = None,
) -> Model:
    """Write a fitted estimator as a model directory that `serve` and `load` take, and return the model that they read.

    All or nothing is written: an older model stays until the new one is whole, and has predicted the sample as the
    estimator does. Where the estimator has types of other packages or of your own modules, this takes a process of its
    own, and the log says what to trust.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator or pipeline
    sample : DataFrame or array of shape (n_rows, n_features), or Series of shape (n_rows,), n_rows >= 1
        Some rows of the table that it was fitted on: names and dtypes are taken from it, and whether the estimator
        takes a DataFrame, an array or a Series. Columns that the estimator was not fitted on are left out. An array's
        columns are named x0, x1, ... If integers may be missing, a row without one must be there.
    directory : the directory to write; its last part is the model's name if no `name` is given
    target : the name of what is predicted; of several targets a name for each

    Raises
    ------
    InvalidInput
        The estimator is not fitted, has columns of a type that cannot be served, or cannot be kept without code.
    ModelFileError
        It would not be loaded, or would predict otherwise then; or the directory cannot be written.
    """
    directory = Path(directory)
    name = name or directory.resolve().name
    check_label("name", name)
    check_label("version", version)
    if directory.is_dir() and any(directory.iterdir()) and not (directory / files.MANIFEST).is_file():
        raise InvalidInput(f"{directory.name!r} holds something else than a model; name a new directory")
    derived = derive(estimator, sample, target, target_unit)
    content = {
        "model.skops": estimator_file.dump(_without_distributions(estimator)),
        "sample.parquet": files.pack_sample(derived.sample),
    }
    manifest = {
        "name": name,
        "version": version,
        "schema": derived.schema.to_json(),
        "input": derived.form.to_json(),
        "scores": dict(scores or {}),
        "training_rows": training_rows,
        "libraries": {library: library_version(library) for library in LIBRARIES},
    }
    packed = files.pack_manifest(manifest, content)
    foreign = estimator_file.foreign_types(content["model.skops"])
    model = _read_back(json.loads(packed), content, foreign, derived)
    if foreign:
        with tempfile.TemporaryDirectory() as folder:
            files.write(Path(folder) / name, content, packed)
            _read_apart(Path(folder) / name, directory.resolve().parent, foreign, derived)
    files.write(directory, content, packed)
    if foreign:
        logger.warning("model %s holds types of your own; to serve it, write %s", name, flags(foreign))
    return model


def _without_distributions(estimator: Any) -> Any:
    """Return a random search without what it drew from: SciPy's distributions are made by code."""
    if hasattr(estimator, "param_distributions"):
        estimator = copy.copy(estimator)
        estimator.param_distributions = {}
    return estimator


def _read_back(manifest: dict[str, Any], content: Mapping[str, bytes], foreign: list[str], derived: Derived) -> Model:
    """Return the model that `load` would make of these files, if it predicts the sample as the estimator did.

    scikit-learn's settings (`set_config`) are those of a thread: a new one has them as a new process has. Only foreign
    types may be here and not there.
    """
    homeless = [name for name in foreign if name.startswith("__main__.") or "<" in name]
    if homeless:
        raise InvalidInput(
            f"the estimator holds {', '.join(homeless)}, which exists in this program only; move it into a module, say "
            "mine.py in the current folder or beside the model, import it from there, and fit again"
        )

    def read() -> tuple[Model, np.ndarray]:
        model = assemble(manifest, lambda name, _: content[name], manifest["name"], foreign)
        return model, model.predict(derived.sample)

    with ThreadPoolExecutor(1) as thread:
        model, predicted = thread.submit(read).result()
    _require_same(predicted, derived.predicted)
    return model


_APART = """
import json, sys
from pathlib import Path
from pred_server.errors import PredServerError
from pred_server.store import estimator_file
from pred_server.store.loading import load
directory, beside, *trust = sys.argv[1:]
try:
    estimator_file.find_modules(trust, [Path.cwd(), Path(beside)])
    model = load(directory, trust)
    print(json.dumps(model.predict(model.sample).tolist()))
except PredServerError as error:
    sys.exit(str(error))
"""


def _read_apart(directory: Path, beside: Path, foreign: list[str], derived: Derived) -> None:
    """Load a model in a fresh process, with its types trusted, and compare what it predicts."""
    command = [sys.executable, "-c", _APART, str(directory), str(beside), *foreign]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise ModelFileError(f"another process could not load it, with {', '.join(foreign)} trusted: {why}")
    _require_same(np.array(json.loads(ended.stdout.splitlines()[-1])), derived.predicted)


def _require_same(predicted: np.ndarray, expected: np.ndarray) -> None:
    if not is_same(predicted, expected):
        raise InvalidInput(
            "the estimator predicts otherwise once it was loaded; a usual cause is sklearn.set_config, which is not "
            "kept with a model: use set_output of the estimator's own steps"
        )
