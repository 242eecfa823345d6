"""model.skops: an estimator without code (https://skops.readthedocs.io/en/stable/persistence.html), read with care."""

import importlib.util
import io
import sys
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import skops.io

from pred_server.errors import InvalidInput, ModelFileError
from pred_server.limits import MAX_UNPACKED_BYTES, MIB
from pred_server.model.parts import parts
from pred_server.store.check import Unsound, check_estimator
from pred_server.store.trusted import TRUSTED_TYPES, flags

# A sparse matrix is kept compressed. It may be so much larger than the file, or of this size.
_SPARSE_RATIO, _SPARSE_BYTES = 50, 64 * MIB


def dump(estimator: Any) -> bytes:
    """Return an estimator as the bytes of model.skops. Raises InvalidInput where skops cannot write it."""
    try:
        return skops.io.dumps(estimator)
    except Exception as error:  # of any type, RecursionError among them
        why = "a part of it holds itself" if isinstance(error, RecursionError) else error
        raise InvalidInput(f"{type(estimator).__name__} cannot be kept without code, by skops: {why}") from error


def foreign_types(data: bytes) -> list[str]:
    """Return the types in model.skops that need trust, sorted."""
    return sorted(set(skops.io.get_untrusted_types(data=data)) - TRUSTED_TYPES)


def read(data: bytes, model: str, trust: Sequence[str] = ()) -> Any:
    """Return the estimator in model.skops, checked, and with `n_jobs` of 1 throughout.

    Several jobs would add up a prediction in the order in which they end: the same rows, another last bit. And to start
    them for a few rows takes longer than to predict.

    Raises
    ------
    ModelFileError
        The file is damaged, unfolds to too much, holds types that are not trusted, or an estimator that is not sound.
    """
    try:
        _check_size(data)
        further = skops.io.get_untrusted_types(data=data)
        unknown = sorted(set(further) - TRUSTED_TYPES - set(trust))
    except Exception as error:  # of any type: skops looks for no fault in a file
        why = f": {error}" if isinstance(error, Unsound) else ""
        raise ModelFileError(f"model {model!r}: model.skops is not in the skops format{why}") from error
    if unknown:
        raise ModelFileError(
            f"model {model!r}: model.skops holds types that are not trusted: {', '.join(unknown)}; "
            f"if you know what they do, write {flags(unknown)}"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # of other versions, which the log names
            estimator = skops.io.loads(data, trusted=further)  # not the whole list: skops copies it for each number
    except Exception as error:
        raise ModelFileError(
            f"model {model!r}: model.skops cannot be loaded; a trusted type must be in a module that can be imported, "
            "that is, installed, beside the model's directory or in the current folder"
        ) from error
    try:
        check_estimator(estimator)
    except Unsound as error:
        raise ModelFileError(f"model {model!r}: model.skops holds an estimator that is not sound: {error}") from error
    for part in parts(estimator):
        if getattr(part, "__dict__", {}).get("n_jobs"):
            part.n_jobs = 1
    return estimator


def find_modules(trust: Iterable[str], folders: Iterable[Path]) -> None:
    """Let the modules of trusted types be imported from these folders, if they are nowhere else."""
    if any(_is_missing(name.split(".")[0]) for name in trust if name):
        sys.path += [str(folder) for folder in folders if str(folder) not in sys.path]


def _is_missing(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is None
    except ValueError:  # __main__
        return False


def _check_size(data: bytes) -> None:
    """Raise Unsound where the file would unfold to much more than it is."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        # skops packs nothing. An entry that is, or whose bytes are also another's, would make much of little.
        if sum(entry.file_size for entry in entries) > min(len(data), MAX_UNPACKED_BYTES):
            raise Unsound("it unpacks to more than it is")
        for entry in entries:
            if entry.filename.endswith(".npz"):
                with zipfile.ZipFile(io.BytesIO(archive.read(entry))) as matrix:
                    unpacked = sum(part.file_size for part in matrix.infolist())
                if unpacked > max(_SPARSE_BYTES, _SPARSE_RATIO * entry.file_size):
                    raise Unsound("a sparse matrix unpacks to much more than it is")
