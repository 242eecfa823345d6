"""What all ways to a prediction share: the interface `Way`, and what an experiment says to it.

`Arm` is one of the things that an experiment compares, `Target` is where its calls go, `Reply` what came back.
"""

import io
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import pyarrow as pa

from pred_server.engines.threads import with_threads
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.generated.pred_pb2 import Request
from pred_server.lab.distance import GIGABIT
from pred_server.model.model import Model
from pred_server.store.loading import load
from pred_server.tutorial.background import Process, Server, serve
from pred_server.wire.codec import CODECS

CARRIERS = ("echo", "tcp")  # carry the same bytes as `serve`, and compute nothing
FLOORS = (*CARRIERS, "predict")
GENERATORS = ("python", "go")

Options = list[tuple[str, int]]
UNLIMITED: Options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Arm:
    """One of the things that an experiment compares: who answers, what travels, and under which load.

    Parameters
    ----------
    server : the way to a prediction, a name in `ways.WAYS`
    encoding : how the table travels, for `serve`, `article`, `http`, `echo` and `tcp`; "auto" leaves the choice to our
        `Client`; with `predict`, "tensor" means that the table is checked beforehand, as in a server that has read a
        tensor
    chunk_rows : if above 0, send a stream of chunks with so many rows each. With `frame`, the client is given one table
        after the other, and takes the predictions as they come; neither the whole table nor its predictions exist
    flags : further flags of the server
    process : arms with equal server, flags, model and process share one server process
    callers : the number of callers in a closed loop; ignored if `rate_per_s` is given, which makes an open loop
    share : if above 0, an open loop at this share of the arm's capacity, which is its rate in a closed loop of many
        callers. The capacity is measured before the first block, and decides `rate_per_s`
    generator : what makes the calls: "python", or "go" for rates that Python cannot make; see `lab.native`
    connections : of the generator in Go; 0 means one for gRPC, and for HTTP as many as there are callers
    frame : measure at the caller's hand: time the whole way from a table to predictions, by the client that this
        server's users have; in Python from a DataFrame, in Go from a slice for each column. Else messages are ready
        bytes, and the time is the server's and the network's
    model : the model to serve, if it differs from the experiment's
    rows : the numbers of rows at which the arm takes part; empty for all of them
    calls : calls in each half of a block, if the number differs from the experiment's
    rtt_ms : if above 0, the server is so many milliseconds of round trip away, at 1 Gbit/s: see `lab.distance`
    beside : the name of another arm, which a process of its own calls meanwhile, again and again, with its first number
        of `rows`
    cold : the call is the first of its server, and its latency counts from the start of the server's process. The arm
        is called once in a block, so the experiment must have one block in a repetition, and no warm-up

    Raises
    ------
    InvalidInput
        There is no such generator.
    """

    name: str
    server: str = "serve"
    encoding: str = "csv"
    chunk_rows: int = 0
    flags: tuple[str, ...] = ()
    process: int = 0
    callers: int = 1
    rate_per_s: float = 0.0
    arrivals: str = "poisson"
    frame: bool = False
    model: str = ""
    rows: tuple[int, ...] = ()
    calls: int = 0
    share: float = 0.0
    generator: str = "python"
    connections: int = 0
    rtt_ms: float = 0.0
    beside: str = ""
    cold: bool = False

    def __post_init__(self) -> None:
        if self.generator not in GENERATORS:
            raise InvalidInput(f"no generator {self.generator!r}; there is {' and '.join(GENERATORS)}")


@dataclass(frozen=True)
class Target:
    """Where an arm's calls go, and what one call sends.

    Parameters
    ----------
    address : HOST:PORT, a list of them, or unix:/PATH; for HTTP the server's URL; in process the name of the model, or
        a folder
    messages : ready bytes: one message, or the chunks of a stream. If `arm.frame` is set, and in process, it is the
        table as a Parquet file (from Go, as `columns`); or, if there is also `arm.chunk_rows`, one chunk of it
    metadata : gRPC metadata sent with each call
    reply_bytes : the size of a reply that `echo` or `tcp` is asked for; 0 means all of the request from `echo`, and
        nothing from `tcp`
    pids : the processes that answer, whose CPU time is counted
    rows : in one call
    beside : what another process calls meanwhile, again and again
    ca : the file of the authority that signs the server's certificate; without one, calls are not encrypted
    """

    arm: Arm
    address: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str], ...] = ()
    reply_bytes: int = 0
    timeout_s: float = 60.0
    pids: tuple[int, ...] = ()
    rows: int = 0
    beside: "Target | None" = None
    ca: str = ""


