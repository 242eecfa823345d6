"""From a caller's table to a request, and from the response to predictions: what goes along, and in which encoding."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pandas as pd

from pred_server.client.results import Predictions, Probabilities, to_pandas
from pred_server.errors import InvalidInput, ServerFault, clip
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import UNLIMITED
from pred_server.wire.codec import CODECS, Codec
from pred_server.wire.description import Description
from pred_server.wire.schema import Schema
from pred_server.wire.tables import Table, to_frame, without_columns
from pred_server.wire.timing import Stopwatch

# Up to so many rows a table of mixed types is cheaper as columns than as Arrow.
FEW_ROWS = 64

CsvText: TypeAlias = str


@dataclass(frozen=True)
class Prepared:
    """A table that is ready to be sent: without the columns that the model ignores, and with its codec."""

    table: Table | CsvText
    codec: Codec
    schema: Schema | None = None
    """What the server's model takes, for text that becomes another encoding and for arrays, which have no names."""
    ignored: list[str] = field(default_factory=list)

    def write(self, watch: Stopwatch) -> Request:
        """Return the request. Raises InvalidInput where the encoding cannot carry the table."""
        request, table = Request(), self.table
        with watch("client encode"):
            if isinstance(table, str):
                try:
                    request.input_data = table
                except UnicodeEncodeError as error:
                    raise InvalidInput(f"the text is not valid Unicode: {error.reason}") from error
                if self.codec.name == "csv" or self.schema is None:
                    return request
                rows, _ = CODECS["csv"].read_table(request, self.schema, UNLIMITED)
                table = rows.to_frame(self.schema.index)
            if isinstance(table, np.ndarray) and self.codec.name != "tensor":
                table = to_frame(table, self.schema.names if self.schema else [])
            self.codec.write_table(table, request := Request())
        return request

    def read(self, response: Response, dtype: str | None, output: str, watch: Stopwatch) -> Predictions | Probabilities:
        """Return the predictions, with the table's index. Raises ServerFault where there is not one for each row."""
        with watch("client decode"):
            result = self.codec.read_result(response, dtype)
            if not isinstance(self.table, str) and len(result) != len(self.table):
                raise ServerFault(f"{len(self.table)} rows were sent and {len(result)} predictions came back")
            index = self.table.index if isinstance(self.table, pd.DataFrame) else None
            return to_pandas(result, output, index)


def check_encoding(name: str) -> str:
    """Return the name of an encoding, or auto, as it is. Raises InvalidInput for any other."""
    if name not in ("auto", *CODECS):
        raise InvalidInput(f"encoding {clip(name)!r}: use auto, {', '.join(CODECS)}")
    return name


def needs_description(table: Table | CsvText, encoding: str) -> bool:
    """Whether to prepare a table takes what the server says of its model."""
    if isinstance(table, str):
        return encoding not in ("auto", "csv")
    return encoding == "auto" or (encoding != "tensor" and isinstance(table, np.ndarray))


def prepare(table: Table | CsvText, encoding: str, description: Description | None) -> Prepared:
    """Drop the columns that the model is known to ignore, then choose the encoding if it is auto.

    `description` is None for a server that does not describe its models.
    """
    schema = description.schema if description else None
    if isinstance(table, str):
        return Prepared(table, CODECS["csv" if encoding == "auto" or schema is None else encoding], schema)
    ignored: list[str] = []
    if schema and not isinstance(table, np.ndarray):
        table, ignored = without_columns(table, set(schema.names))
    if encoding == "auto":
        best = _best_encoding(table)
        encoding = best if description and best in description.encodings else "csv"
    return Prepared(table, CODECS[encoding], schema, ignored)


def _best_encoding(table: Table) -> str:
    if isinstance(table, np.ndarray):
        return "tensor"
    dtypes = set(map(str, set(table.dtypes if isinstance(table, pd.DataFrame) else table.schema.types)))
    if dtypes <= {"float64", "double"} or dtypes <= {"float32", "float"} or dtypes <= {"int64"}:
        return "tensor"
    return "columns" if len(table) <= FEW_ROWS else "arrow"
