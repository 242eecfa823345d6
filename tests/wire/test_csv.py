import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pred_server.errors import InvalidInput, LimitExceeded, PredServerError
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import Limits
from pred_server.wire import csv as csv_text
from pred_server.wire import csv_faults
from pred_server.wire.codec import CODECS
from pred_server.wire.result import Result
from pred_server.wire.schema import DTYPES, Column, Schema

CSV = CODECS["csv"]
XY = Schema((Column("x", "float64", nullable=True), Column("n", "int64"), Column("s", "str")), Column("t", "float64"))


def read(text: str, schema: Schema = XY, max_rows: int = 1_000) -> pd.DataFrame:
    return CSV.read_table(Request(input_data=text), schema, Limits(max_rows=max_rows))[0].to_frame(schema.index)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "input_data: is empty"),
        (" \n\n  \n", "input_data: is empty"),
        ("x,n,s\n", "has no rows"),
        ("x,n,s", "has no rows"),
        ("x,s\n1,a\n", "n: the column is missing (the table has 'x', 's')"),
        ("x;n;s\n1;2;a\n", "x: the column is missing (the table has 'x;n;s')"),
        ("x,n,s,x\n1,2,a,4\n", "x: the column stands more than once"),
        ("x,n,s\n1,2,a\nabc,2,a\n", "x: line 3: 'abc' is not a number"),
        ("x,n,s\n1,2.5,a\n", "n: line 2: '2.5' is not a whole number"),
        ("x,n,s\n1,1e3,a\n", "n: line 2: '1e3' is not a whole number"),
        ("x,n,s\n1,9223372036854775808,a\n", "n: line 2: '9223372036854775808' does not fit int64"),
        ("x,n,s\n1,,a\n", "n: line 2: no value, and the model needs one"),
        ("x,n,s\n1,2,a\n3,4\n", "s: line 3 ends before this column"),
        ("x,n,s\n1,2,a\n\n3,4,b,c\n", "s: line 4 has 4 fields, and the header 3"),
        ('x,n,s\n1,2,"a\nb"\n1,2,"c\n', "s: line 4: a quote stands inside a field, or is not closed"),
        ('x,n,s\n1,2,"a"b\n', "s: line 2: a quote stands inside"),
        ('x,n,s\n1,2,5" pipe\n1,2,6" pipe\n', "s: line 2: a quote stands inside"),
        ('x,n,s\n1,2,"a\n1,2,"b"\n', "s: line 2: a quote stands inside"),
        ('"x,n,s\n1,2,a\n', "line 1: a quote stands inside"),
        ("x,n,s\n1,2,a\n1,2,b\0c\n", "s: line 3: there is a NUL character"),
        ("x,n,s\n1,5,2,a\n", "s: line 2 has 4 fields"),
        ('x,n,s\n"1,5",2,a\n', "x: line 2: '1,5' is not a number (write 1234.5: a point, no thousands separator"),
        ('x,n,s\n"1,234.5",2,a\n', "x: line 2: '1,234.5' is not a number"),
        ("x,n,s\n1_000,2,a\n", "x: line 2: '1_000' is not a number"),
        ("x,n,s\nNA,2,a\n", "x: line 2: 'NA' is not a number"),
        ("x,n,s\n1,0x10,a\n", "n: line 2: '0x10' is not a whole number"),
        ("x,n,s\n1,2,0x10\n1,0xFFFFFFFFFFFFFFFF,a\n", "n: line 3: '0xFFFFFFFFFFFFFFFF' is not a whole number"),
        ("x,n,s\n\u0661,2,a\n", "x: line 2: '\u0661' is not a number"),
        ("x,n,s\n++nan,2,a\n", "x: line 2: '++nan' is not a number"),
        ('x,n,s\r1,2,a\r"b"c,2,a\r', "x: line 3: a quote stands inside"),
        ('x,n,s\n1,"a\nb",q"x\n', "s: line 3: a quote stands inside"),
        ('\nx,n,s\n1,2,a"b\n', "s: line 3: a quote stands inside"),
        ("x,n,s\n1,2,a\n ,2,a\n", "x: line 3: ' ' is not a number"),
        ('x,n,s\n,2,a\n1,2,a\n"",2,a\n', "x: line 4: is empty but for its quotes"),
        ("x,n,s\n1,2,a\n1,2,\n", 's: line 3: no value, and the model needs one (an empty text is written "")'),
        ('x,n,s\n1,2,""\n\n1,2,\n', "s: line 4: no value, and the model needs one"),
        ('x,n,s\n1,2,""\nabc,2,""\n', "x: line 3: 'abc' is not a number"),
        ("x\tn\ts\n1\t2\ta\n", "and 2 more); the fields seem to be separated by tabs, and commas are needed"),
        ("x;n;s\n1;2;a\n", "and 2 more); the fields seem to be separated by semicolons, and commas are needed"),
        ("sep=;\nx;n;s\n1;2;a\n", "leave out the line sep=, and separate the fields by commas"),
        ('[{"x": 1, "n": 2, "s": "a"}]', "this looks like JSON, and CSV is needed"),
        ("<html><body>x,n,s</body></html>", "this looks like HTML or XML, and CSV is needed"),
    ],
)
def test_bad_csv_is_told_with_line_and_column(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    assert complaint in str(caught.value)


def test_booleans_are_read_and_explained_alike() -> None:
    schema = Schema((Column("b", "bool"),), Column("t", "float64"))
    assert read("b\ntrue\nTrue\nTRUE\n1\nfalse\nFalse\nFALSE\n0\n", schema)["b"].tolist() == [True] * 4 + [False] * 4
    for value in ("tRue", "true ", "yes", "2"):
        with pytest.raises(InvalidInput, match=f"b: line 2: '{value}' is not true or false"):
            read(f"b\n{value}\n", schema)


def test_the_column_at_fault_is_named_and_not_an_innocent_empty_one() -> None:
    schema = Schema((Column("x", "float64", nullable=True), Column("b", "bool"), Column("u", "uint8")), XY.target)
    for text, complaint in {
        "x,b,u\n,tRue,1\n": "b: line 2: 'tRue'",
        "x,b,u\n1,true,1\n\n\n3,true ,1\n,true,1\n": "b: line 5: 'true '",
        "x,b,u\n,true,-0\n": "u: line 2: '-0'",
        'x,b,u\n,true,1\n"",true,1\n': "x: line 3: is empty but for its quotes",
    }.items():
        with pytest.raises(InvalidInput, match=f"^{complaint}"):
            read(text, schema)


def test_a_header_beyond_any_sense_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitExceeded, match="more than 10,000 columns"):
        read("x,n,s" + "," * 20_000 + "\n1\n")


