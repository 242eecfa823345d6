"""A model kept as files that hold no code. A model directory has three:

manifest.json    name, version, schema, scores, training rows, library versions, sha256 of the other two
model.skops      the estimator, in the skops format (https://skops.readthedocs.io/en/stable/persistence.html)
sample.parquet   up to 1,000 rows of the training table, for examples and parity checks
"""

import hashlib
import io
import json
import logging
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import skops.io
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from pred_server.checkout import MODELS
from pred_server.errors import InvalidInput, ModelFileError
from pred_server.limits import MAX_UNPACKED_BYTES, SAMPLE_ROWS
from pred_server.model.builtin import BUILT_IN
from pred_server.model.model import Model
from pred_server.model.sklearn_engine import SklearnEngine
from pred_server.wire.schema import Column, Schema, infer_column

LIBRARIES = ("scikit-learn", "skops", "numpy", "pandas")

# What skops does not trust by default, though these types only hold numbers: trees, neighbour indexes, optimizer state.
TRUSTED_TYPES = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)

logger = logging.getLogger(__name__)


def save(
    estimator: Any,
    sample: pd.DataFrame | np.ndarray,
    directory: str | Path,
    *,
    name: str = "",
    version: str = "1",
    target: str = "prediction",
    target_unit: str = "",
    scores: Mapping[str, Any] | None = None,
    training_rows: int | None = None,
) -> Model:
    """Write a fitted estimator (regressor or classifier) as a model directory that `serve` and `load` take.

    Parameters
    ----------
    estimator : fitted scikit-learn estimator or pipeline that predicts one value for each row
    sample : DataFrame or array of shape (n_rows, n_features), n_rows >= 1
        Some rows of the table that it was fitted on: names and dtypes are taken from it. Columns that the estimator
        was not fitted on are left out. An array's columns are named x0, x1, ...
    directory : the directory to write; its last part is the model's name if no `name` is given

    Raises
    ------
    InvalidInput
        The estimator is not fitted, predicts more than one value for a row, or has columns of a type that cannot be
        served.
    """
    directory = Path(directory)
    name = name or directory.resolve().name
    _check_label("name", name)
    _check_label("version", version)
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "manifest.json").is_file():
        raise InvalidInput(f"{directory.name!r} holds something else than a model; name a new directory")
    table = _as_table(estimator, sample)
    result = _try_estimator(estimator, table)
    dtype = "str" if result.dtype.kind in "UOT" else str(result.dtype)
    columns = tuple(infer_column(table[column], _takes_missing(estimator, table, str(column))) for column in table)
    schema = Schema(columns, Column(target, dtype, unit=target_unit))
    kept = table.head(SAMPLE_ROWS).reset_index(drop=True)
    model = Model(name, version, schema, estimator, SklearnEngine(estimator, schema, kept), scores or {}, kept)
    if not _same(model.predict(kept), result):
        raise InvalidInput(
            "the estimator predicts otherwise once the table has the dtypes that it is served with; a usual cause is a "
            "column of objects with None among them: fit with pandas' str dtype"
        )

    sample_bytes = io.BytesIO()
    kept.to_parquet(sample_bytes)
    files = {"model.skops": skops.io.dumps(estimator), "sample.parquet": sample_bytes.getvalue()}
    manifest = {
        "name": name,
        "version": version,
        "schema": schema.to_json(),
        "scores": dict(model.scores),
        "training_rows": training_rows,
        "libraries": {library: library_version(library) for library in LIBRARIES},
        "sha256": {file: _sha256(data) for file, data in files.items()},
    }
    # default: numbers of NumPy's as Python's. Last of all, so that a directory with a manifest is whole.
    files["manifest.json"] = (json.dumps(manifest, indent=2, default=lambda number: number.item()) + "\n").encode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            (directory / file).write_bytes(data)
    except OSError as error:
        raise ModelFileError(f"cannot write the model directory {directory.name!r}: {error.strerror}") from error
    return model


def _check_label(what: str, text: object) -> None:
    if not (isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text)):
        raise InvalidInput(f"model {what} {text!r:.80}: use 1 to 64 letters, digits, dots, dashes and underscores")


def _same(predicted: np.ndarray, expected: np.ndarray) -> bool:
    if predicted.dtype.kind == "f":
        return bool(np.allclose(predicted, expected, rtol=1e-6, equal_nan=True))
    return np.array_equal(predicted, expected)


