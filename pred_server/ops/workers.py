"""Several servers under one supervisor, which starts them, watches them, and stops them together.

A worker is a whole server: a process of its own, at a port of its own, so that clients choose a worker for each call.
The supervisor imports no gRPC and no model. It computes nothing, so there is little that it could die of.

A port stays its worker's, also while the worker is dead. For that the supervisor holds a socket that is bound to the
port, and that never listens. Linux gives such a port to nobody who asks for a free one, and refuses it to whoever binds
without SO_REUSEADDR. A worker can listen there all the same, since gRPC sets SO_REUSEADDR; a second listener cannot.
SO_REUSEPORT would do neither: any process of the same user could join the port, and would get a part of the calls.

A process learns its address by its stdin, once it has loaded everything. So one can be kept ready to replace another.
"""

import asyncio
import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

from pred_server.errors import InvalidInput, ServerStartError
from pred_server.limits import cores
from pred_server.ops.signals import held_hangups, on_hangup
from pred_server.wire.address import Address, parse_address

# A worker that died starts again at once. If it dies again soon, it pauses, each time for twice as long.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
# One that served for so long did not die of its start.
STEADY_S = 10.0
# How often to look whether a spare has died.
LOOK_S = 1.0

READY = re.compile(rb"^pred_server ready on \S+ \((.*)\)\n", re.MULTILINE)
COMPLAINT = "pred-server: "

logger = logging.getLogger(__name__)


def supervise(typed: Sequence[str], address: str, count: int, spares: int = 1, *, reuse_port: bool = False) -> int:
    """Run workers until SIGTERM or Ctrl-C, then have them finish what they accepted. A second signal ends them at once.

    Parameters
    ----------
    typed : the arguments of this command; each worker gets them, too
    address : HOST:PORT of the first worker; the others get the ports above it. With port 0 they get any free ports
    count : how many workers
    spares : how many more processes have everything loaded, and take the place of one that dies
    reuse_port : whether all workers listen on one port

    Returns
    -------
    The exit code: 1 where a worker did not end as it was asked to, else 0.

    Raises
    ------
    ServerStartError
        The address is malformed or taken, or a worker did not start: then in the worker's own words.
    """
    if reuse_port:
        warn_of_sharing()
    with ExitStack() as stack:
        addresses = hold(_addresses(address, 1 if reuse_port else count), stack, reuse_port)
        # `-P`: the modules that a worker finds are those that this process finds, in the same order.
        reserve = Reserve([sys.executable, "-P", "-m", "pred_server", *typed, "--as-worker"], count, spares)
        workers = [Worker(reserve, addresses[place % len(addresses)], place) for place in range(count)]
        return asyncio.run(_supervise(workers, reserve, ",".join(map(str, addresses))))


def warn_of_sharing() -> None:
    """Say in the log what SO_REUSEPORT means."""
    logger.warning(
        "--reuse-port: the system deals out connections, not calls: of a few connections, some processes get none; and "
        "any process of this user may listen on the port, too"
    )


def _addresses(text: str, count: int) -> list[Address]:
    if text.startswith("unix:"):
        raise ServerStartError(f"workers have a port each, and {text} has none; write HOST:PORT")
    try:
        first = parse_address(text)
    except InvalidInput as error:
        raise ServerStartError(str(error)) from None
    if first.port == 0:
        return [first] * count
    if first.port + count > 65536:
        raise ServerStartError(f"{count} workers from {text} on need ports above 65535; use a lower port")
    return [first.with_port(first.port + place) for place in range(count)]


def hold(addresses: Sequence[Address], stack: ExitStack, reuse_port: bool = False) -> list[Address]:
    """Hold the ports of some addresses until `stack` closes, and return the addresses; port 0 becomes a free one.

    Raises
    ------
    ServerStartError
        Somebody listens on one of them, or it is not this machine's.
    """
    held = [_hold(address, stack) for address in addresses]
    if reuse_port:  # nobody listened there: from here on only who says SO_REUSEPORT, too, may
        stack.close()
        held = [_hold(address, stack, socket.SO_REUSEPORT) for address in held]
    if sys.platform != "linux":  # elsewhere no listener can bind beside such a socket
        stack.close()
    return held


