"""Tables of 5,000 columns: saved with a number of questions that does not grow with them, and served to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from pred_server import load, save, serve
from pred_server.errors import InvalidInput
from pred_server.wire.codec import CODECS
from pred_server.wire.schema import Schema

WIDE = 5_000


def table(n_columns: int, n_rows: int = 20) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(0).normal(size=(n_rows, n_columns))).add_prefix("g")


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of values in each table that a Ridge is asked to predict."""
    asked: list[int] = []
    predict = Ridge.predict

    def counted(estimator: Ridge, asked_for: Any) -> np.ndarray:
        asked.append(asked_for.size)
        return predict(estimator, asked_for)

    monkeypatch.setattr(Ridge, "predict", counted)
    return asked


def test_to_save_a_model_costs_in_proportion_to_its_columns(cells: list[int], tmp_path: Path) -> None:
    values = {}
    for n_columns in (500, WIDE):
        cells.clear()
        few = table(n_columns)
        save(Ridge().fit(few, few["g0"]), few, tmp_path / str(n_columns))
        values[n_columns] = sum(cells)
        assert len(cells) < 500
    assert values[WIDE] < 10 * values[500]


def test_a_wide_model_is_served_in_every_encoding_to_the_bit(tmp_path: Path) -> None:
    rows = table(WIDE)
    models = {"saved": save(Ridge().fit(rows, rows["g0"]), rows, tmp_path / "saved"), "wide": load("wide")}
    with serve(tmp_path / "saved", "--model", "wide") as server:
        for name, model in models.items():
            asked = rows.set_axis(model.schema.names, axis=1)
            with server.client(model=name) as client:
                for encoding in CODECS:
                    served = client.predict(asked, encoding=encoding)
                    assert np.array_equal(served, model.predict(asked)), (name, encoding)


def test_a_refused_row_is_explained_without_a_look_at_the_whole_table_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(WIDE)
    model = save(Ridge().fit(rows, rows["g0"]), rows, tmp_path / "mine")
    checked, real = [], Schema.to_rows

    def counted(schema: Schema, values: Any) -> Any:
        checked.append(schema)
        return real(schema, values)

    monkeypatch.setattr(Schema, "to_rows", counted)
    with pytest.raises(InvalidInput, match=r"g7: row 3 has inf, which the model refuses") as refused:
        model.predict(rows.assign(g7=rows["g7"].where(rows.index != 2, np.inf)))
    assert [violation.field for violation in refused.value.violations] == ["g7"]
    assert len(checked) <= 2, "the table, and a row of the sample"
