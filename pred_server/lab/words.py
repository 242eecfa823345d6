"""Numbers and findings in words, for titles, reports, pages and lessons."""

from collections.abc import Iterable, Sequence
from typing import Any

NO_DIFFERENCE = "no difference found"


def at(rows: Any) -> str:
    """Return "at 1 row" or "at 10,000 rows"."""
    return f"at {rows:,} row{'s' if rows > 1 else ''}"


def away(rtt_ms: float) -> str:
    """Return a distance as round trip: "direct" or "20 ms"."""
    return f"{rtt_ms:g} ms" if rtt_ms else "direct"


def about(number: float) -> str:
    """Round to two significant digits: 13,107 becomes "13,000"."""
    return f"{float(f'{number:.2g}'):,.0f}"


def number(value: float) -> str:
    """Write three significant digits, without an exponent: "0.64", "16.4", "3,244"."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(ms: float) -> str:
    """Write milliseconds with their unit, in seconds from one second: "0.64 ms", "3.2 s"."""
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{number(ms)} ms"


def factor(value: float) -> str:
    """Write a ratio: "2.71", and from ten "31"."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def interval(row: Any) -> str:
    """Write a row's ratio and its 95 % interval: "1.06 [1.00, 1.11]"."""
    return f"{factor(row.ratio)} [{factor(row.low)}, {factor(row.high)}]"


def difference(row: Any) -> str:
    """Return the verdict on one row of `stats.report`, with its number: "31× [28, 34] faster"."""
    ratio, low, high = row.ratio, row.low, row.high
    if row.verdict == "faster":
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    if row.verdict in ("faster", "slower"):
        return f"{factor(ratio)}× [{factor(low)}, {factor(high)}] {row.verdict}"
    return f"{row.verdict} ({interval(row)} times as long)" if row.verdict == NO_DIFFERENCE else str(row.verdict)


def named(arm: str) -> str:
    """Return an arm's name as it stands in a sentence: in ticks where it is an encoding or a flag's value.

    Such a name is one small word. Others are words, and names of products.
    """
    is_code = " " not in arm and arm.islower() and arm != "ours"
    return f"`{arm}`" if is_code else arm


def sentence(row: Any) -> str:
    """Return one row of `stats.report` as a sentence: "at 1 row `tensor` is 31× [28, 34] faster than `csv`"."""
    where = at(row.rows)
    arm, base = named(row.arm), named(row.base)
    if row.verdict in ("faster", "slower"):
        return f"{where} {arm} is {difference(row)} than {base}"
    if row.verdict == NO_DIFFERENCE:
        why = "" if row.low <= 1 <= row.high else "; the control differs from 1 by as much"
        return f"{where} {NO_DIFFERENCE} between {arm} and {base} ({interval(row)} times as long{why})"
    return f"{where} {arm} and {base}: {row.verdict}"


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def bullets(sentences: Iterable[str]) -> list[str]:
    """Return sentences as lines of a Markdown list."""
    return [f"- {capital(text)}." for text in sentences]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