class Reply(NamedTuple):
    """The outcome of one call."""

    code: str
    reply_bytes: int = 0
    timing: str = ""  # in the Server-Timing syntax
    first_ns: int = 0  # when the first message of a stream arrived


Call = Callable[[], Awaitable[Reply]]  # makes one call; raises where it fails
Caller = Callable[[pd.DataFrame], Any]  # returns one prediction for each row, in the type that its client has
StreamCaller = Callable[[Iterable[pd.DataFrame]], int]  # takes the predictions as they come, and returns their number


@dataclass(frozen=True)
class Launch:
    """What a server of the lab's own is started with.

    Parameters
    ----------
    address : HOST:PORT; port 0 picks a free one
    options : of gRPC, for the echo
    threads : what `with_threads` takes; empty to find out
    """

    address: str
    model: str
    options: Options
    threads: tuple[int, ...] = ()

    def load(self) -> Model:
        """Return the model as `pred-server serve` has it."""
        return with_threads(load(self.model), *self.threads)


@dataclass(frozen=True)
class OverGrpc:
    """A gRPC method that takes the ready bytes: one message, or a stream of them."""

    method: str
    stream: bool = False

    def in_chunks(self) -> "OverGrpc":
        """Return the method that takes a table in chunks."""
        return self if self.stream else OverGrpc(f"{self.method}Stream", stream=True)


@dataclass(frozen=True)
class OverHttp:
    """A path of an HTTP server, to which the ready bytes are posted."""

    path: str
    content_type: str


