"""Ways to a prediction at the caller's hand, from Go and from Python: a socket, a pipe, the caller's own process."""

import asyncio
import functools
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pred_server import load
from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.lab import native
from pred_server.lab.experiments import Experiment, running, sample, table_of
from pred_server.lab.load import Generator, Segment
from pred_server.lab.native import LOADGEN
from pred_server.lab.ways import WAYS, Arm, Target, inprocess, messages_of
from pred_server.lab.ways.inprocess import HOLDER


def build(go: Callable[..., str]) -> bool:
    """Build the generators in Go. Returns whether the one with cgo is there."""
    go("build", "-o", str(LOADGEN), "./gateway/loadgen")
    if go("env", "CGO_ENABLED").strip() != "1":
        return False
    go("build", "-C", str(ROOT / "gateway/loadgen/inprocess"), "-o", str(HOLDER), ".")
    return True


@pytest.fixture(scope="module")
def built(go: Callable[..., str]) -> bool:
    return build(go)


def test_the_generator_that_a_way_needs_is_asked_for_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LOADGEN", ROOT / "bin" / "nothing")
    arm = Arm("a", "inprocess", frame=True, generator="go")
    with pytest.raises(ServerStartError, match=r"bin/nothing-inprocess is not built: .* a C compiler"):
        native.check(arm)
    with pytest.raises(InvalidInput, match="'inprocess' is neither"):
        native.check(replace(arm, frame=False))


@pytest.mark.parametrize("model", ["linear", "flights"])
def test_every_way_answers_from_go_and_from_python(model: str, built: bool) -> None:
    from_go = [Arm(f"{way}, Go", way, "auto", frame=True, generator="go") for way in ("serve", "unix", "rest", "pipe")]
    from_go += [Arm("inprocess, Go", "inprocess", frame=True, generator="go")] if built else []
    crowd = [replace(arm, name=f"{arm.name}, 4 callers", callers=4, calls=8) for arm in from_go]
    from_python = [Arm(f"{way}, Python", way, "auto", frame=True) for way in ("unix", "pipe", "predict")]
    ready = [Arm("unix, ready bytes", "unix", generator=generator, process=1) for generator in ("go",)]
    experiment = Experiment((*from_go, *crowd, *from_python, *ready), model=model, blocks=1, calls=2, pin=False)
    with running(experiment) as bench:
        calls = bench.measure(10, repetition=0).set_index("arm")
    assert set(calls["code"]) == {"OK"}, calls["code"].unique()
    in_go = calls[(calls["generator"] == "go") & calls["frame"]]
    assert (in_go["reply_bytes"] == 80).all(), "ten predictions of eight bytes"
    assert (calls["caller_cpu_ms"] > 0).all()
    assert calls["valid"].all(), "what a caller does at hand belongs to its call"
    with_server = calls.drop("predict, Python")
    assert (with_server[["start_ms", "server_ready_mib"]] > 1).all(axis=None)
    assert calls.loc["predict, Python", "server_ready_mib"].isna().all()
    if built:
        assert (calls.loc["inprocess, Go", "server_cpu_ms"] < 0.1).all(), "the generator computes"
        assert (
            calls.loc["inprocess, Go", "server_ready_mib"].iloc[0] < calls.loc["serve, Go", "server_ready_mib"].iloc[0]
        )


@pytest.mark.parametrize(("name", "model"), [("pipe", "linear"), ("pipe", "flights"), ("unix", "linear")])
def test_a_way_predicts_as_the_model_does(name: str, model: str) -> None:
    way, loaded = WAYS[name], load(model)
    arm = Arm(name, name, "auto", frame=True)

    async def predictions(address: str) -> list[Any]:
        async with AsyncExitStack() as clients:
            predict = way.client(Target(arm, address, ()), clients)
            return [await asyncio.to_thread(predict, sample(table_of(loaded), rows, seed=0)) for rows in (1, 5_000, 3)]

    with ExitStack() as stack:
        address = way.start(arm, model, stack)
        for _ in range(2):  # one caller after the other
            for predicted, rows in zip(asyncio.run(predictions(address)), (1, 5_000, 3), strict=True):
                expected = loaded.predict(sample(table_of(loaded), rows, seed=0))
                assert np.asarray(predicted).tobytes() == expected.tobytes()


def test_a_table_at_fault_is_a_complaint_and_the_pipe_goes_on(built: bool) -> None:
    way, loaded = WAYS["pipe"], load("linear")
    good = sample(table_of(loaded), 2, seed=0)
    bad = good.assign(x0=np.nan)

    async def predictions(address: str) -> Any:
        async with AsyncExitStack() as clients:
            predict = way.client(Target(Arm("a", "pipe"), address, ()), clients)
            with pytest.raises(RuntimeError, match=r"the child complains: .*x0"):
                await asyncio.to_thread(predict, bad)
            return await asyncio.to_thread(predict, good)

    arm = Arm("a", "pipe", frame=True, generator="go")
    with ExitStack() as stack:
        address = way.start(arm, "linear", stack)
        assert asyncio.run(predictions(address)).tolist() == loaded.predict(good).tolist()
        with Generator() as generator:
            target = Target(arm, address, messages_of(arm, bad))
            (code,) = set(generator.run([target], [Segment("a", 3)])["code"])
    assert code.startswith("the child complains: ")


def test_a_model_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exports: list[str] = []
    monkeypatch.setattr(inprocess, "export", lambda model, folder: exports.append(model.name))
    monkeypatch.setattr(inprocess, "exported", functools.cache(inprocess.exported.__wrapped__))
    WAYS["inprocess"].prepare("linear")
    WAYS["inprocess"].prepare("linear")
    assert exports == ["linear"]
