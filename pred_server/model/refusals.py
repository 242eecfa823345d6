"""Says which columns are at fault where an estimator refuses a table: its own message may quote internals."""

import pandas as pd

from pred_server.errors import Violation, clip
from pred_server.model.sklearn_engine import Engine
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema

# What an estimator raises when the machine fails it, whatever the table holds.
OF_THE_MACHINE = (MemoryError, OSError, RecursionError)
# A caller's fault must not cost others much time: of wide tables, only the most unusual values are tried.
MOST_TRIED = 20


def is_of_values(error: Exception, engine: Engine, output: str, schema: Schema, sample: pd.DataFrame | None) -> bool:
    """Return whether the caller's values are at fault for what the engine raised, and not the model or the machine.

    A ValueError says so itself. Any other is raised in many ways by many estimators: IndexError for a category that was
    never seen. It is of the values if the engine still takes a row of the sample.
    """
    if isinstance(error, ValueError):
        return True
    if isinstance(error, OF_THE_MACHINE) or sample is None:
        return False
    return not _refuses(engine, output, schema.frame_to_rows(sample.head(1)))


def _refuses(engine: Engine, output: str, rows: Rows) -> bool:
    try:
        engine.predict(rows, output)
    except OF_THE_MACHINE:
        raise
    except Exception:  # of any type: the estimator raises it
        return True
    return False


def blame(engine: Engine, output: str, rows: Rows, schema: Schema, sample: pd.DataFrame) -> list[Violation]:
    """Return the columns whose values the engine refuses in the first bad row.

    A value is at fault if the engine refuses it among the values of a row that it takes, one of the sample.
    """
    start, stop = 0, len(rows)
    while stop - start > 1:
        middle = (start + stop) // 2
        start, stop = (start, middle) if _refuses(engine, output, rows.take(slice(start, middle))) else (middle, stop)
    row, good = rows.take(slice(start, start + 1)), schema.frame_to_rows(sample.head(1))
    held = row.to_frame(schema.index).astype(object).iloc[0].tolist()

    def is_at_fault(place: int) -> bool:
        if good.array is None or row.array is None:
            name = schema.names[place]
            return _refuses(engine, output, Rows(good.columns | {name: row.columns[name]}))
        array = good.array.copy(order="F")
        array[:, place] = row.array[:, place]
        return _refuses(engine, output, Rows(array))

    unusual = sorted(range(len(held)), key=lambda place: not isinstance(held[place], float) or abs(held[place]) < 1e30)
    return [
        Violation(schema.names[place], f"row {start + 1} has {clip(repr(held[place]))}, which the model refuses")
        for place in unusual[:MOST_TRIED]
        if is_at_fault(place)
    ]
