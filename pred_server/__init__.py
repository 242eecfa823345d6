"""Serve a model that was trained in Python over gRPC, call it, and measure where the time goes."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pred_server.client.client import Client
    from pred_server.model.model import Model
    from pred_server.store.loading import load
    from pred_server.store.saving import save
    from pred_server.tutorial.background import serve

# What gRPC's core prints to stderr says again, in its own words, what an exception or a status says already.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

__all__ = ["Client", "Model", "load", "save", "serve"]

_HOMES = {
    "Client": "pred_server.client.client",
    "Model": "pred_server.model.model",
    "load": "pred_server.store.loading",
    "save": "pred_server.store.saving",
    "serve": "pred_server.tutorial.background",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562), so that a client need not have scikit-learn."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pred_server' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
