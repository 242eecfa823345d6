"""A model is replaced while it is served: no call fails, each is answered by one model, and what is bad stays out."""

import asyncio
import gc
import itertools
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from sklearn.linear_model import LinearRegression

from pred_server import Client, Model, load, save, serve
from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, ModelFileError, ModelNotFound
from pred_server.generated.pred_pb2 import Request
from pred_server.ops.reload import Outcome, Reloader, Source
from pred_server.tutorial.background import Server, gateway
from tests.callers import Callers
from tests.waits import health, wait_until

X = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 3)), columns=list("abc"))
ENCODINGS = ("csv", "columns", "tensor", "arrow")
ROWS = 20


def write(directory: Path, number: int, columns: str = "abc", name: str = "m", version: str = "") -> None:
    """Save a model whose predictions say its number: they are the number, whatever the table holds."""
    table = X[list(columns)]
    estimator = LinearRegression().fit(table, np.full(len(table), float(number)))
    estimator.coef_ = np.zeros(len(columns))
    estimator.intercept_ = float(number)
    save(estimator, table, directory, name=name, version=version or str(number))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write(tmp_path / "m", 1)
    return tmp_path / "m"


def has_version(address: str, number: int) -> bool:
    with Client(address, retry=False) as client:
        return client.describe().version == str(number)


def reload_by(way: str, server: Server) -> None:
    if way == "signal":
        os.kill(server.pid, signal.SIGHUP)


class Readers(Callers):
    """Callers of a model that is swapped. Each answer is compared with the model that its metadata name.

    What is not right is kept: a call that failed, numbers of two models in one answer, or numbers of another model than
    the one that the reply names.
    """

    def __init__(self, target: str):
        self._target = target
        kinds = [*itertools.product((self.unary,), ENCODINGS), *itertools.product((self.stream,), ("csv", "tensor"))]
        super().__init__(*(partial(self._run, *kind) for kind in kinds))

    def unary(self, client: Client, request: Request) -> tuple[list[bytes], str]:
        response, metadata = client.call(request)
        return [response.SerializeToString()], metadata["model-identity"]

    def stream(self, client: Client, request: Request) -> tuple[list[bytes], str]:
        """A stream of several chunks, which outlasts a swap now and then."""
        responses = client.stream(itertools.repeat(request, 20), timeout_s=60)
        answers = [response.SerializeToString() for response in responses]
        return answers, responses.metadata["model-identity"]

    def _run(self, ask: Callable[[Client, Request], tuple[list[bytes], str]], encoding: str) -> None:
        with Client(self._target, encoding=encoding) as client:
            prepared = client.prepare(X.head(ROWS))
            from pred_server.wire.timing import Stopwatch

            request = prepared.write(Stopwatch())
            while not self.ends.is_set():
                try:
                    answers, identity = ask(client, request)
                    version = identity.split("/")[1]
                    got = {float(value) for answer in answers for value in _values(prepared, answer)}
                    if got != {float(version)}:
                        self.faults.append(f"{ask.__name__}, {encoding}: {identity} predicted {sorted(got)}")
                    self.answers[version] += 1
                except Exception as error:
                    self.faults.append(f"{ask.__name__}, {encoding}: {error!r}")

    def wait_for(self, version: str, answers: int = 20) -> None:
        """Wait until so many answers have come from a version, or there is a fault."""
        before = self.answers[version]
        wait_until(lambda: self.faults or self.answers[version] >= before + answers, f"answers of version {version}")


def _values(prepared: object, answer: bytes) -> list[float]:
    from pred_server.generated.pred_pb2 import Response
    from pred_server.wire.timing import Stopwatch

    return prepared.read(Response.FromString(answer), "float64", "labels", Stopwatch()).tolist()  # type: ignore[attr-defined]


