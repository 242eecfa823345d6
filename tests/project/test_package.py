"""The package as others install it: a wheel in an empty environment, away from the checkout, without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement

from pred_server import Model
from pred_server.checkout import ROOT
from pred_server.tutorial.background import Server

BUILD_SDIST = "from setuptools import build_meta; build_meta.build_sdist('dist')"
HEAVY = {"sklearn", "scipy", "skops", "onnxruntime", "skl2onnx", "grpc_tools", "matplotlib", "tqdm", "IPython"}
CLIENT = """
import json, sys
import pandas as pd
from pred_server import Client
with Client(sys.argv[1]) as client:
    print(json.dumps(client.predict(pd.read_csv(sys.argv[2])).tolist()))
"""
Done = subprocess.CompletedProcess[str]


def run(*command: object, cwd: Path) -> Done:
    # What the test's own process has on its path would be found from a checkout only.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    arguments = [str(argument) for argument in command]
    return subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def pip(*arguments: object, cwd: Path) -> None:
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr


def build_wheel(source: Path, out: Path) -> Path:
    pip("wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", out, source, cwd=source)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is made of, since a build leaves files beside it."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("pred_server", "generated"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def client_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what it requires without extras; returns its folder of programs."""
    environment = tmp_path_factory.mktemp("client")
    packages = install(wheel, environment)
    for needed in requirements_of(Distribution.at(next(packages.glob("pred_server-*.dist-info")))):
        for top in {file.parts[0] for file in needed.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(needed.locate_file(top))
    return environment / "bin"


@pytest.fixture(scope="module")
def full_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and all that is installed here; returns its folder of programs."""
    environment = tmp_path_factory.mktemp("full")
    packages = install(wheel, environment)
    here = Path(str(distribution("grpcio").locate_file("")))
    (packages / "here.pth").write_text(f"{here}\n")  # a folder named so is no place for further .pth files
    return environment / "bin"


def install(wheel: Path, environment: Path) -> Path:
    """Make a virtual environment that holds the wheel alone, and return its site-packages."""
    done = run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    assert done.returncode == 0, done.stderr
    python = environment / "bin/python"
    pip("--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    return packages


def requirements_of(package: Distribution) -> list[Distribution]:
    """Return what a package requires without extras, and all that its requirements require."""
    found: dict[str, Distribution] = {}
    waiting = [package]
    while waiting:
        for line in waiting.pop().requires or ():
            requirement = Requirement(line)
            if requirement.name not in found and (not requirement.marker or requirement.marker.evaluate({"extra": ""})):
                try:
                    found[requirement.name] = distribution(requirement.name)
                except PackageNotFoundError:
                    pytest.fail(f"{line} is not installed here")
                waiting.append(found[requirement.name])
    return list(found.values())


def one_sentence(done: Done) -> str:
    """Return what a command that failed printed: one line, and no traceback."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("pred-server: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"pred_server", next(top for top in tops if top.endswith(".dist-info"))}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "pred_server").rglob("*.py")}
    stubs = {f"pred_server/generated/{path.name}" for path in (ROOT / "generated").glob("*.py*")}
    assert "pred_server/generated/pred_pb2.pyi" in stubs
    assert {name for name in names if name.startswith("pred_server/")} == code | stubs | {"pred_server/py.typed"}


def test_a_wheel_made_by_way_of_an_sdist_holds_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-c", BUILD_SDIST, cwd=source)
    assert done.returncode == 0, done.stderr
    (sdist,) = (source / "dist").iterdir()
    assert run("tar", "-xzf", str(sdist), cwd=tmp_path).returncode == 0
    again = build_wheel(next(tmp_path.iterdir()), tmp_path)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_importing_the_client_imports_nothing_heavy() -> None:
    # gRPC itself imports grpc_tools where it is installed, so gRPC comes first and does not count.
    code = "import sys, grpc; before = {*sys.modules}; from pred_server import Client; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.split(".")[0] for name in done.stdout.split()}
    assert "pandas" in imported
    assert not imported & HEAVY, imported & HEAVY


def test_the_client_alone_has_no_server_packages(client_environment: Path, tmp_path: Path) -> None:
    for package in ("sklearn", "skops", "grpc_health", "grpc_tools", "matplotlib"):
        done = run(client_environment / "python", "-c", f"import {package}", cwd=tmp_path)
        assert f"No module named '{package}'" in done.stderr
    done = run(client_environment / "python", "-c", "import pred_server; print(pred_server.__file__)", cwd=tmp_path)
    assert Path(done.stdout).is_relative_to(client_environment.parent)


def test_the_client_alone_predicts(
    client_environment: Path, flights: pd.DataFrame, flights_server: Server, flights_model: Model, tmp_path: Path
) -> None:
    table = flights.head(100)
    table.to_csv(tmp_path / "flights.csv", index=False)
    done = run(client_environment / "python", "-c", CLIENT, flights_server.address, "flights.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == flights_model.predict(table).tolist()
    done = run(
        client_environment / "pred-server", "predict", "flights.csv", "--address", flights_server.address, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [float(value) for value in done.stdout.split()[1:]] == flights_model.predict(table).tolist()


def test_the_client_alone_describes(
    client_environment: Path, flights_server: Server, flights_model: Model, tmp_path: Path
) -> None:
    done = run(client_environment / "pred-server", "describe", "--address", flights_server.address, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    words = done.stdout.split()
    assert [column.name for column in flights_model.schema.columns if column.name not in words] == []


@pytest.mark.parametrize("command", ["", "serve", "predict", "describe", "train", "stubs", "bench", "plot"])
def test_help_needs_no_extra(command: str, client_environment: Path, tmp_path: Path) -> None:
    done = run(client_environment / "pred-server", *command.split(), "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: pred-server")


def test_a_missing_package_is_named_in_a_sentence(client_environment: Path, tmp_path: Path) -> None:
    done = run(client_environment / "pred-server", "serve", "--model", "sum", "--address", "127.0.0.1:0", cwd=tmp_path)
    assert re.search("needs the package (pythonjsonlogger|skops|sklearn|grpc_health)", one_sentence(done))


@pytest.mark.parametrize("command", ["stubs", "train"])
def test_what_the_wheel_does_not_hold_needs_a_checkout(command: str, full_environment: Path, tmp_path: Path) -> None:
    done = run(full_environment / "pred-server", command, cwd=tmp_path)
    assert "checkout" in one_sentence(done)
    assert list(tmp_path.iterdir()) == []
