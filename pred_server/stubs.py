"""Generate code from the contract: what `make stubs` runs, and what the staleness test runs again."""

from pathlib import Path

from grpc_tools import protoc

from pred_server.errors import PredServerError
from pred_server.model import ROOT

PROTOS = ("pred.proto",)


def generate(out: Path = ROOT) -> list[Path]:
    """Write the stubs of every proto into `out`/generated, and return their paths.

    `-Igenerated=proto` makes protoc see the folder proto/ under the name generated/, so that the Python files import
    one another from the package `generated`, and the descriptors bear that name in every language.
    """
    (out / "generated").mkdir(parents=True, exist_ok=True)
    written = []
    for proto in PROTOS:
        outputs = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        if protoc.main(["protoc", f"-Igenerated={ROOT / 'proto'}", *outputs, f"generated/{proto}"]) != 0:
            raise PredServerError(f"protoc refused proto/{proto}; its message stands above")
        stem = proto.removesuffix(".proto")
        written += [out / "generated" / f"{stem}{end}" for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")]
    return written