@pytest.mark.parametrize("swaps", [3, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize(("way", "flags"), [("poll", ["--reload"]), ("signal", [])], ids=["poll", "signal"])
def test_a_model_is_swapped_under_load_and_no_call_fails_and_none_mixes_two(
    swaps: int, way: str, flags: list[str], directory: Path
) -> None:
    with serve(directory, *flags) as server:
        with Readers(server.address) as readers:
            readers.wait_for("1")
            for number in range(2, swaps + 2):
                write(directory, number)
                reload_by(way, server)
                readers.wait_for(str(number))
        print(f"{swaps} swaps; answers by version: {dict(readers.answers)}; {len(readers.faults)} faults")
        assert not readers.faults, readers.faults[:10]
        assert set(readers.answers) == {str(number) for number in range(1, swaps + 2)}
        log = server.logs()
        assert "Traceback" not in log and "ERROR" not in log, log


@pytest.mark.parametrize("swaps", [3, pytest.param(20, marks=pytest.mark.long)])
def test_all_workers_swap_and_so_does_what_the_gateway_answers(
    swaps: int, directory: Path, go: Callable[..., str]
) -> None:
    import urllib.request

    table = X.head(3).to_csv(index=False).encode()
    with serve(directory, "--workers", "2") as server, gateway(server.address) as front:

        def asked() -> set[float]:
            with urllib.request.urlopen(f"{front.address}/predict", table, timeout=60) as reply:
                return set(map(float, reply.read().split()[1:]))

        with Readers(server.address) as readers:
            readers.wait_for("1")
            for number in range(2, swaps + 2):
                write(directory, number)
                reload_by("signal", server)
                for address in server.address.split(","):
                    wait_until(partial(has_version, address, number), "the new version")
                readers.wait_for(str(number))
                assert asked() == {float(number)}
        assert not readers.faults, readers.faults[:10]


def test_a_stream_ends_with_the_model_that_it_began_with(directory: Path) -> None:
    may_go_on = threading.Event()

    def chunks() -> Iterator[pd.DataFrame]:
        yield X.head(2)
        may_go_on.wait()
        yield X.head(2)

    with serve(directory, "--reload") as server, ExitStack() as stack:
        client = server.client()
        stack.callback(may_go_on.set)
        answers = iter(client.predict_stream(chunks()))
        assert next(answers).tolist() == [1.0, 1.0]
        write(directory, 2)
        wait_until(lambda: has_version(server.address, 2), "the new version")
        assert client.predict(X.head(2)).tolist() == [2.0, 2.0]
        may_go_on.set()
        assert [part.tolist() for part in answers] == [[1.0, 1.0]]


def test_a_bad_version_stays_out_and_the_log_says_why(directory: Path) -> None:
    with serve(directory, "--reload") as server:
        client = server.client()
        good = (directory / "manifest.json").read_bytes()
        (directory / "manifest.json").write_text("{}")
        wait_until(lambda: "the new one is refused: model 'm': manifest.json is not" in server.logs(), "the refusal")
        assert client.predict(X.head(1)).tolist() == [1.0]
        (directory / "manifest.json").write_bytes(good)
        damaged = (directory / "model.skops").read_bytes()[:-1]
        (directory / "model.skops").write_bytes(damaged)
        wait_until(lambda: "model.skops is not the file that the manifest describes" in server.logs(), "the refusal")
        assert client.predict(X.head(1)).tolist() == [1.0]
        write(directory, 2, name="other")
        wait_until(lambda: "it is called 'other', and a model keeps its name" in server.logs(), "the refusal")
        assert client.predict(X.head(1)).tolist() == [1.0]
        shutil.rmtree(directory)
        wait_until(lambda: "the new one is refused: no model directory" in server.logs(), "the refusal")
        assert client.predict(X.head(1)).tolist() == [1.0]
        write(directory, 3)
        wait_until(lambda: has_version(server.address, 3), "the new version")
        log = server.logs()
        assert log.count("is refused") == 4, log
        assert "Traceback" not in log


def test_what_was_refused_is_tried_again_when_asked_and_what_is_unchanged_is_not_read(directory: Path) -> None:
    with serve(directory, "--log-level", "info") as server:
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: "no model has changed" in server.logs(), "the answer")
        (directory / "manifest.json").write_text("{}")
        for refusals in (1, 2):
            os.kill(server.pid, signal.SIGHUP)
            wait_until(lambda n=refusals: server.logs().count("is refused") == n, "the refusal")  # type: ignore[misc]
        write(directory, 2)
        os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: has_version(server.address, 2), "the new version")
        assert " is replaced by m/2/" in server.logs()


