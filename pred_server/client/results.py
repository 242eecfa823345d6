"""What a client gives back: predictions that know where their time went, and what a server says of its model."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from pred_server.generated.pred_pb2 import ColumnDescription, DescribeResponse
from pred_server.wire.schema import Column, Schema
from pred_server.wire.timing import Waterfall


class Predictions(pd.Series):
    """One prediction for each row, named after the target; `waterfall` says where the time of the call went."""

    _metadata = ["waterfall"]  # noqa: RUF012 - pandas' own word for attributes that are kept
    waterfall: Waterfall


class Probabilities(pd.DataFrame):
    """A column for each class, a row for each of the table's; `waterfall` says where the time of the call went."""

    _metadata = ["waterfall"]  # noqa: RUF012
    waterfall: Waterfall


@dataclass(frozen=True, repr=False)
class Description:
    """What a model takes and gives, as its server tells it. A notebook shows it as a table."""

    name: str
    version: str
    schema: Schema
    classes: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    engine: str = ""
    parity: str = ""
    scores: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()

    @classmethod
    def of_response(cls, response: DescribeResponse) -> "Description":
        def column(each: ColumnDescription) -> Column:
            return Column(each.name, each.dtype, each.nullable, each.unit)

        return cls(
            response.name,
            response.version,
            Schema(tuple(column(each) for each in response.columns), column(response.target)),
            tuple(response.classes),
            tuple(response.encodings),
            response.engine,
            response.parity,
            dict(response.scores),
            tuple(response.models),
        )

    @property
    def table(self) -> pd.DataFrame:
        """A row for each column of the model, its target last."""
        rows = [(column, "feature") for column in self.schema.columns] + [(self.schema.target, "target")]
        return pd.DataFrame(
            [(each.name, each.dtype, role, each.nullable, each.unit) for each, role in rows],
            columns=["column", "dtype", "role", "may be missing", "unit"],
        )

    def __repr__(self) -> str:
        takes, gives = ", ".join(self.schema.names), self.schema.target.name
        return f"{self.name} v{self.version} ({self.engine}): {takes} -> {gives}"

    def _repr_html_(self) -> str:
        facts = {
            "encodings": ", ".join(self.encodings),
            "engine": f"{self.engine} ({self.parity})" if self.parity else self.engine,
            "classes": ", ".join(self.classes),
            **self.scores,
            "this server has": ", ".join(self.models),
        }
        listed = "".join(f"<li>{html.escape(f'{name}: {value}')}</li>" for name, value in facts.items() if value)
        return f"<b>{html.escape(f'{self.name} v{self.version}')}</b>{self.table.to_html(index=False)}<ul>{listed}</ul>"
