"""Time that is put into a phase shows up in that phase, and in no other."""

import sys
from collections.abc import Iterator

import pandas as pd
import pytest

from pred_server import Client, serve
from pred_server.client.waterfall import PHASES, Waterfall
from pred_server.tutorial.background import Server
from pred_server.wire.codec import CODECS
from pred_server.wire.timing import SERVER_PHASES, Stopwatch, parse_header

INJECTED_MS = 50.0
CHUNKS = 4

# Each server is patched so that one phase takes 50 ms longer. They compute `sum`, which takes next to nothing.
SLEEP = "import time; from unittest import mock\n"
PATCHES = {
    "transport": """
import pred_server.server.service as s
real = s.read_inline
s.read_inline = lambda *all: (time.sleep(0.05), real(*all))[1]
""",
    "decode": """
import pred_server.wire.csv as c
real = c.CsvCodec.read_table
c.CsvCodec.read_table = lambda *all: (time.sleep(0.05), real(*all))[1]
""",
    "queue": """
import pred_server.server.predictor as p
real = p.Predictor._answer_apart
p.Predictor._answer_apart = lambda self, batch: (time.sleep(0.05), real(self, batch))[1]
""",
    "predict": """
import pred_server.model.builtin as m
real = m.Sum.predict
m.Sum.predict = lambda self, table: (time.sleep(0.05), real(self, table))[1]
""",
    "encode": """
import pred_server.wire.csv as c
real = c.CsvCodec.write_result
c.CsvCodec.write_result = lambda *all: (time.sleep(0.05), real(*all))[1]
""",
}
XY = pd.DataFrame({"x": [1.0, 2.0], "y": [0.5, 0.25]})


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with serve("sum") as running:
        yield running


@pytest.fixture
def slow(request: pytest.FixtureRequest) -> Iterator[Server]:
    code = SLEEP + PATCHES.get(request.param, "")
    arguments = ["serve", "--model", "sum", "--address", "127.0.0.1:0", "--max-batch-rows", "1"]
    main = f"\nfrom pred_server.cli import main\nraise SystemExit(main({arguments!r}))\n"
    with Server([sys.executable, "-c", code + main], start_timeout_s=60) as running:
        yield running


def least(waterfalls: list[Waterfall]) -> dict[str, float]:
    """Return the shortest of each phase: whatever else the machine does only adds to one."""
    return {phase: min(each.phases_ms.get(phase, 0.0) for each in waterfalls) for phase in PHASES}


def unary(client: Client, calls: int = 9) -> dict[str, float]:
    client.predict(XY, encoding="csv")
    return least([client.predict(XY, encoding="csv").waterfall for _ in range(calls)])


def stream(client: Client, calls: int = 5) -> dict[str, float]:
    found = []
    for _ in range(calls):
        parts = client.predict_stream([XY] * CHUNKS, encoding="csv")
        assert len(list(parts)) == CHUNKS
        found.append(parts.waterfall)
    return least(found)


@pytest.mark.parametrize("slow", PATCHES, indirect=True)
def test_50_ms_more_on_the_server(slow: Server, plain: Server, request: pytest.FixtureRequest) -> None:
    phase = request.node.callspec.params["slow"]
    assert_only(phase, unary(slow.client()), unary(plain.client()), INJECTED_MS)
    if phase not in ("transport", "queue"):  # in a stream nothing is left over for transport; queues overlap
        assert_only(phase, stream(slow.client()), stream(plain.client()), CHUNKS * INJECTED_MS)


@pytest.mark.parametrize("phase", ["client encode", "client decode"])
def test_50_ms_more_in_the_client(phase: str, plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    before, before_stream = unary(plain.client()), stream(plain.client())
    name = {"client encode": "write_table", "client decode": "read_result"}[phase]
    real = getattr(CODECS["csv"], name)
    monkeypatch.setattr(CODECS["csv"], name, lambda *all: (time.sleep(0.05), real(*all))[1], raising=False)
    assert_only(phase, unary(plain.client()), before, INJECTED_MS)
    assert_only(phase, stream(plain.client()), before_stream, CHUNKS * INJECTED_MS)


def assert_only(phase: str, slow: dict[str, float], plain: dict[str, float], injected_ms: float) -> None:
    for each in PHASES:
        more_ms = slow[each] - plain[each]
        if each == phase:
            assert abs(more_ms - injected_ms) <= 0.1 * injected_ms, (each, slow, plain)
        elif each != "queue" or phase not in ("predict", "decode", "encode"):
            # Chunks of a stream wait for one another: what one phase takes longer, others wait longer for.
            assert abs(more_ms) <= 0.1 * injected_ms, (each, slow, plain)


def test_the_phases_of_a_unary_call_add_up(plain: Server) -> None:
    found = plain.client().predict(XY).waterfall
    assert list(found.phases_ms) == list(PHASES)
    assert sum(found.phases_ms.values()) == pytest.approx(found.wall_ms)
    assert found.batch_rows == 2
    assert found.table["share"].sum() == pytest.approx(1)
    assert found.chunks == 0


def test_a_waterfall_shows_itself(plain: Server) -> None:
    client = plain.client()
    for found in (client.predict(XY).waterfall, client.predict(XY, stream=True).waterfall):
        page = found._repr_html_()
        assert "<script" not in page
        for phase in found.phases_ms:
            assert f"<td>{phase}</td>" in page
            assert phase in found.text()
    assert "transport" not in found.phases_ms


def test_without_timing_there_is_no_waterfall_but_an_answer() -> None:
    with serve("sum", "--no-timing") as server:
        served = server.client().predict(XY)
        assert served.tolist() == [1.5, 2.25]
        assert set(served.waterfall.phases_ms) == {"client encode", "transport", "client decode"}


def test_errors_are_timed_too(plain: Server) -> None:
    import grpc

    from pred_server.generated.pred_pb2 import Request

    with pytest.raises(grpc.RpcError) as caught:
        next(plain.client()._connection._stubs).Predict(Request(input_data="x,y\n1,a\n").SerializeToString())
    header = dict(caught.value.trailing_metadata())["server-timing"]
    assert "decode" in parse_header(header)[0]


def test_the_header_is_what_w3c_says_and_reads_back() -> None:
    watch = Stopwatch()
    watch.add("decode", 0, 1_234_567)
    watch.add("predict", 0, 2_000_000)
    watch.add("predict", 0, 500_000)
    watch.batch_rows = 12
    assert watch.header() == 'decode;dur=1.235, predict;dur=2.500, batch;desc="12 rows"'
    assert parse_header(watch.header()) == ({"decode": 1.235, "predict": 2.5}, 12)
    assert parse_header("") == ({}, 0)
    assert set(SERVER_PHASES) <= set(PHASES)
