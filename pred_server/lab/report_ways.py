"""The blocks of the study of ways, in Markdown."""

from typing import Any

import numpy as np
import pandas as pd

from pred_server.lab import findings_ways, words

Claim = tuple[str, str, int]
STATED = (findings_ways.IN_PROCESS, "REST")  # against gRPC, from Go, with one row


def full(calls: pd.DataFrame) -> list[str]:
    """Return a table for each model and caller."""
    costs, lines = findings_ways.costs(calls), []
    ratios: dict[Any, str] = {
        (row.arm, row.rows): words.factor(float(str(row.ratio))) for row in findings_ways.ratios(calls).itertuples()
    }
    sizes = [int(str(rows)) for rows in costs if not isinstance(rows, str)]
    most = sizes[-2 if len(sizes) > 2 else -1]
    further = {
        "calls_per_s": "calls/s of many callers",
        "cpu_s": "CPU-s for a million, one by one",
        "cpu_s_in_tables": f"in tables of {most:,}",
        "memory_mib": "memory, MiB",
        "start_ms": "start, ms",
    }
    for case, some in costs.groupby("case", sort=False):
        body = []
        for arm, row in some.to_dict("index").items():
            names: list[Any] = [*sizes, *further]
            numbers = {name: "" if np.isnan(row[name]) else words.number(row[name]) for name in names}
            for rows in sizes:
                numbers[rows] += f" ({ratios[arm, rows]})" if (arm, rows) in ratios else ""
            body.append([row["way"], *numbers.values()])
        lines += [*words.table([str(case), *(f"{rows:,}, ms" for rows in sizes), *further.values()], body), ""]
    note = "in parentheses is the time divided by that of gRPC, from the same caller and for the same model"
    return [*lines, *words.bullets([note])]


def short(calls: pd.DataFrame) -> list[str]:
    """Return a sentence for each model: what gRPC costs beside the model in the process, and beside REST."""
    return words.bullets(words.sentence(row) for row in _stated(calls).itertuples())


def claims(calls: pd.DataFrame) -> set[Claim]:
    return {(str(row.arm), str(row.base), int(str(row.rows))) for row in _stated(calls).itertuples()}


def _stated(calls: pd.DataFrame) -> pd.DataFrame:
    compared = findings_ways.ratios(calls)
    from_go = compared["arm"].str.contains(", from Go: ") & compared["way"].isin(STATED)
    return compared[from_go & (compared["rows"] == compared["rows"].min())]
