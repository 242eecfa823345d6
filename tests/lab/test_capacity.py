"""How many workers: answers from results whose truth is known, since a simulation with known times made them."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server import cli
from pred_server.errors import InvalidInput
from pred_server.lab import capacity, experiments, report, study_figures
from pred_server.lab.capacity import plan
from pred_server.lab.service_times import fit, limits_of, of_model
from pred_server.lab.simulation import Fleet, Times, simulate
from pred_server.lab.ways import Arm
from pred_server.limits import Limits

BLOCKS = 6
QUICK = Times(
    lambda rows, draw: 0.1 + 0.002 * rows, lambda rows: True, call_ms=lambda calls: 0.4 / calls**0.1, outside_ms=0.3
)
SLOW = replace(QUICK, predict_ms=lambda rows, draw: 5 + 0.1 * rows, is_quick=lambda rows: False, hop_ms=0.1)


def loop(arm: Arm, times: Times, rows: int, block: int, calls: int = 300) -> pd.DataFrame:
    """Return the calls of one arm in one block, as `bench` would have measured them."""
    fleet = Fleet(rate_per_s=arm.rate_per_s, callers=arm.callers, rows=rows)
    outcome = simulate(times, fleet, calls, seed=block)
    n = len(outcome.latency_ms)
    done_ns = (1 + np.arange(n)) * 1e9 / outcome.calls_per_s
    predict_ms = np.array([times.predict_ms(int(size), None) for size in outcome.batch_rows])  # type: ignore[arg-type]
    columns = asdict(arm) | {
        "flags": " ".join(arm.flags), "arm": arm.name, "rows": rows, "block": block, "half": 0, "call": range(n),
        "repetition": block, "ok": True, "valid": True, "latency_ms": outcome.latency_ms,
        "service_ms": outcome.latency_ms, "code": "OK", "client_encode_ms": 0.0, "decode_ms": 0.0, "encode_ms": 0.0,
        "sent_ns": done_ns - 1e6 * outcome.latency_ms, "done_ns": done_ns, "predict_ms": predict_ms, "queue_ms":
        times.hop_ms, "batch_rows": outcome.batch_rows, "server_cpu_ms": 1e3 * outcome.busy / outcome.calls_per_s,
    }  # fmt: skip
    return pd.DataFrame(columns)


def result(times: Times = QUICK, sizes: tuple[int, ...] = (1, 10, 100), **arm: Any) -> pd.DataFrame:
    lone = Arm("lone", encoding="tensor", generator="go", model="linear", **arm)
    crowds = [replace(lone, name=f"{callers} callers", callers=callers, rows=(1,)) for callers in (4, 32)]
    even = replace(lone, name="evenly", rate_per_s=20.0, arrivals="constant", rows=(1,))
    loads = [
        replace(lone, name=f"open {rate}", rate_per_s=float(rate), share=share, rows=(1,))
        for rate, share in ((50, 0.3), (100, 0.6))
    ]
    arms = [lone, *crowds, even, *loads]
    frames = [loop(arm, times, rows, block) for block in range(BLOCKS) for arm in arms for rows in (arm.rows or sizes)]
    calls = pd.concat(frames, ignore_index=True)
    experiment = {
        "arms": [asdict(arm) for arm in arms], "varies": "capacity", "model": "linear", "rows": list(sizes),
        "compare": [["open 100", "open 50"]], "control": ["evenly", "lone"],
    }  # fmt: skip
    calls.attrs = {"stamp": experiments.stamp(0), "experiment": experiment}
    return calls


@pytest.fixture(autouse=True)
def short_simulations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "CALLS", 4_000)
    monkeypatch.setattr(capacity, "PACES", 4)


@pytest.fixture(scope="module")
def quick() -> pd.DataFrame:
    return result(QUICK)


@pytest.fixture(scope="module")
def slow() -> pd.DataFrame:
    return result(SLOW, flags=("--max-batch-rows", "64"))


def test_the_times_that_made_a_result_are_read_from_it(quick: pd.DataFrame, slow: pd.DataFrame) -> None:
    for calls, truth in ((quick, QUICK), (slow, SLOW)):
        times = fit(of_model(calls)).times
        assert [times.is_quick(rows) for rows in (1, 32)] == [truth.is_quick(rows) for rows in (1, 32)]
        for rows in (1, 10, 20, 32, 100, 200):
            assert times.predict_ms(rows, None) == pytest.approx(truth.predict_ms(rows, None), rel=0.02)  # type: ignore[arg-type]
        assert [times.call_ms(n) for n in (1, 32)] == pytest.approx([truth.call_ms(n) for n in (1, 32)], rel=0.1)
        for name in ("hop_ms", "outside_ms"):
            assert getattr(times, name) == pytest.approx(getattr(truth, name), abs=0.05), name
    assert fit(of_model(slow)).limits == Limits(max_batch_rows=64)
    assert fit(of_model(quick)).crowds[32] == pytest.approx(simulate(QUICK, Fleet(callers=32)).calls_per_s, rel=0.05)


def test_the_answer_is_that_of_the_truth(quick: pd.DataFrame, slow: pd.DataFrame) -> None:
    for calls, truth, rate in ((quick, QUICK, 6_000), (slow, SLOW, 6_000)):
        answer = plan(calls, rate, p99_ms=30)
        assert answer.workers is not None and answer.workers > 1
        spare = answer.table.loc[answer.workers + 1 :]  # with fewer, a little noise of the load decides
        assert len(spare)
        for workers, row in spare.iterrows():
            fleet = Fleet(workers=workers, rate_per_s=rate, max_batch_rows=fit(of_model(calls)).limits.max_batch_rows)
            outcome = simulate(truth, fleet, 5_000, seed=99)
            assert row["p50_ms"] == pytest.approx(outcome.quantile(0.5), rel=0.1)
            assert row["p99_ms"] == pytest.approx(outcome.quantile(0.99), rel=0.25)
            assert row["busy"] == pytest.approx(outcome.busy, rel=0.1)
            assert 0.99 * row["p99_low"] <= row["p99_ms"] <= 1.01 * row["p99_high"]


def test_an_answer_is_a_table_a_sentence_and_what_limits_it(quick: pd.DataFrame) -> None:
    answer = plan(quick, 6_000, p99_ms=10)
    enough = answer.table.loc[answer.workers]
    assert enough["p99_high"] <= 10
    fewer = answer.table[answer.table.index < answer.workers]
    assert len(fewer) and not (fewer["kept_up"] & (fewer["p99_high"] <= 10)).any()
    assert answer.recommendation.startswith(
        f"For 6,000 calls a second with 1 row each, 99 % within 10 ms, take {answer.workers} workers on "
        f"{answer.workers} cores: half of the calls end within "
    )
    page = answer._repr_markdown_()
    assert "| workers | cores | p50, ms | p99, ms | busy |" in page
    assert f"| {answer.workers} (enough) |" in page
    assert answer.recommendation in page
    assert f"- Extrapolated: one worker was measured, not {answer.workers}" in page


def test_a_seed_gives_the_same_answer(quick: pd.DataFrame) -> None:
    once, again, other = (plan(quick, 1_000, 10, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(once.table, again.table)
    assert not once.table.equals(other.table)


def test_one_worker_within_what_was_measured_is_no_extrapolation(quick: pd.DataFrame) -> None:
    answer = plan(quick, 500, p99_ms=20)
    assert answer.workers == 1
    assert answer.caveats == []
    assert "take 1 worker on 1 core: " in answer.recommendation


@pytest.mark.parametrize(
    ("asked", "caveat"),
    [
        ({"rate_per_s": 9_000, "most_workers": 1}, "extrapolated: each worker gets 9,000 calls a second, and at most"),
        ({"rate_per_s": 200, "rows": 10}, "many callers at once were measured with 1 row in a call, not with 10"),
        ({"rate_per_s": 200, "rows": 50}, "calls were measured with 1, 10, 100 rows each, not with 50"),
        ({"rate_per_s": 3_000, "rows": 40, "most_workers": 1}, "extrapolated: batches get "),
        ({"rate_per_s": 200, "cores": 4}, "3 of 4 cores have no worker"),
    ],
)
def test_it_says_when_it_extrapolates(quick: pd.DataFrame, asked: dict[str, Any], caveat: str) -> None:
    caveats = plan(quick, p99_ms=50, **asked).caveats
    assert [said for said in caveats if caveat in said], caveats


def test_it_says_what_a_result_lacks(quick: pd.DataFrame) -> None:
    closed = quick[quick["rate_per_s"] == 0]
    closed.attrs = quick.attrs
    assert any("calls after a pause were not measured" in said for said in plan(closed, 100, 50).caveats)
    lone = closed[closed["callers"] == 1]
    lone.attrs = quick.attrs
    answer = plan(lone, 100, 50)
    assert answer.workers == 1
    assert any("100 calls a second, and no rate of many callers was measured" in said for said in answer.caveats)
    slower = quick.assign(done_ns=quick["done_ns"] * 2, server_cpu_ms=quick["server_cpu_ms"] / 3)
    slower.attrs = quick.attrs
    assert any("the simulation is not exact here: 32 callers get" in said for said in plan(slower, 100, 50).caveats)


def test_loads_that_come_at_random_are_left_for_judging(quick: pd.DataFrame) -> None:
    assert not set(of_model(quick)["arm"]) & {"open 50", "open 100"}
    wrong = quick.assign(latency_ms=quick["latency_ms"].mask(quick["arm"].str.startswith("open"), 1e6))
    wrong.attrs = quick.attrs
    pd.testing.assert_frame_equal(plan(wrong, 500, 20).table, plan(quick, 500, 20).table)


def test_no_number_of_workers_is_enough(quick: pd.DataFrame) -> None:
    never = plan(quick, 1_000, p99_ms=0.5, most_workers=3)
    assert never.workers is None
    assert "no number of workers up to 3 is enough: with so many, half of the calls end within" in never.recommendation
    shared = plan(quick, 50_000, p99_ms=50, cores=2, most_workers=4)
    assert shared.workers is None
    assert "up to 4 is enough: with so many, their queues grow as long as calls come." in shared.recommendation


def test_more_cores_than_one_each_are_not_used_and_fewer_are_shared(quick: pd.DataFrame) -> None:
    own, shared = plan(quick, 6_000, 30), plan(quick, 6_000, 30, cores=64)
    assert (own.workers, set(own.table["cores"])) == (shared.workers, set(own.table.index))
    few = plan(quick, 6_000, 30, cores=1, most_workers=8)
    assert few.workers is None


@pytest.mark.parametrize(
    ("change", "model", "error"),
    [
        (lambda calls: calls.drop(columns="server_cpu_ms"), "", "this result has no server_cpu_ms: it is of an older"),
        (lambda calls: calls.assign(frame=True), "", "no calls with ready bytes that our server answered"),
        (lambda calls: calls.assign(server="rest"), "", "no calls with ready bytes that our server answered"),
        (lambda calls: calls.assign(ok=False), "", "no calls with ready bytes that our server answered"),
        (lambda calls: calls[calls["callers"] > 1], "", "no closed loop of one caller"),
        (lambda calls: calls, "flights", "no model flights in this result; name one of: linear"),
        (
            lambda calls: calls.assign(model=calls["arm"].map({"lone": "wide"}).fillna("linear")),
            "",
            "several models in this result; name one of: wide, linear",
        ),
    ],
)
def test_a_result_that_cannot_tell_is_refused_with_the_reason(
    quick: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], model: str, error: str
) -> None:
    changed = change(quick)
    changed.attrs = quick.attrs
    with pytest.raises(InvalidInput, match=error):
        plan(changed, 100, 20, model=model)


def test_large_calls_cost_what_those_of_the_generator_with_most_sizes_tell(quick: pd.DataFrame) -> None:
    """Another generator measured one size alone, as `bench` has it beside the clients at the caller's hand."""
    large = quick["rows"] == 100
    dear = quick.assign(service_ms=quick["service_ms"].mask(large, quick["service_ms"] + 5))
    sizes = dear[dear["arm"] == "lone"].assign(arm="sizes", generator="python")
    calls = pd.concat([dear[dear["rows"] == 1], sizes], ignore_index=True)
    calls.attrs = quick.attrs
    few, many = (fit(of_model(calls), rows).times.call_ms(1) for rows in (1, 100))
    assert many == pytest.approx(few + 5, rel=0.1)


