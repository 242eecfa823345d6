"""Who is refused again and again waits for it, and nobody else does. Without a clock: the times are given."""

import grpc
import pytest

from pred_server.generated.pred_pb2 import Request
from pred_server.guard.refusals import LONGEST_S, MOST_PEERS, Refusals
from tests.patched import patched

COUNTED = """
from pred_server.guard.refusals import Refusals
delay_s = Refusals.delay_s
Refusals.delay_s = lambda self, peer, now_s: print("counted", flush=True) or delay_s(self, peer, now_s)
"""


def test_a_second_of_refusals_is_free_and_the_next_ones_come_evenly() -> None:
    refusals = Refusals(per_s=200)
    assert max(refusals.delay_s("flood", 100.0) for _ in range(200)) == pytest.approx(0)
    delays_s = [refusals.delay_s("flood", 100.0) for _ in range(100)]
    assert delays_s == pytest.approx([place / 200 for place in range(1, 101)])
    assert refusals.delay_s("other", 100.0) == 0.0
    assert refusals.delay_s("flood", 100.5) == pytest.approx(1 / 200), "the delays are over, and it goes on"
    assert max(refusals.delay_s("flood", 200.0) for _ in range(200)) == pytest.approx(0), (
        "after a pause it is free again"
    )


def test_no_refusal_waits_for_longer_than_a_second() -> None:
    refusals = Refusals(per_s=10)
    assert max(refusals.delay_s("flood", 100.0) for _ in range(1_000)) == LONGEST_S


def test_without_a_limit_nobody_waits() -> None:
    refusals = Refusals(per_s=0)
    assert {refusals.delay_s("flood", 100.0) for _ in range(1_000)} == {0.0}


def test_connections_that_come_and_go_take_no_memory() -> None:
    refusals = Refusals(per_s=1)
    for _ in range(2):
        refusals.delay_s("flood", 100.0)
    for peer in range(MOST_PEERS - 1):
        refusals.delay_s(str(peer), 100.0)
    assert refusals.delay_s("flood", 100.0) > 0, "it is remembered, and is the latest now"
    refusals.delay_s("one more", 100.0)
    assert len(refusals._next_s) == MOST_PEERS
    assert "0" not in refusals._next_s, "the oldest is forgotten"


@pytest.mark.parametrize(
    ("method", "table", "code"),
    [
        ("Predict", "x,y\n1,2\n", None),
        ("Predict", "x,y\n1,2\n3,4\n", grpc.StatusCode.RESOURCE_EXHAUSTED),  # more rows than may be
        ("Predict", "x,y\n1,a\n", grpc.StatusCode.INVALID_ARGUMENT),
        ("Predict2", "x,y\n1,2\n", grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_faults_of_the_caller_are_counted(method: str, table: str, code: grpc.StatusCode | None) -> None:
    with patched(COUNTED, "--max-rows", "1") as server, grpc.insecure_channel(server.address) as channel:
        ask = channel.unary_unary(f"/prediction.Prediction/{method}")
        seen = None
        try:
            ask(Request(input_data=table).SerializeToString(), timeout=30)
        except grpc.RpcError as error:
            seen = error.code()  # type: ignore[attr-defined]
        assert seen == code
        assert server.logs().count("counted") == (code is not None)
