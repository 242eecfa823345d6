"""The explorer without a browser: widgets are set and buttons are pressed, as a person would."""

import html
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import ipywidgets as widgets
import pandas as pd
import pytest

from pred_server.errors import InvalidInput
from pred_server.lab import curves, experiments, explorer
from pred_server.lab.choices import Choice
from pred_server.lab.explorer import FLOOR_NOTE, LOADS, Explorer
from pred_server.lab.live import State
from pred_server.lab.machines import RESULTS
from pred_server.lab.ways import Arm
from tests.lab.synthetic import calls_of
from tests.processes import children
from tests.waits import comes_true

IN_PROCESS = (Arm("one", "predict"), Arm("other", "predict", "tensor"))  # starts sooner than a server


@pytest.fixture
def made() -> Iterator[Explorer]:
    made = Explorer(Choice(IN_PROCESS, "sum", points=(1, 2_000), blocks=5, calls=2))
    yield made
    made.stop()


def test_run_measures_what_was_chosen_draws_it_block_by_block_and_closes_its_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explorer, "REDRAW_S", 0.0)
    made = Explorer(Choice((Arm("csv"), Arm("tensor", encoding="tensor")), "sum", points=(1, 10), blocks=5, calls=3))
    made.load.value = LOADS["4 callers"]
    seen: list[tuple[int, int, bool, bool]] = []
    made.progress.observe(
        lambda change: seen.append(
            (change["new"], len(made.drawn.children), made.button.disabled, made.stop_button.disabled)
        ),
        names="value",
    )
    before = children()
    made.button.click()
    assert threading.current_thread() is threading.main_thread(), "and this thread is free"
    made.wait()
    assert [place for place, *_ in seen] == list(range(1, 11)), "points come one by one"
    assert seen[0][1] == 0
    assert seen[1][1] > 0, "what is there is drawn"
    assert all(running and not stopped for _, _, running, stopped in seen), "meanwhile nobody can press run again"
    assert not made.button.disabled
    assert made.stop_button.disabled
    calls = made.calls[made.calls["arm"] == "tensor"]
    assert calls.groupby("rows").size().to_dict() == {1: 80, 10: 80}, "every caller calls twice in each half"
    assert calls["ok"].all()
    assert (calls["batch_rows"] >= calls["rows"]).all(), "the server tells how many it computed together"
    assert set(calls["encoding"]) == {"tensor"}
    assert set(calls["callers"]) == {4}
    for sentence in curves.conclusions(made.calls):
        assert sentence.replace("`", "") in text(made.said)
    assert "10 of 10 blocks" in made.status.value or "done" in made.status.value
    assert 'alt="csv, with 10 rows: most time goes into: ' in made.phases.value
    assert children() == before


def text(widget: widgets.HTML) -> str:
    return widget.value.replace("<code>", "").replace("</code>", "").replace("&#x27;", "'")


def test_stop_ends_everything_and_gives_no_verdict(made: Explorer) -> None:
    before = children()
    made.blocks.value = 50
    made.button.click()
    assert comes_true(lambda: made.progress.value > 2, 240), "some blocks are measured"
    made.stop_button.click()
    assert children() == before
    assert "no verdict" in made.said.value
    assert "of 100 blocks" in made.status.value
    assert not made.button.disabled
    assert len(made.calls), "what was measured is kept"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "flights", "encoding": "tensor", "way": "serve"}, "carrier"),  # text does not fit into a tensor
        ({"model": "nowhere"}, "no model directory"),
    ],
)
def test_an_error_is_one_sentence(made: Explorer, change: dict[str, object], sentence: str) -> None:
    before = children()
    for form in made.arms:
        for name, value in sorted(change.items(), reverse=True):  # the way first: it decides what can be chosen
            getattr(form, name).value = value
    made.button.click()
    made.wait()
    assert sentence in made.said.value
    assert "\n" not in made.said.value
    assert "Traceback" not in made.said.value
    assert made.figure is None
    assert not made.button.disabled
    assert children() == before


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ("", "choose at least one point"),
        ("1; 2", "whole numbers"),
        ("0", "1 at least"),
        ("1, 99999999999999999999", "points 10,000,000 at most"),
    ],
)
def test_points_that_are_none_are_refused(made: Explorer, points: str, sentence: str) -> None:
    made.points.value = points
    made.button.click()
    assert sentence in made.said.value
    assert not made.button.disabled


