"""The page shows what the published result gives, and a broken promise is named on it."""

import json
from pathlib import Path

from pred_server.checkout import ROOT
from tests.attacks import measure
from tests.attacks.kinds import KINDS

STAMP = {"cpu": "a processor", "cores": 2, "python": "3.11", "grpcio": "1.85", "revision": "abc"}
LINE = {
    "kind": "idle_streams", "calls_per_s": 1_000.0, "mb_per_s": 0.5, "connections": 4, "good": 100, "wrong": 0,
    "idle_ms": 2.0, "median_ms": 3.0, "health_ms": 20.0, "control_ms": 10.0, "control_mib": 20.0, "before_mib": 250.0,
    "peak_mib": 300.0, "after_mib": 260.0, "broken": [],
}  # fmt: skip


def result(**changes: object) -> dict[str, object]:
    greedy = [{"callers": "many_large", "grown_mib": 700.0, "good": 10, "broken": []}]
    times = {"seconds": 10.0, "memory_seconds": 60.0}
    return {"stamp": STAMP, **times, "kinds": [LINE | changes], "memory": greedy, "memory_stamp": STAMP}


def test_a_result_is_written_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- attack -->\nold\n<!-- end -->\nafter\n")
    measure.write(result(), tmp_path / "attack.json", page)
    text = page.read_text()
    assert text.startswith("before\n<!-- attack -->\n| attack |")
    assert text.endswith("</sub>\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert "| idle streams | 1,000 | 0.50 | 3.00 | 20.0 | +50 | +10 | 10.0 | +20 |" in text
    assert "Broken" not in text
    assert json.loads((tmp_path / "attack.json").read_text()) == result()


def test_a_broken_promise_is_named() -> None:
    assert "- Broken: idle_streams: health took 2 s." in measure.block(result(broken=["health took 2 s"]))


def test_memory_that_was_measured_anew_has_its_revision() -> None:
    anew = result() | {"memory_stamp": STAMP | {"revision": "def"}}
    assert measure.block(anew)[-1].endswith("revision abc, the greedy callers def.</sub>")
    assert measure.block(result())[-1].endswith("revision abc.</sub>")


def test_the_page_shows_the_published_result() -> None:
    text = measure.PAGE.read_text()
    assert measure.BEGIN in text
    published = json.loads(measure.RESULT.read_text())
    assert {line["kind"] for line in published["kinds"]} == set(KINDS)
    assert str(ROOT) not in measure.RESULT.read_text()
    assert measure.with_block(text, published) == text, "run `make attack`"
