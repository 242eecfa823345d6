"""Serve a model that was trained in Python over gRPC, call it, and measure where the time goes."""

from pred_server.background import serve
from pred_server.client import Client
from pred_server.model import Model, load, save

__all__ = ["Client", "Model", "load", "save", "serve"]
