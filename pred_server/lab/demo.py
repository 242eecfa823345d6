"""The whole story in a terminal, step by step: what `make demo` runs."""

import argparse
import shlex
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd

from pred_server.checkout import FLIGHTS, ROOT
from pred_server.lab import experiments, figures, report
from pred_server.lab.arms import ARTICLE, IN_PROCESS
from pred_server.lab.experiments import Experiment
from pred_server.lab.study_figures import figures_of
from pred_server.lab.ways import Arm
from pred_server.store.loading import load
from pred_server.tutorial.background import GATEWAY, gateway, serve

ROWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.lab.demo", description=__doc__)
    parser.add_argument("--plot", type=Path, default=Path("latency.png"), help="where to write the plot")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of the latency measurement")
    parser.add_argument("--iterations", type=int, default=200, help="boosting rounds")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), args.plot, args.blocks, args.iterations)


def run(directory: Path, plot: Path, blocks: int, iterations: int) -> None:
    title("Train: 327,346 flights that left New York in 2013, and how late they arrived")
    pred_server("train", "--out", directory / "flights", "--iterations", iterations)

    title("Stubs: generate the code of both ends from proto/pred.proto")
    pred_server("stubs", "--out", directory)
    for made in sorted((directory / "generated").rglob("*.*")):
        committed = ROOT / made.relative_to(directory)
        if made.read_bytes() != committed.read_bytes():
            raise SystemExit(f"{committed.name} is stale: run `make stubs`")
    print("the committed ones are up to date")

    title("Serve: a server process on a free port of this machine")
    model = load(directory / "flights")
    flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay")
    table = flights.sample(ROWS, random_state=0)
    with serve(directory / "flights") as server:
        print(server)

        title(f"Predict: {ROWS:,} flights over gRPC, and the same ones in this process")
        served, in_process = server.client().predict(table), model.predict(table)
        print(table.assign(predicted_arr_delay=served).head().to_string())
        require_equal("served", served, in_process)

        title("Latency: the article's server, ours, and the floor, interleaved in one run")
        arms = (ARTICLE, Arm("pred-server serve"), IN_PROCESS)
        compare = ((arms[1].name, ARTICLE.name),)
        sizes = (1, 10, 100, 1_000, 10_000)
        name = str(directory / "flights")
        measured = Experiment(arms, compare, None, "rows", name, sizes, repetitions=1, blocks=blocks, calls=5)
        calls = experiments.run(measured, directory / "latency.parquet")
        print(report.text(calls))
        figures.write(figures_of(calls)["latency"], plot)
        print(f"plot: {plot}")

        title(f"The web: the same {ROWS:,} flights by HTTP, through the gateway in Go")
        if not GATEWAY.exists():
            print("left out: the gateway is not built, since Go or its modules cannot be reached")
            return
        with gateway(server.address) as web:
            by_http = post(f"{web.address}/predict", table.to_csv(index=False))
        print(by_http.head().to_string())
        require_equal("by HTTP", by_http, in_process)


def post(url: str, csv: str) -> pd.Series:
    print(f"POST {url} ({len(csv):,} bytes of CSV)")
    request = urllib.request.Request(url, data=csv.encode(), headers={"Content-Type": "text/csv"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        header, *values = answer.read().decode().split()
    return pd.Series([float(value) for value in values], name=header)


def require_equal(way: str, predictions: pd.Series, in_process: np.ndarray) -> None:
    equal = np.array_equal(predictions.to_numpy(), in_process)
    print(f"{way} == in process, all {len(predictions):,} of them, to the last bit: {equal}")
    if not equal:
        raise SystemExit("the predictions differ")


def pred_server(*arguments: object) -> None:
    command = ["pred-server", *map(str, arguments)]
    print(f"$ {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "pred_server", *command[1:]], check=True)


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main()
