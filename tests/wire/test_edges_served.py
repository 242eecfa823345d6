"""Tables with edges: every encoding, the stream and the command line answer the same, or refuse alike."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from pred_server import Model, cli, save, serve
from pred_server.errors import InvalidInput, PredServerError, Unavailable
from pred_server.generated.pred_pb2 import Request
from pred_server.limits import UNLIMITED
from pred_server.tutorial.background import Server
from pred_server.wire.codec import CODECS
from pred_server.wire.schema import Column, Schema

# Names that a reader of CSV may take for something else.
BOM, QUOTED, LINES, BLANKS, NON_ASCII = "\ufefffirst", 'say "a", twice', "two\r\nlines", " around ", "größe ☃"
WORDS = ["", " ", "a", "nan", "1", "true", 'q"uote', "a,b", "line\nend", "line\r\nend", "ü☃", "\ufeffmark", "NA"]
NUMBERS = [0.0, -0.0, 1.5, -2.25, 0.1, 1e-308, 123456789.125, 1e22]
# What a tensor, and CSV with one column, have no form for.
CANNOT_CARRY = ("use columns or arrow", "use columns")
EXAMPLES = int(os.environ.get("PRED_SERVER_FUZZ", "60"))
Way = Callable[[pd.DataFrame], Any]


def fit(kinds: dict[str, str]) -> tuple[Any, pd.DataFrame]:
    """Return a linear model, of which any value of the table changes the prediction, and some rows."""
    random = np.random.default_rng(0)
    numbers = [name for name, kind in kinds.items() if kind.startswith(("float", "int", "bool"))]
    columns: dict[str, Any] = {}
    steps: list[Any] = [(SimpleImputer(add_indicator=True), numbers)] if numbers else []
    for name, kind in kinds.items():
        if kind == "text":
            columns[name] = pd.Series(random.choice(WORDS, 60), dtype="str")
            steps.append((HashingVectorizer(analyzer="char", n_features=32, norm=None), name))
        elif kind == "text with gaps":
            columns[name] = pd.Series([*WORDS, None] * 5, dtype="str").head(60)
            steps.append((OneHotEncoder(handle_unknown="ignore"), [name]))
        else:
            drawn = pd.Series(random.normal(size=60) * 5)
            gaps = kind.endswith(" with gaps")
            kind = kind.removesuffix(" with gaps")
            columns[name] = (drawn > 0 if kind == "bool" else drawn.round() if "int" in kind else drawn).astype(kind)
            columns[name] = columns[name].mask(random.random(60) < 0.2) if gaps else columns[name]
    table = pd.DataFrame(columns)
    estimator = make_pipeline(make_column_transformer(*steps, sparse_threshold=0), LinearRegression())
    return estimator.fit(table, random.normal(size=60)), table


MODELS: dict[str, dict[str, str]] = {
    "mixed": {
        BOM: "float64 with gaps", QUOTED: "int64", LINES: "text with gaps", BLANKS: "float32", NON_ASCII: "bool",
        "s": "text",
    },
    "numbers": {BOM: "float64", BLANKS: "float64", QUOTED: "float64"},
    "one": {LINES: "float64 with gaps"},
    "integers": {BLANKS: "int16", BOM: "int16"},
    "word": {BOM: "text"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edges")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Model]:
    return {name: save(*fit(kinds), folder / name) for name, kinds in MODELS.items()}


@pytest.fixture(scope="module")
def server(models: dict[str, Model], folder: Path) -> Iterator[Server]:
    first, *others = [str(folder / name) for name in models]
    with serve(first, *[word for other in others for word in ("--model", other)]) as running:
        yield running


DTYPES_OF_NUMBERS = (
    "float64",
    "float32",
    "Float64",
    "double[pyarrow]",
    "object",
    "category",
    "Int64",
    "int64",
    "int8",
    "str",
)
DTYPES_OF_TEXT = ("str", "object", "string", "string[pyarrow]", "category")


@st.composite
def tables(draw: st.DrawFn, kinds: dict[str, str]) -> pd.DataFrame:
    n_rows = draw(st.sampled_from([0, 1, 1, 2, 3, 5]))
    some = lambda values: draw(st.lists(st.sampled_from(values), min_size=n_rows, max_size=n_rows))  # noqa: E731
    columns: list[tuple[str, pd.Series]] = []
    for name, kind in kinds.items():
        if "text" in kind:
            values = some([*WORDS, "never seen"] + ([None] * 3 if "gaps" in kind else []))
            dtypes = DTYPES_OF_TEXT
        elif kind == "bool":
            values, dtypes = some([False, True]), ("bool", "boolean", "bool[pyarrow]", "object", "category")
        else:
            values = some([1, 2, -3, 100] if "int" in kind else NUMBERS)
            values = (
                [None if gap else value for value, gap in zip(values, some([False] * 5 + [True]), strict=True)]
                if "gaps" in kind
                else values
            )
            dtypes = DTYPES_OF_NUMBERS
        columns.append((name, as_dtype(values, draw(st.sampled_from((dtypes[0], dtypes[0], *dtypes))))))
    # At most one fault: of several, one way to send a table may see another first.
    wanted = [draw(st.sampled_from(sorted(EDITS)))] if n_rows and draw(st.booleans()) else []
    # Of a table without any column of the model's the client sends all: one that cannot be sent is a fault, too.
    others = CARRIED if wanted and len(columns) == 1 else sorted(IGNORED)
    for edit in wanted + draw(st.lists(st.sampled_from(others), max_size=2, unique=True)):
        columns = (EDITS | IGNORED)[edit](columns, draw(st.integers(0, len(columns) - 1)), n_rows)
    order = draw(st.permutations(range(len(columns))))
    table = pd.concat([columns[at][1] for at in order], axis=1)
    return table.set_axis([columns[at][0] for at in order], axis=1)


def as_dtype(values: list[Any], dtype: str) -> pd.Series:
    """Return the values in that dtype, or as they are where it cannot hold them."""
    try:
        with warnings.catch_warnings(action="error"):  # of a cast that makes another number
            return pd.Series(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError, Warning, pa.ArrowException):
        return pd.Series(values)


Columns = list[tuple[str, pd.Series]]


def renamed(change: Callable[[str], str]) -> Callable[[Columns, int, int], Columns]:
    def edit(columns: Columns, place: int, n_rows: int) -> Columns:
        return [(change(name) if at == place else name, values) for at, (name, values) in enumerate(columns)]

    return edit


def replaced(value: Any, dtype: Any = None, all_rows: bool = False) -> Callable[[Columns, int, int], Columns]:
    """The last value, or all of a column, becomes this one."""

    def edit(columns: Columns, place: int, n_rows: int) -> Columns:
        name, values = columns[place]
        changed = [value] * n_rows if all_rows else [*values.astype(object).tolist()[:-1], value][:n_rows]
        return [*columns[:place], (name, as_dtype(changed, dtype)), *columns[place + 1 :]]

    return edit


def added(name: str, value: Any, dtype: Any = None) -> Callable[[Columns, int, int], Columns]:
    return lambda columns, _, n_rows: [*columns, (name, pd.Series([value] * n_rows, dtype=dtype))]


EDITS: dict[str, Callable[[Columns, int, int], Columns]] = {
    "left out": lambda columns, place, _: (columns[:place] + columns[place + 1 :]) or [("other", columns[0][1])],
    "twice": lambda columns, place, _: [*columns, columns[place]],
    "blank in front": renamed(lambda name: f" {name}"),
    "mark in front": renamed(lambda name: f"\ufeff{name}"),
    "other case": renamed(str.upper),
    "ignored, twice": lambda columns, _, n: [*columns, *[("extra", pd.Series([1.0] * n)) for _ in range(2)]],
    "infinity": replaced(float("inf")),
    "missing": replaced(None),
    "all missing": replaced(None, all_rows=True),
    "text": replaced("some text"),
    "text of a number": replaced("1"),
    "boolean": replaced(True),
    "all booleans": replaced(True, "bool", all_rows=True),
    "all integers": replaced(7, "int32", all_rows=True),
    "unsigned": replaced(200, "uint8", all_rows=True),
    "large": replaced(2**40, "int64", all_rows=True),
    "fraction": replaced(0.5),
    "bytes": replaced(b"raw", all_rows=True),
    "decimals": replaced(Decimal("1.5"), all_rows=True),
    "decimals of Arrow": replaced(Decimal("1.5"), pd.ArrowDtype(pa.decimal128(9, 2)), all_rows=True),
    "times": replaced(pd.Timestamp("2026-01-01"), all_rows=True),
    "empty text": replaced(""),
    "float16": replaced(0.5, "float16", all_rows=True),
    "halves of Arrow": replaced(0.5, pd.ArrowDtype(pa.float16()), all_rows=True),
    "large strings": replaced("a", pd.ArrowDtype(pa.large_string()), all_rows=True),
    "null of Arrow": replaced(None, pd.ArrowDtype(pa.null()), all_rows=True),
}


CARRIED = ["ignored number", "ignored text", "ignored, without a name"]


def is_typed(table: pd.DataFrame, kinds: dict[str, str]) -> bool:
    """Whether no text stands where a number is needed, nor the other way round: CSV, without types, takes both."""
    for name, values in table.items():
        if name in kinds:
            held = {isinstance(value, str) for value in values.astype(object)[values.notna()]}
            held |= {False} if pd.api.types.is_numeric_dtype(values.dtype) else set()
            if not held <= {"text" in kinds[name]}:
                return False
    return True


# Columns that no model knows: whatever they hold, they are no fault.
IGNORED: dict[str, Callable[[Columns, int, int], Columns]] = {
    "ignored number": added("extra", 1.0),
    "ignored text": added(" extra, too", 'a "b"\n', "str"),
    "ignored bytes": added("raw", b"\x00\xff"),
    "ignored decimals": added("price", Decimal("1.50")),
    "ignored times": added("when", pd.Timestamp("2026-01-01")),
    "ignored lists": added("list", [1, 2]),
    "ignored, without a name": added("", 3),
}


def outcome(way: Way, table: pd.DataFrame) -> tuple[Any, ...]:
    """Return what came back, as bytes; or the status, the reason, the fields and the sentence of a refusal."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of ignored columns
            return ("OK", "", frozenset(), np.asarray(way(table), float).tobytes())
    except PredServerError as error:
        fields = frozenset(violation.field for violation in getattr(error, "violations", ()))
        return (error.code, getattr(error, "reason", ""), fields, str(error))