def test_other_columns_are_taken_and_clients_that_went_by_the_old_ones_learn_it(directory: Path) -> None:
    with serve(directory, "--reload") as server:
        clients = {encoding: server.client(encoding=encoding) for encoding in ("auto", *ENCODINGS)}
        for client in clients.values():
            assert client.predict(X.head(2)).tolist() == [1.0, 1.0]
        write(directory, 2, columns="ba")
        wait_until(lambda: has_version(server.address, 2), "the new version")
        for encoding, client in clients.items():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)  # column c is ignored now
                assert client.predict(X.head(2)).tolist() == [2.0, 2.0], encoding
        write(directory, 3, columns="abc")
        wait_until(lambda: has_version(server.address, 3), "the new version")
        with pytest.raises(InvalidInput, match="the column is missing"):
            clients["csv"].predict(X[["a", "b"]].head(2))


def test_health_and_names_follow_the_versions(directory: Path) -> None:
    with serve(directory, "--model", "sum", "--reload") as server:
        assert health(server, "m/1") == "SERVING"
        with grpc.insecure_channel(server.address) as channel:
            stub = HealthStub(channel)
            old, new, steady = (
                stub.Watch(HealthCheckRequest(service=name), timeout=60) for name in ("m/1", "m/2", "m")
            )
            assert next(old).status == next(steady).status == HealthCheckResponse.SERVING
            assert next(new).status == HealthCheckResponse.SERVICE_UNKNOWN
            write(directory, 2)
            assert next(old).status == HealthCheckResponse.SERVICE_UNKNOWN
            assert next(new).status == HealthCheckResponse.SERVING
            with pytest.raises(ModelNotFound, match="there is m v2, sum v1"):
                server.client(model="m", version="1").predict(X.head(1))
            os.kill(server.pid, signal.SIGTERM)
            assert next(steady).status == next(new).status == HealthCheckResponse.NOT_SERVING