def test_calls_that_fail_are_counted_with_their_code(made: Explorer) -> None:
    calls = calls_of(made.choice.experiment, lambda arm, rows: 1.0)
    some = calls["arm"] == "other"
    calls.loc[some, ["ok", "code"]] = False, "RESOURCE_EXHAUSTED"
    made._show(calls)
    made._conclude(calls)
    assert f"{some.sum()} of {len(calls)} calls failed: RESOURCE_EXHAUSTED" in made.said.value
    assert "calls failed" in text(made.said)
    assert next(trace.name for trace in made.figure.data if trace.meta.startswith("median")) == "one", (
        "answers are drawn"
    )


def test_points_can_be_hovered(made: Explorer) -> None:
    made._show(calls_of(made.choice.experiment, lambda arm, rows: 1.0 if arm.name == "one" else 2.0))
    by_uid = {trace.meta: trace for trace in made.figure.data}
    said = by_uid["median of one"].hovertext[0]
    assert "<b>one</b> at 1<br>p50 1.0" in said
    assert "20 calls, 0 failed" in said
    said = by_uid["ratio of other"].hovertext[1]
    assert "times as long as one" in said
    assert "95 % interval" in said
    assert "5 blocks" in said
    assert all(by_uid["ratio of other"].error_y.array > 0)
    assert "control" in by_uid
    median, figure = by_uid["median of one"], made.figure
    made._show(calls_of(made.choice.experiment, lambda arm, rows: 3.0))
    assert median.y[0] == pytest.approx(3.0, rel=0.1), "the next block changes the lines, and does not replace them"
    assert made.figure is figure


def test_points_of_a_saturated_generator_are_crossed_out(made: Explorer) -> None:
    calls = calls_of(made.choice.experiment, lambda arm, rows: 1.0)
    calls.loc[(calls["arm"] == "one") & (calls["rows"] == 1), "valid"] = False
    made._show(calls)
    (median,) = [trace for trace in made.figure.data if trace.meta == "median of one"]
    assert list(median.marker.symbol) == ["x", "circle"]
    assert median.marker.color[0] == "red"


def test_names_are_text_and_never_markup(made: Explorer) -> None:
    arms = (Arm("<b>one</b><img src=x>", "predict"), Arm("other", "predict", "tensor"))
    calls = calls_of(Choice(arms, "sum", points=(1, 10), calls=4).experiment, lambda arm, rows: 1.0)
    made._show(calls)
    made._conclude(calls)
    made.code.value = explorer._code(Choice(arms, "sum").experiment)
    for shown in (made.said.value, made.table.value, made.code.value, made.phases.value):
        assert "<img src=x" not in shown
    assert all("<img" not in (trace.name or "") for trace in made.figure.data)


def test_a_result_is_saved_and_opened_and_published_ones_are_opened_too(made: Explorer, tmp_path: Path) -> None:
    made.save_button.click()
    assert "nothing is measured yet" in made.said.value
    calls = calls_of(made.choice.experiment, lambda arm, rows: 2.0 if arm.name == "other" else 1.0)
    made.calls = calls
    made.file.value = str(tmp_path / "mine.parquet")
    made.save_button.click()
    other = Explorer()
    other.file.value = made.file.value
    other.open_button.click()
    assert "slower" in other.said.value
    assert 'Arm(name="other"' in html.unescape(other.code.value)
    assert len(other.calls) == len(calls)
    assert experiments.read(tmp_path / "mine.parquet").attrs["experiment"]["varies"] == "explorer"
    for path in RESULTS.glob("*.parquet"):
        other.file.value = path.stem
        other.open_button.click()
        assert other.status.value == f"opened: {path.name}", other.said.value
        assert "Control" in other.said.value
    other.file.value = "nowhere.parquet"
    other.open_button.click()
    assert "nowhere.parquet does not exist" in other.said.value


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda calls: calls.drop(columns="callers"), "it has no column `callers`"),
        (lambda calls: calls.head(0), "it has no rows"),
        (lambda calls: calls.assign(arm=1), ""),  # only what draws it finds out
    ],
)
def test_a_file_that_cannot_be_shown_changes_nothing(
    made: Explorer, tmp_path: Path, damage: Callable[[pd.DataFrame], pd.DataFrame], sentence: str
) -> None:
    calls = calls_of(made.choice.experiment, lambda arm, rows: 1.0)
    damaged = damage(calls)
    damaged.attrs = calls.attrs
    experiments.write(damaged, tmp_path / "damaged.parquet")
    made._show(calls)
    before = made.code.value, made.table.value, made.phases.value, made.figure
    made.file.value = str(tmp_path / "damaged.parquet")
    made.open_button.click()
    assert made.calls is calls, "what was measured can still be saved"
    assert (made.code.value, made.table.value, made.phases.value, made.figure) == before
    assert sentence.replace("`", "") in text(made.said)
    assert text(made.said) and not made.status.value


