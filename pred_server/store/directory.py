"""The files of a model directory: read with a bound to what they may unfold to, and written all or none."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pred_server.errors import ModelFileError
from pred_server.limits import MAX_COLUMNS, MAX_MANIFEST_BYTES, MIB, SAMPLE_BYTES, SAMPLE_ROWS

MANIFEST = "manifest.json"
_MOST_BYTES = 2 * SAMPLE_BYTES
# Of a sample that is packed by snappy, as older ones are: it packs up to 22 bytes into one, and other codecs 1,000.
_MOST_SNAPPY_BYTES = 8 * MIB


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest. Raises ModelFileError where it is no JSON object, or too large."""
    path = directory / MANIFEST
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ModelFileError(f"model {_label(directory)!r}: manifest.json has more than {MAX_MANIFEST_BYTES:,} bytes")
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"model {_label(directory)!r}: manifest.json is not a model's manifest") from error


def read_file(directory: Path, name: str, sha256: Mapping[str, str]) -> bytes:
    """Return a file of the directory. Raises ModelFileError where it is missing or not the one of the manifest."""
    # A file under its own hash is of a `write` that was about to rename it. It may have been renamed meanwhile.
    paths = [directory / name, directory / _new_name(name, str(sha256.get(name))), directory / name]
    found = [path.read_bytes() for path in paths if path.is_file()]
    for data in found:
        if _sha256(data) == sha256.get(name):
            return data
    what = "is not the file that the manifest describes" if found else "is missing"
    raise ModelFileError(f"model {_label(directory)!r}: {name} {what}")


def read_sample(data: bytes) -> pd.DataFrame:
    """Return the rows of sample.parquet.

    Raises
    ------
    ValueError
        It has too many rows or columns, is packed in another way than `pack_sample` does, or unfolds to too much. Few
        bytes may name one long text for a thousand rows, so text is read in so many rows at a time as surely fit.
    """
    file = pq.ParquetFile(io.BytesIO(data))
    n_rows, n_columns = file.metadata.num_rows, file.metadata.num_columns
    if n_rows > SAMPLE_ROWS or n_columns > MAX_COLUMNS or len(data) > _MOST_BYTES:
        raise ValueError(f"more than {SAMPLE_ROWS:,} rows, {MAX_COLUMNS:,} columns or {_MOST_BYTES:,} bytes")
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    codecs = {group.column(place).compression for group in groups for place in range(n_columns)}
    types = [field.type for field in file.schema_arrow]
    if not codecs <= ({"SNAPPY", "UNCOMPRESSED"} if len(data) <= _MOST_SNAPPY_BYTES else {"UNCOMPRESSED"}):
        raise ValueError(f"packed by {', '.join(sorted(codecs))}")
    if len(types) != n_columns or not all(map(_is_plain, types)):
        raise ValueError("not numbers, booleans and text")
    names = file.schema_arrow.names
    text = [name for name, kind in zip(names, types, strict=True) if _is_text(kind)]
    numbers = [name for name in names if name not in set(text)]
    parts = [_read_columns(file, numbers, SAMPLE_ROWS)]
    parts += [_read_columns(file, text, max(1, _MOST_BYTES // (22 * len(data))))]
    columns = {name: part.column(name) for part in parts for name in part.column_names}
    return pa.table({name: columns[name] for name in names}).to_pandas(ignore_metadata=True)


def _read_columns(file: pq.ParquetFile, names: list[str], batch_rows: int) -> pa.Table:
    """Read some columns, so many rows at a time. Raises ValueError as soon as they are more than a sample has."""
    batches, n_bytes, n_rows = [], 0, 0
    for batch in file.iter_batches(batch_rows, columns=names) if names else ():
        n_bytes, n_rows = n_bytes + batch.nbytes, n_rows + batch.num_rows
        if n_bytes > _MOST_BYTES or n_rows > SAMPLE_ROWS:
            raise ValueError(f"unfolds to more than {SAMPLE_ROWS:,} rows or {_MOST_BYTES:,} bytes")
        batches.append(batch)
    return pa.Table.from_batches(batches) if batches else pa.table({})


def pack_sample(sample: pd.DataFrame) -> bytes:
    """Return rows as a Parquet file."""
    packed = io.BytesIO()
    sample.to_parquet(packed, compression=None, index=False)
    return packed.getvalue()


def pack_manifest(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Return the manifest of these files as JSON, with their hashes."""
    hashes = {"sha256": {name: _sha256(data) for name, data in files.items()}}
    # default: numbers of NumPy's as Python's.
    return (json.dumps({**manifest, **hashes}, indent=2, default=lambda number: number.item()) + "\n").encode()


def write(directory: Path, files: Mapping[str, bytes], manifest: bytes) -> None:
    """Write a model directory, or replace the one that is there: all of it, or, where that fails, nothing.

    All files are written beside the old ones, under names that hold their hash. Then the new manifest takes the place
    of the old one, in one step: from here on the new model is the one that is read. Last, the files get their names.
    Of several that write at the same time, one waits for the other.

    Raises
    ------
    ModelFileError
        The disk is full, or the directory cannot be written.
    """
    everything = {**files, MANIFEST: manifest}
    new = {name: directory / _new_name(name, _sha256(data)) for name, data in everything.items()}
    made = not directory.exists()
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _lock(directory, stack)
            for name, data in everything.items():
                with new[name].open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            new[MANIFEST].replace(directory / MANIFEST)
        except OSError as error:
            with contextlib.suppress(OSError):
                for path in new.values():
                    path.unlink(missing_ok=True)
                if made:
                    directory.rmdir()
            raise ModelFileError(f"cannot write the model directory {directory.name!r}: {error.strerror}") from error
        with contextlib.suppress(OSError):  # the model is there already
            for name in files:
                new[name].replace(directory / name)
            for path in directory.glob("*.new"):  # of a process that was killed
                path.unlink()


def _lock(directory: Path, stack: contextlib.ExitStack) -> None:
    """Keep others from writing the directory until `stack` closes; readers need no lock."""
    with contextlib.suppress(ImportError, OSError):  # not on Windows, nor on some file systems of a network
        import fcntl

        opened = os.open(directory, os.O_RDONLY)
        stack.callback(os.close, opened)
        fcntl.flock(opened, fcntl.LOCK_EX)


def digest(sha256: Mapping[str, str]) -> str:
    """Return a hash of the hashes that a manifest holds."""
    return _sha256(json.dumps(sha256, sort_keys=True).encode())[:16]


def _new_name(name: str, sha256: str) -> str:
    return f"{name}.{sha256[:16]}.new"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _label(directory: Path) -> str:
    return directory.resolve().name  # not the path: messages may be shown to anyone


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or _is_text(kind))