def agree(outcome: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Whether both are one answer, to the bit; or refusals of one status and reason that point at the same columns.

    A way to send a table may stop at the first column at fault, where another names all.
    """
    *status, fields, answer = outcome
    *expected_status, expected_fields, expected_answer = expected
    if status != expected_status:
        return False
    if outcome[0] == "OK":
        return bool(answer == expected_answer)
    return fields <= expected_fields and bool(fields) == bool(expected_fields)


class NotWritten(Exception):
    """The table has no such form."""


def arrow_of(table: pd.DataFrame) -> pa.Table:
    if any(pd.api.types.infer_dtype(values).startswith("mixed") for _, values in table.select_dtypes(object).items()):
        raise NotWritten  # Arrow would take True for 1.0
    try:
        columns = [pa.Array.from_pandas(values) for _, values in table.items()]
        return pa.Table.from_arrays(columns, names=list(table.columns))
    except (pa.ArrowException, ValueError) as error:
        raise NotWritten from error


def csv_of(table: pd.DataFrame) -> str:
    request = Request()
    try:
        CODECS["csv"].write_table(table, request)
    except InvalidInput as error:
        raise NotWritten from error
    return request.input_data


@pytest.fixture(scope="module")
def all_ways(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Way]]:
    """For each model, the ways to send it a table."""
    return {model: ways(model, server, tmp_path_factory.mktemp("files")) for model in MODELS}


def ways(model: str, server: Server, folder: Path) -> dict[str, Way]:
    found: dict[str, Way] = {}
    for encoding in ("auto", *CODECS):
        for stream in (False, True):
            client = server.client(model=model)
            found[f"{encoding}, {'stream' if stream else 'unary'}"] = lambda table, c=client, e=encoding, s=stream: (
                c.predict(table, encoding=e, stream=s)
            )
    described = server.client(model=model)
    described.describe()
    found["columns, described"] = lambda table: described.predict(table, encoding="columns")
    found["Arrow table"] = lambda table: described.predict(arrow_of(table))

    def of_file(path: Path) -> pd.Series:
        # As often as a busy machine needs: the command does not try again by itself.
        args = cli._parser().parse_args(["predict", str(path), "--address", server.address, "--model", model])
        with redirect_stdout(io.StringIO()) as printed:
            for left in reversed(range(5)):
                try:
                    args.run(args)
                    break
                except Unavailable:
                    if not left:
                        raise
        return pd.read_csv(io.StringIO(printed.getvalue()), float_precision="round_trip").iloc[:, 0]

    def of_csv_file(table: pd.DataFrame) -> Any:
        (folder / "table.csv").write_bytes(csv_of(table).encode())
        return of_file(folder / "table.csv")

    def of_csv_text(table: pd.DataFrame) -> Any:
        return described.predict(csv_of(table))

    def of_parquet_file(table: pd.DataFrame) -> Any:
        pq.write_table(arrow_of(table), folder / "table.parquet")
        return of_file(folder / "table.parquet")

    return found | {"CSV text": of_csv_text, "CSV file": of_csv_file, "Parquet file": of_parquet_file}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False)
@given(data=st.data())
def test_all_ways_to_send_a_table_answer_the_same_or_refuse_alike(
    data: st.DataObject, models: dict[str, Model], all_ways: dict[str, dict[str, Way]]
) -> None:
    name = data.draw(st.sampled_from(sorted(MODELS)))
    table = data.draw(tables(MODELS[name]))
    expected = outcome(models[name].predict, table)
    for way, send in all_ways[name].items():
        if way.lower().startswith("csv") and not (table.columns.is_unique and is_typed(table, MODELS[name])):
            continue
        try:
            found = outcome(send, table)
        except NotWritten:
            continue
        if found[0] == "INVALID_ARGUMENT" and any(found[3].endswith(cannot) for cannot in CANNOT_CARRY):
            continue
        assert agree(found, expected), (way, found, expected)


@pytest.mark.parametrize("encoding", ["in process", *CODECS])
@pytest.mark.parametrize(
    ("there", "words"),
    [
        (" x", "x: the column is missing (' x' is there, with a blank in front)"),
        ("x ", "x: the column is missing ('x ' is there, with a blank behind)"),
        ("\tx  ", "x: the column is missing ('\\tx  ' is there, with blanks around it)"),
        ("\ufeffx", "x: the column is missing ('\\ufeffx' is there, with a byte-order mark in front)"),
        ("X", "x: the column is missing (the table has 'y', 'X')"),
    ],
)
def test_a_name_with_blanks_around_it_is_named_so(encoding: str, there: str, words: str) -> None:
    schema = Schema((Column("x", "float64"), Column("y", "float64")), Column("t", "float64"))
    table = pd.DataFrame({"y": [1.0], there: [2.0]})
    with pytest.raises(InvalidInput) as caught:
        if encoding == "in process":
            schema.frame_to_rows(table)
        CODECS[encoding].write_table(table, request := Request())
        CODECS[encoding].read_table(request, schema, UNLIMITED)
    assert str(caught.value) == words
    assert [violation.field for violation in caught.value.violations] == ["x"]


def test_a_name_of_the_model_has_blanks_and_the_tables_has_none() -> None:
    schema = Schema((Column(" x ", "float64"),), Column("t", "float64"))
    with pytest.raises(InvalidInput, match=r"\('x' is there, without blanks around it\)"):
        schema.frame_to_rows(pd.DataFrame({"x": [1.0]}))
