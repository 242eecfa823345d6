"""From a caller's table to a request, and from the response to predictions: what goes along, and in which encoding."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa

from pred_server.client.results import Predictions, Probabilities, to_pandas
from pred_server.errors import InvalidInput, SchemaChanged, ServerFault, clip
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import UNLIMITED
from pred_server.wire.codec import CODECS, Codec
from pred_server.wire.description import EXPECT_SCHEMA, Description
from pred_server.wire.schema import Schema
from pred_server.wire.tables import (
    Table,
    in_chunks,
    is_carried,
    is_text,
    names_of,
    rows_in_chunk,
    to_frame,
    without_columns,
)
from pred_server.wire.tensor import TensorCodec
from pred_server.wire.timing import Stopwatch

# Up to so many rows a table of mixed types is cheaper as columns than as Arrow.
FEW_ROWS = 64

CsvText: TypeAlias = str


@dataclass(frozen=True)
class Known:
    """What a client goes by when it prepares a table.

    Parameters
    ----------
    description : what the server said of its model; None where it has not, or cannot
    array_names : what the columns of an array have meant from the first: no new model gives its numbers another meaning
    former : columns of the model before, which another server may still have
    expects : whether only a model with the schema of `description` may answer
    """

    description: Description | None = None
    array_names: tuple[str, ...] = ()
    former: frozenset[str] = frozenset()
    expects: bool = True

    @property
    def schema(self) -> Schema | None:
        return self.description.schema if self.description else None

    @property
    def schema_hash(self) -> str:
        return self.description.schema_hash if self.description and self.expects else ""

    @property
    def expectation(self) -> dict[str, str]:
        """Metadata of a call: no model with another schema may answer."""
        return {EXPECT_SCHEMA: self.schema_hash} if self.schema_hash else {}

    def after(self, description: Description) -> "Known":
        """Return what to go by once the model has been described again."""
        return Known(description, self.array_names or tuple(description.schema.names))

    def without_expectations(self, former: "Known") -> "Known":
        """Return what to go by where servers with two models may stand side by side: all columns of both, by name."""
        return replace(self, former=frozenset(former.schema.names if former.schema else ()), expects=False)

    def named(self, array: np.ndarray) -> np.ndarray | pd.DataFrame:
        """Return an array with the names of its columns, or as it is where the model has the same at each position.

        Raises
        ------
        SchemaChanged
            The model has been replaced by one with as many columns and other names: the positions may mean either.
        """
        meant = list(self.array_names)
        names = wanted = self.schema.names if self.schema else meant
        if meant != wanted and len(meant) == array.shape[1] and set(wanted) <= set(meant):
            names = meant
        elif meant != wanted and len(meant) == array.shape[1] == len(wanted):
            raise SchemaChanged(
                f"the model has been replaced: it took {clip(', '.join(meant), 200)}, and takes "
                f"{clip(', '.join(wanted), 200)}. An array does not say which of them it holds: name its columns (a "
                "DataFrame), or ask again if they are the new ones"
            )
        if len(names) != array.shape[1] or (self.schema_hash and names == wanted):
            return array
        return to_frame(array, names)


@dataclass(frozen=True)
class Prepared:
    """A table that is ready to be sent: without the columns that the model ignores, and with its codec."""

    table: Table | CsvText
    codec: Codec
    known: Known = Known()
    """What it was prepared by."""
    ignored: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """The columns' names, where the table was a DataFrame and is an array now."""
    index: pd.Index | None = None
    """Of the table as it was."""

    def in_chunks(self, table: Table, chunk_bytes: int) -> Iterator[tuple[Table, "Prepared"]]:
        """Cut the table that this was prepared from. Yield each piece, and the same piece ready to be sent."""
        assert not isinstance(self.table, str)
        n_rows = rows_in_chunk(self.table, chunk_bytes)
        for piece, ready in zip(in_chunks(table, n_rows), in_chunks(self.table, n_rows), strict=True):
            yield piece, replace(self, table=ready, index=piece.index if isinstance(piece, pd.DataFrame) else None)

    def message(self, watch: Stopwatch) -> bytes:
        """Return the request as it is sent. Raises InvalidInput where the encoding cannot carry the table."""
        if isinstance(self.codec, TensorCodec) and not isinstance(self.table, str):
            with watch("client encode"):
                return self.codec.message_of(self.table, self.names)
        request = self.write(watch)
        with watch("client encode"):
            return request.SerializeToString()

    def write(self, watch: Stopwatch) -> Request:
        """Return the request. Raises InvalidInput where the encoding cannot carry the table."""
        request, table, schema = Request(), self.table, self.known.schema
        with watch("client encode"):
            if isinstance(table, str):
                try:
                    request.input_data = table
                except UnicodeEncodeError as error:
                    raise InvalidInput(f"the text is not valid Unicode: {error.reason}") from error
                if self.codec.name == "csv" or schema is None:
                    return request
                rows, _ = CODECS["csv"].read_table(request, schema, UNLIMITED)
                table = rows.to_frame(schema.index)
            if isinstance(table, np.ndarray) and self.codec.name != "tensor":
                table = to_frame(table, schema.names if schema else [])
            self.codec.write_table(table, request := Request())
            if self.names:
                request.tensor.names.extend(self.names)
        return request

    def read(self, response: Response, dtype: str | None, output: str, watch: Stopwatch) -> Predictions | Probabilities:
        """Return the predictions, with the table's index. Raises ServerFault where there is not one for each row."""
        with watch("client decode"):
            result = self.codec.read_result(response, dtype)
            if not isinstance(self.table, str) and len(result) != len(self.table):
                raise ServerFault(f"{len(self.table)} rows were sent and {len(result)} predictions came back")
            return to_pandas(result, output, self.index)


