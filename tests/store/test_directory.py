"""A model directory is written whole or not at all, and read with a bound to what it may unfold to."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from scipy import sparse
from sklearn.linear_model import LinearRegression

from pred_server import load, save
from pred_server.errors import InvalidInput, ModelFileError
from pred_server.store import directory as files
from pred_server.store import estimator_file

X = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 3)), columns=list("abc"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save(LinearRegression().fit(X, X["a"]), X, tmp_path / "mine", version="1")
    return tmp_path / "mine"


@pytest.mark.parametrize("step", range(8))
def test_wherever_a_save_is_cut_off_one_of_the_models_loads(
    step: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before the step: nothing is tidied up."""
    steps = iter(range(100))
    write, replace = files.os.fsync, Path.replace

    class Ended(BaseException):
        pass

    def counted(function: object) -> object:
        def call(*args: object) -> object:
            if next(steps) == step:
                raise Ended
            return function(*args)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", counted(write))
        patched.setattr(Path, "replace", counted(replace))
        try:
            save(LinearRegression().fit(X, X["b"]), X, directory, version="2")
            ended = False
        except Ended:
            ended = True
    assert ended == (step < 6)
    model = load(directory)
    assert model.version == ("1" if step < 4 else "2")
    assert model.predict(X) == pytest.approx(X["a" if model.version == "1" else "b"])
    save(LinearRegression().fit(X, X["c"]), X, directory, version="3")
    assert load(directory).version == "3"
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "model.skops", "sample.parquet"]


def test_a_directory_that_cannot_be_written_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(ModelFileError, match="cannot write the model directory 'new': No space left on device"):
        save(LinearRegression().fit(X, X["a"]), X, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_skops_cannot_write_is_a_sentence() -> None:
    holds_itself: list[object] = []
    holds_itself.append(holds_itself)
    with pytest.raises(InvalidInput, match="list cannot be kept without code, by skops: a part of it holds itself"):
        estimator_file.dump(holds_itself)


def parquet(table: pa.Table, **options: object) -> bytes:
    packed = io.BytesIO()
    pq.write_table(table, packed, **options)
    return packed.getvalue()


TEXT = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), pa.array(["A" * (4 << 20)]))
SAMPLES = {
    "one long text, a thousand times": parquet(pa.table({"a": TEXT, "b": TEXT}), store_schema=False),
    "long texts": parquet(pa.table({"a": [chr(65 + place) * (8 << 20) for place in range(40)]}), use_dictionary=False),
    "packed by zstd": parquet(pa.table({"a": TEXT}), store_schema=False, compression="zstd"),
    "too many rows": parquet(pa.table({"a": np.zeros(1_001)})),
    "lists": parquet(pa.table({"a": [[1.0] * 10_000] * 10})),
    "bytes": parquet(pa.table({"a": [b"x"]})),
}


@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)
def test_a_sample_that_unfolds_to_more_than_a_sample_has_is_refused(data: bytes) -> None:
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match=r"unfolds|more than|packed|not numbers"):
        files.read_sample(data)
    assert pa.total_allocated_bytes() - before < 400 << 20


def test_a_sample_comes_back_as_it_was() -> None:
    sample = pd.DataFrame({"t": ["x", None, ""], "f": [0.5, np.nan, 1], "n": [1, 2, 3], "b": [True, False, True]})
    sample = sample.astype({"t": "str"})
    pd.testing.assert_frame_equal(files.read_sample(files.pack_sample(sample)), sample)


def test_a_manifest_that_is_too_large_is_not_read(directory: Path) -> None:
    with (directory / "manifest.json").open("r+b") as file:
        file.truncate(300 << 20)  # a hole: it takes no space
    with pytest.raises(ModelFileError, match=r"manifest\.json has more than 16,777,216 bytes"):
        load(directory)


def test_an_estimator_that_unpacks_to_more_than_it_is_is_refused() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b" " * (10 << 20))
    with pytest.raises(ModelFileError, match="unpacks to more than it is"):
        estimator_file.read(packed.getvalue(), "mine")
    matrix = sparse.csr_matrix((np.zeros(9 << 20), np.zeros(9 << 20, np.int32), [0, 9 << 20]), shape=(1, 1))
    with pytest.raises(ModelFileError, match="a sparse matrix unpacks to much more than it is"):
        estimator_file.read(skops.io.dumps(matrix), "mine")


def test_the_model_that_save_returns_is_the_one_that_is_read(directory: Path) -> None:
    saved = save(LinearRegression().fit(X, X["a"]), X, directory)
    loaded = load(directory)
    assert saved.schema == loaded.schema
    assert np.array_equal(saved.predict(X), loaded.predict(X))
    pd.testing.assert_frame_equal(saved.sample, loaded.sample)
    assert set(json.loads((directory / "manifest.json").read_text())["sha256"]) == {"model.skops", "sample.parquet"}


def test_a_model_of_an_older_manifest_is_read(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["input"], manifest["schema"]["targets"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert load(directory).predict(X) == pytest.approx(X["a"])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says how much memory a process took")
@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)
def test_a_hostile_sample_takes_little_memory(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "sample.parquet").write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from pred_server.store import directory\n"
        "try:\n    directory.read_sample(Path(sys.argv[1]).read_bytes())\nexcept ValueError: pass\n"
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "sample.parquet")]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert int(ran.stdout) < 500 << 10
