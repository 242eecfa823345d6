"""Random small pipelines under ONNX Runtime: equal within the stated parity on fresh rows, or refused in a sentence."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from pred_server import Model, save
from pred_server.engines.onnx import with_onnx
from pred_server.engines.parity import TOLERANCE
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.wire.tables import to_frame
from tests import pipelines
from tests.pipelines import EXAMPLES, Case

# A conversion takes longer than all the rest.
CONVERSIONS = EXAMPLES if EXAMPLES > 100 else 25
FRESH_ROWS = 2_000


def answer(model: Model, table: pd.DataFrame, output: str) -> Any:
    """Return the predictions, or the fields that the model refuses."""
    try:
        return model.predict(table, output)
    except InvalidInput as error:
        return [violation.field for violation in error.violations]


def assert_within_parity(model: Model, converted: Model, table: pd.DataFrame, spread: float) -> None:
    for output in ("labels", "probabilities") if model.classes else ("labels",):
        expected, actual = (answer(by, table, output) for by in (model, converted))
        if isinstance(expected, list):
            assert isinstance(actual, list) and expected == actual, (expected, actual)
        elif expected.dtype.kind == "f" and (output == "probabilities" or not model.classes):
            assert np.allclose(expected, actual, rtol=0, atol=TOLERANCE * spread, equal_nan=True), output
        else:
            assert expected.tolist() == actual.tolist()


def spread_of(model: Model) -> float:
    """Return the spread of what is predicted for the sample: of numbers, or of probabilities."""
    values = model.predict(model.sample, "probabilities" if model.classes else "labels")
    if values.dtype.kind != "f":
        return 0.0
    return float(np.ptp(values)) or float(np.abs(values).max()) or 1.0


def stretched(table: pd.DataFrame, model: Model) -> pd.DataFrame:
    """Return rows of another making: numbers far outside, texts that were never seen, values missing where they may."""
    random = np.random.default_rng(2)
    columns = {}
    for column in model.schema.columns:
        values = table[column.name]
        if column.is_float:
            values = values.astype("float64") * 10.0 ** random.integers(-3, 9)
        elif column.dtype == "str":
            values = values.astype(object).where(random.random(len(table)) < 0.9, "never seen")
        if column.nullable:
            values = values.mask(random.random(len(table)) < 0.2)
        columns[column.name] = values
    return pd.DataFrame(columns)


@pytest.mark.timeout(300 * max(1, EXAMPLES // 20))
@pytest.mark.usefixtures("in_process")
@pytest.mark.filterwarnings("ignore")  # of scikit-learn's and the converters' own
def test_random_pipelines_are_served_within_their_parity_or_refused(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=CONVERSIONS,
        derandomize=EXAMPLES == 100,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(pipelines.cases())
    def served(case: Case) -> None:
        try:
            model = save(case.estimator, case.sample, tmp_path / f"m{outcomes.total()}")
        except InvalidInput:  # another test's matter
            outcomes["refused by save"] += 1
            return
        outcomes[served_or_refused(case, model)] += 1

    served()
    print("\n".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    assert outcomes["served"] >= 0.3 * outcomes.total()


def served_or_refused(case: Case, model: Model) -> str:
    """Return `served`, or the sentence that refuses the model, without its name and its figures."""
    try:
        converted = with_onnx(model)
    except ServerStartError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(f"model {model.name!r}")
        return str(error).removeprefix(f"model {model.name!r}")
    assert " from scikit-learn, on " in converted.parity
    fresh = to_frame(case.draw(FRESH_ROWS, 1), model.schema.names)
    fresh = fresh.set_axis(model.schema.names, axis=1)
    for table in (fresh, fresh[5:6], stretched(fresh, model)):
        assert_within_parity(model, converted, table, spread_of(model))
    return "served"