def check_encoding(name: str) -> str:
    """Return the name of an encoding, or auto, as it is. Raises InvalidInput for any other."""
    if not isinstance(name, str) or name not in ("auto", *CODECS):
        raise InvalidInput(f"encoding {clip(str(name))!r}: use auto, {', '.join(CODECS)}")
    return name


def needs_description(table: Table | CsvText, encoding: str) -> bool:
    """Whether to prepare a table takes what the server says of its model."""
    if isinstance(table, str):
        return encoding not in ("auto", "csv")
    if isinstance(table, np.ndarray):
        return True  # its columns have no names
    return encoding == "auto" or not _is_carried(table, encoding)


def _is_carried(table: pd.DataFrame | pa.Table, encoding: str) -> bool:
    """Whether the encoding surely carries all columns. Those that it does not may be ones that the model ignores."""
    if isinstance(table, pa.Table):
        kinds = set(table.schema.types)
        return all(is_carried(kind) and not (encoding == "tensor" and is_text(kind)) for kind in kinds)
    return all(
        (isinstance(dtype, np.dtype) and dtype.kind in "biuf")
        or (isinstance(dtype, pd.StringDtype) and encoding != "tensor")
        for dtype in set(table.dtypes)
    )


def prepare(table: Table | CsvText, encoding: str, known: Known) -> Prepared:
    """Drop the columns that the model is known to ignore, then choose the encoding if it is auto.

    Raises
    ------
    SchemaChanged
        As `Known.named` does.
    """
    description, schema = known.description, known.schema
    if isinstance(table, str):
        codec = CODECS["csv" if encoding == "auto" or schema is None else encoding]
        return Prepared(table, codec, known)
    ignored: list[str] = []
    if isinstance(table, np.ndarray):
        table = known.named(table)
    names = [] if isinstance(table, np.ndarray) else names_of(table)
    if schema and names and names != schema.names:
        table, ignored = without_columns(table, {*schema.names, *known.former})
        names = names_of(table)
    index = table.index if isinstance(table, pd.DataFrame) else None
    if encoding == "auto":
        best = _best_encoding(table)
        encoding = best if description and best in description.encodings else "csv"
        if encoding == "tensor" and isinstance(table, pd.DataFrame):
            table = table.to_numpy()  # all columns have one type: it has an array inside
            return Prepared(table, CODECS[encoding], known, ignored, names, index)
    return Prepared(table, CODECS[encoding], known, ignored, index=index)


def _best_encoding(table: Table) -> str:
    if isinstance(table, np.ndarray):
        return "tensor"
    dtypes = set(map(str, set(table.dtypes if isinstance(table, pd.DataFrame) else table.schema.types)))
    if dtypes <= {"float64", "double"} or dtypes <= {"float32", "float"} or dtypes <= {"int64"}:
        return "tensor"
    return "columns" if len(table) <= FEW_ROWS else "arrow"