def test_a_result_is_not_saved_to_the_name_of_a_published_one(
    made: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made.calls = calls_of(made.choice.experiment, lambda arm, rows: 1.0)
    made.file.value = "chunks"
    made.save_button.click()
    assert "chunks is a published result: save to a name such as mine.parquet" in made.said.value
    assert not list(tmp_path.iterdir())


def test_nothing_is_opened_while_a_run_goes_on(made: Explorer) -> None:
    made.button.click()
    assert made.open_button.disabled
    made.file.value = "chunks"
    with pytest.raises(InvalidInput, match="a run is going on"):
        made.open()
    made.stop()
    assert not made.open_button.disabled
    assert made.calls.empty or set(made.calls["arm"]) <= {"one", "other", "one, again"}


def test_a_run_that_is_stopped_before_anything_is_measured_says_only_that(
    made: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explorer.Run, "__iter__", lambda run: iter([State(total=10)]))
    made.button.click()
    made.wait()
    assert "Stopped before anything was measured.<" in made.said.value
    assert "verdict" not in made.said.value
    assert made.status.value == "stopped"


def test_an_error_shows_the_reason_that_a_process_left_in_its_last_words() -> None:
    words = "the server ended with code 1; its last words:\n%s\npred-server: serve it with --engine sklearn\n"
    shown = "the server ended with code 1; its last words: pred-server: serve it with --engine sklearn"
    assert explorer._sentence(RuntimeError(words % "Traceback (most recent call last):\n  File ...")) == shown
    assert explorer._sentence(ValueError("\nwrong.\nMore of it")) == "wrong."
    assert explorer._sentence(ValueError()) == "ValueError"


def test_arms_come_and_go_and_offer_what_their_way_has(made: Explorer) -> None:
    assert made.fewer.disabled
    made.more.click()
    made.more.click()
    assert len(made.rows_of_arms.children) == 4
    assert made.more.disabled
    made.fewer.click()
    form = made.arms[2]
    form.way.value = "gateway" if "gateway" in form.way.options.values() else "echo"
    assert len(form.encoding.options) > 1
    form.way.value = "serve"
    assert list(form.encoding.options) == ["csv", "columns", "tensor", "arrow"] or "arrow" in form.encoding.options
    assert not form.engine.disabled
    form.engine.value = "ONNX Runtime"
    assert made.choice.arms[2].flags == ("--engine", "onnx")
    form.way.value = "article"
    assert form.engine.disabled
    assert form.encoding.disabled
    assert made.choice.arms[2].flags == ()


def test_what_a_lesson_gives_is_what_is_measured() -> None:
    arms = (Arm("a", callers=1, generator="go"), Arm("b", "rest", generator="go", connections=3))
    choice = Choice(arms, "linear", axis="callers", points=(1, 2), rows=10, blocks=7, calls=9)
    assert Explorer(choice).choice == choice


def test_labels_are_whole_and_the_floor_is_explained(made: Explorer) -> None:
    fields = [made.axis, made.points, made.load, made.rows, made.timed, made.blocks, made.count, made.file]
    for form in made.arms:
        fields += [form.way, form.model, form.engine, form.encoding, form.stream]
    for widget in fields:
        assert widget.style.description_width == "initial", "or JupyterLab cuts the label off"
        assert widget.description
    assert "a served call can be quicker than this floor" in FLOOR_NOTE
    assert FLOOR_NOTE.split("`")[0] in made.note.value
    for form in made.arms:
        form.way.value = "serve"
    assert made.note.value == "", "no floor is among the arms"