def test_large_calls_that_vary_are_no_stops_of_the_machine(quick: pd.DataFrame) -> None:
    large, some = quick["rows"] == 100, quick["call"] % 50 == 0
    calls = quick.assign(latency_ms=quick["latency_ms"].mask(large, 100.0).mask(large & some, 500.0))
    calls.attrs = quick.attrs
    assert plan(calls, 20, 50).workers == 1


def test_what_the_measured_server_refuses_has_no_answer() -> None:
    calls = result(flags=("--max-rows", "5000"))
    assert plan(calls, 1, 50, rows=5_000).workers
    with pytest.raises(InvalidInput, match="--rows is 5,001: the server that was measured takes 5,000 rows at most"):
        plan(calls, 1, 50, rows=5_001)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"clients": 100_001}, "--clients is 100,001: ask for 100,000 at most"),
        ({"most_workers": 1_001}, "--most-workers is 1,001: ask for 1,000 at most"),
    ],
)
def test_what_would_take_all_memory_is_refused(quick: pd.DataFrame, asked: dict[str, int], error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        plan(quick, 100, 50, **asked)


def test_rare_calls_are_simulated_as_one_a_second_and_few_workers_first(
    quick: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleets: list[Fleet] = []
    once = capacity.simulate
    monkeypatch.setattr(capacity, "simulate", lambda times, fleet, *a: fleets.append(fleet) or once(times, fleet, *a))
    rare = plan(quick, 0.01, 50, most_workers=1_000)
    assert {fleet.rate_per_s for fleet in fleets} <= {0.0, 1.0}, "0 is a closed loop"
    assert max(fleet.workers for fleet in fleets) == 2
    assert rare.recommendation.startswith("For 0.01 calls a second ")
    assert "simulated with 1 call a second" in rare.caveats[0]
    assert not any("simulated with 1" in said for said in plan(quick, 1, 50).caveats)


def test_flags_of_a_server_are_its_limits() -> None:
    assert limits_of("") == Limits()
    assert limits_of("--max-inline-ms 0 --engine onnx --max-batch-rows 1") == Limits(max_inline_ms=0, max_batch_rows=1)


def test_the_command_says_it_in_sentences(
    quick: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.parquet"
    quick.to_parquet(path)
    asked = ["capacity", str(path), "--rate", "500", "--p99-ms"]
    assert cli.main([*asked, "20"]) == 0
    assert "For 500 calls a second with 1 row each, 99 % within 20 ms, take 1 worker" in capsys.readouterr().out
    assert cli.main([*asked, "0.5", "--most-workers", "2"]) == 1
    assert "no number of workers up to 2 is enough" in capsys.readouterr().out
    assert cli.main([*asked, "20", "--model", "flights"]) == 1
    assert capsys.readouterr().err == "pred-server: no model flights in this result; name one of: linear\n"
    assert cli.main(["capacity", str(tmp_path / "none"), "--rate", "1", "--p99-ms", "1"]) == 1
    assert capsys.readouterr().err == f"pred-server: {tmp_path / 'none'} does not exist\n"
    with pytest.raises(SystemExit):
        cli.main([*asked, "0"])
    assert "'0' is not a number above 0" in capsys.readouterr().err


def test_predictions_stand_beside_what_was_measured(quick: pd.DataFrame) -> None:
    quick = quick[quick["block"] < 2]
    block = report.full(quick)
    assert block[0].startswith("| one worker | load | p50 predicted, ms |")
    assert len([line for line in block if line.startswith("| linear | ")]) == 2
    assert "p50 within 15% of it in 2 of 2, p99 within 25% of it in 2 of 2" in "\n".join(block)
    (figure,) = study_figures.figures_of(quick).values()
    assert "p99 within 25% of it in 2 of 2" in figure.get_suptitle().replace("\n", " ")
    assert report.short(quick)
    assert report.text(quick)
