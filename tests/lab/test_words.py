"""Numbers and findings in words."""

import pandas as pd
import pytest

from pred_server.lab import stats, words


def test_sentences() -> None:
    def said(ratio: float, low: float, high: float, verdict: str) -> str:
        values = {"arm": "tensor", "base": "csv", "rows": 100_000}
        return words.sentence(pd.Series({**values, "ratio": ratio, "low": low, "high": high, "verdict": verdict}))

    assert said(1 / 31, 1 / 34, 1 / 28, "faster") == "at 100,000 rows `tensor` is 31× [28, 34] faster than `csv`"
    assert said(1.5, 1.4, 1.6, "slower") == "at 100,000 rows `tensor` is 1.50× [1.40, 1.60] slower than `csv`"
    assert "no difference found between `tensor` and `csv`" in said(1.0, 0.9, 1.1, stats.NO_DIFFERENCE)


def test_a_difference_without_names() -> None:
    row = pd.Series({"ratio": 0.25, "low": 0.2, "high": 0.5, "verdict": "faster"})
    assert words.difference(row) == "4.00× [2.00, 5.00] faster"
    none = row.replace("faster", stats.NO_DIFFERENCE)
    assert words.difference(none) == "no difference found (0.25 [0.20, 0.50] times as long)"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (words.at(1), "at 1 row"),
        (words.at(10_000), "at 10,000 rows"),
        (words.about(13_107), "13,000"),
        (words.number(0.642), "0.64"),
        (words.number(3_244.4), "3,244"),
        (words.duration(16.42), "16.4 ms"),
        (words.duration(3_244), "3.2 s"),
        ("\n".join(words.table(["a", "b"], [["1", "2"]])), "| a | b |\n| --- | --- |\n| 1 | 2 |"),
        (words.bullets(["at 1 row all is well"]), ["- At 1 row all is well."]),
    ],
)
def test_numbers_are_written_as_people_read_them(written: object, expected: object) -> None:
    assert written == expected