def test_a_float32_travels_as_the_number_that_it_is() -> None:
    request, sent = Request(), pd.DataFrame({"x": np.float32([0.1, np.nan]), "n": [1, 2], "s": "a"})
    CSV.write_table(sent, request)
    got = CSV.read_table(request, XY, Limits(max_rows=10))[0].columns["x"]
    assert got[0] == float(np.float32(0.1))
    assert math.isnan(got[1])


def test_no_more_than_ten_faults_are_listed_however_many_there_are() -> None:
    with pytest.raises(InvalidInput) as caught:
        read("x,n,s\n" + "a,b,c\n" * 900)
    assert len(caught.value.violations) == 10
    assert len(str(caught.value)) < 4096


def test_a_very_long_value_is_not_quoted_whole() -> None:
    with pytest.raises(InvalidInput, match=r"line 2: '9{40}…' is not a number") as caught:
        read("x,n,s\n" + "9" * 100_000 + "z,1,a\n")
    assert len(str(caught.value)) < 300
    with pytest.raises(InvalidInput, match="line 3: field larger than field limit"):
        read("x,n,s\n1,1,a\n" + "9" * 200_000 + "z,1,a\n")


@pytest.mark.parametrize(
    "text",
    [
        'x,n,s\n1.5,2,a\n,3,""\n',
        '\ufeffx,n,s\n1.5,2,a\n,3,""\n',
        'x,n,s\r\n1.5,2,a\r\n,3,""\r\n',
        'x,n,s\n1.5,2,a\n,3,""',
        '\nx,n,s\n\n1.5,2,a\n\n,3,""\n\n\n',
        's,other,n,x\na,?,2,1.5\n"",,3,nan\n',
        'x,"n",s\n"1.5","2","a"\nNaN,3,""\n',
        'x,n,s\n 1.5 , 2 ,a\n,3,""\n',
    ],
)
def test_harmless_differences_are_accepted(text: str) -> None:
    got = read(text)
    assert got["n"].tolist() == [2, 3]
    assert got["s"].tolist() == ["a", ""]
    assert got["x"].iloc[0] == 1.5
    assert math.isnan(got["x"].iloc[1])


