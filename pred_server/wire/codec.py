"""The encodings that there are, and the interface that each has.

To add a fifth: write one file beside this one, give `Request` and `Response` a field for it (a message, or `optional`,
so that its presence shows), and add it to `CODECS`.
"""

from typing import Protocol

from pred_server.errors import InvalidInput, Violation
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import Limits
from pred_server.wire.arrow import ArrowCodec
from pred_server.wire.columns import ColumnsCodec
from pred_server.wire.csv import CsvCodec
from pred_server.wire.result import Result
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema
from pred_server.wire.tables import Table
from pred_server.wire.tensor import TensorCodec


class Codec(Protocol):
    """How one encoding writes and reads tables and predictions."""

    name: str
    field: str
    """The field of `Request` that holds the table."""
    quick_values: int
    """A result of up to so many numbers is written within half a millisecond."""

    def write_table(self, table: Table, request: Request) -> None:
        """Put a table into a request. Raises InvalidInput where the encoding cannot carry it."""

    def read_table(self, request: Request, schema: Schema, limits: Limits) -> tuple[Rows, list[str]]:
        """Return the rows of a request, and the names of the columns that the model ignores.

        Raises InvalidInput where the table is malformed or does not fit, LimitExceeded where it is too large.
        """

    def write_result(self, result: Result, response: Response) -> None:
        """Put predictions into a response."""

    def read_result(self, response: Response, dtype: str | None) -> Result:
        """Return the predictions of a response.

        `dtype` is what the server said that they are; CSV, without it, takes them for what they look like. Raises
        ServerFault if they cannot be read.
        """


CODECS: dict[str, Codec] = {codec.name: codec for codec in (CsvCodec(), ColumnsCodec(), TensorCodec(), ArrowCodec())}

_WITH_PRESENCE = [codec for codec in CODECS.values() if Request.DESCRIPTOR.fields_by_name[codec.field].has_presence]


def codec_of(request: Request) -> Codec:
    """Return the codec of the encoding that a request is in. Raises InvalidInput where it holds several tables."""
    there = [codec for codec in _WITH_PRESENCE if request.HasField(codec.field)]
    if not there:  # do not look at the text: protobuf would decode all of it
        return CODECS["csv"]
    if request.input_data:
        there.append(CODECS["csv"])
    if len(there) > 1:
        raise InvalidInput.at(
            [Violation(codec.field, "stands beside another table; send exactly one") for codec in there]
        )
    return there[0]
