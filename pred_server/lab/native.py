"""The native generator, `bin/loadgen` (gateway/internal/load): makes an arm's calls in Go.

It is for rates that Python cannot make, and for programs in Go: see `Way.hand`.
"""

import base64
import json
import subprocess
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from pred_server.checkout import ROOT
from pred_server.errors import ServerStartError
from pred_server.lab.ways import WAYS, Arm, OverGrpc, Reply, Target

LOADGEN = ROOT / "bin" / "loadgen"
COLUMNS = ("scheduled_ns", "sent_ns", "done_ns", "first_ns", "code", "reply_bytes", "timing")
OPEN_LOOP_CONNECTIONS = 100  # at most, over HTTP, where one carries a call at a time; as many as httpx makes


class Native(AbstractContextManager["Native"]):
    """A process of the native generator, connected to targets, whose ways have this `program`.

    It ends at the end of a `with` statement, or with the process that started it.

    Raises
    ------
    ServerStartError
        It is not built.
    InvalidInput
        The way of a target speaks neither gRPC nor HTTP.
    """

    def __init__(self, targets: Iterable[Target], program: str = "") -> None:
        check_built(program)
        self._process = subprocess.Popen([str(_path(program))], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._orders: Any = self._process.stdin
        self._answers: Any = self._process.stdout
        self._senders: dict[int, str] = {}  # the first target that sends these messages, by their identity
        for target in targets:
            self._connect(target)

    def _connect(self, target: Target) -> None:
        arm, way = target.arm, WAYS[target.arm.server]
        order: dict[str, Any] = {
            "name": arm.name,
            "address": target.address.removeprefix("http://"),
            "ca": target.ca,
            "metadata": way.metadata(target),
            "timeout_s": target.timeout_s,
        }
        like = self._senders.setdefault(id(target.messages), arm.name)
        if like == arm.name:
            order["messages"] = [base64.b64encode(message).decode() for message in target.messages]
        else:
            order["like"] = like  # a million rows are sent once, whatever number of targets takes them
        usual = OPEN_LOOP_CONNECTIONS if arm.rate_per_s or arm.share else arm.callers
        if arm.frame and way.hand:
            over_grpc = isinstance(way.wire, OverGrpc)
            self._ask(connect=order | {"hand": way.hand, "connections": arm.connections or (1 if over_grpc else usual)})
            return
        wire = way.wire_of(arm)
        if isinstance(wire, OverGrpc):
            order |= {"method": wire.method, "stream": wire.stream, "connections": arm.connections or 1}
        else:
            order |= {"path": wire.path, "content_type": wire.content_type, "connections": arm.connections or usual}
        self._ask(connect=order)

    def drive(self, segment: dict[str, Any]) -> tuple[list[tuple[int, int, int, int, Reply]], float, int, float]:
        """Make a segment's calls.

        Returns
        -------
        What `load.drive` returns; the number of connections that the server had closed and that were made anew; and the
        milliseconds that the generator computed, its waiting for a schedule left out.
        """
        start_ns = time.monotonic_ns()  # the program's own clock starts a little later, and is not to be had from here
        told = self._ask(run=segment)
        columns = (told[name] for name in COLUMNS)
        log = [
            (
                number,
                start_ns + scheduled_ns,
                start_ns + sent_ns,
                start_ns + done_ns,
                Reply(code, reply_bytes, timing, first_ns and start_ns + first_ns),
            )
            for number, (scheduled_ns, sent_ns, done_ns, first_ns, code, reply_bytes, timing) in enumerate(
                zip(*columns, strict=True)
            )
        ]
        return log, told["busy_share"], told["redials"], 1e3 * (told["cpu_s"] - told["spun_s"])

    def _ask(self, **order: dict[str, Any]) -> dict[str, Any]:
        with suppress(BrokenPipeError):  # no answer says it, too
            self._orders.write(json.dumps(order).encode() + b"\n")
            self._orders.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"bin/loadgen ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"bin/loadgen: {answer['error']}")
        return answer

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self._orders.close()  # which ends it
        self._process.wait()
        self._answers.close()


def check_built(program: str) -> None:
    if not (path := _path(program)).exists():
        needs = "a C compiler for cgo" if program else "modules from its proxy"
        raise ServerStartError(
            f"the load generator bin/{path.name} is not built: run `make gateway` (it needs Go, and {needs})"
        )


def _path(program: str) -> Path:
    return LOADGEN.with_name(LOADGEN.name + program)


def check(arm: Arm) -> None:
    """Check that an arm can be called as it says, before anything is started.

    Raises
    ------
    InvalidInput
        Its way speaks neither gRPC nor HTTP, or there is no such generator.
    ServerStartError
        The native generator is not built.
    """
    if arm.generator == "go":
        way = WAYS[arm.server]
        if not (arm.frame and way.hand):
            way.wire_of(arm)
        check_built(way.program)
