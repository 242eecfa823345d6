"""A model kept as files that hold no code. A model directory has three:

manifest.json    name, version, schema, scores, training rows, library versions, sha256 of the other two
model.skops      the estimator, in the skops format (`estimator_file`)
sample.parquet   up to 1,000 rows of the training table, for examples and parity checks
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from pred_server.checkout import MODELS
from pred_server.errors import InvalidInput, ModelFileError, PredServerError
from pred_server.limits import check_columns
from pred_server.model.builtin import BUILT_IN
from pred_server.model.form import form_from_json
from pred_server.model.model import Model
from pred_server.model.sklearn_engine import SklearnEngine
from pred_server.store import directory as files
from pred_server.store import estimator_file
from pred_server.wire.schema import Schema

LIBRARIES = ("scikit-learn", "skops", "numpy", "pandas")

logger = logging.getLogger(__name__)


def check_label(what: str, text: object) -> None:
    if not (isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text)):
        raise InvalidInput(f"model {what} {text!r:.80}: use 1 to 64 letters, digits, dots, dashes and underscores")


def load(model: str | Path, trust: Sequence[str] = ()) -> Model:
    """Load a model: a built-in or trained one by its name, or a directory; loading runs no code of a directory's.

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
    directory = directory_of(model)
    if not (directory / files.MANIFEST).is_file():
        hint = "run `pred-server train` first" if str(model) == "flights" else "`pred_server.save` makes one"
        raise ModelFileError(f"no model directory {str(model)!r} (it needs a manifest.json): {hint}")
    label = directory.resolve().name  # not the path: messages may be shown to anyone
    estimator_file.find_modules(trust, [Path.cwd(), directory.resolve().parent])
    while True:
        manifest = files.read_manifest(directory)
        try:
            return assemble(manifest, partial(files.read_file, directory), label, trust)
        except ModelFileError:
            if files.read_manifest(directory) == manifest:
                raise
            # A `save` has replaced the model meanwhile, and with it the other files.


def directory_of(model: str | Path) -> Path:
    """Return the directory of a model that is not built in: itself, or, by its name, one of the checkout's."""
    if not (Path(model) / files.MANIFEST).is_file() and re.fullmatch(r"[\w.-]+", str(model)):
        return MODELS / model
    return Path(model)


def assemble(
    manifest: Mapping[str, Any], read: Callable[[str, Mapping[str, str]], bytes], label: str, trust: Sequence[str]
) -> Model:
    """Return the model of a manifest and of two files, which `read` returns by name, and by hash."""
    try:
        schema = Schema.from_json(manifest["schema"])
        check_columns(len(schema.columns))
        name, version, scores = manifest["name"], manifest["version"], dict(manifest["scores"])
        check_label("name", name)
        check_label("version", version)
        sha256, libraries = dict(manifest["sha256"]), dict(manifest["libraries"])
        form = form_from_json(manifest["input"], schema.index) if "input" in manifest else None
    except (ValueError, KeyError, TypeError, AttributeError, PredServerError) as error:
        raise ModelFileError(f"model {label!r}: manifest.json is not a model's manifest") from error
    others = [
        f"{library} {libraries.get(library)} (here {library_version(library)})"
        for library in LIBRARIES
        if libraries.get(library) != library_version(library)
    ]
    if others:
        logger.warning("model %s was saved with %s", name, ", ".join(others))
    try:
        sample = files.read_sample(read("sample.parquet", sha256))
    except (OSError, ValueError, MemoryError) as error:
        raise ModelFileError(f"model {label!r}: sample.parquet is not the Parquet file of a model: {error}") from error
    data = read("model.skops", sha256)
    versions = f"; first try the versions that it was saved with: {', '.join(others)}" if others else ""
    try:
        estimator = estimator_file.read(data, label, trust)
        engine = SklearnEngine(estimator, schema, sample, form)
        model = Model(name, version, schema, estimator, engine, scores, sample, digest=files.digest(sha256))
        model.predict(sample.head(1))
    except ModelFileError as error:
        raise ModelFileError(f"{error}{versions}") from error
    except Exception as error:
        raise ModelFileError(f"model {label!r}: the estimator does not do what the manifest says{versions}") from error
    return model
