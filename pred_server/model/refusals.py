"""Says which columns are at fault where an estimator refuses a table: its own message may quote internals."""

import pandas as pd

from pred_server.errors import Violation, clip
from pred_server.model.sklearn_engine import Engine
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema

# A caller's fault must not cost others much time: of wide tables, only the most unusual values are tried.
MOST_TRIED = 20


def blame(engine: Engine, output: str, rows: Rows, schema: Schema, sample: pd.DataFrame) -> list[Violation]:
    """Return the columns whose values the engine refuses in the first bad row.

    A value is at fault if the engine refuses it among the values of a row that it takes, one of the sample.
    """

    def refuses(rows: Rows) -> bool:
        try:
            engine.predict(rows, output)
        except ValueError:
            return True
        return False

    start, stop = 0, len(rows)
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = (start, middle) if refuses(rows.take(slice(start, middle))) else (middle, stop)
    bad = rows.take(slice(start, start + 1)).to_frame(schema.index).astype(object)
    values = {str(name): value for name, value in bad.iloc[0].items()}
    names = sorted(values, key=lambda name: not isinstance(values[name], float) or abs(values[name]) < 1e30)
    return [
        Violation(name, f"row {start + 1} has {clip(repr(values[name]))}, which the model refuses")
        for name in names[:MOST_TRIED]
        if refuses(schema.frame_to_rows(sample.head(1).assign(**{name: [values[name]]})))
    ]
