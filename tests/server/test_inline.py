"""What may run on the event loop: small messages, plain tensors, and models that are known to be quick."""

import numpy as np
import pandas as pd
import pytest

from pred_server.generated.pred_pb2 import Request, Tensor
from pred_server.server.inline import QUICK_BYTES, read_inline
from pred_server.wire.codec import CODECS
from pred_server.wire.schema import Column, Schema

XY = Schema((Column("x", "float64"), Column("y", "float64")), Column("t", "float64"))
ROWS = QUICK_BYTES // 16 + 1


def tensor(**changes: object) -> bytes:
    """A tensor that is too large for a message of any encoding."""
    good = {"dtype": "float64", "shape": (ROWS, 2), "names": ("x", "y"), "data": bytes(16 * ROWS)}
    return Request(tensor=Tensor(**good | changes)).SerializeToString()


def test_a_large_tensor_is_read_by_the_event_loop_where_the_model_takes_it_as_it_is() -> None:
    assert read_inline(tensor(), XY)
    assert read_inline(tensor(names=()), XY)
    assert not read_inline(tensor(names=("y", "x")), XY)
    assert not read_inline(tensor(dtype="float32"), XY)
    assert not read_inline(tensor(), Schema((Column("x", "float64"), Column("y", "str")), Column("z", "float64")))


@pytest.mark.parametrize(
    ("encoding", "rows", "quick"), [("csv", 10, True), ("csv", 10_000, False), ("tensor", 10_000, True)]
)
def test_only_a_small_message_or_a_tensor_and_nothing_else_is_read_by_the_event_loop(
    encoding: str, rows: int, quick: bool
) -> None:
    request = Request()
    CODECS[encoding].write_table(pd.DataFrame(np.zeros((rows, 2)), columns=["x", "y"]), request)
    assert (read_inline(request.SerializeToString(), XY) is not None) is quick


def test_a_message_that_begins_with_a_tensor_may_hold_nothing_else() -> None:
    assert read_inline(tensor() + Request(arrow=b"1").SerializeToString(), XY) is None
    assert read_inline(b"\x12" + b"\xff" * QUICK_BYTES, XY) is None
    assert read_inline(b"", XY) == Request()


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "float64" * QUICK_BYTES},
        {"shape": [1] * 1_000_000},
        {"names": ["x"] * QUICK_BYTES},
        {"names": ["x"] * QUICK_BYTES, "data": b""},
        {"categories": ["x"] * QUICK_BYTES},
    ],
)
def test_a_tensor_that_is_large_in_anything_but_its_values_is_not_read_by_the_event_loop(
    changes: dict[str, object],
) -> None:
    assert read_inline(tensor(**changes), XY) is None
