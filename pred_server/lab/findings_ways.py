"""What the study of ways found: what each way costs, by model and by caller."""

import pandas as pd

from pred_server.lab import findings, stats

MODELS = ("linear", "flights", "forest", "boosting")
GRPC, GRPC_ONNX, IN_PROCESS = "gRPC", "gRPC, ONNX Runtime", "in process"


def name_of(model: str, way: str, caller: str) -> str:
    """Return the name of an arm: "flights, from Go: REST"."""
    return f"{model}, from {caller}: {way}"


def costs(calls: pd.DataFrame) -> pd.DataFrame:
    """Return what each way costs, in the experiment's order.

    Returns
    -------
    DataFrame with a row for each model, caller and way, the columns case ("flights, from Go") and way, and a column for
    each number of rows with the median in milliseconds; calls_per_s (of many callers with one row), cpu_s and
    cpu_s_in_tables (CPU-seconds of all processes for a million predictions: of many callers with one row each, and in
    the largest tables but one), memory_mib (of the process that has the model) and start_ms (until it is ready). What
    was not measured is NaN; in process in Python, so are memory and start.
    """
    calls = findings.in_order(calls)
    calls = calls.assign(cpu_s=_cpu_s(calls))
    alone, many = calls[calls["callers"] == 1], calls[calls["callers"] > 1]
    table = alone.pivot_table("latency_ms", "arm", "rows", "median", sort=False)
    crowd = many.assign(arm=many["arm"].str.rpartition(", ")[0])
    sizes = sorted(alone["rows"].unique())
    table = table[sizes]
    in_tables = alone[alone["rows"] == sizes[-2 if len(sizes) > 2 else -1]]
    rates = stats.throughput(crowd, ("arm",)).set_index("arm")["calls_per_s"] if len(crowd) else pd.Series(dtype=float)
    by_arm = alone.groupby("arm")
    table = table.assign(
        calls_per_s=rates,
        cpu_s=crowd.groupby("arm")["cpu_s"].mean(),
        cpu_s_in_tables=in_tables.groupby("arm")["cpu_s"].mean(),
        memory_mib=by_arm["server_ready_mib"].median() + by_arm["server_peak_mib"].max().clip(lower=0),
        start_ms=by_arm["start_ms"].median(),
    )
    table.loc[table["memory_mib"].isna(), "start_ms"] = float("nan")
    cases = [arm.partition(": ") for arm in table.index]
    table.insert(0, "case", [case for case, _, _ in cases])
    table.insert(1, "way", [way for _, _, way in cases])
    return table


def _cpu_s(calls: pd.DataFrame) -> pd.Series:
    """Return the CPU-seconds of caller and server for a million predictions, by the call's own stretch."""
    both_ms = calls["server_cpu_ms"].fillna(0) + calls["caller_cpu_ms"]
    return both_ms / calls["rows"] * 1e6 / 1e3


def ratios(calls: pd.DataFrame) -> pd.DataFrame:
    """Return the declared comparisons with gRPC of one caller; the columns of `stats.report`, and way."""
    compared = stats.declared(calls)
    compared = compared[compared["base"].str.endswith(f": {GRPC}") & ~compared["arm"].str.endswith(", again")]
    return compared.assign(way=compared["arm"].str.partition(": ")[2])
