"""The gateway's page in a browser, as people use it: with a mouse or a keyboard alone, on a phone, in the dark.

Scripts are off, since the page has to work without. Names that look like markup are shown with scripts on, where one of
them would run; and axe-core is itself a script.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Locator, Page, Route, expect
from sklearn.linear_model import LinearRegression, LogisticRegression

from pred_server import Model, save, serve
from pred_server.tutorial.background import gateway
from tests.browser.pages import watched

NAMES = ["<script>alert(1)</script>", '<img src="//example.com/x" onerror="alert(1)">']
WIDE, NARROW, NARROWEST = (
    {"width": width, "height": height} for width, height in ((1280, 1100), (390, 844), (320, 640))
)


@pytest.fixture(scope="module")
def address(browser: Browser, go: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway to flights, sum, a classifier, and a model whose names look like markup."""
    models = tmp_path_factory.mktemp("models")
    table = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "legs": [2, 2, 4, 4]})
    save(LogisticRegression().fit(table, ["bird", "bird", "cat", "cat"]), table, models / "animals")
    odd = pd.DataFrame({name: [1.0, 2.0] for name in NAMES})
    texts = {"target": NAMES[0], "target_unit": NAMES[1], "scores": {NAMES[0]: NAMES[1]}}
    save(LinearRegression().fit(odd, [1.0, 2.0]), odd, models / "odd", **texts)
    flags = [flag for name in ("sum", models / "animals", models / "odd") for flag in ("--model", str(name))]
    with serve("flights", *flags) as server, gateway(server.address) as running:
        yield running.address


@pytest.fixture
def options() -> dict[str, Any]:
    """How the browser is set; a test may have it otherwise."""
    return {"java_script_enabled": False}


@pytest.fixture
def page(browser: Browser, address: str, options: dict[str, Any]) -> Iterator[Page]:
    """The page of the first model. At the end it must have asked nobody but the gateway, and kept to its policy."""
    with watched(browser, lambda url: address == f"http://{url.netloc}", **options) as page:
        page.goto(address)
        yield page


def the(locator: Locator) -> Locator:
    """Return what is there once. A page without scripts is complete when it is loaded: there is nothing to wait for."""
    assert locator.count() == 1, f"{locator.count()} of {locator}"
    return locator


def button(page: Page, name: str) -> Locator:
    return the(page.get_by_role("button", name=name, exact=True))


def link(page: Page, name: str) -> Locator:
    return the(page.get_by_role("link", name=name, exact=True))


def table_field(page: Page) -> Locator:
    return the(page.get_by_role("textbox", name="Table, as CSV", exact=True))


def file_field(page: Page) -> Locator:
    return the(page.get_by_label("Or a CSV file", exact=True))


def then_loads(page: Page, act: Callable[[], None]) -> None:
    """Do what leads to another page, and wait until that is complete."""
    with page.expect_event("load"):
        act()


def predict(page: Page, table: str) -> None:
    table_field(page).fill(table)
    then_loads(page, button(page, "Predict").click)


def rows(page: Page, table: str) -> list[list[str]]:
    """Return the texts of a table's cells, by row; its name begins so."""
    found = the(page.get_by_role("table", name=re.compile(f"^{table}"))).get_by_role("row").all()
    return [row.locator("th, td").all_text_contents() for row in found]


def predictions(page: Page) -> list[float]:
    header, *values = rows(page, "Predictions")
    assert header[:2] == ["row", "arr_delay (predicted)"]
    return [float(row[1]) for row in values]


def with_a_fault(flights: pd.DataFrame) -> str:
    """Return three flights as CSV, and in line 3 a distance that is no number."""
    table = flights.head(3).astype(object)
    table.iloc[1, table.columns.get_loc("distance")] = "far away"
    return table.to_csv(index=False)


def focused(page: Page) -> str:
    """Return the role and the name of what has the focus, as a screen reader says them; nothing where nothing has."""
    focus = page.locator(":focus")
    if not focus.count():
        return ""
    said = re.match(r'- (\w+ ".*?")', focus.aria_snapshot())
    return said[1] if said else "no name: " + focus.evaluate("element => element.outerHTML")[:80]


def tab_to(page: Page, what: str) -> None:
    """Press Tab until that has the focus."""
    passed = []
    while focused(page) != what:
        passed.append(focused(page))
        assert len(passed) < 30, f"Tab does not reach {what}, but {passed}"
        page.keyboard.press("Tab")


