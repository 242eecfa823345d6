"""What a plain server and one behind Ray Serve are asked alike: good tables, and every kind of fault."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
import pandas as pd
from google.protobuf import text_format
from google.rpc.status_pb2 import Status

from pred_server.generated.pred_pb2 import DescribeRequest, DescribeResponse, Request
from pred_server.lab.ways.way import request_of
from pred_server.wire.codec import CODECS

# Of both servers. Faults must not wait, or the tests would; and what is measured at a start may differ.
FLAGS = ("--max-rows", "1000", "--max-message-bytes", "100000", "--max-refusals-per-s", "1000000", "--threads", "1")
XY = pd.DataFrame({"x": [1.0, 0.1, 5e-324], "y": [2.0, 0.2, 5e-324]})
GOOD = {encoding: request_of(XY, encoding) for encoding in CODECS}
CALLS = {"Predict": Request(input_data="x,y\n1,2\n"), "Describe": DescribeRequest()}
TEXT = Request(input_data="x,y\n1,two\n")

Metadata = tuple[tuple[str, str], ...]


class Ask(NamedTuple):
    """One call: its messages as bytes."""

    rpc: str
    messages: tuple[bytes, ...]
    metadata: Metadata = ()


class Said(NamedTuple):
    """All that a caller gets."""

    code: str
    details: str
    messages: tuple[bytes, ...]
    initial: dict[str, Any]
    trailing: dict[str, Any]


def one(request: Request, *metadata: tuple[str, str], rpc: str = "Predict") -> Ask:
    return Ask(rpc, (request.SerializeToString(),), metadata)


def several(*requests: Request, metadata: Metadata = ()) -> Ask:
    return Ask("PredictStream", tuple(request.SerializeToString() for request in requests), metadata)


ANSWERED = {
    **{f"{encoding}": one(request) for encoding, request in GOOD.items()},
    **{f"{encoding} in chunks": several(request, request, request) for encoding, request in GOOD.items()},
    "a column more": one(Request(input_data="x,y,ä\n1,2,3\n")),
    "a column more in chunks": several(Request(input_data="x,y,ä\n1,2,3\n")),
    "no chunk": several(),
    "another model": one(
        request_of(pd.DataFrame({f"x{i}": [1.0] for i in range(10)}), "tensor"), ("model-name", "linear")
    ),
    "description": one(Request(), rpc="Describe"),
    "description of another": one(Request(), ("model-name", "linear"), rpc="Describe"),
    "a request id": one(GOOD["csv"], ("x-request-id", "mine")),
}
FAULTS = {
    "nothing": one(Request()),
    "no csv": one(TEXT),
    "a column is missing": one(Request(input_data="x\n1\n")),
    "many violations": one(Request(input_data="a\n1\n")),
    "not the message": Ask("Predict", (b"\xff\xff",)),
    "no model of the name": one(GOOD["csv"], ("model-name", "none")),
    "no model of the name is described": one(Request(), ("model-name", "none"), rpc="Describe"),
    "no version of it": one(GOOD["csv"], ("model-version", "9")),
    "another schema": one(GOOD["csv"], ("expect-schema", "0")),
    "no probabilities": one(GOOD["csv"], ("output", "probabilities")),
    "no such output": one(GOOD["csv"], ("output", "ä".encode().hex())),
    "too many rows": one(Request(input_data="x,y\n" + "1,2\n" * 1_001)),
    "too large": one(Request(input_data="x,y\n" + "1.000000000000,2.000000000000\n" * 4_000)),
    "first chunk": several(TEXT, GOOD["csv"]),
    "second chunk": several(GOOD["csv"], TEXT),
    "a chunk with too many rows": several(GOOD["csv"], Request(input_data="x,y\n" + "1,2\n" * 1_001)),
    "a chunk of nothing": several(GOOD["tensor"], Request()),
    "a stream to no model": several(GOOD["csv"], metadata=(("model-name", "none"),)),
}  # fmt: skip


def said(address: str, ask: Ask, timeout_s: float = 60.0, **settings: Any) -> Said:
    """Make a call, without retries, and return all that came back."""
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]) as channel:
        method: Callable[..., Any] = channel.stream_stream(f"/prediction.Prediction/{ask.rpc}")
        call = method(iter(ask.messages), timeout=timeout_s, metadata=ask.metadata, **settings)
        messages: list[bytes] = []
        with suppress(grpc.RpcError):
            messages.extend(call)
        return Said(
            call.code().name,
            call.details() or "",
            tuple(messages),
            dict(call.initial_metadata() or ()),
            dict(call.trailing_metadata() or ()),
        )


def comparable(answer: Said, ask: Ask) -> Said:
    """Return an answer without what no two have in common: times, the id that Serve adds, the order in a map."""
    if ask.rpc == "Describe":
        texts = (text_format.MessageToString(DescribeResponse.FromString(message)) for message in answer.messages)
        answer = answer._replace(messages=tuple(text.encode() for text in texts))
    trailing = {key: value for key, value in answer.trailing.items() if key not in ("server-timing", "request_id")}
    if details := trailing.get("grpc-status-details-bin"):
        trailing["grpc-status-details-bin"] = text_format.MessageToString(Status.FromString(details))
    return answer._replace(trailing=trailing)