def test_a_process_whose_terminal_closes_stops_and_one_that_is_asked_reloads(directory: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.execv(
            sys.executable,
            [sys.executable, "-m", "pred_server", "serve", "--model", str(directory), "--address", "127.0.0.1:0",
             "--log-level", "info"],
        )  # fmt: skip
    process = psutil.Process(pid)
    seen = b""
    try:
        while b"pred_server ready" not in seen:
            seen += os.read(terminal, 4096)
        os.kill(pid, signal.SIGHUP)
        while b"no model has changed" not in seen:
            seen += os.read(terminal, 4096)
        os.close(terminal)
        assert process.wait(60) == 0
    finally:
        if process.is_running():
            process.kill()


def test_nohup_outlives_its_terminal(directory: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        command = [sys.executable, "-m", "pred_server", "serve", "--model", str(directory), "--log-level", "info"]
        os.execv(sys.executable, [*command, "--address", "127.0.0.1:0"])
    try:
        wait_until(lambda: "pred_server ready" in log.read_text(), "the server")
        os.close(terminal)
        wait_until(lambda: "no model has changed" in log.read_text(), "the hangup to be taken for a request")
    finally:
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    assert status == 0


# In this process


async def settle(reloader: Reloader, heard: list[Outcome], count: int) -> None:
    reloader.ask()
    while len(heard) < count:
        await asyncio.sleep(0)


def test_what_came_of_it_is_heard(directory: Path) -> None:
    heard: list[Outcome] = []

    async def run() -> list[str]:
        source = Source(lambda: load(directory), directory)
        models = [source.load()]
        reloader = Reloader(models, [source], heard.append)
        running = asyncio.create_task(reloader.run(poll=False))
        write(directory, 2)
        await settle(reloader, heard, 1)
        (directory / "manifest.json").write_text("{}")
        await settle(reloader, heard, 2)
        running.cancel()
        return [model.version for model in models]

    assert asyncio.run(run()) == ["2"]
    swapped, refused = heard
    assert (swapped.name, swapped.refused) == ("m", "")
    assert swapped.before.startswith("m/1/") and swapped.now.startswith("m/2/")
    assert "manifest.json is not a model's manifest" in refused.refused
    assert refused.before == refused.now == swapped.now


def test_memory_for_a_model_is_expected_while_it_is_read_and_what_it_takes_more_from_then_on(directory: Path) -> None:
    expected: list[int] = []

    async def run() -> None:
        heard: list[Outcome] = []
        source = Source(lambda: load(directory), directory)
        reloader = Reloader([source.load()], [source], heard.append, expected.append)
        running = asyncio.create_task(reloader.run(poll=False))
        (directory / "manifest.json").write_text("{}")
        await settle(reloader, heard, 1)
        assert expected[0] > 0 and sum(expected) == 0
        write(directory, 2, columns="ab")
        await settle(reloader, heard, 2)
        running.cancel()

    before = sum(path.stat().st_size for path in directory.iterdir())
    asyncio.run(run())
    assert sum(expected) == sum(path.stat().st_size for path in directory.iterdir()) - before < 0


def test_nothing_keeps_a_model_that_was_replaced(directory: Path) -> None:
    """Not even until a collection: at its start the server tells the collector to leave the models alone."""
    kept: list[weakref.ref[object]] = []

    async def run() -> None:
        heard: list[Outcome] = []
        source = Source(lambda: load(directory), directory)
        models: list[Model] = [source.load()]
        kept.extend([weakref.ref(models[0].estimator), weakref.ref(models[0].engine)])
        reloader = Reloader(models, [source], heard.append)
        running = asyncio.create_task(reloader.run(poll=False))
        write(directory, 2)
        await settle(reloader, heard, 1)
        running.cancel()

    gc.disable()
    try:
        asyncio.run(run())
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()


def test_a_second_model_of_the_same_name_and_version_stays_out(tmp_path: Path) -> None:
    heard: list[Outcome] = []
    write(tmp_path / "one", 1)
    write(tmp_path / "two", 2)

    async def run() -> list[str]:
        sources = [Source(lambda name=name: load(tmp_path / name), tmp_path / name) for name in ("one", "two")]  # type: ignore[misc]
        models = [source.load() for source in sources]
        reloader = Reloader(models, sources, heard.append)
        running = asyncio.create_task(reloader.run(poll=False))
        write(tmp_path / "two", 3, version="1")
        await settle(reloader, heard, 1)
        running.cancel()
        return [model.version for model in models]

    assert asyncio.run(run()) == ["1", "2"]
    assert "another model that is served here is m v1, too" in heard[0].refused


def test_files_that_still_change_are_not_read(directory: Path) -> None:
    source = Source(lambda: load(directory), directory)
    source.load()
    assert [source.has_settled(), source.has_settled(), source.has_changed()] == [False, False, False]
    for number in range(3):
        (directory / "sample.parquet").write_bytes(bytes(number + 1))
        assert source.has_changed() and not source.has_settled()
    assert source.has_settled()
    with pytest.raises(ModelFileError):
        source.load()
    assert not source.has_settled() and not source.has_changed()


def test_a_model_that_is_saved_while_it_is_loaded_is_loaded_all_the_same(directory: Path) -> None:
    """By processes, two of which save at the same time; as a worker that starts meets it."""
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.ops.test_reload import write
for number in range(int(sys.argv[1]), int(sys.argv[1]) + 15):
    write(Path({str(directory)!r}), number)
"""
    savers = [subprocess.Popen([sys.executable, "-c", code, str(first)], cwd=ROOT) for first in (100, 200)]
    versions = Counter[str]()
    try:
        while any(saver.poll() is None for saver in savers):
            model = load(directory)
            assert set(model.predict(X)) == {float(model.version)}
            versions[model.version] += 1
    finally:
        codes = [saver.wait(120) for saver in savers]
    assert codes == [0, 0]
    assert len(versions) > 1
    assert load(directory).version in ("114", "214")
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "model.skops", "sample.parquet"]