def faults(page: Page, only: str = "") -> list[str]:
    """Return what axe-core finds: the rule, its weight, and the elements that break it; of one rule, or of all.

    It is run through the debugger, to which the page's policy does not apply: the page stays as people get it.
    """
    rules = {"runOnly": [only]} if only else {"rules": {"target-size": {"enabled": True}}}  # off by default
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("options => axe.run(options)", {"resultTypes": ["violations"], **rules})
    assert len(found["passes"]) >= (1 if only else 20), "axe-core has looked"
    return [
        f"{one['id']} ({one['impact']}): {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]
    ]


def is_dark(page: Page) -> bool:
    """Return whether text is brighter than what it stands on."""
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    ink, paper = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    return ink > paper


def assert_nothing_sticks_out(page: Page) -> None:
    width, room = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width == room, "the page has to be scrolled sideways"


def test_a_table_is_pasted_and_predicted(
    page: Page, flights: pd.DataFrame, flights_model: Model, screenshot: Callable[[str], Path]
) -> None:
    table = flights.head(20)
    predict(page, table.to_csv(index=False))
    assert predictions(page) == flights_model.predict(table).tolist()
    expect(page.get_by_role("heading", name="20 predictions in")).to_be_in_viewport()
    screenshot("predictions")


def test_the_waterfall_of_the_call_is_drawn(page: Page, flights: pd.DataFrame) -> None:
    predict(page, flights.head(20).to_csv(index=False))
    _, *phases = rows(page, "Where the time of this call went")
    names = ["gateway", "transport", "decode", "queue", "predict", "encode"]
    assert [row[0][: len(name)] for row, name in zip(phases, names, strict=True)] == names
    bars = [bar.bounding_box() for bar in page.locator("#waterfall rect").all()]
    rooms = [room.bounding_box() for room in page.locator("#waterfall svg").all()]
    total = sum(float(row[1].replace(",", "")) for row in phases)
    for row, bar, room in zip(phases, bars, rooms, strict=True):
        assert bar and room
        assert bar["height"] > 5
        assert bar["width"] / room["width"] == pytest.approx(float(row[1].replace(",", "")) / total, abs=0.01)
    for before, after in pairwise(bars):
        assert before and after
        assert after["x"] == pytest.approx(before["x"] + before["width"], abs=0.01 * rooms[0]["width"])
    colours = page.locator("#waterfall rect").evaluate_all("bars => bars.map(bar => getComputedStyle(bar).fill)")
    assert [colours.count(colour) for colour in colours] == [5, 5, 5, 5, 1, 5], "the model's own work stands out"


def test_a_bad_cell_is_named_by_line_and_column_and_can_be_mended(
    page: Page, flights: pd.DataFrame, flights_model: Model
) -> None:
    table = with_a_fault(flights)
    predict(page, table)
    alert = the(page.get_by_role("alert"))
    expect(alert.get_by_role("heading", name="The table was not taken")).to_be_in_viewport()
    header, fault = rows(page, "What is wrong")
    assert (header, fault[:2]) == (["column", "line", "fault"], ["distance", "3"])
    assert fault[2].startswith("'far away'")
    assert fault[2].endswith(table.splitlines()[2]), "the line itself is shown"
    assert page.title().startswith("Error: ")

    written = table_field(page).input_value()
    assert written == table, "nothing that was written is lost"
    distance = str(flights["distance"].iloc[1])
    predict(page, written.replace("far away", distance))
    assert not page.get_by_role("alert").count()
    assert predictions(page) == flights_model.predict(flights.head(3)).tolist()


def test_a_file_goes_in_place_of_the_text_and_predictions_can_be_saved(
    page: Page, flights: pd.DataFrame, flights_model: Model, tmp_path: Path
) -> None:
    table = flights.head(7)
    path = tmp_path / "seven flights.csv"
    table.to_csv(path, index=False)
    expected = flights_model.predict(table).tolist()
    before = table_field(page).input_value()
    file_field(page).set_input_files(path)
    then_loads(page, button(page, "Predict").click)
    assert predictions(page) == expected
    assert table_field(page).input_value() == before

    file_field(page).set_input_files(path)
    with page.expect_download() as download:
        button(page, "Download as CSV").click()
    assert download.value.suggested_filename == "predictions.csv"
    assert pd.read_csv(download.value.path())["arr_delay"].tolist() == expected