def test_columns_that_the_model_does_not_know_are_named() -> None:
    assert CSV.read_table(Request(input_data="a,x,n,s,b\n1,1,1,1,1\n"), XY, Limits(max_rows=10))[1] == ["a", "b"]


def test_a_missing_string_and_an_empty_one_differ_where_the_model_takes_both() -> None:
    schema = Schema((Column("s", "str", nullable=True), Column("n", "int64")), Column("t", "float64"))
    got = read('s,n\n"",1\n,2\nNA,3\n', schema)["s"]
    assert got.iloc[0] == ""
    assert pd.isna(got.iloc[1])
    assert got.iloc[2] == "NA"


def test_a_line_longer_than_any_block_is_read() -> None:
    assert read(f"x,n,s\n1,2,{'y' * 3_000_000}\n1,2,b\n")["s"].str.len().tolist() == [3_000_000, 1]


def test_a_fault_far_down_is_found_on_its_line() -> None:
    good = '1,2,"a\nb"\n\n' * 10_000  # three lines a row, the last of them blank
    with pytest.raises(InvalidInput, match=r"^x: line 30002: 'z' is not a number"):
        read("x,n,s\n" + good + "z,2,a\n", max_rows=20_000)
    with pytest.raises(InvalidInput, match=r"^s: line 30003 ends before this column"):
        read("\nx,n,s\n" + good + "1,2\n", max_rows=20_000)


def test_the_row_limit_is_told_with_its_flag() -> None:
    assert len(read("x,n,s\n" + "1,2,a\n" * 5, max_rows=5)) == 5
    with pytest.raises(LimitExceeded, match=r"6 rows .--max-rows is 5"):
        read("x,n,s\n" + "1,2,a\n" * 6, max_rows=5)


def test_what_csv_cannot_carry_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput, match="no CSV form"):
        CSV.write_table(pd.DataFrame({"s": ["a", None]}), Request())
    with pytest.raises(InvalidInput, match="no CSV form"):  # of a text, perhaps
        CSV.write_table(pd.DataFrame({"s": [None, None]}), Request())
    with pytest.raises(InvalidInput, match="mixed: holds values"):
        CSV.write_table(pd.DataFrame({"mixed": [1, "a", [2]]}), Request())
    with pytest.raises(InvalidInput, match="two columns of one name"):
        CSV.write_table(pd.DataFrame([[1, 2]], columns=["a", "a"]), Request())


def test_a_categorical_column_travels_as_its_values() -> None:
    request = Request()
    CSV.write_table(pd.DataFrame({"s": pd.Categorical(["b", "a"])}), request)
    assert request.input_data == 's\n"b"\n"a"\n'


ODD = (
    "", '""', " ", "\t", "0", "-0", "+1", "007", "1.", ".5", " 1 ", "1 ", "\v1", "1e5", "1E-5", "1e", "e5", "--1",
    "0x10", "1_0", "1e999", "-1e999", "1e-999", "5e-324", "1.7976931348623159e308", "9007199254740993", "3.4028236e38",
    "inf", "-Infinity", "+inf", "nan", "NaN", "-nan", " nan ", "NA", "null", "true", "True", "tRue", "false", " true",
    "255", "256", "32768", "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551615",
    '"1"', '"1,5"', '"a\nb"', '"a""b"', '"a\r\nb"', 'a"b', "\u0661", "é", "1,2",
)  # fmt: skip
fields = st.one_of(
    st.sampled_from(ODD), st.floats().map(repr), st.integers(-(2**64), 2**64).map(str), st.integers(0, 9).map(str)
)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, Schema]:
    dtypes = draw(st.lists(st.tuples(st.sampled_from(DTYPES), st.booleans()), min_size=1, max_size=3))
    names = "abc"[: len(dtypes)]
    schema = Schema(tuple(Column(name, *kind) for name, kind in zip(names, dtypes, strict=True)), XY.target)
    header = draw(st.permutations([*names, *draw(st.sampled_from([[], ["other"]]))]))
    rows = draw(st.lists(st.lists(fields, min_size=len(header), max_size=len(header)), max_size=4))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(map(",".join, [header, *rows])) + draw(st.sampled_from(["", end, end * 2])), schema


