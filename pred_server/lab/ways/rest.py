"""A rival: REST as its best practitioners build it: FastAPI, orjson and NumPy; httpx, orjson and NumPy at the caller.

A table of numbers goes as a JSON array of rows, and no pandas is in the way. A table of mixed types goes as columns.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pandas as pd

from pred_server.lab.ways.way import Arm, Caller, Target
from pred_server.lab.ways.web import LoopOrThread, Web
from pred_server.model.model import Model
from pred_server.wire.rows import Rows
from pred_server.wire.schema import Schema


class Rest(Web):
    name, title, hand = "rest", "FastAPI", "rest"

    def endpoint(self, model: Model) -> Callable[..., Any]:
        import orjson
        from fastapi import Request, Response

        predictor = LoopOrThread(model)

        async def predict(request: Request) -> Response:
            rows = _read(orjson.loads(await request.body()), model.schema)
            return Response(_dumps((await predictor.predict(rows)).values), media_type=self.wire.content_type)

        return predict

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        import orjson

        post = self.post(target, stack)
        return lambda table: np.array(orjson.loads(post(content=_dumps(_body(table))).content))

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        return (_dumps(_body(table)),)


def _body(table: pd.DataFrame) -> Any:
    (dtype, *others) = set(table.dtypes)
    is_uniform = not others and isinstance(dtype, np.dtype) and dtype.kind in "iuf"
    return table.to_numpy() if is_uniform else table.to_dict("list")


def _read(body: Any, schema: Schema) -> Rows:
    if isinstance(body, list):
        return schema.array_to_rows(np.array(body, schema.uniform), schema.names)
    dtypes = {column.name: object if column.dtype == "str" else column.dtype for column in schema.columns}
    return schema.to_rows({name: np.array(body[name], dtype) for name, dtype in dtypes.items()})


def _dumps(values: Any) -> bytes:
    """Write JSON. Numbers are written so that they read back bit for bit."""
    import orjson

    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values) if values.dtype.kind in "biuf" else values.tolist()
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
