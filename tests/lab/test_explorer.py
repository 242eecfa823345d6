"""The explorer without a browser: widgets are set and the button is pressed, as a person would."""

import psutil
import pytest

from pred_server.lab.explorer import FLOOR_NOTE, LOADS, Choice, Explorer, draw, explore
from pred_server.lab.ways import serve


@pytest.fixture
def explorer() -> Explorer:
    made = Explorer()
    made.model.value, made.encoding.value, made.rows.value = "linear", "tensor", (1, 10)
    return made


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize(("load", "stream"), [("4 callers", False), ("100 calls/s", True)])
def test_run_measures_what_was_chosen_and_closes_its_servers(explorer: Explorer, load: str, stream: bool) -> None:
    seen: list[tuple[int, int, bool]] = []
    explorer.progress.observe(
        lambda change: seen.append((change["new"], explorer.table.value.count("served"), explorer.button.disabled)),
        names="value",
    )
    before = children()
    explorer.load.value, explorer.stream.value = load, stream
    explorer.button.click()
    assert explorer.said.value == ""
    assert seen == [(1, 0, True), (2, 1, True)], "points come one by one, and meanwhile nobody can press again"
    assert not explorer.button.disabled
    served = explorer.calls[explorer.calls["arm"] == "served"]
    assert served.groupby("rows").size().to_dict() == {1: 40, 10: 40}
    assert served["ok"].all()
    assert (served["batch_rows"] >= served["rows"]).all(), "the server tells how many it computed together"
    assert set(served["encoding"]) == {"tensor"}
    assert (served["chunk_rows"] > 0).all() == stream
    assert (served["callers"].iloc[0], served["rate_per_s"].iloc[0]) == LOADS[load]
    assert explorer.plots.value.count("<img alt=") == 2
    assert f"linear, tensor, {'stream' if stream else 'unary'}, {load}" in explorer.plots.value
    assert explorer.table.value.count("<td>served</td>") == 2
    latency, waterfall = draw(explorer.calls, Choice("linear", "tensor", (1, 10), stream, load))
    assert list(latency.axes[0].lines[0].get_xdata()) == [1, 10]
    assert [tick.get_text() for tick in waterfall.axes[0].get_yticklabels()] == ["1 rows", "10 rows"]
    assert children() == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "flights"}, "carrier"),  # text does not fit into a tensor
        ({"model": "nowhere"}, "no model directory"),
        ({"rows": ()}, "choose at least one number of rows"),
    ],
)
def test_an_error_is_one_sentence(explorer: Explorer, change: dict[str, object], sentence: str) -> None:
    before = children()
    for name, value in change.items():
        getattr(explorer, name).value = value
    explorer.button.click()
    assert sentence in explorer.said.value
    assert "\n" not in explorer.said.value
    assert "Traceback" not in explorer.said.value
    assert explorer.plots.value == explorer.table.value == ""
    assert not explorer.button.disabled
    assert children() == before


def test_calls_that_fail_are_counted_with_their_code(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = serve.serve
    monkeypatch.setattr(serve, "serve", lambda model, *flags: limited(model, "--max-rows", "5", *flags))
    explorer.button.click()
    assert explorer.said.value == "40 of 160 calls failed: RESOURCE_EXHAUSTED"
    assert explorer.plots.value.count("<img alt=") == 2, "what was answered is drawn"


def test_to_stop_in_the_middle_closes_the_servers() -> None:
    before = children()
    points = explore(Choice("linear", "tensor", (1, 10), calls=2))
    assert set(next(points)["rows"]) == {1}
    assert len(children()) > len(before)
    points.close()
    assert children() == before


def test_labels_are_whole_and_the_floor_is_explained(explorer: Explorer) -> None:
    for name in ("model", "encoding", "rows", "load", "progress", "stream"):
        widget = getattr(explorer, name)
        assert widget.style.description_width == "initial", "or JupyterLab cuts the label off"
        assert widget.description
    shown = " ".join(child.value for child in explorer.view.children if hasattr(child, "value"))
    assert "a served call can be quicker than this floor" in FLOOR_NOTE
    assert FLOOR_NOTE.split("`")[0] in shown
