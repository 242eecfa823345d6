"""Rivals predict as the model does, from table to predictions, and say what to type where they are not installed."""

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server import load
from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.lab.experiments import sample, table_of
from pred_server.lab.ways import RIVALS, WAYS, Arm, Reply, Target, messages_of, open_inference
from pred_server.lab.ways.open_inference import OpenInference
from pred_server.lab.ways.web import LoopOrThread
from pred_server.wire.codec import CODECS

SIZES = {"linear": (1, 100, 10_000), "flights": (1, 100)}
NAMES = [way.name for way in RIVALS]


def at_hand(arm: Arm, model: str, ask: Callable[[Callable[[pd.DataFrame], Any]], None]) -> Reply:
    """Start a way's server, hand its client's function to `ask`, and return the reply to ready bytes of ten rows."""
    way = WAYS[arm.server]

    async def call() -> Reply:
        async with AsyncExitStack() as clients:
            ask(way.client(Target(arm, address, ()), clients))
            ten = messages_of(arm, sample(table_of(load(model)), 10, seed=1))
            return await way.connect(Target(arm, address, ten), clients)()

    with ExitStack() as stack:
        address = way.start(arm, model, stack)
        return asyncio.run(call())


@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_a_rival_predicts_as_the_model_does(name: str, model: str) -> None:
    way = WAYS[name]
    if isinstance(way, OpenInference) and way.missing():
        pytest.skip(way.missing())
    loaded = load(model)
    # Their tensors are row-major; a linear model's sum may differ in its last bit. Trees only compare.
    tolerance = 1e-12 if isinstance(way, OpenInference) and model == "linear" else 0

    def ask(predict: Callable[[pd.DataFrame], Any]) -> None:
        for n_rows in SIZES[model]:
            table = sample(table_of(loaded), n_rows, seed=0)
            predicted = np.asarray(predict(table))
            assert predicted.shape == (n_rows,)
            np.testing.assert_allclose(predicted, loaded.predict(table), rtol=tolerance, atol=tolerance)

    reply = at_hand(Arm(name, name), model, ask)
    assert reply.code == "OK"
    assert reply.reply_bytes > 0


def test_http_carries_the_messages_of_serve() -> None:
    model, http = load("linear"), WAYS["http"]
    table = sample(table_of(model), 100, seed=0)
    arms = [Arm(encoding, "http", encoding) for encoding in CODECS]

    async def ask(address: str) -> list[Reply]:
        async with AsyncExitStack() as clients:
            replies = []
            for arm in arms:
                messages = messages_of(arm, table)
                assert messages == messages_of(Arm("gRPC", "serve", arm.encoding), table)
                target = Target(arm, address, messages)
                np.testing.assert_array_equal(http.client(target, clients)(table), model.predict(table))
                replies.append(await http.connect(target, clients)())
            return replies

    with ExitStack() as stack:
        replies = asyncio.run(ask(http.start(arms[0], "linear", stack)))
    assert [reply.code for reply in replies] == ["OK"] * len(arms)


def test_flight_answers_batch_by_batch() -> None:
    model = load("linear")
    table = sample(table_of(model), 300_000, seed=0)  # ten batches: more than its client writes ahead
    arm = Arm("Flight", "flight")
    assert len(messages_of(arm, table)) > 10

    def ask(predict: Callable[[pd.DataFrame], Any]) -> None:
        np.testing.assert_array_equal(predict(table), model.predict(table))

    at_hand(arm, "linear", ask)


@pytest.mark.parametrize("quick", [True, False])
def test_a_model_runs_on_the_loop_of_a_web_server_where_it_is_quick(quick: bool) -> None:
    threads = []

    def predict_rows(rows: Any) -> None:
        threads.append(threading.get_ident())

    predictor = LoopOrThread(SimpleNamespace(predict_rows=predict_rows))  # type: ignore[arg-type]
    recorded = []
    predictor._quick = SimpleNamespace(has=lambda *asked: quick, record=lambda *noted: recorded.append(noted))  # type: ignore[assignment]
    asyncio.run(predictor.predict(range(7)))  # type: ignore[arg-type]
    assert (threads == [threading.get_ident()]) is quick
    assert recorded[0][2] == 7, "how long so many rows take is noted"


def test_a_rival_that_is_not_installed_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(open_inference, "ENVIRONMENTS", tmp_path)
    for way in RIVALS:
        if not isinstance(way, OpenInference):
            monkeypatch.setattr(way, "packages", ("there_is_no_such_package",), raising=False)
        with ExitStack() as stack, pytest.raises(ServerStartError, match="run `make rivals`") as raised:
            way.start(Arm(way.title, way.name), "linear", stack)
        assert str(raised.value).startswith(way.title)


def test_environments_are_built_for_every_rival_that_needs_one() -> None:
    names = {way.name for way in RIVALS if isinstance(way, OpenInference)}
    rivals = re.search(r"^RIVALS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rivals is not None
    assert set(rivals[1].split()) == names
    (ours,) = re.findall(r"^scikit-learn==\S+", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    for name in names:
        lock = (ROOT / f"pred_server/lab/rivals/{name}.lock").read_text()
        assert re.fullmatch(r"([a-z0-9.-]+==[^\s/]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n)+", lock), (
            "no index's address"
        )
        assert ours in lock, "the same engine: a pickle is read by the version that wrote it"