def load(model: str | Path, trust: Sequence[str] = ()) -> Model:
    """Load a model: `sum`, `linear`, a trained one by its name, or a directory; loading runs no code of a directory's.

    Parameters
    ----------
    trust : full names of further types that model.skops may hold, beyond scikit-learn's own and `TRUSTED_TYPES`

    Raises
    ------
    ModelFileError
        The directory is missing, damaged, or holds what is not trusted. The hash in the manifest tells damage, not
        forgery: who can write the directory can write the hash. A forged tree runs no code, but it may make `predict`
        loop or crash: load models of people that you know.
    """
    if str(model) in BUILT_IN:
        return BUILT_IN[str(model)]()
    directory = Path(model)
    if not (directory / "manifest.json").is_file() and re.fullmatch(r"[\w.-]+", str(model)):
        directory = MODELS / model
    if not (directory / "manifest.json").is_file():
        hint = "run `pred-server train` first" if str(model) == "flights" else "`pred_server.save` makes one"
        raise ModelFileError(f"no model directory {str(model)!r} (it needs a manifest.json): {hint}")
    label = directory.resolve().name  # not the path: messages may be shown to anyone
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        schema = Schema.from_json(manifest["schema"])
        name, version, scores = manifest["name"], manifest["version"], dict(manifest["scores"])
        _check_label("name", name)
        _check_label("version", version)
        sha256, libraries = dict(manifest["sha256"]), dict(manifest["libraries"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidInput) as error:
        raise ModelFileError(f"model {label!r}: manifest.json is not a model's manifest") from error
    for library in LIBRARIES:
        if libraries.get(library) != library_version(library):
            logger.warning(
                "model %s was saved with %s %s and runs with %s",
                name, library, libraries.get(library), library_version(library),
            )  # fmt: skip
    data = _read_checked(directory / "sample.parquet", sha256)
    try:
        # Rows are counted before they are read: a small file may claim to hold a great many.
        if pq.ParquetFile(io.BytesIO(data)).metadata.num_rows > SAMPLE_ROWS:
            raise ModelFileError(f"model {label!r}: sample.parquet has more than {SAMPLE_ROWS} rows")
        sample = pd.read_parquet(io.BytesIO(data))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"model {label!r}: sample.parquet is not a Parquet file") from error
    estimator = _load_estimator(_read_checked(directory / "model.skops", sha256), label, trust)
    try:
        loaded = Model(name, version, schema, estimator, SklearnEngine(estimator, schema, sample), scores, sample)
        loaded.predict(sample.head(1))
    except Exception as error:
        raise ModelFileError(f"model {label!r}: the estimator does not do what the manifest says") from error
    return loaded


def _read_checked(path: Path, sha256: Mapping[str, str]) -> bytes:
    if not path.is_file():
        raise ModelFileError(f"model {path.parent.name!r}: {path.name} is missing")
    data = path.read_bytes()
    if _sha256(data) != sha256.get(path.name):
        raise ModelFileError(f"model {path.parent.name!r}: {path.name} is not the file that the manifest describes")
    return data


def _load_estimator(data: bytes, model: str, trust: Sequence[str]) -> Any:
    trusted = [*TRUSTED_TYPES, *trust]
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise ModelFileError(f"model {model!r}: model.skops unpacks to more than {MAX_UNPACKED_BYTES} bytes")
        unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - set(trusted))
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"model {model!r}: model.skops is not in the skops format") from error
    if unknown:
        raise ModelFileError(
            f"model {model!r}: model.skops holds types that are not trusted: {', '.join(unknown)}; "
            f"if you know them, name each: --trust {unknown[0]} (in Python: load(..., trust=[...]))"
        )
    try:
        return skops.io.loads(data, trusted=[name for name in trusted if name])
    except Exception as error:
        raise ModelFileError(
            f"model {model!r}: model.skops cannot be loaded; a trusted type must be in a module that can be imported"
        ) from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _as_table(estimator: Any, sample: pd.DataFrame | np.ndarray) -> pd.DataFrame:
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise InvalidInput(
            f"the estimator is not a fitted scikit-learn estimator: {type(estimator).__name__}"
        ) from error
    if not isinstance(sample, pd.DataFrame):
        sample = pd.DataFrame(sample).add_prefix("x")
    names = list(getattr(estimator, "feature_names_in_", sample.columns))
    if len({str(name) for name in sample.columns}) < sample.shape[1]:
        raise InvalidInput("the sample has two columns of one name")
    missing = [name for name in names if name not in sample.columns]
    if missing or len(sample) == 0:
        raise InvalidInput(f"the sample needs at least one row and every column; missing: {missing or 'rows'}")
    return sample[names].set_axis([str(name) for name in names], axis=1)


def _try_estimator(estimator: Any, table: pd.DataFrame) -> np.ndarray:
    try:
        result = _predict(estimator, table.head(SAMPLE_ROWS))
    except Exception as error:
        raise InvalidInput(f"the estimator cannot predict the sample: {error}") from error
    if result.ndim != 1:
        raise InvalidInput(f"the estimator predicts {result.shape[1:]} values for a row; only one can be served")
    return result


def _predict(estimator: Any, table: pd.DataFrame) -> np.ndarray:
    return np.asarray(estimator.predict(table if hasattr(estimator, "feature_names_in_") else table.to_numpy()))


def _takes_missing(estimator: Any, table: pd.DataFrame, column: str) -> bool:
    """Whether the estimator predicts when this column has no value, found by trying."""
    if infer_column(table[column]).is_integer or table[column].dtype == bool:
        return False
    missing = table.head(1).copy()
    missing[column] = missing[column].where(pd.Series([False], index=missing.index))
    try:
        with warnings.catch_warnings(action="ignore"):
            _predict(estimator, missing)
    except (ValueError, TypeError):
        return False
    return True
