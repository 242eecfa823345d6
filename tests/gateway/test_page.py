"""The gateway's page and its OpenAPI document, in front of a real server: what they say is true, and can be used."""

import html
import importlib
import json
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import openapi_spec_validator
import pandas as pd
import pytest
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from sklearn.linear_model import LinearRegression, LogisticRegression

from pred_server import Model, save, serve
from pred_server.tutorial.background import gateway

SCRIPT = "<script>alert(1)</script>"
SCORES = {SCRIPT: SCRIPT}
HANG_S = 120


@pytest.fixture(scope="module")
def address(go: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway to flights, sum, a classifier, and a model whose names look like markup."""
    models = tmp_path_factory.mktemp("models")
    table = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0], "legs": [2, 2, 4, 4]})
    save(LogisticRegression().fit(table, ["bird", "bird", "cat", "cat"]), table, models / "animals")
    odd = pd.DataFrame({SCRIPT: [1.0, 2.0], 'it\'s "odd", $(id)': [3, 5]})
    save(LinearRegression().fit(odd, [1.0, 2.0]), odd, models / "odd", target=SCRIPT, target_unit=SCRIPT, scores=SCORES)
    flags = ["--model", "sum", "--model", str(models / "animals"), "--model", str(models / "odd")]
    with serve("flights", *flags) as server, gateway(server.address) as running:
        yield running.address


def ask(url: str, form: dict[str, str] | None = None, accept: str = "text/html") -> tuple[int, str]:
    headers = {"Accept": accept}
    body = None
    if form is not None:
        boundary = "a-boundary-that-no-table-has"
        begin = f"--{boundary}\r\nContent-Disposition: form-data; name="
        parts = [f'{begin}"{name}"\r\n\r\n{value}\r\n' for name, value in form.items()]
        body = "".join([*parts, f"--{boundary}--\r\n"]).encode()
        headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=HANG_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def read_json(url: str) -> Any:
    status, text = ask(url, accept="application/json")
    assert status == 200, text
    return json.loads(text)


class Page(HTMLParser):
    """A page's elements, its text by the id of the element around it, and the rows of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.texts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self._ids: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in {"meta", "input", "br"}:
            return
        name = dict(attributes).get("id") or ""
        self._ids.append((tag, name))
        if tag == "table":
            self.tables[name] = []
        if tag == "tr":
            self._table().append([])
        if tag in {"td", "th"}:
            self._table()[-1].append("")

    def handle_startendtag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._ids.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for _, name in self._ids:
            self.texts[name] = self.texts.get(name, "") + data
        if any(tag in {"td", "th"} for tag, _ in self._ids):
            self._table()[-1][-1] += data

    def _table(self) -> list[list[str]]:
        return self.tables[next(name for tag, name in reversed(self._ids) if tag == "table")]


def test_the_page_predicts_what_the_model_does_and_draws_that_very_call(
    address: str, flights: pd.DataFrame, flights_model: Model
) -> None:
    table = flights.head(120)
    status, text = ask(address, {"table": table.to_csv(index=False)})
    page = Page(text)
    header, *rows = page.tables["predictions"]
    assert (status, header) == (200, ["row", "arr_delay (predicted)", *table.columns])
    assert [float(row[1]) for row in rows] == flights_model.predict(table).tolist()[:100]
    assert [row[6] for row in rows] == table["carrier"].tolist()[:100]
    phases = [re.sub(r"(?<=[a-z])(the|it) .*", "", row[0]) for row in page.tables["waterfall"][1:]]
    assert phases == ["gateway", "transport", "decode", "queue", "predict", "encode"]
    milliseconds = [float(row[1].replace(",", "")) for row in page.tables["waterfall"][1:]]
    total = re.search(r"120 predictions in ([\d.,]+) ms", text)
    assert total is not None
    assert sum(milliseconds) == pytest.approx(float(total[1].replace(",", "")), rel=0.02)

    status, text = ask(address, {"table": table.to_csv(index=False), "download": "csv"})
    assert (status, [float(value) for value in text.split()[1:]]) == (200, flights_model.predict(table).tolist())


def test_a_bad_cell_is_named_by_column_and_line_in_the_apis_own_sentence(address: str, flights: pd.DataFrame) -> None:
    table = flights.head(3).astype(object)
    table.iloc[1, table.columns.get_loc("distance")] = SCRIPT
    csv = table.to_csv(index=False)
    request = urllib.request.Request(f"{address}/predict", csv.encode(), {"Content-Type": "text/csv"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=HANG_S)
    with refused.value as error:
        sentence = json.loads(error.read())["error"]["message"]

    status, text = ask(address, {"table": csv})
    page = Page(text)
    assert (status, page.texts["problem-message"]) == (400, sentence)
    assert page.tables["violations"][1][:2] == ["distance", "3"]
    assert page.tables["violations"][1][2].startswith(repr(SCRIPT)[:20])
    assert page.texts["table"].strip() == csv.strip()
    assert "script" not in page.tags


@pytest.mark.parametrize("model", ["", "?model=sum", "?model=animals&version=1", "?model=odd"])
def test_the_command_of_the_page_can_be_pasted(address: str, model: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    page = Page(ask(f"{address}/{model}")[1])
    done = subprocess.run(["sh", "-c", page.texts["curl"]], capture_output=True, text=True, timeout=HANG_S, check=True)
    status, form = ask(f"{address}/{model}", {"table": page.texts["table"], "download": "csv"})
    assert status == 200
    assert done.stdout == form
    assert len(pd.read_csv(pd.io.common.StringIO(done.stdout))) == 1


def test_names_that_look_like_markup_are_text(address: str) -> None:
    for form in (None, {"table": f'{SCRIPT},"it\'s ""odd"", $(id)"\n1,2\n'}):
        status, text = ask(f"{address}/?model=odd", form)
        page = Page(text)
        assert status == 200
        assert "script" not in page.tags
        assert page.tables["columns"][1][0] == SCRIPT
        assert html.escape(SCRIPT) in text
    assert page.tables["predictions"][0][1:3] == [f"{SCRIPT} (predicted)", SCRIPT]


def test_models_as_json_are_those_that_are_served(address: str, flights_model: Model) -> None:
    models = read_json(f"{address}/models")["models"]
    assert [model["name"] for model in models] == ["flights", "sum", "animals", "odd"]
    assert read_json(address) == {"models": models}
    for model in models:
        assert read_json(f"{address}/models/{model['name']}") == model
        assert read_json(f"{address}/models/{model['name']}/{model['version']}") == model
    schema = flights_model.schema
    assert models[0]["schema_hash"] == schema.hash
    assert [(c["name"], c["dtype"], c["nullable"]) for c in models[0]["columns"]] == [
        (column.name, column.dtype, column.nullable) for column in schema.columns
    ]
    assert (models[0]["target"]["name"], models[0]["target"]["unit"]) == ("arr_delay", "minutes")
    assert models[0]["scores"] == {name: str(score) for name, score in flights_model.scores.items()}
    assert models[2]["classes"] == ["bird", "cat"]


@pytest.mark.parametrize("model", ["", "?model=flights", "?model=animals", "?model=odd"])
def test_the_openapi_document_is_valid(address: str, model: str) -> None:
    document = read_json(f"{address}/openapi.json{model}")
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document)
    del document["paths"]["/predict"]["post"]["responses"]["200"]["description"]
    with pytest.raises(OpenAPIValidationError):
        openapi_spec_validator.validate(document)


def generate(document: Any, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Generate a client of that name, as a user would, and import it."""
    (folder / "openapi.json").write_text(json.dumps(document))
    (folder / "settings.yaml").write_text("post_hooks: []\n")  # they format the code
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    command += ["--output-path", name, "--config", "settings.yaml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=HANG_S)
    assert (folder / name / "client.py").exists(), done.stdout + done.stderr
    monkeypatch.syspath_prepend(folder)
    return importlib.import_module(name)


def test_a_generated_client_predicts(
    address: str, flights: pd.DataFrame, flights_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = generate(read_json(f"{address}/openapi.json?model=flights"), "flights_api", tmp_path, monkeypatch)
    predict = importlib.import_module("flights_api.api.default.predict")
    models = importlib.import_module("flights_api.models")
    table = flights.head(50)
    rows = [models.FlightsRow.from_dict(record) for record in table.to_dict("records")]
    with generated.Client(base_url=address) as client:
        answer = predict.sync_detailed(client=client, body=rows, model_name=models.PredictModelName.FLIGHTS)
        assert answer.status_code == 200
        assert [row.arr_delay for row in answer.parsed] == flights_model.predict(table).tolist()
        assert answer.headers["Model-Identity"].startswith("flights/1/")

        rows[1].distance = "far"
        refused = predict.sync_detailed(client=client, body=rows, model_name=models.PredictModelName.FLIGHTS)
        assert refused.status_code == 400
        assert isinstance(refused.parsed, models.Error)
        (violation,) = refused.parsed.error.violations
        assert (refused.parsed.error.code, violation.field) == ("INVALID_ARGUMENT", "distance")
        assert violation.description.startswith("line 3: 'far'")
        assert refused.parsed.error.request_id == refused.headers["X-Request-Id"]

        wrong = predict.sync_detailed(
            client=client, body=rows[:1], model_name=models.PredictModelName.FLIGHTS, expect_schema="0" * 16
        )
        assert (wrong.status_code, wrong.parsed.error.reason) == (412, "SCHEMA_CHANGED")


def test_one_generated_client_is_for_all_models(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generated = generate(read_json(f"{address}/openapi.json"), "models_api", tmp_path, monkeypatch)
    predict = importlib.import_module("models_api.api.default.predict")
    list_models = importlib.import_module("models_api.api.default.list_models")
    models = importlib.import_module("models_api.models")
    with generated.Client(base_url=address) as client:
        assert [model.name for model in list_models.sync(client=client).models] == ["flights", "sum", "animals", "odd"]
        sums = [models.SumRow(x=1.5, y=2.0), models.SumRow(x=None, y=2.0)]
        answer = predict.sync(client=client, body=sums, model_name=models.PredictModelName.SUM)
        assert [row.to_dict() for row in answer] == [{"0": 3.5}, {"0": None}]
        animals = [models.AnimalsRow(size=1.0, legs=2)]
        answer = predict.sync(
            client=client,
            body=animals,
            model_name=models.PredictModelName.ANIMALS,
            model_output=models.PredictModelOutput.PROBABILITIES,
        )
        assert sum(answer[0].to_dict().values()) == pytest.approx(1.0)
        assert set(answer[0].to_dict()) == {"bird", "cat"}
