"""What a client remembers of a server's model. Only what an array's columns mean outlives the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pred_server.client.prepare import CsvText, Known, Prepared, prepare
from pred_server.errors import InvalidInput, RemoteError, SchemaChanged, Unavailable
from pred_server.wire.description import Description
from pred_server.wire.tables import Table


class Memory:
    """Threads may share it: what is known is replaced as a whole.

    Parameters
    ----------
    ask : sends Describe, with a deadline in seconds
    """

    def __init__(self, ask: Callable[[float], Description]):
        self.known = Known()
        self._ask = ask
        self._can_describe = True

    def learn(self, timeout_s: float) -> Description:
        """Ask what the model is, and take an array's columns for those that it has now."""
        description = self._ask(timeout_s)
        self.known = Known().after(description)
        return description

    def recall(self, timeout_s: float) -> Known:
        """Return what is known. The server is asked once; a server that cannot say is remembered for that."""
        if self.known.description is None and self._can_describe:
            try:
                self.known = self.known.after(self._ask(timeout_s))
            except RemoteError as error:
                if error.code != "UNIMPLEMENTED":
                    raise
                self._can_describe = False
        return self.known

    def ask_again(self, before: Known, timeout_s: float) -> Known:
        """Return what to go by in the second attempt of a call that was refused, for it went by another schema."""
        self.known = before.after(self._ask(timeout_s))
        return self.known.without_expectations(before)

    def prepare(self, table: Table | CsvText, encoding: str, known: Known) -> Prepared:
        """Return a table as it will be sent.

        Raises
        ------
        SchemaChanged
            An array may mean either of two things. The caller knows now: from here on it means the new columns.
        """
        try:
            return prepare(table, encoding, known)
        except SchemaChanged:
            assert known.description is not None
            self.known = Known().after(known.description)
            raise

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Forget the model where a call fails as it may fail if there is another server, or another model, by now."""
        try:
            yield
        except (InvalidInput, RemoteError, Unavailable):
            self.known = Known(None, self.known.array_names)
            self._can_describe = True
            raise
