"""Results of further machines, kept beside the published ones: medians of blocks, stamp and experiment, some KB each.

They are contributed by others and shown to anyone, so a file here names no person, no host and no path.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput
from pred_server.lab import experiments, stats, verdicts
from pred_server.lab.stamps import LIBRARIES
from pred_server.limits import KIB

RESULTS = ROOT / "data" / "results"
MACHINES = RESULTS / "machines"
COLUMNS = ["arm", "rows", "block", "latency_ms", "calls", "ok", "valid"]
STAMP = {"python", *LIBRARIES, "go", "cpu", "cores", "pinning", "os", "revision", "seed", "command"}
COMMAND = "pred-server reproduce data/results/{}.parquet --contribute"
MOST_BYTES = 128 * KIB
# A path from the root, a home directory, a path of Windows, a file's address.
PATH = re.compile(r"""(?:^|[\s'"=:,(])(?:~?/\w|[A-Za-z]:\\|\\\\|file:|\.\./)""")


def block_medians(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the median latency of each arm in each block: all that a ratio and its interval are computed from.

    Returns
    -------
    DataFrame with the columns arm, rows, block, latency_ms, calls (how many), ok (all of them were answered), valid
    (the load generator was not the bottleneck), and the `attrs` of the calls
    """
    blocks = calls.groupby(["arm", "rows", "block"], sort=False)
    medians = blocks.agg(
        latency_ms=("latency_ms", "median"),
        calls=("latency_ms", "size"),
        ok=("ok", "all"),
        valid=("valid", lambda valid: valid.mean() >= 0.5),
    ).reset_index()
    medians.attrs = dict(calls.attrs)
    return medians


def contribute(calls: pd.DataFrame, study: str, folder: Path | None = None) -> Path:
    """Write the block medians of a run, with nothing of the machine but what its results depend on.

    Parameters
    ----------
    study : the name of the published result whose experiment was run, such as `rows_linear`
    folder : data/results/machines, if it is not named

    Returns
    -------
    The path of the file, `<study>-<cpu>-<cores>.parquet`. A file of that name is replaced: machines of one kind agree.

    Raises
    ------
    InvalidInput
        The file would not be what `read` takes.
    """
    medians, stamp = block_medians(calls), calls.attrs["stamp"]
    kept = {name: stamp[name] for name in stamp if name in STAMP}
    medians.attrs["stamp"] = kept | {"command": COMMAND.format(study)}
    cpu = re.sub(r"[^a-z0-9]+", "-", stamp["cpu"].lower()).strip("-")
    folder = folder or MACHINES
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study}-{cpu}-{stamp['cores']}.parquet"
    unfinished = path.with_suffix(".tmp")
    floats = medians.select_dtypes("float64")
    medians.astype(dict.fromkeys(floats, "float32")).to_parquet(unfinished, compression="zstd", index=False)
    try:
        read(unfinished)
    except InvalidInput:
        unfinished.unlink()
        raise
    return unfinished.rename(path)


def read(path: Path) -> pd.DataFrame:
    """Return the block medians of a contributed file, with `attrs`.

    Raises
    ------
    InvalidInput
        It is no such file: columns, stamp or control are missing, the experiment is not the published one, or it says
        more of its machine than it should.
    """
    medians = experiments.read(path)
    try:
        fault = next(_faults(path, medians), "")
    except (KeyError, TypeError, AttributeError):
        fault = "its experiment cannot be read"
    if fault:
        raise InvalidInput(f"{path.name} cannot stand among the results of further machines: {fault}")
    return medians


def _faults(path: Path, medians: pd.DataFrame) -> Iterator[str]:
    """Yield what is wrong with a file, a clause each. Later checks may rely on earlier ones."""
    experiment, stamp = medians.attrs["experiment"], medians.attrs.get("stamp", {})
    if list(medians.columns) != COLUMNS:
        yield f"its columns are {', '.join(map(str, medians.columns))} in place of {', '.join(COLUMNS)}"
    if set(stamp) != STAMP or set(medians.attrs) != {"stamp", "experiment"}:
        yield f"its stamp must have {', '.join(sorted(STAMP))}, and nothing else"
    study = study_of(path)
    if stamp["command"] != COMMAND.format(study):
        yield f"its command is not `{COMMAND.format(study)}`, with the study of its name"
    if not (RESULTS / f"{study}.parquet").exists():
        yield f"there is no published result `{study}`"
    if other := _differs(experiment, experiments.read(RESULTS / f"{study}.parquet").attrs["experiment"]):
        yield f"it is not the published experiment: {other} differ; run it again"
    control = stats.control(medians)
    if control is None or not set(control) <= set(medians["arm"]):
        yield "it has no control"
    if leaked := [text for text in _texts([medians.attrs, *medians["arm"].unique()]) if PATH.search(text)]:
        yield f"it holds a path: {leaked[0]}"
    if path.stat().st_size > MOST_BYTES:
        yield f"it has more than {MOST_BYTES // KIB} KiB"


def _differs(experiment: dict[str, Any], published: dict[str, Any]) -> str:
    """Return what an experiment does not share with the published one; how often it measures, and how much of it, may
    differ."""
    theirs = {arm["name"]: arm for arm in published["arms"]}
    for arm in experiment["arms"]:
        base = theirs.get(arm["name"], {})
        # What only one of the two versions of the code has is a setting with its default.
        if not base or any(arm[key] != base[key] for key in arm.keys() & base.keys() - {"calls"}):
            return f"the arms `{arm['name']}`"
    if experiment["model"] != published["model"]:
        return "the models"
    if experiment["control"] != published["control"]:
        return "the controls"
    return "" if all(pair in published["compare"] for pair in experiment["compare"]) else "the comparisons"


def _texts(value: Any) -> Iterator[str]:
    """Yield every text in nested lists and dicts."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def published(result: Path) -> str:
    """Return the name of a published result. Raises InvalidInput if the file is none."""
    if result.resolve().parent != RESULTS or not result.is_file():
        raise InvalidInput(f"{result} is not one of the published results, in data/results")
    return result.stem


def study_of(path: Path) -> str:
    """Return the study that a contributed file names: `rows_linear-amd-epyc-2.parquet` is of `rows_linear`."""
    return path.name.partition("-")[0]


def name_of(stamp: dict[str, Any]) -> str:
    """Return what a machine is called in figures: "AMD EPYC, 2 cores"."""
    return f"{stamp['cpu']}, {stamp['cores']} cores"


def verdicts_on(result: Path, calls: pd.DataFrame) -> pd.DataFrame:
    """Compare a published result with each further machine's.

    Parameters
    ----------
    result : the file; the others lie in `machines` beside it
    calls : what it holds

    Returns
    -------
    What `verdicts.compare` returns, and a column machine; empty without further machines
    """
    found = []
    for path in sorted((result.parent / MACHINES.name).glob(f"{result.stem}-*.parquet")):
        medians = read(path)
        found.append(verdicts.compare(calls, medians).assign(machine=name_of(medians.attrs["stamp"])))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["machine", "verdict"])
