"""A rival: REST as most people write it: FastAPI with a pydantic model for a row, a `def` endpoint, and pandas."""

from contextlib import AsyncExitStack
from typing import Any

import pandas as pd

from pred_server.lab.ways.way import Arm, Caller, Target
from pred_server.lab.ways.web import PATH, Web
from pred_server.model.model import Model
from pred_server.wire.schema import Column


class RestPydantic(Web):
    name, title, most_rows = "rest_pydantic", "FastAPI, pydantic", 10_000

    def add_route(self, app: Any, model: Model) -> None:
        from pydantic import create_model

        fields: dict[str, Any] = {column.name: (_type_of(column), ...) for column in model.schema.columns}
        row = create_model("Row", **fields)
        body = create_model("Table", rows=(list[row], ...))  # type: ignore[valid-type]

        def predict(table: Any) -> dict[str, list[Any]]:
            frame = pd.DataFrame([row.model_dump() for row in table.rows])
            return {"predictions": model.predict(frame).tolist()}

        predict.__annotations__["table"] = body
        app.add_api_route(PATH, predict, methods=["POST"])

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        post = self.post(target, stack)
        return lambda table: pd.Series(post(json=_body(table)).json()["predictions"])

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        import orjson

        return (orjson.dumps(_body(table)),)


def _body(table: pd.DataFrame) -> dict[str, Any]:
    return {"rows": table.to_dict("records")}


def _type_of(column: Column) -> Any:
    kind: Any = str if column.dtype == "str" else bool if column.dtype == "bool" else float if column.is_float else int
    return kind | None if column.nullable else kind
