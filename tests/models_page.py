"""data/MODELS.md: which estimators of scikit-learn are served, by engine; written and checked by the sweeps.

Each sweep has its own columns. PRED_SERVER_SWEEP=all checks them whole; PRED_SERVER_WRITE=1 then writes them anew.
"""

import os
import re
from collections.abc import Mapping

from pred_server.checkout import ROOT

PAGE = ROOT / "data" / "MODELS.md"
ALL = os.environ.get("PRED_SERVER_SWEEP") == "all"
SKLEARN, ONNX = ("numbers", "mixed"), ("numbers, ONNX", "mixed, ONNX")
COLUMNS = (*SKLEARN, *ONNX)
EQUAL, WITHIN = "equal", "within parity"
# What stands where a class cannot be tried; all other entries that are not served are sentences of ours.
NOT_TRIED = ("takes one column", "scikit-learn cannot fit it")
Entries = dict[str, dict[str, str]]


def read() -> Entries:
    """Return the page's entries, by class and column."""
    listed = PAGE.read_text().partition("\n| class |")[2].splitlines()
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in listed[2:]]
    columns = listed[0].strip(" |").split(" | ")
    return {name: dict(zip(columns, entries, strict=True)) for name, *entries in rows}


def check(found: Mapping[str, Mapping[str, str]]) -> None:
    """Compare what a sweep found, by class and column, with the page; write the page where that is asked for."""
    known = read()
    if ALL and os.environ.get("PRED_SERVER_WRITE"):
        known = {name: {**known.get(name, {}), **entries} for name, entries in found.items()}
        PAGE.write_text(text(known))
    differ = {
        name: (column, entry, known.get(name, {}).get(column))
        for name, entries in found.items()
        for column, entry in entries.items()
        if known.get(name, {}).get(column) != entry
    }
    assert not differ, "run `PRED_SERVER_WRITE=1 make sweep`"
    assert PAGE.read_text() == text(known), "the page's counts are not those of its table"
    assert not ALL or list(known) == list(found)


def counts(entries: Entries, column: str) -> tuple[int, int, int]:
    """Return how many classes are served, refused, and not tried."""
    cells = [row.get(column, "") for row in entries.values()]
    served = sum(cell in (EQUAL, WITHIN) for cell in cells)
    not_tried = sum(cell.startswith(NOT_TRIED) or not cell for cell in cells)
    return served, len(cells) - served - not_tried, not_tried


def without_figures(sentence: str) -> str:
    """Return a refusal by the ONNX engine without what depends on the machine, without names and the last clause."""
    sentence = re.sub(r"^model '[^']*'( \([^)]*\) |: )", "", sentence).removesuffix("; serve it with --engine sklearn")
    sentence = re.sub(r"predicts up to .* beside scikit-learn, and .* is allowed", "is too far off", sentence)
    return re.sub(r" for [\d,]+ of [\d,]+ rows", "", sentence)


def text(entries: Entries) -> str:
    rows = [f"| {name} | {' | '.join(row.get(column, '') for column in COLUMNS)} |" for name, row in entries.items()]
    table = [f"| {column} | {' | '.join(map(str, counts(entries, column)))} | 0 |" for column in COLUMNS]
    return "\n".join(
        [
            "# Which estimators of scikit-learn are served",
            "",
            "Each class of scikit-learn that has `predict` is fitted on small data, saved, and served from a fresh",
            "process without `--trust`. *Numbers* is a table of numbers. *Mixed* is a table of numbers and text with",
            "missing values, integers and booleans, behind a ColumnTransformer. *equal* means that the served",
            "predictions are those of the estimator itself, to the bit, in every encoding that can carry the table;",
            "probabilities, too. Any other entry is the sentence with which `save` refuses the model.",
            "",
            "In the columns *ONNX* the model is served with `--engine onnx`. *within parity* means that on 10,000",
            "fresh rows labels are equal, and numbers differ by at most 1e-5 of the predictions' spread. Any other",
            "entry says why the server does not start with that engine, without figures that depend on the machine.",
            "",
            f"Of {len(entries)} classes:",
            "",
            "| table, engine | served | refused | cannot be fitted on it | wrong |",
            "|---|---|---|---|---|",
            *table,
            "",
            "`make sweep` checks this page, and `PRED_SERVER_WRITE=1 make sweep` writes it.",
            "",
            f"| class | {' | '.join(COLUMNS)} |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
