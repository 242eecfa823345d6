"""Serve a model that was trained in Python over gRPC, call it, and measure where the time goes."""

import os

# OpenMP's threads, which scikit-learn computes with, spin while they wait for each other, by default for milliseconds.
# Where client and server share the cores, the spinning thread holds the core that the other one needs, and a prediction
# may take ten times as long. With a short spin an idle machine is as fast, and a busy one keeps going. GNU's OpenMP
# reads this once, when scikit-learn is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# What gRPC's core prints to stderr says again, in its own words, what an exception or a status says already.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from pred_server.background import serve
from pred_server.client import Client
from pred_server.model import Model, load, save

__all__ = ["Client", "Model", "load", "save", "serve"]
