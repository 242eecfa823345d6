"""What a process hears from outside, beside SIGTERM: that its terminal hangs up; and of its supervisor, by stdin."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache


def hold_hangups() -> None:
    """Have SIGHUP wait for `on_hangup`: by itself it ends the process, and models take seconds to load."""
    _had_terminal()  # it is asked now, since the terminal may be gone by then
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


@contextmanager
def held_hangups() -> Iterator[None]:
    """Have SIGHUP wait meanwhile; a process that is started then has it wait, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def on_hangup(loop: asyncio.AbstractEventLoop, stop: Callable[[], None], reload: Callable[[], None]) -> None:
    """At SIGHUP reload; but stop where the terminal is gone that this process was started from, which sends it, too."""
    had_terminal = _had_terminal()

    def hear() -> None:
        if had_terminal and not _has_terminal():
            stop()
        else:
            reload()

    loop.add_signal_handler(signal.SIGHUP, hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


@cache
def _had_terminal() -> bool:
    """Whether this process began with a terminal whose end ends it. `nohup` has SIGHUP ignored, to outlive it."""
    return _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


async def address_from_supervisor() -> tuple[str, int]:
    """In a worker: return where to serve, once the supervisor says it: an address, and the place among the workers.

    The address is empty if the supervisor has died.
    """
    loop = asyncio.get_running_loop()
    said: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        loop.remove_reader(0)
        said.set_result(os.read(0, 4096).decode().strip())

    loop.add_reader(0, read)
    address, _, place = (await said).partition(" ")
    return address, int(place or 0)


def follow_supervisor(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """In a worker: stop once the supervisor has died."""

    def read() -> None:
        if not os.read(0, 1):
            loop.remove_reader(0)
            stop()

    loop.add_reader(0, read)