def test_the_keyboard_is_enough(page: Page, flights: pd.DataFrame, flights_model: Model, tmp_path: Path) -> None:
    # From here on: a browser that learns of it as Enter is pressed may open a dialog of its own, which nobody sees.
    page.on("filechooser", lambda _: None)
    stops = []
    page.keyboard.press("Tab")
    while stop := focused(page):
        stops.append(stop)
        expect(page.locator(":focus")).to_be_in_viewport()
        assert page.locator(":focus").evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        page.keyboard.press("Tab")
    models = [f'link "{name}"' for name in ("flights", "sum", "animals", "odd")]
    assert stops[:6] == ['link "Skip to the content"', 'link "Predictions"', *models]
    assert stops[6:10] == [
        'textbox "Table, as CSV"',
        'button "Or a CSV file"',
        'button "Predict"',
        'button "Download as CSV"',
    ]
    assert [stop.split()[0] for stop in stops[10:-2]] == ["region", "region"], "what can be scrolled"
    assert stops[-2:] == ['link "/models"', 'link "/openapi.json"']

    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page) == 'textbox "Table, as CSV"', "the links at the top are skipped"
    table = flights.head(3)
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(table.to_csv(index=False))
    tab_to(page, 'button "Predict"')
    then_loads(page, lambda: page.keyboard.press("Enter"))
    assert predictions(page) == flights_model.predict(table).tolist()
    page.keyboard.press("Tab")
    assert focused(page) == 'region "Predictions"', "reading goes on at the answer"

    path = tmp_path / "flights.csv"
    flights.head(5).to_csv(path, index=False)
    tab_to(page, 'button "Or a CSV file"')
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(path)
    tab_to(page, 'button "Predict"')
    then_loads(page, lambda: page.keyboard.press("Enter"))
    assert predictions(page) == flights_model.predict(flights.head(5)).tolist()


def test_a_classifier_is_asked_for_probabilities(page: Page) -> None:
    then_loads(page, link(page, "animals").click)
    the(page.get_by_role("checkbox", name="the probability of each class, in place of the label")).check()
    predict(page, "size,legs\n1,2\n4,4\n")
    header, *values = rows(page, "Predictions")
    assert header == ["row", "bird (predicted)", "cat (predicted)", "size", "legs"]
    assert [sum(map(float, row[1:3])) for row in values] == pytest.approx([1, 1])
    assert the(page.get_by_role("checkbox")).is_checked()


@pytest.mark.parametrize("options", [pytest.param({"java_script_enabled": True}, id="with-scripts")])
def test_names_that_look_like_markup_are_text(page: Page, screenshot: Callable[[str], Path]) -> None:
    ran: list[str] = []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    then_loads(page, link(page, "odd").click)
    table = pd.DataFrame({name: [1.0] for name in NAMES})
    predict(page, table.to_csv(index=False))
    assert rows(page, "Predictions")[0] == ["row", f"{NAMES[0]} (predicted)", *NAMES]
    assert [row[0] for row in rows(page, "Columns")[1:3]] == NAMES
    screenshot("markup")
    table[NAMES[1]] = [NAMES[0]]
    predict(page, table.to_csv(index=False))
    assert rows(page, "What is wrong")[1][:2] == [NAMES[1], "2"]
    assert not page.locator("script, img").count()
    assert not ran


@pytest.mark.parametrize(
    "options", [pytest.param({"viewport": WIDE}, id="wide"), pytest.param({"viewport": NARROW}, id="narrow")]
)
def test_everybody_can_read_it(
    page: Page,
    flights: pd.DataFrame,
    screenshot: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> None:
    """At rest, with predictions, and with an error: axe-core finds nothing, light or dark, and nothing sticks out."""
    width = request.node.callspec.id
    for state in ("rest", "predictions", "error"):
        if state != "rest":
            predict(page, with_a_fault(flights) if state == "error" else flights.head(20).to_csv(index=False))
        assert not faults(page), state
        assert_nothing_sticks_out(page)
        assert not is_dark(page)
        screenshot(f"{state}-{width}-light")
        page.emulate_media(color_scheme="dark")
        assert not faults(page, "color-contrast"), f"{state}, dark"
        assert is_dark(page)
        screenshot(f"{state}-{width}-dark")
        page.emulate_media(color_scheme="light")
        if width == "narrow":
            page.set_viewport_size(NARROWEST)
            assert_nothing_sticks_out(page)
            page.set_viewport_size(NARROW)


@pytest.mark.parametrize("options", [pytest.param({}, id="with-scripts")])
def test_axe_finds_what_is_missing(page: Page) -> None:
    page.evaluate("""for (const part of ["label[for=table]", "h1", "title"]) document.querySelector(part).remove()""")
    rules = {fault.split()[0] for fault in faults(page)}
    assert rules >= {"label", "page-has-heading-one", "document-title"}


def test_a_page_that_breaks_its_policy_is_noticed(browser: Browser, address: str) -> None:
    def plant(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer, body=answer.text().replace("<main", f'<p style="color: red">{NAMES[1]}</p><main')
        )

    for may_ask, what in ((True, "Applying inline style"), (False, "asked .*example")):
        with (
            pytest.raises(AssertionError, match=what),
            watched(browser, lambda _, may=may_ask: may, java_script_enabled=False) as page,
        ):
            page.route(address + "/", plant)
            page.goto(address)
