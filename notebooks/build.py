"""Run the lessons in scripts/ and write them, with outputs, as notebooks: what `make notebooks` does.

A notebook records a hash of its code and of the contract, so that a test can tell when its outputs are out of date.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS = HERE / "scripts"
WIDGET = "application/vnd.jupyter.widget-view+json"


def read_script(script: Path) -> nbformat.NotebookNode:
    return jupytext.read(script, fmt="py:percent")


def fingerprint(notebook: nbformat.NotebookNode) -> str:
    """sha256 of the code cells and the contract."""
    parts = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    parts += [path.read_text() for path in sorted((ROOT / "proto").glob("*.proto"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def execute(
    notebook: nbformat.NotebookNode, parameters: dict[str, object] | None = None, timeout_s: int = 300
) -> nbformat.NotebookNode:
    """Run all cells; `parameters` are set after the cell that is tagged so. Raises CellExecutionError."""
    if parameters:
        at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
        lines = [f"{name} = {value!r}" for name, value in parameters.items()]
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    client = NotebookClient(
        notebook,
        timeout=timeout_s,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
        coalesce_streams=True,
    )
    return client.execute()


def tidy(notebook: nbformat.NotebookNode, name: str) -> None:
    """Leave what GitHub can show and any machine could have written. Raises ValueError where a cell gives that away."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "pred_server": {"fingerprint": fingerprint(notebook)},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name[:2]}-{number}"
        if cell.cell_type != "code":
            continue
        # Progress bars: no page can show a widget whose kernel has gone.
        cell.outputs = [output for output in cell.get("outputs", ()) if WIDGET not in output.get("data", {})]
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                raise ValueError(f"{name}: a cell wrote to stderr:\n{cell.source}\n-> {output.text}")
            data = output.get("data", {})
            text = "".join(str(value) for key, value in data.items() if key.startswith("text")) + output.get("text", "")
            for path in (str(ROOT), str(Path.home()), sys.prefix, "/tmp/"):
                if path in text:
                    raise ValueError(f"{name}: a path of this machine ({path}) in the output of:\n{cell.source}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="beginnings of the names of the lessons to run; all without any")
    only = tuple(parser.parse_args().only) or ("",)
    for script in sorted(SCRIPTS.glob("*.py")):
        if not script.name.startswith(only):
            continue
        print(f"running {script.stem} ...", flush=True)
        notebook = execute(read_script(script))
        tidy(notebook, script.stem)
        nbformat.validate(notebook)
        nbformat.write(notebook, HERE / f"{script.stem}.ipynb")


if __name__ == "__main__":
    main()
