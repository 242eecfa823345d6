"""The `flights` model: how late a flight arrives, from what is known when it leaves the gate."""

from pathlib import Path

import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from tqdm.auto import tqdm

from pred_server.checkout import FLIGHTS, MODELS
from pred_server.errors import ModelFileError
from pred_server.limits import SAMPLE_ROWS
from pred_server.model.model import Model
from pred_server.store.saving import save


def train_flights(directory: str | Path = MODELS / "flights", iterations: int = 200, progress: bool = True) -> Model:
    """Train the `flights` model, judge it on days that it has not seen, and save it.

    The boosting rounds are fitted in steps (`warm_start`), so that a progress bar has something to show.
    """
    if not FLIGHTS.is_file():
        raise ModelFileError("the flights are in data/flights.parquet of a checkout; run this there")
    flights = pd.read_parquet(FLIGHTS)
    features, target = flights.drop(columns="arr_delay"), flights["arr_delay"]
    # Whole days are held out: flights of one day share its weather, so a random split would flatter the model.
    days = flights["month"] * 100 + flights["day"]
    train, test = next(GroupShuffleSplit(n_splits=1, test_size=0.2, random_state=0).split(flights, groups=days))

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer(
        (encoder, ["carrier", "origin", "dest"]), remainder="passthrough", verbose_feature_names_out=False
    )
    encoded = columns.fit_transform(features.iloc[train])
    boost = HistGradientBoostingRegressor(loss="absolute_error", random_state=0, warm_start=True, max_iter=0)
    with tqdm(total=iterations, desc="train flights", unit="tree", disable=not progress) as bar:
        while boost.max_iter < iterations:
            step = min(25, iterations - boost.max_iter)
            boost.set_params(max_iter=boost.max_iter + step).fit(encoded, target.iloc[train])
            bar.update(step)
    estimator = Pipeline([("columns", columns), ("boost", boost)])

    held_out = target.iloc[test]
    scores = {
        "mae_minutes": round(float(mean_absolute_error(held_out, estimator.predict(features.iloc[test]))), 2),
        "baseline_mae_minutes": round(float(mean_absolute_error(held_out, features["dep_delay"].iloc[test])), 2),
        "baseline": "arrives as late as it left",
        "held_out_rows": len(test),
    }
    return save(
        estimator,
        features.iloc[train].sample(SAMPLE_ROWS, random_state=0),
        directory,
        target="arr_delay",
        target_unit="minutes",
        scores=scores,
        training_rows=len(train),
    )