def outcome(text: str, schema: Schema, few: int, block: int) -> Any:
    """What is read, to the last bit but for those of a NaN, or what is wrong; texts of `few` characters in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_text, "FEW_CHARACTERS", few)
        patch.setattr(csv_text, "BLOCK_BYTES", block)
        try:
            frame = read(text, schema, max_rows=3)
        except PredServerError as error:
            return type(error), str(error)
    return [(name, str(values.dtype), [repr(value) for value in values]) for name, values in frame.items()]


@given(texts())
def test_few_rows_many_and_those_in_blocks_are_read_alike(drawn: tuple[str, Schema]) -> None:
    text, schema = drawn
    expected = outcome(text, schema, few=0, block=1_000_000)
    assert outcome(text, schema, few=1_000_000, block=1_000_000) == expected
    assert outcome(text, schema, few=0, block=8) == expected


@given(st.text('a,"\r\n', max_size=40), st.integers(1, 9))
def test_quotes_are_checked_in_pieces_as_at_once(text: str, piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_faults, "PIECE_BYTES", piece_bytes)
        in_pieces = fault_in_quotes(text)
    assert in_pieces == fault_in_quotes(text)
    assert bool(in_pieces) == has_wrong_quote(text)


def fault_in_quotes(text: str) -> str:
    try:
        csv_faults.check_characters(text)
    except InvalidInput as error:
        return str(error)
    return ""


def has_wrong_quote(text: str) -> bool:
    """Check as `check_characters` does, a quote at a time."""
    places = [place for place, character in enumerate(text) if character == '"']
    padded = f"\n{text}\n"
    beside = [padded[place if number % 2 == 0 else place + 2] for number, place in enumerate(places)]
    return len(places) % 2 == 1 or any(character not in ',\r\n"' for character in beside)


def test_few_plain_rows_are_read_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "_read_csv", None)
    assert read('x,n,s\n1.5,2,"a"\n,3,b\n')["s"].tolist() == ["a", "b"]


@pytest.mark.parametrize("values", [[0.1, 12.0], [-0.0, math.inf], [1e-7, 1e15], [5e-324, 1e300], [math.nan, -1e16]])
def test_few_predictions_read_back_like_many(values: list[float]) -> None:
    for sent in (np.array(values), np.array([values, values]), np.array(values * 100)):
        response, names = Response(), ["a, b", "c"][: sent.ndim]
        CSV.write_result(Result(sent, names, "float64"), response)
        got = CSV.read_result(response, "float64")
        assert got.names == names
        assert got.values.ravel().tobytes() == sent.ravel().tobytes()


def test_a_long_table_is_written_and_read_by_several_threads_with_every_bit() -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, (70_000, 2), np.uint64).view(np.float64)
    sent = pd.DataFrame(np.where(np.isfinite(bits), bits, 0.1), columns=["x", "y"])
    schema, request = Schema((Column("x", "float64"), Column("y", "float64")), XY.target), Request()
    CSV.write_table(sent, request)
    assert len(request.input_data) > 2 * csv_text.BLOCK_BYTES
    rows, _ = CSV.read_table(request, schema, Limits(max_rows=len(sent)))
    got = rows.array
    assert isinstance(got, np.ndarray)
    assert got.flags.f_contiguous
    assert got.tobytes() == sent.to_numpy().tobytes()


def test_a_fault_in_a_long_text_is_found_on_its_line() -> None:
    rows = 5 * csv_text.BLOCK_BYTES // 13
    text = "x,n,s\n" + '1.25,2,"abc"\n' * rows
    assert len(read(text, max_rows=rows)) == rows
    with pytest.raises(InvalidInput, match=f"^x: line {rows + 2}: 'z' is not a number"):
        read(text + "z,2,a\n" + text[6:], max_rows=rows)
    assert len(read(f"{text}1,2,{'y' * 2 * csv_text.BLOCK_BYTES}\n", max_rows=rows + 1)) == rows + 1
