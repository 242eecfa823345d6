"""Where the project's own files lie: beside the package in a checkout, below the current folder elsewhere."""

from pathlib import Path

_BESIDE = Path(__file__).resolve().parent.parent
IN_CHECKOUT = (_BESIDE / "proto/pred.proto").is_file()

ROOT = _BESIDE if IN_CHECKOUT else Path.cwd()
MODELS = ROOT / "models"
FLIGHTS = ROOT / "data" / "flights.parquet"
