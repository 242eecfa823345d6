"""How a model is kept: saved, checked, and loaded."""

import io
import sys
import warnings
from contextlib import redirect_stderr
from pathlib import Path

if sys.platform == "linux" and not Path("/sys/devices/system/cpu").exists():
    # In a bare root file system nobody can count the cores, and joblib, which scikit-learn asks, prints a traceback.
    # It does so the first time alone.
    import joblib

    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        joblib.cpu_count(only_physical_cores=True)
