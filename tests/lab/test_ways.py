"""Every way to a prediction: real processes, real sockets."""

import json
import urllib.request
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.flight
import pytest

from pred_server.lab.experiments import Experiment, running
from pred_server.lab.ways import Arm


def test_every_way_to_call_answers_and_rest_and_flight_answer_right(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    arms = [Arm("csv"), Arm("echo", "echo"), Arm("tcp", "tcp"), Arm("rest", "rest"), Arm("flight", "flight")]
    arms += [Arm("article", "article"), Arm("in process", "predict"), Arm("open", rate_per_s=200)]
    arms += [Arm("stream", encoding="tensor", chunk_rows=5), Arm("echoed stream", "echo", "tensor", 5)]
    arms += [Arm("stream of one chunk", chunk_rows=10)]  # which is none
    servers = ("serve", "article", "rest", "rest_pydantic", "http", "flight", "predict")
    arms = [*(Arm(f"{server}, at hand", server, frame=True) for server in servers), *arms]
    arms = [Arm("pydantic", "rest_pydantic"), Arm("http", "http"), *arms]
    experiment = Experiment(tuple(arms), model="sum", blocks=1, calls=2, seconds=0.1)
    table = pd.DataFrame({"x": [1.0, 2.5], "y": [10.0, 20.0]})
    with running(experiment) as bench:
        calls = bench.measure(10, repetition=0)
        addresses = bench.addresses
        rest = urllib.request.Request(f"{addresses['rest']}/predict", json.dumps(table.to_dict("list")).encode())
        with urllib.request.urlopen(rest, timeout=30) as answer:
            assert json.load(answer) == [11.0, 22.5]
        client = pa.flight.connect(f"grpc://{addresses['flight']}")
        writer, reader = client.do_exchange(pa.flight.FlightDescriptor.for_command(b"predict"))
        with client, writer:
            arrow = pa.Table.from_pandas(table)
            writer.begin(arrow.schema)
            writer.write_table(arrow)
            writer.done_writing()
            assert reader.read_all().to_pydict() == {"0": [11.0, 22.5]}
    assert list(tmp_path.iterdir()) == [], "no server leaves a file behind"
    assert set(calls["code"]) == {"OK"}
    assert calls.groupby("arm").size().to_dict() == {arm.name: 40 if arm.name == "open" else 4 for arm in arms[:-1]}
    order = calls.drop_duplicates(["half", "arm"])["arm"].tolist()
    assert order == order[::-1], "a block runs its arms forth and back"
    replies = calls.groupby("arm")["reply_bytes"].first()
    assert replies["csv"] == replies["echo"] == replies["tcp"] > 0, "the floors carry as many bytes back"
    assert replies["csv"] == replies["http"], "the same reply over another transport"
    assert replies["stream"] == replies["echoed stream"] > 0
    assert (calls.loc[calls["arm"].isin(["csv", "stream"]), ["decode_ms", "predict_ms", "encode_ms"]] > 0).all(
        axis=None
    )
    assert (calls["latency_ms"] >= calls["service_ms"]).all()
    assert calls.loc[calls["arm"] != "open", "latency_ms"].equals(calls.loc[calls["arm"] != "open", "service_ms"])
