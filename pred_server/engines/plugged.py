"""What computes a model that is served: the engine that was asked for, on several threads where that pays."""

from collections.abc import Sequence

from pred_server.engines.threads import with_threads
from pred_server.model.model import Model


def with_engine(model: Model, engine: str, threads: Sequence[int] = ()) -> Model:
    """Return the same model, computed by an engine, "sklearn" or "onnx"; `threads` is what `with_threads` takes.

    Raises
    ------
    ServerStartError
        The engine cannot compute this model.
    """
    if engine == "onnx":
        from pred_server.engines.onnx import with_onnx

        model = with_onnx(model)
    return with_threads(model, *threads)
