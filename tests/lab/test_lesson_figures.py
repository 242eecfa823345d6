"""The figures of the lessons, from small tables: what they say, and that their lines can be told apart."""

import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from pred_server.lab.figures import COLOURS
from pred_server.lab.lesson_figures import byte_boxes, lines, spans, stopped, vitals

ROWS = pd.Index([1, 10, 100], name="rows")
POINTS = pd.DataFrame({"served": [2.0, 3.0, 9.0], "floor": [1.0, 1.5, 8.0]}, index=ROWS)
BAND = pd.DataFrame({"low": [1.0, 2.0, 8.0], "high": [3.0, 5.0, 12.0]}, index=ROWS)


def test_lines_draws_every_column_and_names_it_and_its_band() -> None:
    figure = lines(
        POINTS, "a finding", "rows", "ms", bands={"served": BAND}, band_label="9 of 10 calls", grey=["floor"], log=True
    )
    (axes,) = figure.axes
    served, floor = axes.get_lines()
    assert list(served.get_ydata()) == [2, 3, 9]
    assert list(floor.get_ydata()) == [1, 1.5, 8]
    assert to_rgba(floor.get_color()) == to_rgba("0.45")
    assert (served.get_color(), served.get_linestyle()) != (floor.get_color(), floor.get_linestyle())
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["served", "9 of 10 calls", "floor"]
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("a finding", "rows", "ms")
    (band,) = axes.collections
    assert {tuple(corner) for corner in band.get_paths()[0].vertices} >= {(1, 1), (1, 3), (100, 8), (100, 12)}


def test_bands_of_several_lines_are_told_apart_by_the_names_of_the_lines() -> None:
    figure = lines(POINTS, "", "rows", "ms", bands={"served": BAND, "floor": BAND}, band_label="9 of 10 calls")
    legend = figure.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["served", "served: 9 of 10 calls", "floor", "floor: 9 of 10 calls"]


def test_a_logarithmic_axis_has_more_ticks_than_its_powers_of_ten() -> None:
    figure = lines(POINTS, "", "rows", "ms", log=True)
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert ticks == [1, 2, 5, 10]
    figure.draw_without_rendering()
    shown = {label.get_text() for label in axes.get_yticklabels()}
    assert shown >= {"1", "2", "5", "10"}


def test_lines_crosses_out_what_is_not_to_be_trusted_and_marks_every_x() -> None:
    crossed = pd.DataFrame({"served": [False, True, False], "floor": [False, False, False]}, index=ROWS)
    figure = lines(POINTS, "", "rows", "ms", crossed=crossed, log=True, every_x=True)
    (axes,) = figure.axes
    (cross,) = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([10], [3])
    assert to_rgba(cross.get_color()) == to_rgba("red")
    figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_xticklabels(which="both")] == ["1", "10", "100"]


def test_a_column_without_values_takes_its_colour_and_is_not_drawn() -> None:
    figure = lines(POINTS.assign(served=float("nan")), "a long finding " * 10, "rows", "ms", legend="lower right")
    (axes,) = figure.axes
    (floor,) = axes.get_lines()
    assert floor.get_color() == COLOURS[1]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["floor"]
    assert "\n" in axes.get_title(), "a long title is broken into lines"


def test_stopped_draws_each_loop_near_the_stop_and_what_arithmetic_says() -> None:
    calls = pd.DataFrame(
        {
            "arm": ["open", "open", "open", "closed"],
            "at_ms": [-500.0, 0.0, 100.0, 0.0],
            "latency_ms": [1.0, 200.0, 100.0, 201.0],
        }
    )
    expected = {"by arithmetic": pd.Series([200.0, 0.0], index=[0.0, 200.0])}
    figure = stopped(calls, 200, expected, "a finding")
    (axes,) = figure.axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
    assert drawn == {
        "by arithmetic": ([0, 200], [200, 0]),
        "open": ([0, 100], [200, 100]),
        "closed": ([0], [201]),
    }, "the call long before the stop is left out"
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_width()) == (0, 200)
    assert axes.get_title() == "a finding"


def test_an_index_of_text_is_drawn_as_groups() -> None:
    figure = lines(POINTS.set_axis(["early", "late", "very late"]), "", "group", "ms")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["early", "late", "very late"]


def test_byte_boxes_shows_each_byte_its_owner_and_its_meaning() -> None:
    parts = [("frame", 1, "length"), ("message", 1, "tag"), ("text", 2, "two letters")]
    figure = byte_boxes(b"\x03\x0aab", parts, n_text=2, title="four bytes")
    (axes,) = figure.axes
    written = [text.get_text() for text in axes.texts]
    for text in ("03", "0a", "61", "62", "'a'", "'b'", "frame", "message", "text", "length", "tag", "two letters"):
        assert written.count(text) == 1, f"{text} stands {written.count(text)} times among {written}"
    assert len(axes.patches) == 4
    assert axes.get_title() == "four bytes"


def test_byte_boxes_refuses_parts_that_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="the parts have 3 bytes, the data 2"):
        byte_boxes(b"\x03\x0a", [("frame", 1, ""), ("message", 1, ""), ("text", 1, "")], n_text=0, title="")


def test_vitals_draws_memory_above_waits_below_and_crosses_where_no_answer_came() -> None:
    samples = pd.DataFrame(
        [
            ("memory", "ours", 0.0, 100.0, "OK"),
            ("memory", "ours", 1.0, 300.0, "OK"),
            ("health", "", 0.5, 2_000.0, "DEADLINE_EXCEEDED"),
            ("health", "", 0.0, 1.0, "OK"),
            ("a good caller", "", 0.0, 5.0, "OK"),
        ],
        columns=["kind", "name", "at_s", "value", "code"],
    )
    figure = vitals(samples, {"frozen": (0.4, 0.9), "thawed": (0.9, 1.0)}, "a finding")
    above, below = figure.axes
    (memory,) = above.get_lines()
    assert (memory.get_label(), list(memory.get_ydata())) == ("ours", [100, 300])
    assert above.get_ylim()[1] > 300
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in below.get_lines()}
    assert drawn == {
        "a good caller": ([0], [5]),
        "health": ([0, 0.5], [1, 2_000]),
        "health: no answer": ([0.5], [2_000]),
    }
    assert [(shade.get_x(), round(shade.get_width(), 6)) for shade in below.patches] == [(0.4, 0.5), (0.9, 0.1)]
    assert [text.get_text() for text in above.texts] == ["frozen", "thawed"]
    assert "a finding" in figure.get_label() and "frozen, thawed" in figure.get_label()


def test_spans_draws_each_step_of_each_line_from_its_begin_to_its_end() -> None:
    steps = pd.DataFrame(
        [
            ("whole", "writes", 0.0, 4.0),
            ("part", "writes", 0.0, 1.0),
            ("whole", "waits", 4.0, 9.0),
            ("part", "waits", 1.0, 5.0),
        ],
        columns=["line", "step", "begin_ms", "end_ms"],
    )
    figure = spans(steps, "a finding")
    (axes,) = figure.axes
    drawn = {
        str(bars.get_label()): [(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in bars]
        for bars in axes.containers
    }
    assert {step: [tuple(map(round, bar)) for bar in bars] for step, bars in drawn.items()} == {
        "writes": [(0, 0, 4), (1, 0, 1)],
        "waits": [(0, 4, 5), (1, 1, 4)],
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["whole", "part"]
    low, high = axes.get_ylim()
    assert low > high, "the first line is at the top"
    assert "a finding" in figure.get_label() and "whole, part" in figure.get_label()
