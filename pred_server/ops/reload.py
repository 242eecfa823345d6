"""A model that is replaced while it is served: at SIGHUP, and with `--reload` whenever its directory has changed.

The new version is read in a thread, beside the old one, as at the start: with the same checks, engine and threads. Then
it predicts its sample once, so that its first call finds it warm. The switch itself is one assignment on the event
loop, between two calls. A call or a stream that has begun ends with the model that it began with.

What is refused changes nothing: the old version serves on, and the log says why. A model keeps its name. Its version
and its columns may change: a client that goes by the old ones says so (`expect-schema`), and describes the model anew.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pred_server.errors import ModelFileError, PredServerError
from pred_server.model.model import Model

# How often to look at the directories. One must look the same twice before it is read: who copies files into it by hand
# is not done with the first.
POLL_S = 0.5
# To read a model takes so many times the size of its files: their bytes, what is unpacked of them, the model.
READ_TIMES = 3

logger = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int, int], ...]


class Source:
    """Where a model comes from.

    Parameters
    ----------
    read : loads the model, with its engine and threads
    directory : of its files; None for a built-in model, which never changes
    """

    def __init__(self, read: Callable[[], Model], directory: Path | None = None):
        self._read = read
        self._directory = directory
        self._read_at: Stamp = ()
        self._before: Stamp = ()
        self.is_refused = False

    def load(self) -> Model:
        """Load the model. Raises as `store.loading.load` does."""
        self._read_at = self._stamp()  # before: what changes meanwhile is read again
        return self._read()

    def n_bytes(self) -> int:
        """Return the size of the files."""
        return sum(size for _, _, size, _ in self._stamp())

    def has_changed(self) -> bool:
        """Whether the files are others than those that were read last."""
        return self._stamp() != self._read_at

    def has_settled(self) -> bool:
        """Whether the files are others than those that were read last, and the same as at the last look."""
        before, self._before = self._before, self._stamp()
        return self._read_at != self._before == before

    def _stamp(self) -> Stamp:
        """Return what tells the files from those before; empty while there are none."""
        with suppress(OSError):
            if self._directory:
                files = [(entry.name, entry.stat()) for entry in os.scandir(self._directory)]
                return tuple(sorted((name, at.st_mtime_ns, at.st_size, at.st_ino) for name, at in files))
        return ()


@dataclass(frozen=True)
class Outcome:
    """What came of reading a model anew: for the log, and for whoever counts."""

    name: str
    before: str
    """The identity of the model that was served."""
    now: str
    """The identity of the model that is served."""
    seconds: float
    refused: str = ""
    """Why the new version was refused; empty where it was not."""


class Reloader:
    """Reads models anew, one at a time, and puts them in the place of the old ones.

    Parameters
    ----------
    models : those that are served, in their order; a new one is put in the place of the old one
    sources : where each comes from
    heard : called on the event loop with what came of each attempt, after the switch
    expect : called there with how many bytes more, or fewer, models take from then on, about
    """

    def __init__(
        self,
        models: list[Model],
        sources: Sequence[Source],
        heard: Callable[[Outcome], None] = lambda _: None,
        expect: Callable[[int], None] = lambda _: None,
    ):
        self._models = models
        self._sources = sources
        self._n_bytes = [source.n_bytes() for source in sources]
        self._heard = heard
        self._expect = expect
        self._asked = asyncio.Event()
        self._looking = asyncio.Lock()

    def ask(self) -> None:
        """Have all models looked at, and those read anew that have changed or were refused."""
        self._asked.set()

    async def run(self, poll: bool) -> None:
        """Reload when asked, and with `poll` also whenever files have changed; forever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S if poll else None):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            if not await self.look(asked) and asked:
                logger.info("no model has changed")

    async def look(self, now: bool = True) -> bool:
        """Read those models anew that have changed, or else those whose files have settled; return whether any has."""
        async with self._looking:
            due = [
                place
                for place, source in enumerate(self._sources)
                if (source.has_changed() or source.is_refused if now else source.has_settled())
            ]
            for place in due:
                await self._reload(place)
            return bool(due)

    async def _reload(self, place: int) -> None:
        old, source, start_s = self._models[place], self._sources[place], time.monotonic()
        refused, n_bytes = "", source.n_bytes()
        self._expect(READ_TIMES * n_bytes)
        try:
            new = await _in_thread(lambda: self._load(place))
        except Exception as error:  # of any type: a model's own code may run here, if its types are trusted
            new, refused = old, str(error) or type(error).__name__
            logger.error(
                "model %s stays as it is, %s; the new one is refused: %s", old.name, old.identity, refused,
                exc_info=None if isinstance(error, PredServerError) else error,
            )  # fmt: skip
        self._expect(-READ_TIMES * n_bytes)
        source.is_refused = bool(refused)
        outcome = Outcome(old.name, old.identity, new.identity, time.monotonic() - start_s, refused)
        if outcome.now != outcome.before:
            self._models[place] = new
            self._expect(n_bytes - self._n_bytes[place])
            self._n_bytes[place] = n_bytes
            logger.info(
                "model %s: %s is replaced by %s, which took %.2f s to read",
                outcome.name, outcome.before, outcome.now, outcome.seconds,
            )  # fmt: skip
        self._heard(outcome)

    def _load(self, place: int) -> Model:
        """Return the new version, warm. Raises where it cannot take the old one's place."""
        new = self._sources[place].load()
        if new.name != self._models[place].name:
            raise ModelFileError(f"it is called {new.name!r}, and a model keeps its name; start a server for it")
        others = [model for other, model in enumerate(self._models) if other != place]
        if (new.name, new.version) in {(model.name, model.version) for model in others}:
            raise ModelFileError(f"another model that is served here is {new.name} v{new.version}, too")
        if new.sample is not None:
            new.predict(new.sample)
            if new.classes:
                new.predict(new.sample, "probabilities")
        return new


async def _in_thread(work: Callable[[], Model]) -> Model:
    """Do it in a thread of its own, which a server that stops does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Model] = loop.create_future()

    def settle(model: Model | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if model:
            done.set_result(model)
        elif error:
            done.set_exception(error)

    def run() -> None:
        model, failed = None, None
        try:
            model = work()
        except Exception as error:
            failed = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, model, failed)

    threading.Thread(target=run, name="reload", daemon=True).start()
    return await done
