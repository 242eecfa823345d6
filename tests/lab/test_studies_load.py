"""Rising load and many callers: rates found here, points in order, sentences that hold."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from pred_server.lab import experiments, figures, findings, report, stats, studies, studies_load
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.native import LOADGEN
from pred_server.lab.study_figures import figures_of
from pred_server.lab.ways import WAYS, Arm


def test_many_callers_are_all_called_from_go() -> None:
    experiment = studies.declared("callers", "flights", quick=True)
    assert {arm.generator for arm in experiment.arms} == {"go"}
    for arm in experiment.arms:
        WAYS[arm.server].wire_of(arm)  # which raises where Go cannot
    assert {arm.callers for arm in experiment.arms} == {16, 32}
    rest = {arm.model for arm in experiment.arms if arm.server == "rest"}
    assert rest == {"linear", "boosting", "forest"} == {arm.model for arm in experiment.arms if arm.server == "serve"}
    names = {arm.name for arm in experiment.arms}
    assert {name for pair in (*experiment.compare, experiment.control or ()) for name in pair} == names


def test_the_load_rises_beyond_the_capacity() -> None:
    experiment = studies.declared("load", "linear")
    shares = [arm.share for arm in experiment.arms if arm.name.startswith("columns, ") and arm.name.endswith("%")]
    assert shares == sorted(shares) == [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    assert {arm.server for arm in experiment.arms if arm.share} == {"serve", "gateway"}
    assert {arm.generator for arm in experiment.arms} == {"go"}


def test_rates_are_shares_of_a_capacity_that_is_measured_first(go: Callable[..., str]) -> None:
    go("build", "-o", str(LOADGEN), "./gateway/loadgen")
    direct = Arm("columns, 20%", encoding="columns", share=0.2, generator="go")
    arms = [direct, Arm("columns, 40%", encoding="columns", share=0.4, arrivals="constant", generator="go")]
    arms += [Arm(f"JSON, {by}", "gateway", "json", share=0.2, generator=by) for by in ("go", "python")]
    arms += [Arm("columns, closed loop", encoding="columns", generator="go"), Arm("nobody", "echo", share=0.2)]
    experiment = Experiment(tuple(arms[:-1]), model="sum", blocks=1, calls=10, seconds=0.2, pin=False)
    with running(experiment) as bench:
        found = bench.measure(1, repetition=0)
        bench.addresses["nobody"], bench.pids["nobody"] = "127.0.0.1:1", ()
        lost = Experiment((arms[-1],), model="sum")
        with pytest.raises(
            experiments.InvalidInput, match="nobody: its capacity cannot be measured, since no call was"
        ):
            experiments.Bench(lost, bench.tables, bench.generator, bench.addresses, bench.pids).measure(1, 0)
    assert set(found["code"]) == {"OK"}
    first = found.groupby("arm")[["rate_per_s", "share"]].first()
    assert first.loc["columns, 40%", "rate_per_s"] == pytest.approx(2 * first.loc["columns, 20%", "rate_per_s"])
    assert first.loc["columns, closed loop", "rate_per_s"] == 0
    assert first["rate_per_s"].nunique() == 5, "each generator and each way has a capacity of its own"
    calls = found.groupby("arm").size() / 2
    expected = (first["rate_per_s"] * 0.2).round().where(first["rate_per_s"] > 0, 10)
    assert calls.to_dict() == expected.to_dict(), "an arm calls as long as the experiment says"


def test_bench_measures_what_capacity_needs_to_know() -> None:
    experiment = studies.declared("rows", "linear")
    (lone, *others) = (arm for arm in experiment.arms if arm.name.startswith("tensor, "))
    assert (lone.callers, lone.rate_per_s, lone.share, lone.rows) == (1, 0, 0, (1,))
    assert [arm.callers for arm in others if not arm.share] == [4, 32]
    assert [(arm.share, arm.arrivals) for arm in others if arm.share] == [(0.05, "constant"), (0.2, "constant")]
    assert {(arm.server, arm.frame, arm.rows, arm.generator) for arm in others} == {
        ("serve", False, (1,), lone.generator)
    }
    few = studies.declared("rows", "linear", rows=[100_000, 1])
    assert not [arm for arm in few.arms if arm.callers > 1 or arm.share], "32 callers with large tables take too long"


def test_what_capacity_needs_is_left_out_of_tables_and_figures_of_rows() -> None:
    experiment = studies.declared("rows", "linear", rows=[1])
    frames = [
        pd.DataFrame({"arm": [arm.name], "callers": arm.callers, "rate_per_s": 10.0 * (arm.share > 0), "rows": 1})
        for arm in experiment.arms
    ]
    calls = pd.concat(frames, ignore_index=True)
    calls.attrs = {"experiment": {"arms": [asdict(arm) for arm in experiment.arms], "control": experiment.control}}
    shown = findings.at_hand(calls)["arm"]
    assert list(shown[shown == findings.READY]) == [findings.READY]
    assert not [name for name in shown if "callers" in name or "loop" in name or "evenly" in name]


def test_capacity_is_judged_by_loads_that_it_does_not_read() -> None:
    experiment = studies.declared("capacity", "flights")
    judged = [arm for arm in experiment.arms if arm.share and arm.arrivals == "poisson"]
    assert {(arm.model, arm.share) for arm in judged} == {
        (model, share) for model in ("linear", "flights", "boosting") for share in (0.3, 0.6, 0.8)
    }
    assert {arm.generator for arm in judged} == {"go"}
    read = [arm for arm in experiment.arms if arm not in judged]
    assert all(arm.arrivals == "constant" for arm in read if arm.share)
    assert {arm.model for arm in read if arm.callers == 32} == {"linear", "flights", "boosting"}
    assert experiment.repetitions == 5


def rising() -> pd.DataFrame:
    """Calls whose truth is known: two servers, of which the second can do half as much."""
    arms = [Arm(f"{name}, {share:.0%}", share=share) for name in ("quick", "slow") for share in (0.2, 0.8, 1.2)]
    arms += [Arm(f"{name}, {loop}") for name in ("quick", "slow") for loop in (findings.CLOSED, findings.EVEN)]
    capacity = {"quick": 1_000.0, "slow": 500.0}
    medians_ms = {0.2: 3.0, 0.8: 4.0, 1.2: 90.0}
    frames = []
    for arm in arms:
        server = arm.name.split(", ")[0]
        for repetition in (0, 1):
            found = capacity[server] * (0.99, 1.01)[repetition]  # measured anew each time
            rate = arm.share * found or (0.2 * found if arm.name.endswith(findings.EVEN) else 0.0)
            answered = min(rate or 100.0, 0.9 * capacity[server])
            ms = medians_ms.get(arm.share, 2.0 if rate else 1.0)
            sent_ns = np.arange(200) * 1e9 / answered
            columns = {
                "arm": arm.name, "process": 0, "rate_per_s": rate, "share": arm.share, "rows": 1, "block": repetition,
                "half": 0, "ok": True, "latency_ms": ms, "service_ms": ms, "sent_ns": sent_ns, "done_ns": sent_ns + 1,
                "late_share": 0.0, "valid": True,
            }  # fmt: skip
            frames.append(pd.DataFrame(columns))
    calls = pd.concat(frames, ignore_index=True)
    calls.attrs = {
        "stamp": experiments.stamp(0),
        "experiment": {
            "model": "linear",
            "arms": [asdict(arm) for arm in arms],
            "compare": [],
            "control": None,
            "varies": "load",
        },
    }
    return calls


def test_points_are_those_of_each_share() -> None:
    points = findings.load_points(rising())
    assert points["step"].tolist() == [0.2, 0.8, 1.2] * 2
    assert points["rate_per_s"].tolist() == pytest.approx([200, 800, 1_200, 100, 400, 600])
    assert points["kept_up"].tolist() == [True, True, False] * 2
    assert findings.rates_in_words(points) == ["quick 800/s", "slow 400/s"]
    assert findings.shared_step(points) == 0.8
    drawn = figures_of(rising())
    assert drawn["load"].get_suptitle() == "Kept up with: quick 800/s, slow 400/s"
    assert drawn["spectrum"].get_suptitle() == "p99: quick, 80% 4 ms, slow, 80% 4 ms"
    short = report.short(rising())[0]
    assert short.endswith("At 80% of what each can do, 99 % of calls end within 4.00 ms (quick) and 4.00 ms (slow).")


def test_medians_of_closed_and_open_loops_stand_side_by_side_with_the_reason() -> None:
    assert findings.loops(rising()).set_index("server").loc["quick"].to_dict() == {
        "share": 0.2, "closed_ms": 1.0, "even_ms": 2.0, "open_ms": 3.0,
    }  # fmt: skip
    (said,) = [line for line in report.FULL["load"](rising()) if "Quick, medians" in line]
    assert "1.00 ms in a closed loop" in said
    assert (
        "2.00 ms in an open loop at 20% of the capacity whose calls come evenly, 3.00 ms where they come at ran" in said
    )
    busy = rising()
    busy.loc[busy["arm"] == "quick, evenly", "valid"] = False
    assert findings.loops(busy)["server"].tolist() == ["slow"], "what is invalid is not compared"


def test_rates_and_cpu_are_compared_pair_by_pair() -> None:
    frames = []
    for arm, call_ms, cpu_ms in (("ours", 1.0, 0.5), ("theirs", 3.0, 2.0), ("again", 1.0, 0.5)):
        for block in range(6):
            sent_ns = np.arange(32) * call_ms * 1e6
            columns = {"arm": arm, "rows": 1, "block": block, "half": 0, "call": range(32), "latency_ms": 16 * call_ms}
            columns |= {"sent_ns": sent_ns, "done_ns": sent_ns + call_ms * 1e6, "server_cpu_ms": cpu_ms}
            frames.append(pd.DataFrame(columns | {"ok": True, "valid": True}))
    calls = pd.concat(frames, ignore_index=True)
    experiment = {"compare": [["theirs", "ours"]], "control": ["again", "ours"], "varies": "callers", "model": "linear"}
    experiment["arms"] = [{"name": name, "server": "serve"} for name in ("ours", "again")]
    experiment["arms"].append({"name": "theirs", "server": "theirs"})
    calls.attrs = {"stamp": experiments.stamp(0), "experiment": experiment}
    found = findings.rates(calls)
    assert found[["arm", "base"]].to_numpy().tolist() == [["again", "ours"], ["theirs", "ours"]]
    assert found["ratio"].tolist() == pytest.approx([1, 3])
    assert found["cpu"].tolist() == pytest.approx([1, 4])
    assert report.FULL["callers"](calls)[-1] == "| ours | theirs | 3 [3, 3] | 4 [4, 4] |  |"
    assert "- Ours: 1 × `again`; 3 × `theirs`." in report.short(calls)
    assert "ours against theirs 3 times" in figures.alt(figures_of(calls)["rates"])
    calls.loc[calls["arm"] == "ours", "valid"] = False
    assert set(findings.rates(calls)["doubt"]) == {"not compared: the load generator was the bottleneck"}


@pytest.mark.parametrize(("calls", "highest"), [(50_000, 100), (stats.MIN_CALLS_FOR_P999, 1_000)])
def test_a_spectrum_ends_where_calls_are_too_few(calls: int, highest: float) -> None:
    ms = np.linspace(1, 2, calls)
    axes = figures.spectrum(pd.DataFrame({"arm": "a", "latency_ms": ms, "service_ms": ms}), "title").axes[0]
    assert max(axes.get_xticks()) == highest
    if highest == 100:
        assert max(axes.get_lines()[0].get_xdata()) <= 100


def test_the_shares_are_declared_before_the_run() -> None:
    assert max(studies_load.SHARES) > 1, "beyond what the server can do, or the curve would not bend"