def _hold(address: Address, stack: ExitStack, option: int = socket.SO_REUSEADDR) -> Address:
    """Bind a socket to each IP address of a host."""
    found = []
    with suppress(OSError):  # a name that is not known: a worker says that
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, kind, protocol, _, (host, _, *rest) in found:
        try:
            holder = stack.enter_context(socket.socket(family, kind, protocol))
            for one in {socket.SO_REUSEADDR, option}:
                holder.setsockopt(socket.SOL_SOCKET, one, 1)
            holder.bind((host, address.port, *rest))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ServerStartError(f"cannot listen on {address}: the port is taken") from error
            continue  # one of several may be out of use here, IPv6 say
        address = address.with_port(holder.getsockname()[1])
    if address.port == 0:
        raise ServerStartError(f"cannot listen on {address}: the address is not this machine's")
    return address


def _environment(count: int) -> Mapping[str, str]:
    """Return the environment of a worker: a share of the cores, and this process's modules."""
    modules = os.pathsep.join(path or str(os.getcwd()) for path in sys.path)  # noqa: PTH109 - "" means that
    return {"OMP_NUM_THREADS": str(max(1, cores() // count)), **os.environ, "PYTHONPATH": modules}


class Process:
    """One process. It loads the models, and serves them once it has an address.

    Attributes
    ----------
    ready : done when it serves, with what it serves
    ended : done when it has ended, with its exit code
    words : what it had printed before it was ready
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], threads: ThreadPoolExecutor):
        # A session of its own: Ctrl-C in a terminal is for the supervisor alone, which then asks its workers once.
        # stdin says to the worker that the supervisor lives: the system closes it for the dead.
        with held_hangups():  # it inherits that: it hears of a reload once it can, however early that is asked for
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=environment
            )
        self.pid = self._process.pid
        self.words = b""
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[str] = self._loop.create_future()
        # The end of its output would not do: a process that it started may have inherited that.
        self.ended = self._loop.run_in_executor(threads, self._process.wait)
        assert self._process.stdout
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), False)
        self._loop.add_reader(self._out, self._read)

    def _read(self) -> bool:
        """Take what it has printed: look for the ready line, and print what comes later. Returns whether it was any."""
        data = os.read(self._out.fileno(), 65536)
        if not data:
            self._loop.remove_reader(self._out)
        elif self.ready.done():
            _print(data)
        else:
            self.words += data
            if said := READY.search(self.words):
                self.ready.set_result(said[1].decode())
                _print(self.words[: said.start()] + self.words[said.end() :])
        return bool(data)

    def serve_at(self, address: Address, place: int) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has just died
            os.write(self._process.stdin.fileno(), f"{address} {place}\n".encode())

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        """Take its last words, once it has ended."""
        with suppress(BlockingIOError):
            while self._read():
                pass
        self._loop.remove_reader(self._out)
        self._out.close()
        assert self._process.stdin
        self._process.stdin.close()


class Reserve:
    """Starts processes, and keeps some that wait for an address: to start one takes seconds."""

    def __init__(self, command: Sequence[str], workers: int, spares: int):
        self._command, self._environment = command, _environment(workers)
        self._threads = ThreadPoolExecutor(workers + spares)
        self._spares = spares
        self._waiting: list[Process] = []

    def take(self) -> Process:
        """Return a process that waits, or a new one."""
        self._drop_dead()
        return self._waiting.pop() if self._waiting else self._start()

    def fill(self) -> None:
        """Start what is missing."""
        while len(self._waiting) < self._spares:
            self._waiting.append(self._start())

    async def keep(self) -> None:
        """Replace the spares that die, forever. One that dies of its start is replaced after a pause."""
        pause_s, filled_s = 0.0, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            if self._drop_dead():
                pause_s = next_pause(pause_s, time.monotonic() - filled_s)
                await asyncio.sleep(pause_s)
                self.fill()
                filled_s = time.monotonic()

    def _drop_dead(self) -> bool:
        """Drop the spares that have died, with a line in the log for each. Returns whether there were any."""
        dead = [process for process in self._waiting if process.ended.done()]
        for process in dead:
            self._waiting.remove(process)
            process.close()
            logger.error("a spare, process %d: %s", process.pid, _why(process, process.ended.result()))
        return bool(dead)

    def reload(self) -> None:
        """Ask the spares to read their models anew, as the workers are asked."""
        for process in self._waiting:
            process.signal(signal.SIGHUP)

    async def stop(self) -> None:
        """End those that wait."""
        while self._waiting:
            process = self._waiting.pop()
            process.signal(signal.SIGKILL)
            await process.ended
            process.close()

    def _start(self) -> Process:
        return Process(self._command, self._environment, self._threads)


class Worker:
    """One process after the other, all at one address."""

    def __init__(self, reserve: Reserve, address: Address, place: int):
        self.serves = ""
        self.serving = asyncio.Event()
        self._reserve, self._address, self._place = reserve, address, place
        self._process: Process | None = None
        self._stop = asyncio.Event()

    async def run(self) -> int:
        """Keep a process serving until `stop`. Returns the exit code of the last one; 0 where none was running.

        Raises
        ------
        ServerStartError
            The first one ended before it served. The error has the worker's own words.
        """
        pause_s = 0.0
        while not self._stop.is_set():
            self._process = process = self._reserve.take()
            process.serve_at(self._address, self._place)
            await _first(process.ready, process.ended)
            start_s = time.monotonic()
            if process.ready.done():
                self._is_ready(process)
            code = await process.ended
            process.close()
            if self._stop.is_set():
                return code
            why = _why(process, code)
            if not self.serving.is_set():
                raise ServerStartError(why)
            pause_s = next_pause(pause_s, time.monotonic() - start_s)
            logger.error(
                "the worker at %s, process %d: %s; it starts again in %g s", self._address, process.pid, why, pause_s
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
        return 0

    def _is_ready(self, process: Process) -> None:
        if self.serving.is_set():
            logger.warning("the worker at %s serves again, as process %d", self._address, process.pid)
            self._reserve.fill()
        self.serves = process.ready.result()
        self.serving.set()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask the process to end, and start no other."""
        self._stop.set()
        if self._process:
            self._process.signal(number)

    def reload(self) -> None:
        """Ask the process to read its models anew."""
        if self._process:
            self._process.signal(signal.SIGHUP)


def next_pause(pause_s: float, served_s: float) -> float:
    """Return how long to wait before a worker starts again, in seconds, given the pause before it and what it served.

    One that has served for a while starts at once.
    """
    if served_s >= STEADY_S:
        return 0.0
    return min(max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)


def _why(process: Process, code: int) -> str:
    """Return why a process ended, as part of a sentence: its own words where it had any."""
    words = process.words.decode(errors="replace").strip()
    if words and not process.ready.done():
        return words.removeprefix(COMPLAINT)
    how = f"was ended by signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"ended with code {code}"
    return how if process.ready.done() else f"a worker {how} before it was ready"


async def _first(*futures: "asyncio.Future[Any]") -> None:
    """Wait until one of these is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _supervise(workers: Sequence[Worker], reserve: Reserve, address: str) -> int:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for worker in workers:
            worker.stop()

    def reload() -> None:
        for worker in workers:
            worker.reload()
        reserve.reload()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    on_hangup(loop, stop, reload)

    async def all_serve() -> None:
        for worker in workers:
            await worker.serving.wait()

    runs = [asyncio.create_task(worker.run()) for worker in workers]
    serving = asyncio.create_task(all_serve())
    tasks = [serving]
    try:
        await _first(serving, *runs)
        if serving.done():
            print(f"pred_server ready on {address} ({workers[0].serves}, {len(workers)} workers)", flush=True)
            reserve.fill()
            tasks.append(asyncio.create_task(reserve.keep()))
        codes = await asyncio.gather(*runs)
        return int(not set(codes) <= {0, -signal.SIGTERM})  # the latter was still starting
    finally:
        for task in tasks:
            task.cancel()
        for worker in workers:
            worker.stop(signal.SIGKILL)
        await asyncio.gather(*runs, return_exceptions=True)
        await reserve.stop()


def _print(data: bytes) -> None:
    with suppress(OSError):  # nobody reads it any more
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
