"""What a study found, from calls whose truth is known."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import figures, findings, report, studies
from pred_server.lab.study_figures import margins


def test_the_ladders_are_told_apart_by_rows_and_callers() -> None:
    experiment = studies.declared("ladder", "linear")
    ms = {arm.name: 100.0 / (1 + place) for place, arm in enumerate(experiment.arms)}
    some = []
    for rows in experiment.rows:
        for arm in experiment.arms_at(rows):
            for block in range(6):
                some.append({"arm": arm.name, "rows": rows, "callers": arm.callers, "block": block, "half": 0})
                some[-1] |= {"latency_ms": ms[arm.name], "ok": True, "valid": True, "encoding": arm.encoding}
    calls = pd.DataFrame(some)
    calls.attrs["experiment"] = {"arms": [asdict(arm) for arm in experiment.arms], "control": experiment.control}
    assert findings.ladders(calls) == [(1, 1), (1, 32), (100_000, 1)]
    steps = {at: findings.steps_at(calls, *at)["step"].tolist()[:-2] for at in findings.ladders(calls)}
    assert steps[1, 1] == [
        "the article's server",
        "ours, CSV as well",
        "tensor in place of CSV",
        "ONNX Runtime, tensor",
    ]
    assert steps[1, 32][1:3] == ["ours, no batching", "batching"]
    assert steps[100_000, 1][-2:] == ["as a stream", "ONNX Runtime, as a stream"]
    steps_of_many = findings.steps_at(calls, 1, 32)
    assert steps_of_many["factor"].iloc[-2] == pytest.approx(
        ms["the article's server, 32 callers"] / ms["ONNX Runtime, tensor, 32 callers"]
    )


def test_each_case_is_read_against_its_target() -> None:
    ms = {"linear": 1.1, "echo": 0.4, "linear in process": 0.6, "tensor": 100.0, "echo, 32 callers": 8.0}
    ms |= {"forest, 32 callers": 10.0, "Flight": 110.0}
    some = []
    for arm, call_ms in ms.items():
        rows, callers = 10**6 if arm in ("tensor", "Flight") else 1, 32 if "32" in arm else 1
        for block in range(6):
            for half in (0, 1):
                sent_ns = np.arange(32) // callers * int(call_ms * 1e6)
                some.append(pd.DataFrame({"arm": arm, "rows": rows, "block": block, "half": half, "sent_ns": sent_ns}))
                some[-1] = some[-1].assign(call=range(32), done_ns=sent_ns + int(call_ms * 1e6), first_ms=call_ms / 20)
                some[-1] = some[-1].assign(latency_ms=call_ms, ok=True, valid=True)
    outcomes = findings.cases(pd.concat(some, ignore_index=True)).set_index("case")
    expected = {
        "linear, 1 row: ours ÷ (echo + predict)": (1.1, 1.2 / 1.1),
        "forest, 1 row, 32 callers: rate of ours with ONNX ÷ rate of the echo": (0.8, 0.8 / 0.85),
        "linear, 1,000,000 rows: Arrow Flight ÷ ours": (1.1, 1.1 / 1.2),
        "linear, 1,000,000 rows: first predictions ÷ whole stream": (0.05, 2.0),
    }
    assert set(outcomes.index) == set(expected), "cases whose arms are not there are left out"
    for case, (ratio, margin) in expected.items():
        assert outcomes.loc[case, "ratio"] == pytest.approx(ratio, rel=1e-6)
        assert outcomes.loc[case, "margin"] == pytest.approx(margin, rel=1e-6)
    lines = report.cases_table(outcomes.reset_index())
    assert (
        "| forest, 1 row, 32 callers: rate of ours with ONNX ÷ rate of the echo | ≥ 0.85 | 0.8 [0.8, 0.8] | missed |"
        in lines
    )
    figure = margins(outcomes.reset_index())
    assert figures.alt(figure).startswith("2 of 4 targets are met")
