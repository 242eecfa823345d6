"""Exports a model for programs without Python: `python -m pred_server.lab.export MODEL FOLDER`.

It writes `graph.onnx`, and `columns.json`, which has the name of each column, and whether it is text.
`gateway/examples/inprocess` predicts with them in Go.
"""

import argparse
import json
import sys
from pathlib import Path

from pred_server.engines.convert import convert
from pred_server.errors import InvalidInput, PredServerError
from pred_server.model.model import Model
from pred_server.store.loading import load


def export(model: Model, folder: Path) -> None:
    """Write a model as a graph that ONNX Runtime computes without Python.

    Raises
    ------
    InvalidInput
        It does not predict one number for each row: the example in Go knows no labels.
    ServerStartError
        It cannot be converted.
    """
    if model.sample is None or model.schema.targets or model.schema.target.dtype != "float64":
        raise InvalidInput(f"model {model.name!r} does not predict one number a row")
    is_text = [column.dtype == "str" for column in model.schema.columns]
    graph = convert(model.name, model.estimator, is_text)
    folder.mkdir(parents=True, exist_ok=True)
    columns = [{"name": name, "is_text": text} for name, text in zip(model.schema.names, is_text, strict=True)]
    (folder / "columns.json").write_text(json.dumps(columns))
    (folder / "graph.onnx").write_bytes(graph)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.lab.export", description=__doc__)
    parser.add_argument("model", help="linear, flights, or a model directory")
    parser.add_argument("folder", type=Path, help="where to write graph.onnx and columns.json")
    args = parser.parse_args()
    try:
        export(load(args.model), args.folder)
    except (PredServerError, OSError) as error:
        sys.exit(f"export: {error}")


if __name__ == "__main__":
    main()
