"""Large tables are split among threads: to the bit as one thread predicts them, and only where that is quicker."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_regression
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor
from threadpoolctl import threadpool_info

import pred_server.engines.threads as threads_module
from pred_server import Model, save, serve
from pred_server.engines.onnx import with_onnx
from pred_server.engines.threads import SplitEngine, with_threads
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Column, Schema

X, Y = make_regression(n_samples=3_000, n_features=5, noise=1.0, random_state=0)
TABLE = pd.DataFrame(X).add_prefix("x")


def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    estimators = {
        "boosting": HistGradientBoostingRegressor(max_iter=30, random_state=0),
        "linear": LinearRegression(),
        "neighbours": KNeighborsRegressor(),
    }
    folder = tmp_path_factory.mktemp("threads")
    made = {name: save(estimator.fit(TABLE, Y), TABLE, folder / name) for name, estimator in estimators.items()}
    return made | {"boosting, onnx": with_onnx(made["boosting"]), "linear, onnx": with_onnx(made["linear"])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    return models(tmp_path_factory)


@pytest.mark.parametrize("name", ["boosting", "linear", "neighbours", "boosting, onnx", "linear, onnx"])
@pytest.mark.parametrize("n_rows", [1, 63, 64, 65, 127, 128, 129, 1_000, 2_999])
def test_a_split_table_has_the_same_bits(trained: dict[str, Model], name: str, n_rows: int) -> None:
    model = trained[name]
    expected = model.predict(TABLE.head(n_rows))
    for n_threads in (2, 3, 7):
        split = with_threads(model, n_threads, from_rows=1)
        assert split.predict(TABLE.head(n_rows)).tobytes() == expected.tobytes(), n_threads


class Sleeper:
    """An engine that takes a time for each row, and notes who asks."""

    name = "sleeper"

    def __init__(self, wait: Callable[[float], None]):
        self._wait = wait
        self.asked: list[tuple[str, int]] = []

    def predict(self, rows: Rows, output: str) -> np.ndarray:
        self.asked.append((threading.current_thread().name.partition("_")[0], len(rows)))
        self._wait(50e-6 * len(rows))
        return np.zeros(len(rows))


def slow(wait: Callable[[float], None]) -> Model:
    sample = pd.DataFrame({"x": np.arange(100.0)})
    schema = Schema((Column("x", "float64"),), Column("y", "float64"))
    return Model("slow", "1", schema, None, Sleeper(wait), sample=sample)


@pytest.mark.parametrize(
    ("share", "threads"),
    [
        (lambda n_rows: 1.0, "1"),
        (lambda n_rows: 0.95, "1"),  # no more than the measurement may be wrong by
        (lambda n_rows: 0.5, "2 from 256 rows on, 1 below"),
        (lambda n_rows: 0.5 if n_rows > 300 else 2.0, "2 from 1,024 rows on, 1 below"),
    ],
)
def test_a_table_is_split_from_where_that_is_quicker(
    share: Callable[[int], float], threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if it had been measured: a test must not depend on how busy the machine is."""

    def took_s(predict: Callable[[Rows, str], np.ndarray], rows: Rows) -> float:
        return 1e-6 * len(rows) * (share(len(rows)) if predict.__name__ == "predict_split" else 1.0)

    monkeypatch.setattr(threads_module, "_took_s", took_s)
    assert with_threads(slow(lambda _: None), 2).threads == threads
    assert with_threads(slow(lambda _: None), 1).threads == "1"


def test_threads_that_do_not_wait_for_each_other_are_measured_to_be_quicker() -> None:
    assert with_threads(slow(time.sleep), 2).threads.startswith("2 from ")


def test_threads_can_be_fixed() -> None:
    model = with_threads(slow(time.sleep), 3, from_rows=200)
    assert model.threads == "3 from 200 rows on, 1 below"
    asked = model.engine.engine.asked  # type: ignore[attr-defined]
    assert asked == [], "nothing was measured"
    model.engine.predict(Rows(np.zeros((199, 1))), "labels")
    assert asked == [("MainThread", 199)]
    model.engine.predict(Rows(np.zeros((300, 1))), "labels")
    assert sorted(asked[1:]) == [("MainThread", 128), ("rows", 44), ("rows", 128)]


def test_a_slow_model_is_not_measured_for_long() -> None:
    model = slow(lambda seconds: time.sleep(1_000 * seconds))  # 50 ms a row
    assert with_threads(model, 2).threads == "1"
    assert len(model.engine.asked) <= 2  # type: ignore[attr-defined]


def test_an_error_in_any_part_is_the_table_s(trained: dict[str, Model]) -> None:
    class Refusing(Sleeper):
        def predict(self, rows: Rows, output: str) -> np.ndarray:
            assert rows.array is not None
            if rows.array.max() > 1_000:
                raise ValueError("too large")
            return rows.array[:, 0]

    for place in (0, 299):
        table = np.zeros((300, 1))
        table[place] = 1_001
        with pytest.raises(ValueError, match="too large"):
            SplitEngine(Refusing(time.sleep), 2).predict_split(Rows(table), "labels")


def test_each_thread_has_one_of_openmp_s() -> None:
    seen = []

    class Asking(Sleeper):
        def predict(self, rows: Rows, output: str) -> np.ndarray:
            seen.append({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"})
            return np.zeros(len(rows))

    engine = SplitEngine(Asking(time.sleep), 3)
    engine.from_rows = 1
    thread = threading.Thread(target=engine.predict, args=(Rows(np.zeros((300, 1))), "labels"))
    thread.start()
    thread.join()
    assert seen == [{1}] * 3


def test_the_server_says_how_it_computes() -> None:
    with serve("linear", "--threads", "2:300") as server:
        assert server.client().describe().threads == "2 from 300 rows on, 1 below"
        table = pd.DataFrame(np.random.default_rng(0).normal(size=(1_000, 10))).add_prefix("x")
        split = server.client().predict(table)
    with serve("linear", "--threads", "1") as server:
        assert server.client().describe().threads == "1"
        assert server.client().predict(table).to_numpy().tobytes() == split.to_numpy().tobytes()


def test_the_import_leaves_the_users_own_threads_alone() -> None:
    """No variable that libraries read when they start, and as many threads as before."""
    code = """
import os
before = dict(os.environ)
import sklearn.ensemble
from threadpoolctl import threadpool_info
threads = [pool["num_threads"] for pool in threadpool_info()]
import pred_server
pred_server.Client, pred_server.Model, pred_server.load, pred_server.save, pred_server.serve
assert [pool["num_threads"] for pool in threadpool_info()] == threads
print(sorted(set(os.environ) - set(before)))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['GRPC_VERBOSITY']"
