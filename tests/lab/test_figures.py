"""Every figure from a small table: what it says, and that it can be read without colours."""

import io
import re
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pred_server.lab import experiments, figures, findings, report, stats
from pred_server.lab.findings import load_points
from pred_server.lab.study_figures import figures_of
from pred_server.lab.ways import Arm

ROWS = (1, 100, 10_000)


def result(arms: Sequence[Arm], varies: str, rows: Sequence[int] = ROWS, **columns: object) -> pd.DataFrame:
    """What `experiments.run` would return: csv slower by the row, `tensor` dearer by the call."""
    rng = np.random.default_rng(0)
    compare = tuple((arm.name, arms[0].name) for arm in arms[1:])
    frames = []
    for arm in arms:
        fixed_ms, row_ms = (1.0, 0.01) if arm.encoding == "csv" else (1.5, 0.002)
        for n in rows:
            for block in range(6):
                ms = (fixed_ms + n * row_ms) * rng.lognormal(0, 0.1, size=20)
                sent_ns = block * 10**12 + np.cumsum(ms) * 1e6
                frames.append(
                    pd.DataFrame(
                        {
                            "arm": arm.name, "server": arm.server, "process": arm.process, "encoding": arm.encoding,
                            "chunk_rows": arm.chunk_rows, "rate_per_s": arm.rate_per_s, "rows": n, "block": block,
                            "half": 0, "call": range(20), "ok": True, "latency_ms": ms, "service_ms": ms * 0.9,
                            "sent_ns": sent_ns, "done_ns": sent_ns + ms * 1e6, "late_share": 0.0, "valid": True,
                            "client_encode_ms": ms * 0.2, "decode_ms": ms * 0.3, "queue_ms": 0.01,
                            "predict_ms": ms * 0.4, "encode_ms": 0.02, **columns,
                        }
                    )
                )  # fmt: skip
    calls = pd.concat(frames, ignore_index=True)
    calls.attrs = {
        "stamp": experiments.stamp(0),
        "experiment": {
            "arms": [asdict(arm) for arm in arms], "compare": compare, "control": None,
            "varies": varies, "rows": list(rows),
        },
    }  # fmt: skip
    return calls


def texts(figure: Figure) -> str:
    legends = [axes.get_legend() for axes in figure.axes] + list(figure.legends)
    said = [text.get_text() for legend in legends if legend for text in legend.get_texts()]
    return " | ".join([figure.get_suptitle(), *said, *(text.get_text() for text in figure.texts)]).replace("\n", " ")


def by_rows() -> pd.DataFrame:
    return result([Arm("csv"), Arm("tensor", encoding="tensor"), Arm("in process", "predict")], "rows")


def by_encodings() -> pd.DataFrame:
    """Over HTTP as fast as over gRPC; a tensor slower at 1 row, and faster at 10,000."""
    grpc = [Arm(name, encoding=name) for name in ("csv", "columns", "tensor")]
    http = [Arm(f"{arm.name} over HTTP", "http", arm.encoding) for arm in grpc]
    stream = Arm("streamed tensor", encoding="tensor", chunk_rows=1_000)
    return result(
        [*grpc, stream, *http, Arm("echo of csv", "echo"), Arm("echo of tensor", "echo", "tensor")], "encodings"
    )


def by_load(**columns: object) -> pd.DataFrame:
    return result([Arm(f"csv, {rate}/s", rate_per_s=rate) for rate in (50, 400, 900)], "load", (1,), **columns)


def by_chunks() -> pd.DataFrame:
    arms = [Arm("one message"), *(Arm(f"chunks of {size}", chunk_rows=size) for size in (100, 1_000))]
    return result(arms, "chunks", (10_000,))


@pytest.mark.parametrize(
    ("calls", "names"),
    [
        (by_rows(), {"latency", "waterfall_1", "waterfall_100", "waterfall_10000", "crossover_tensor_csv"}),
        (
            by_encodings(),
            {
                "latency",
                "two_by_two",
                "waterfall_1",
                "waterfall_100",
                "waterfall_10000",
                "crossover_columns_csv",
                "crossover_tensor_csv",
                "crossover_streamed_tensor_csv",
                "crossover_tensor_over_HTTP_csv",
                "crossover_echo_of_tensor_csv",
            },
        ),
        (by_load(), {"load", "spectrum"}),
        (by_chunks(), {"chunks"}),
    ],
)
def test_an_experiment_s_figures_are_titled_stamped_told_and_wide_enough(calls: pd.DataFrame, names: set[str]) -> None:
    drawn = figures_of(calls)
    assert set(drawn) == names
    for figure in drawn.values():
        title = figure.get_suptitle().replace("\n", " ")
        assert title in figures.alt(figure), "the alt text states the finding"
        assert "grpcio" in texts(figure)
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=100)
        assert figure.get_size_inches()[0] * 100 == 800


def test_titles_state_what_was_found() -> None:
    drawn = figures_of(by_rows())
    assert drawn["latency"].get_suptitle().startswith("At 10,000 rows `tensor` is 4.")
    assert "faster than `csv`" in drawn["latency"].get_suptitle()
    assert drawn["crossover_tensor_csv"].get_suptitle().startswith("Tensor and csv take equally long at ")
    assert drawn["waterfall_10000"].get_suptitle() == "At 10,000 rows `csv` spends most of its time on: predict"
    assert figures_of(by_load())["load"].get_suptitle().startswith("Kept up with: csv ")
    assert figures_of(by_chunks())["chunks"].get_suptitle().startswith("Chunks of ")


