"""A floor: `Model.predict` in the generator's own process, without a server or a message.

It is given a DataFrame, and must check it; a server that reads a tensor has less to check, so it can be quicker than
this floor. With the encoding "tensor" the table is checked beforehand, and only the computation is timed.
"""

from contextlib import AsyncExitStack, ExitStack

import pandas as pd

from pred_server.lab.ways.way import Arm, Call, Caller, Target, Way, blocking, frame_of
from pred_server.store.loading import load


class Predict(Way):
    name = "predict"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        return model

    def messages(self, arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
        return (table.to_parquet(),)

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        return load(target.address).predict

    def send(self, target: Target, stack: AsyncExitStack) -> Call:
        model, table = load(target.address), frame_of(target)
        if target.arm.encoding != "tensor":
            return blocking(lambda: model.predict(table))
        checked = model.schema.frame_to_rows(table)
        return blocking(lambda: model.predict_rows(checked))
