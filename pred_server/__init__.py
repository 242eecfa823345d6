"""Serve a model that was trained in Python over gRPC, call it, and measure where the time goes."""

import os

# OpenMP's threads, which scikit-learn computes with, spin while they wait for each other. Where client and server share
# the cores, the spinning one takes the core from the one that it waits for, and a prediction may take ten times as
# long. The OpenMP library reads this once, when scikit-learn is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pred_server.background import serve
from pred_server.client import Client
from pred_server.model import Model, load, save

__all__ = ["Client", "Model", "load", "save", "serve"]
