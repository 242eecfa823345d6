"""Random small pipelines: saved, loaded, served in every encoding, and equal to `predict` to the bit."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from threadpoolctl import threadpool_limits

from pred_server import Model, load, save, serve
from pred_server.client.results import to_pandas
from pred_server.errors import InvalidInput
from pred_server.generated.pred_pb2 import Request, Response
from pred_server.limits import Limits
from pred_server.model.sklearn_engine import NEAREST_ROWS, flat
from pred_server.store.estimator_file import foreign_types
from pred_server.wire.codec import CODECS, codec_of
from pred_server.wire.rows import Rows
from pred_server.wire.tables import to_frame
from tests import pipelines
from tests.pipelines import EXAMPLES, Case

ONE_OF = max(10, EXAMPLES // 60)  # goes over a socket, too
FRESH_ROWS = 2 * NEAREST_ROWS
# The sentences with which `save` may refuse a pipeline that scikit-learn has fitted.
REFUSALS = (
    "the estimator predicts otherwise once the table has the dtypes that it is served with",
    "the estimator cannot predict the sample once it has the dtypes that are served",
)


def sent(model: Model, table: pd.DataFrame | np.ndarray, encoding: str, output: str) -> np.ndarray:
    """Return what a caller gets: encoded, decoded, predicted, encoded, decoded, as client and server do it."""
    codec, request, response = CODECS[encoding], Request(), Response()
    codec.write_table(table if encoding == "tensor" else to_frame(table, model.schema.names), request)
    request = Request.FromString(request.SerializeToString())
    rows, _ = codec_of(request).read_table(request, model.schema, Limits())
    result = model.predict_rows(rows, output)
    codec.write_result(result, response)
    read = codec.read_result(Response.FromString(response.SerializeToString()), result.dtype)
    return to_pandas(read, output, None).to_numpy()


def same(served: np.ndarray, expected: Any) -> bool:
    """Whether a reply holds the same values, to the bit; a reply of text or of several targets is of objects."""
    expected = np.asarray(expected).reshape(served.shape)
    if expected.dtype.kind == "f":
        nan = np.isnan(expected)  # of the many NaNs there are, any will do
        return bool(
            served.dtype == expected.dtype
            and np.array_equal(np.isnan(served), nan)
            and served[~nan].tobytes() == expected[~nan].tobytes()
        )
    return served.tolist() == expected.tolist()


def predict(estimator: Any, table: Any, output: str) -> Any:
    """Return what the estimator gives, without warnings; or the error that it raises."""
    one_thread = threadpool_limits(1, "openmp")  # as for few rows: several find other ones of equally near neighbours
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"), one_thread:
        try:
            given = estimator.predict(table) if output == "labels" else estimator.predict_proba(table)
        except Exception as error:  # of any type: an encoder that refuses what it does not know
            return error
    given = np.hstack(given) if isinstance(given, list) else np.asarray(given)
    return flat(given) if output == "labels" else given.astype("float64")  # of a float32, too


def check(case: Case, model: Model) -> None:
    fresh = case.draw(FRESH_ROWS, 1)
    table = pd.DataFrame(fresh) if isinstance(fresh, pd.Series) else fresh
    rows = model.schema.frame_to_rows(to_frame(table, model.schema.names)) if not holds_gaps(model, table) else None
    for output in ("labels", "probabilities") if model.classes else ("labels",):
        expected = InvalidInput("a gap") if rows is None else whole(model, rows, output)
        for encoding in ("csv", "columns", "arrow", "tensor")[: 4 if model.schema.uniform else 3]:
            if isinstance(expected, Exception):
                with pytest.raises(InvalidInput):
                    sent(model, table, encoding, output)
                continue
            served = sent(model, table, encoding, output)
            assert same(served, expected), (encoding, output)
            part = sent(model, table[19:37], encoding, output)
            assert same(part, served[19:37]), f"{output} in {encoding} depend on the rows beside them"
        # Arrays of the estimator that was saved may be views of larger ones, and round otherwise. Of neighbours that
        # are equally near, other ones may be found in the whole table.
        if not isinstance(expected, Exception) and not model.engine.one_by_one:
            as_given = predict(case.estimator, fresh, output)
            assert not isinstance(as_given, Exception), as_given
            if expected.dtype.kind == "f":
                as_given = as_given.astype(expected.dtype)  # of categories scikit-learn makes objects
                assert np.allclose(as_given, expected, rtol=1e-6, equal_nan=True)
            else:
                assert np.array_equal(as_given, expected)


def whole(model: Model, rows: Rows, output: str) -> Any:
    """Return what the loaded estimator itself predicts for all rows, or for halves where neighbours are looked for."""
    step = NEAREST_ROWS if model.engine.one_by_one else FRESH_ROWS
    parts = [rows.take(slice(start, start + step)) for start in range(0, FRESH_ROWS, step)]
    answers = [predict(model.estimator, model.engine.form.of(part), output) for part in parts]
    return next((answer for answer in answers if isinstance(answer, Exception)), None) or np.concatenate(answers)


def holds_gaps(model: Model, table: Any) -> bool:
    """Whether a value is missing where the model needs one: fresh rows may have gaps where the sample had none."""
    gaps = to_frame(table, model.schema.names).isna().any().tolist()
    return any(gap and not column.nullable for gap, column in zip(gaps, model.schema.columns, strict=True))


@pytest.mark.timeout(300 * max(1, EXAMPLES // 100))
def test_random_pipelines_are_served_equal_to_the_bit(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    over_socket: dict[str, Case] = {}

    @settings(
        max_examples=EXAMPLES,
        derandomize=EXAMPLES == 100,  # others' changes must not find new faults; `make fuzz` looks for them
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(pipelines.cases())
    def served(case: Case) -> None:
        directory = tmp_path / f"m{outcomes.total()}"
        try:
            with warnings.catch_warnings(action="ignore"):
                model = save(case.estimator, case.sample, directory)
        except InvalidInput as error:
            assert str(error).startswith(REFUSALS), error
            outcomes["refused by save: " + str(error)[:140]] += 1
            return
        assert not foreign_types((directory / "model.skops").read_bytes()), "scikit-learn's own needs no trust"
        with warnings.catch_warnings(action="ignore"):
            check(case, model)
        outcomes["served"] += 1
        if outcomes["served"] % ONE_OF == 0:
            over_socket[directory.name] = case

    served()
    print("\n".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    assert outcomes["served"] >= 0.9 * outcomes.total()
    first, *others = [str(tmp_path / name) for name in over_socket]
    with serve(first, *[word for directory in others for word in ("--model", directory)]) as server:
        for name, case in over_socket.items():
            check_over_socket(case, load(tmp_path / name), server.client(model=name))


def check_over_socket(case: Case, model: Model, client: Any) -> None:
    table: Any = case.draw(FRESH_ROWS, 1)
    table = pd.DataFrame(table) if isinstance(table, pd.Series) else table
    for output in ("labels", "probabilities") if model.classes else ("labels",):
        for encoding in ("auto", "csv", "columns", "arrow", "tensor")[: 5 if model.schema.uniform else 4]:
            try:
                with warnings.catch_warnings(action="ignore"):  # pytest would make errors of them
                    expected = model.predict(to_frame(table, model.schema.names), output)
            except InvalidInput:
                with pytest.raises(InvalidInput):
                    client.predict(table, encoding=encoding, output=output)
                continue
            for stream in (False, True):
                served = client.predict(table, encoding=encoding, output=output, stream=stream).to_numpy()
                assert same(served, expected), (case, encoding, output, stream)
