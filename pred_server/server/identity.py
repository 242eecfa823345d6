"""What a caller expects of the model, compared with the model that is here."""

from collections.abc import Mapping

from pred_server.errors import SchemaChanged, clip
from pred_server.model.model import Model
from pred_server.wire.description import EXPECT_SCHEMA


def check_expected(rpc: str, metadata: Mapping[str, str], model: Model) -> None:
    """Raise SchemaChanged where a call goes by another schema than the model's. Describe says which it has, always."""
    expected = metadata.get(EXPECT_SCHEMA, model.schema.hash)
    if expected != model.schema.hash and rpc != "Describe":
        raise SchemaChanged(
            f"model {model.name!r} has other columns than this call expects ({EXPECT_SCHEMA} is {clip(expected)!r}, "
            f"and the model's is {model.schema.hash!r}); ask Describe again"
        )
