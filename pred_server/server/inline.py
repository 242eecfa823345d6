"""What may run on the event loop: the one rule, for reading a table, for predicting, and for writing predictions.

To wake a thread and to be woken by it costs 0.1 to 0.2 ms, more than many models take for a row. Work that is known to
take less than half a millisecond runs on the event loop, which no other call can use meanwhile; everything else runs on
a thread. Under `--max-inline-ms 0` no model runs on the loop: with 32 callers of one row it takes 1.73 times as long;
with one caller no difference was found (data/results/parts.parquet).
"""

import math
import statistics
from collections import defaultdict, deque

from pred_server.generated.pred_pb2 import Request
from pred_server.guard.weight import bytes_beside_values
from pred_server.limits import KIB, MIB, Limits
from pred_server.model.model import Model
from pred_server.wire.arrow import rows_of
from pred_server.wire.codec import Codec
from pred_server.wire.result import Result
from pred_server.wire.schema import Schema

# Requests of up to so many bytes are read within half a millisecond. A plain tensor may be larger.
QUICK_BYTES, QUICK_TENSOR_BYTES = 16 * KIB, 3 * MIB // 2
# Labels of text take longer to write than numbers do.
QUICK_LABELS = 1_000

NEVER_AGAIN_NS = 10_000_000
LAST_CALLS = 5  # by which a model is judged


def read_inline(data: bytes, schema: Schema) -> Request | None:
    """Return the request, where reading its table is quick: it is small, or a tensor just as the model takes it.

    Raises
    ------
    DecodeError
        The bytes are no request.
    """
    if len(data) <= QUICK_BYTES:
        request = Request.FromString(data)
        # A column of nulls has rows without a byte.
        is_long = request.HasField("arrow") and rows_of(request.arrow) > QUICK_BYTES
        return None if is_long else request
    if len(data) > QUICK_TENSOR_BYTES or bytes_beside_values(data) > QUICK_BYTES:
        return None
    request = Request.FromString(data)
    tensor = request.tensor
    is_plain = (
        schema.uniform is not None
        and tensor.dtype == schema.uniform.name
        and len(tensor.names) in (0, len(schema.names))
        and list(tensor.names) in ([], schema.names)
    )
    return request if is_plain else None


def may_write_inline(codec: Codec, result: Result) -> bool:
    """Whether a codec writes a result quickly."""
    most = codec.quick_values if result.values.dtype.kind in "biuf" else QUICK_LABELS
    return bool(result.values.size <= most)


class QuickModels:
    """How long each model usually takes, by the number of rows; and so whether it may run on the event loop.

    One call that waited a moment for a core says little of the model. After one that computed for very long, a model
    never runs there again: its time may depend on the values.
    """

    def __init__(self, limits: Limits) -> None:
        self._max_ns = limits.max_inline_ms * 1e6
        self._last_ns: defaultdict[tuple[str, str, int], deque[float]] = defaultdict(lambda: deque(maxlen=LAST_CALLS))
        self._usual_ns: dict[tuple[str, str, int], float] = {}

    def has(self, model: Model, output: str, n_rows: int) -> bool:
        """Whether a model is known to be quick for so many rows."""
        return self._usual_ns.get(_key(model, output, n_rows), math.inf) <= self._max_ns

    def record(self, model: Model, output: str, n_rows: int, took_ns: int, computed_ns: int) -> None:
        """Note the time of a call, and how much of it the thread really computed: the rest it waited for a core."""
        key = _key(model, output, n_rows)
        usual_ns = self._usual_ns.get(key, 0.0)
        never_again = 0 < usual_ns <= self._max_ns and computed_ns > NEVER_AGAIN_NS
        # One call that took very long, whatever it waited for, is enough: others must not wait for the next.
        self._last_ns[key].extend([took_ns] * (LAST_CALLS if took_ns > NEVER_AGAIN_NS else 1))
        if usual_ns < math.inf:
            self._usual_ns[key] = math.inf if never_again else statistics.median_high(self._last_ns[key])


def _key(model: Model, output: str, n_rows: int) -> tuple[str, str, int]:
    """Calls of one key take about the same time: a model may be quick for one row and slow for sixty.

    Not by the model's `id`, which a successor may get once it is gone.
    """
    return model.identity, output, n_rows.bit_length()