class Way:
    """One thing that can be measured. A way overrides what differs; here are the messages that `serve` takes.

    To add a competitor, write a subclass in a file of its own, and name it in the list in `ways/__init__.py`.
    """

    name: ClassVar[str]
    """What `Arm.server` says."""
    title: ClassVar[str] = ""
    """The name in figures of a competitor, which makes it take part in the study of rows."""
    hand: ClassVar[str] = ""
    """The way of the generator in Go from a table to predictions, if it has one: see gateway/internal/load/hand.go."""
    program: ClassVar[str] = ""
    """The end of the name of the generator in Go that has this way: `bin/loadgen`, and this."""
    wire: ClassVar[OverGrpc | OverHttp | None] = None
    """How ready bytes travel, for the generator in Go; None: neither by gRPC nor by HTTP."""
    most_rows: ClassVar[int] = 10**9
    """The study of rows asks a competitor for no larger table."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What must be installed beside what the lessons need."""

    def missing(self) -> str:
        """Return a sentence that says what to type where something is not installed; else nothing."""
        absent = [package for package in self.packages if find_spec(package) is None]
        return f"{self.title or self.name} needs {', '.join(absent)}: run `make rivals`" if absent else ""

    def prepare(self, model: str) -> None:
        """Make what a model needs before its server starts, once, so that it is no part of the start."""

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        """Start the server, to be closed with the stack, and return its address. Raises ServerStartError."""
        if missing := self.missing():
            raise ServerStartError(missing)
        return stack.enter_context(start_own(self.name, model, *arm.flags)).address

    def authority(self) -> str:
        """Return the file of the authority that signs its servers' certificates; nothing if they do not encrypt."""
        return ""

    def run(self, launch: Launch) -> None:
        """Be the server, in a process that `start_own` has started: say `ready`, then answer until ended."""
        raise NotImplementedError(f"{self.name} is no server of the lab's")

    def connect(self, target: Target, stack: AsyncExitStack) -> Call:
        """Connect, inside a running event loop, and return the function that makes one call.

        A client at the caller's hand blocks the loop: such an arm has one caller at a time.
        """
        if not target.arm.frame:
            return self.send(target, stack)
        table = frame_of(target)
        if target.arm.chunk_rows:
            send = self.stream_client(target, stack)
            return blocking(lambda: send(chunks_of(table, target.rows)))
        predict = self.client(target, stack)
        return blocking(lambda: predict(table))

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        """Connect with the client that this server's users have; return its way from a DataFrame to predictions."""
        raise NotImplementedError(f"{self.name} has no client")

    def stream_client(self, target: Target, stack: AsyncExitStack) -> StreamCaller:
        """Connect with the client that this server's users have; return its way from tables to predictions."""
        raise NotImplementedError(f"{self.name} has no client for streams")

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        """Connect, and return the function that sends the target's messages, which are ready bytes."""
        raise NotImplementedError(f"{self.name} takes no ready bytes")

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        """Return the ready bytes that one call sends."""
        step = arm.chunk_rows or len(table)
        chunks = (table.iloc[start : start + step].reset_index(drop=True) for start in range(0, len(table), step))
        return tuple(request_of(chunk, arm.encoding).SerializeToString() for chunk in chunks)

    def wire_of(self, arm: Arm) -> OverGrpc | OverHttp:
        """Return how an arm's ready bytes travel. Raises InvalidInput where the generator in Go cannot send them."""
        if arm.frame:
            raise InvalidInput(f"{arm.name}: only Python calls with a DataFrame; its generator must be python")
        if self.wire is None:
            raise InvalidInput(f"{arm.name}: the generator in Go speaks gRPC and HTTP, and {self.name!r} is neither")
        return self.wire.in_chunks() if isinstance(self.wire, OverGrpc) and arm.chunk_rows else self.wire

    def metadata(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Return the metadata of each call."""
        return target.metadata


def frame_of(target: Target) -> pd.DataFrame:
    """Return the table of a target whose message is a Parquet file. Targets with one message share it."""
    return _read(target.messages[0])


@lru_cache(maxsize=1)
def _read(message: bytes) -> pd.DataFrame:
    table = pd.read_parquet(io.BytesIO(message))
    pa.default_memory_pool().release_unused()  # or a client would grow by less than it needs
    return table


def chunks_of(chunk: pd.DataFrame, rows: int) -> Iterator[pd.DataFrame]:
    """Yield a table again and again, and at last a part of it, until there were so many rows."""
    whole, rest = divmod(rows, len(chunk))
    for _ in range(whole):
        yield chunk
    if rest:
        yield chunk.head(rest)


def blocking(predict: Callable[[], Any]) -> Call:
    """Call a function. For one caller at a time, since the function blocks the event loop."""

    async def call() -> Reply:
        predict()
        return Reply("OK")

    return call


def request_of(table: pd.DataFrame, encoding: str) -> Request:
    request = Request()
    CODECS[encoding].write_table(table, request)
    return request


def start_own(way: str, model: str, *flags: str) -> Server:
    """Start a server of the lab's own, such as `echo`, in a process of its own. Close it, or use it in `with`."""
    return serve(model, "--way", way, *flags, module="pred_server.lab.ways")


def start_distance(address: str, rtt_ms: float) -> Process:
    """Start a forwarder to an address, so many milliseconds of round trip away. Close it, or use it in `with`."""
    module = ["-m", "pred_server.lab.distance"]
    return Process([sys.executable, *module, address, str(rtt_ms), str(GIGABIT)], start_timeout_s=10)


def listen(address: str) -> socket.socket:
    """Listen on HOST:PORT; port 0 picks a free one."""
    host, _, port = address.rpartition(":")
    listener = socket.create_server((host, int(port)))
    # Connections inherit it. Without it, a reply in two parts waits 40 ms for the acknowledgement of the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def ready(way: Way, launch: Launch, port: int, scheme: str = "") -> None:
    """Print the line that `start_own` waits for. `port` is the one in use."""
    host = launch.address.rpartition(":")[0]
    print(f"{way.name} ready on {scheme}{host}:{port} ({launch.model})", flush=True)
