"""Calls as an experiment would return them, from latencies that are made up."""

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pandas as pd

from pred_server.lab.experiments import Experiment
from pred_server.lab.ways import Arm


def calls_of(
    experiment: Experiment, ms: Callable[[Arm, int], float], noise: float = 0.02, seed: int = 0
) -> pd.DataFrame:
    """Return calls whose latency is `ms` of arm and rows, times noise."""
    rng, frames = np.random.default_rng(seed), []
    for rows in experiment.rows:
        for block in range(experiment.blocks):
            for arm in experiment.arms_at(rows):
                n = 2 * experiment.calls_of(arm, rows)
                latency_ms = ms(arm, rows) * rng.lognormal(0, noise, n)
                labels = {name: value for name, value in asdict(arm).items() if name not in ("name", "rows", "calls")}
                frames.append(
                    pd.DataFrame(
                        labels
                        | {
                            "flags": " ".join(arm.flags),
                            "arm": arm.name,
                            "rows": rows,
                            "block": block,
                            "call": range(n),
                        }
                        | {"half": np.arange(n) % 2, "ok": True, "code": "OK", "valid": True, "latency_ms": latency_ms}
                        | {"service_ms": latency_ms, "client_encode_ms": 0.1, "decode_ms": 0.1, "queue_ms": 0.0}
                        | {"predict_ms": 0.3, "encode_ms": 0.1}
                        | {"sent_ns": 0, "done_ns": (latency_ms * 1e6).astype("int64")}
                    )
                )
    calls = pd.concat(frames, ignore_index=True)
    calls.attrs = {
        "stamp": {"python": "3", "grpcio": "1", "cores": 2, "revision": "0"},
        "experiment": experiment.described,
    }
    return calls