def test_the_encoding_and_the_transport_are_told_apart() -> None:
    calls = by_encodings()
    found = findings.two_by_two(calls).set_index(["part", "rows"])
    assert found.loc[("encoding", 1), "ratio"] == pytest.approx(1.5, rel=0.05)
    assert found.loc[("encoding", 10_000), "ratio"] == pytest.approx(21.5 / 101, rel=0.05)
    assert found.loc[("transport", 10_000), "ratio"] == pytest.approx(1, rel=0.05)
    drawn = figures_of(calls)
    title = drawn["two_by_two"].get_suptitle().replace("\n", " ")
    assert re.match(r"Binary in place of text takes 1\.[45]\d \[.*\] times as long at 1 row, 0\.2\d ", title)
    assert re.search(r"; HTTP/1.1 in place of gRPC (1\.0|0\.9)\d .* times as long at 10,000 rows$", title)
    labels = [text.get_text() for text in drawn["two_by_two"].axes[0].get_yticklabels()]
    assert labels[0] == "1 row: tensor in place of csv, over gRPC" and len(labels) == 12
    shown = texts(drawn["latency"])
    assert "tensor over HTTP" in shown and "columns over HTTP" not in shown
    assert "echo of tensor" in shown and "echo of csv" not in shown, "that of the bytes that are streamed"
    block = report.full(calls)
    assert "| HTTP/1.1 in place of gRPC, `tensor` |" in "\n".join(block)
    alone = calls[calls["server"] != "http"]
    assert findings.two_by_two(alone).empty and "two_by_two" not in figures_of(alone)


def test_lines_differ_without_colour_and_floors_are_grey() -> None:
    axes = figures_of(by_rows())["latency"].axes[0]
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(lines) == 3
    assert lines[-1].get_color() == "0.45"
    bars = figures_of(by_rows())["waterfall_100"].axes[0].containers
    assert len({bar[0].get_hatch() for bar in bars}) == len(bars) == 6  # type: ignore[index]


def test_invalid_points_are_crossed_out() -> None:
    drawn = figures_of(by_load(valid=False, late_share=0.2))
    assert "Not a valid point" in drawn["load"].get_suptitle()
    assert "not to be trusted" in texts(drawn["load"])


def test_a_p99_of_few_calls_is_marked_beside_a_load() -> None:
    points = load_points(by_load())
    few, many = (figures.load(points.assign(calls=calls), "") for calls in (999, 1_000))
    assert points["calls"].max() < 1_000
    assert "p99 of fewer than 1,000 calls" in texts(few)
    assert "p99 of fewer" not in texts(many) and "not to be trusted" not in texts(many)
    calls = by_rows()
    calls.loc[calls["arm"] == "csv", "valid"] = False
    latency = figures.latency_by_rows(stats.summary(calls), "in process", "title")
    crosses = [line for line in latency.axes[0].get_lines() if line.get_color() == "red" and len(line.get_xdata())]  # type: ignore[arg-type]
    assert [len(line.get_xdata()) for line in crosses] == [len(ROWS)]  # type: ignore[arg-type]


def test_what_only_failed_has_no_point() -> None:
    summary = stats.summary(by_rows().assign(ok=lambda calls: calls["arm"] != "csv"))
    lines = figures.latency_by_rows(summary, "in process", "title").axes[0].get_lines()
    assert {line.get_label(): len(line.get_xdata()) for line in lines if line.get_color() != "red"} == {  # type: ignore[arg-type]
        "csv": 0, "tensor": 3, "in process": 3,
    }  # fmt: skip


def test_a_stream_s_phases_overlap_so_its_wall_time_stands_beside_them() -> None:
    calls = result([Arm("csv"), Arm("streamed", encoding="tensor", chunk_rows=50)], "rows", (100,))
    found = stats.phases(calls).set_index("arm")
    assert found["transport_ms"].isna().to_dict() == {"csv": False, "streamed": True}
    assert found["wall_ms"].isna().to_dict() == {"csv": True, "streamed": False}
    figure = figures_of(calls)["waterfall_100"]
    assert "wall time of a stream" in texts(figure)
    (diamonds,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "wall time of a stream"]
    assert np.isfinite(np.asarray(diamonds.get_xdata())).tolist() == [False, True]


def test_what_two_arms_never_shared_has_no_crossover() -> None:
    calls = result([Arm("csv"), Arm("tensor", encoding="tensor")], "rows", (100,))
    assert np.isnan(stats.crossover(calls, "tensor", "csv")).all()


def test_the_plot_shows_every_arm_and_its_stamp() -> None:
    calls = result([Arm("floor", "predict"), Arm("served")], "rows", (1,))
    figure = figures.latency_by_rows(stats.summary(calls), "floor", "title", experiments.stamp(seed=0))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["floor", "served"]
    assert axes.get_ylabel() == "latency, p50 to p99 (ms)"
    assert any("grpcio" in text.get_text() for text in figure.texts)
