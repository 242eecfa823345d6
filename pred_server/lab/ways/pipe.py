"""A rival: a Python process over two pipes, as a program starts it that wants no server. It answers one call at a time.

A frame is its length, as 8 bytes, and as many bytes. A table of float64 goes column by column as it is in memory, any
other as our contract's Request; the reply is float64. A length whose highest bit is set is that of a complaint.

The pipes have names, so that the process is started as the other ways' servers are, and its memory and CPU time are
counted in the same way. Data takes the same path through the kernel as between a program and its own child.
"""

import os
import struct
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from io import FileIO
from pathlib import Path

import numpy as np
import pandas as pd

from pred_server.generated.pred_pb2 import Request
from pred_server.lab.ways.way import Arm, Caller, Launch, Target, Way, request_of, start_own
from pred_server.limits import Limits
from pred_server.model.model import Model
from pred_server.wire.codec import codec_of
from pred_server.wire.rows import Rows

LENGTH, COMPLAINT = struct.Struct("<Q"), 1 << 63
PIPES = ("requests", "replies")


class Pipe(Way):
    name, hand = "pipe", "pipe"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name in PIPES:
            os.mkfifo(Path(folder, name))
        return stack.enter_context(start_own(self.name, model, "--address", folder, *arm.flags)).address

    def run(self, launch: Launch) -> None:
        with ExitStack() as stack:
            model, (requests, replies) = launch.load(), _opened(launch.address, stack)
            print(f"{self.name} ready on {launch.address} ({launch.model})", flush=True)
            while True:
                _answer(model, requests, replies)

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        requests, replies = _opened(target.address, stack)

        def predict(table: pd.DataFrame) -> np.ndarray:
            _send(requests, _frame_of(table))
            return np.frombuffer(_receive(replies))

        return predict


def _opened(folder: str, stack: "ExitStack | AsyncExitStack") -> tuple[FileIO, FileIO]:
    """Open both pipes, each for both directions: to open one then waits for nobody, and none ends between callers."""
    requests, replies = (
        stack.enter_context(os.fdopen(os.open(Path(folder, name), os.O_RDWR), "r+b", buffering=0)) for name in PIPES
    )
    return requests, replies


def _answer(model: Model, requests: FileIO, replies: FileIO) -> None:
    message = _receive(requests)
    try:
        values = model.predict_rows(_rows_of(message, model)).values
        _send(replies, np.ascontiguousarray(values, np.float64).tobytes())
    except Exception as error:
        text = repr(error).encode()
        _send(replies, text, COMPLAINT)


def _frame_of(table: pd.DataFrame) -> bytes:
    if set(table.dtypes) == {np.dtype("float64")}:
        return table.to_numpy().tobytes("F")
    return request_of(table, "arrow").SerializeToString()


def _rows_of(message: bytes, model: Model) -> Rows:
    schema = model.schema
    if schema.uniform == np.float64:
        array = np.frombuffer(message).reshape(len(schema.names), -1).T
        return schema.array_to_rows(array, schema.names)
    request = Request.FromString(message)
    return codec_of(request).read_table(request, schema, Limits())[0]


def _send(pipe: FileIO, message: bytes, mark: int = 0) -> None:
    rest = memoryview(LENGTH.pack(len(message) | mark) + message)
    while rest:
        rest = rest[pipe.write(rest) :]


def _receive(pipe: FileIO) -> bytes:
    """Return the next message. Raises RuntimeError for a complaint."""
    length = LENGTH.unpack(_exactly(pipe.readinto, LENGTH.size))[0]
    message = _exactly(pipe.readinto, length & ~COMPLAINT)
    if length & COMPLAINT:
        raise RuntimeError(f"the child complains: {message.decode()}")
    return message


def _exactly(readinto: Callable[[memoryview], int], n_bytes: int) -> bytes:
    buffer = bytearray(n_bytes)
    rest = memoryview(buffer)
    while rest:
        rest = rest[readinto(rest) :]
    return bytes(buffer)
