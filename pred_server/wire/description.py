"""What a server says of a model: the answer to Describe, for both ends."""

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import pandas as pd

from pred_server.generated.pred_pb2 import ColumnDescription, DescribeResponse
from pred_server.wire.schema import Column, Schema

# Metadata. Each reply says which model answered: NAME/VERSION/SCHEMA-HASH/CONTENT-DIGEST.
IDENTITY = "model-identity"
# A caller may say which schema it goes by: the hash of that identity.
EXPECT_SCHEMA = "expect-schema"


@dataclass(frozen=True, repr=False)
class Description:
    """What a model takes and gives. A notebook shows it as a table."""

    name: str
    version: str
    schema: Schema
    classes: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    engine: str = ""
    parity: str = ""
    scores: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    threads: str = ""
    identity: str = ""
    """NAME/VERSION/SCHEMA-HASH/CONTENT-DIGEST; nothing where the server does not say."""

    @classmethod
    def of_message(cls, message: DescribeResponse, identity: str = "") -> "Description":
        def column(part: ColumnDescription) -> Column:
            return Column(part.name, part.dtype, part.nullable, part.unit)

        return cls(
            message.name,
            message.version,
            Schema(tuple(map(column, message.columns)), column(message.target)),
            tuple(message.classes),
            tuple(message.encodings),
            message.engine,
            message.parity,
            dict(message.scores),
            tuple(message.models),
            message.threads,
            identity,
        )

    def to_message(self) -> DescribeResponse:
        return DescribeResponse(
            name=self.name,
            version=self.version,
            columns=[ColumnDescription(**asdict(column)) for column in self.schema.columns],
            target=ColumnDescription(**asdict(self.schema.target)),
            classes=self.classes,
            encodings=self.encodings,
            engine=self.engine,
            parity=self.parity,
            scores=self.scores,
            models=self.models,
            threads=self.threads,
        )

    @property
    def schema_hash(self) -> str:
        """The schema's hash as the server gives it; nothing where it does not."""
        parts = self.identity.split("/")
        return parts[2] if len(parts) == 4 else ""

    @property
    def table(self) -> pd.DataFrame:
        """A row for each column of the model, its target last."""
        rows = [(column, "feature") for column in self.schema.columns] + [(self.schema.target, "target")]
        return pd.DataFrame(
            [(column.name, column.dtype, role, column.nullable, column.unit) for column, role in rows],
            columns=["column", "dtype", "role", "may be missing", "unit"],
        )

    @property
    def facts(self) -> dict[str, str]:
        """What there is to say beside the columns."""
        facts = {
            "encodings": ", ".join(self.encodings),
            "engine": f"{self.engine} ({self.parity})" if self.parity else self.engine,
            "threads": self.threads,
            "classes": ", ".join(self.classes),
            **self.scores,
            "this server has": ", ".join(self.models),
            "identity": self.identity,
        }
        return {name: fact for name, fact in facts.items() if fact}

    def text(self) -> str:
        """Return all of it for a terminal."""
        facts = [f"{name}: {fact}" for name, fact in self.facts.items()]
        return "\n".join([f"{self.name} v{self.version}", self.table.to_string(index=False), *facts])

    def __repr__(self) -> str:
        takes, gives = ", ".join(self.schema.names), self.schema.target.name
        return f"{self.name} v{self.version} ({self.engine}): {takes} -> {gives}"

    def _repr_html_(self) -> str:
        listed = "".join(f"<li>{html.escape(f'{name}: {fact}')}</li>" for name, fact in self.facts.items())
        return f"<b>{html.escape(f'{self.name} v{self.version}')}</b>{self.table.to_html(index=False)}<ul>{listed}</ul>"
