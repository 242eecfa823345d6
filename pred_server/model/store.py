"""A model kept as files that hold no code. A model directory has three:

manifest.json    name, version, schema, scores, training rows, library versions, sha256 of the other two
model.skops      the estimator, in the skops format (`estimator_file`)
sample.parquet   up to 1,000 rows of the training table, for examples and parity checks
"""

import copy
import json
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pred_server.checkout import MODELS
from pred_server.errors import InvalidInput, ModelFileError, PredServerError
from pred_server.limits import check_columns
from pred_server.model import directory as files
from pred_server.model import estimator_file
from pred_server.model.builtin import BUILT_IN
from pred_server.model.derive import Derived, derive, is_same
from pred_server.model.form import form_from_json
from pred_server.model.model import Model
from pred_server.model.sklearn_engine import SklearnEngine
from pred_server.model.trusted import flags
from pred_server.wire.schema import Schema

LIBRARIES = ("scikit-learn", "skops", "numpy", "pandas")

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
    _check_label("name", name)
    _check_label("version", version)
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
        model = _assemble(manifest, lambda name, _: content[name], manifest["name"], foreign)
        return model, model.predict(derived.sample)

    with ThreadPoolExecutor(1) as thread:
        model, predicted = thread.submit(read).result()
    _require_same(predicted, derived.predicted)
    return model


_APART = """
import json, sys
from pathlib import Path
from pred_server.errors import PredServerError
from pred_server.model import estimator_file, store
directory, beside, *trust = sys.argv[1:]
try:
    estimator_file.find_modules(trust, [Path.cwd(), Path(beside)])
    model = store.load(directory, trust)
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


def _check_label(what: str, text: object) -> None:
    if not (isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text)):
        raise InvalidInput(f"model {what} {text!r:.80}: use 1 to 64 letters, digits, dots, dashes and underscores")


def load(model: str | Path, trust: Sequence[str] = ()) -> Model:
    """Load a model: `sum`, `linear`, a trained one by its name, or a directory; loading runs no code of a directory's.

    Parameters
    ----------
    trust : full names of further types that model.skops may hold, beyond scikit-learn's own and `TRUSTED_TYPES`
        Their modules are looked for where all modules are, in the current folder, and beside the directory.

    Raises
    ------
    ModelFileError
        The directory is missing, damaged, or holds what is not trusted, or an estimator that is not sound (`check`).
        The hash in the manifest tells damage, not forgery: who can write the directory can write the hash. A forged
        model runs no code, but it predicts what its author wants: load models of people that you know.
    """
    if str(model) in BUILT_IN:
        return BUILT_IN[str(model)]()
    directory = Path(model)
    if not (directory / files.MANIFEST).is_file() and re.fullmatch(r"[\w.-]+", str(model)):
        directory = MODELS / model
    if not (directory / files.MANIFEST).is_file():
        hint = "run `pred-server train` first" if str(model) == "flights" else "`pred_server.save` makes one"
        raise ModelFileError(f"no model directory {str(model)!r} (it needs a manifest.json): {hint}")
    label = directory.resolve().name  # not the path: messages may be shown to anyone
    manifest = files.read_manifest(directory)
    estimator_file.find_modules(trust, [Path.cwd(), directory.resolve().parent])
    return _assemble(manifest, partial(files.read_file, directory), label, trust)


def _assemble(
    manifest: Mapping[str, Any], read: Callable[[str, Mapping[str, str]], bytes], label: str, trust: Sequence[str]
) -> Model:
    """Return the model of a manifest and of two files, which `read` returns by name, and by hash."""
    try:
        schema = Schema.from_json(manifest["schema"])
        check_columns(len(schema.columns))
        name, version, scores = manifest["name"], manifest["version"], dict(manifest["scores"])
        _check_label("name", name)
        _check_label("version", version)
        sha256, libraries = dict(manifest["sha256"]), dict(manifest["libraries"])
        form = form_from_json(manifest["input"], schema.index) if "input" in manifest else None
    except (ValueError, KeyError, TypeError, AttributeError, PredServerError) as error:
        raise ModelFileError(f"model {label!r}: manifest.json is not a model's manifest") from error
    for library in LIBRARIES:
        if libraries.get(library) != library_version(library):
            logger.warning(
                "model %s was saved with %s %s and runs with %s",
                name, library, libraries.get(library), library_version(library),
            )  # fmt: skip
    try:
        sample = files.read_sample(read("sample.parquet", sha256))
    except (OSError, ValueError, MemoryError) as error:
        raise ModelFileError(f"model {label!r}: sample.parquet is not the Parquet file of a model: {error}") from error
    estimator = estimator_file.read(read("model.skops", sha256), label, trust)
    try:
        engine = SklearnEngine(estimator, schema, sample, form)
        model = Model(name, version, schema, estimator, engine, scores, sample)
        model.predict(sample.head(1))
    except Exception as error:
        raise ModelFileError(f"model {label!r}: the estimator does not do what the manifest says") from error
    return model
