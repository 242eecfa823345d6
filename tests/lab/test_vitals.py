"""A server is watched from another process, while it answers, and when it is gone."""

import os
import signal
import time

import pandas as pd
import pytest

from pred_server import serve
from pred_server.generated.pred_pb2 import Request
from pred_server.lab.vitals import CALL, HEALTH, MEMORY, Vitals

SUM = Request(input_data="x,y\n1,2\n")


def samples_of(vitals: Vitals, kind: str) -> pd.DataFrame:
    return vitals.samples[vitals.samples["kind"] == kind].sort_values("at_s")


def test_memory_health_and_a_good_caller_are_watched_until_the_server_is_gone() -> None:
    with serve("sum") as server:
        with Vitals(server.address, {"ours": server.pid}, SUM) as vitals:
            time.sleep(0.5)
            with vitals.during("killed"):
                os.kill(server.pid, signal.SIGKILL)
                time.sleep(0.5)
            watcher = vitals._process
        start_s, end_s = vitals.spans["killed"]
        assert 0 < start_s < end_s
        memory = samples_of(vitals, MEMORY)
        assert set(memory["name"]) == {"ours"}
        assert memory.loc[memory["at_s"] < start_s, "value"].between(20, 2_000).all()
        for kind in (HEALTH, CALL):
            samples = samples_of(vitals, kind)
            before = samples[samples["at_s"] + samples["value"] / 1_000 < start_s]
            assert len(before) and set(before["code"]) == {"OK"}, kind
            assert set(samples["code"]) == {"OK", "UNAVAILABLE"}, kind
        assert watcher.poll() == 0, "nothing is left behind"


def test_an_error_inside_ends_the_process_that_watches(sum_server: object) -> None:
    with pytest.raises(ZeroDivisionError), Vitals(sum_server.address, {}, SUM) as vitals:  # type: ignore[attr-defined]
        1 / 0  # noqa: B018
    assert vitals._process.poll() == 0
