"""What several studies compare: arms, the flags of servers, and models that are trained for them."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pred_server.checkout import MODELS
from pred_server.engines.onnx import with_onnx
from pred_server.errors import ServerStartError
from pred_server.lab.ways import WAYS, Arm
from pred_server.limits import MIB
from pred_server.store.loading import load
from pred_server.store.saving import save

ARTICLE = Arm("the article's server", "article")
IN_PROCESS = Arm("in process", "predict")
# With the default limit of 64 MiB the largest tables would be refused, and have no time.
TRAINED = ("forest", "boosting")  # the models that `trained` makes
ONNX = ("--engine", "onnx")
ROOMY = ("--max-message-bytes", str(512 * MIB))


def onnx_flags(model: str) -> tuple[str, ...]:
    """Return the flags of our server with ONNX Runtime; print why, and return none, if it cannot have the model."""
    try:
        with_onnx(load(model))
    except ServerStartError as error:
        print(f"left out: {error}")
        return ()
    return ONNX


def installed(arms: Iterable[Arm]) -> list[Arm]:
    """Return the arms whose ways are installed; print what to type for the others."""
    found = []
    for arm in arms:
        if missing := WAYS[arm.server].missing():
            print(f"left out: {missing}")
        else:
            found.append(arm)
    return found


def trained(name: str) -> str:
    """Train "forest" or "boosting" on ten numbers, unless it exists already. Return its name."""
    if not (MODELS / name / "manifest.json").exists():
        from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.normal(size=(2_000, 10))).add_prefix("x")
        target = table["x0"] * table["x1"] + np.sin(table["x2"]) + rng.normal(scale=0.1, size=len(table))
        estimators = {
            "forest": RandomForestRegressor(n_estimators=100, random_state=0),
            "boosting": HistGradientBoostingRegressor(random_state=0),
        }
        save(estimators[name].fit(table, target), table, MODELS / name)
    return name
