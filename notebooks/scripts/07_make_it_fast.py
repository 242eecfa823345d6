# %% [markdown]
# # 07 · Make it fast
#
# **From the article's server to ours: which change gave how much?**
#
# Lesson 05 compared the ends. Here we walk from one to the other, one part at a time: the server, the encoding, the stream, the
# engine. Each step is measured against the step before it, in one interleaved run, so the factors multiply to the whole way;
# and for each we look at one reason, with a small measurement of its own, where it shows best.
#
# You will
#
# - read a *ladder*: a figure with one step a row, each with its factor and its interval;
# - convert a model to ONNX, see how far its predictions move, and what a row costs then;
# - watch a server put waiting calls together, without a timer.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** under a minute.
# **Built before:** the server and its four encodings ([03b](03b_under_the_hood.ipynb)), the measurements
# ([05](05_how_fast_is_it.ipynb)) and the load ([06](06_under_load.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "pyarrow", "scikit-learn", "onnxruntime"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = 20_000  # of the table that is written and read as text
REPEATS = 15  # of each small measurement
CALLERS = 16  # who ask at the same time
CALLS = 20  # of each caller
BUSY_CALLS = 2_000  # whose processor time is counted

# %% [markdown]
# ## The ladder
#
# `make bench` measures it (`pred_server/lab/ladder.py`) and keeps every call in `data/results/ladder.parquet`. A factor of 2
# says: twice as fast as the step above. The bar is its 95 % interval over blocks; one that crosses the dotted line means that
# no difference was found. The two diamonds are the product of the steps, and the first and the last server measured side by
# side, by processes and calls of their own: if the steps are right, the two agree.

# %%
from IPython.display import Markdown

from pred_server.checkout import ROOT
from pred_server.lab import experiments, ladder, plots

published = experiments.read(ROOT / "data/results/ladder.parquet")
for rows, callers in ladder.ladders(published):
    figure = ladder.ladder(ladder.steps_at(published, rows, callers), rows, callers, published.attrs["stamp"])
    plots.show(figure, plots.alt(figure))

# %% [markdown]
# The steps are those of the `flights` model, whose predictions cost something. Where the model is most of the call, as it is
# for one flight, a better way to send a table cannot give much: there the engine decides. Where many ask at the same time,
# what counts is how many of them one prediction serves. Let us look at the reasons one by one.
#
# ## Reading and writing text
#
# The article's server reads CSV with pandas and writes it with pandas. Ours does both with pyarrow, which works on columns
# in C++. It must not cost a digit, so we look at that too. We take turns, and look at medians, for a table of numbers.

# %%
import io
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 10))).add_prefix("x")
text = numbers.to_csv(index=False)
data = text.encode()


def by_pyarrow_out():
    sink = io.BytesIO()
    pa.csv.write_csv(pa.Table.from_pandas(numbers), sink)


def medians_ms(ways):
    """Median milliseconds of each way, taken in turns."""
    taken = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            start_ns = time.perf_counter_ns()
            way()
            taken[name].append((time.perf_counter_ns() - start_ns) / 1e6)
    return pd.Series({name: float(np.median(times)) for name, times in taken.items()}, name="ms")


csv_ms = medians_ms(
    {
        "read, pandas": lambda: pd.read_csv(io.StringIO(text)),
        "read, pyarrow": lambda: pa.csv.read_csv(pa.BufferReader(data)),
        "write, pandas": lambda: numbers.to_csv(index=False),
        "write, pyarrow": by_pyarrow_out,
    }
)
exact = {
    "pandas": np.array_equal(pd.read_csv(io.StringIO(text)), numbers),
    "pyarrow": np.array_equal(pa.csv.read_csv(pa.BufferReader(data)).to_pandas(), numbers),
}
print("every bit comes back:", exact)
csv_ms.round(1).to_frame()

# %% [markdown]
# ## Not writing text at all
#
# A double is eight bytes in memory and some eighteen characters in a text, each of which has to be computed. A `tensor`
# message is the memory itself; `arrow` is that for each column, and so carries text as well, as the flights need it.

# %%
from pred_server.generated.pred_pb2 import Request
from pred_server.wire.codec import CODECS


def message(encoding):
    request = Request()
    CODECS[encoding].write_table(numbers, request)
    return request


encode_ms = medians_ms({encoding: (lambda encoding=encoding: message(encoding)) for encoding in CODECS})
bytes_a_row = pd.Series({encoding: message(encoding).ByteSize() / ROWS for encoding in CODECS}, name="bytes a row")
pd.concat([encode_ms.rename("ms to encode"), bytes_a_row], axis=1).round(1)

# %% [markdown]
# ## Another engine
#
# scikit-learn is made for tables: for one row, most of a prediction is Python that checks and prepares. ONNX is a file format
# for fitted models, and ONNX Runtime computes them without Python. `with_onnx` (`pred_server/engines/onnx.py`) converts the
# model and compares it before it serves: on its sample, with unseen categories, with missing values. What differs too much is
# refused.

# %%
from pred_server import load
from pred_server.engines.onnx import with_onnx

flights = load("flights")
converted = with_onnx(flights)
one = flights.schema.align(flights.sample.head(1))
engine_ms = medians_ms(
    {"scikit-learn": lambda: flights.predict_aligned(one), "ONNX Runtime": lambda: converted.predict_aligned(one)}
)
Markdown(
    f"One flight takes **{engine_ms['scikit-learn']:.2f} ms** in scikit-learn and "
    f"**{engine_ms['ONNX Runtime'] * 1000:.0f} µs** in ONNX Runtime; the predictions are {converted.parity}."
)

# %% [markdown]
# Trees are computed in float32 there, so predictions may move in their last digits; `client.describe()` says how far. A model
# that is not made of scikit-learn's parts, such as `sum`, cannot be converted, and `serve --engine onnx` says so and ends.
#
# ## Putting together what waits
#
# One prediction of a hundred rows costs far less than a hundred predictions of one. So the server takes all that waits while
# the model computes, and computes it as one table (`pred_server/server/predictor.py`). Nobody waits for a batch to fill: an idle
# server answers at once. For a model so quick that nothing ever waits for it, the event loop first takes in the calls that
# have arrived, if there are several, and asks it once. `--max-batch-rows 1` turns both off, and lets us see what it gives.

# %%
import threading

from pred_server import serve

table = pd.read_parquet(ROOT / "data/flights.parquet").drop(columns="arr_delay").head(1)


answers = set()


def rate_of(server):
    """Calls per second of all callers together, and the rows that the model computed at once, at the median."""
    client, batches = server.client(), []

    def ask():
        for _ in range(CALLS):
            served = client.predict(table)
            batches.append(served.waterfall.batch_rows)
            answers.add(served.to_numpy().tobytes())

    client.predict(table)
    callers = [threading.Thread(target=ask) for _ in range(CALLERS)]
    start_ns = time.perf_counter_ns()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return CALLERS * CALLS / ((time.perf_counter_ns() - start_ns) / 1e9), float(np.median(batches))


found = []
with serve("flights") as on, serve("flights", "--max-batch-rows", "1") as off:
    for _ in range(3):
        for name, server in {"on": on, "off": off}.items():
            found.append((name, *rate_of(server)))
batching = pd.DataFrame(found, columns=["batching", "calls/s", "rows at once"]).groupby("batching").median()
print("different answers, compared by their bits:", len(answers))
batching.round(1)

# %% [markdown]
# There is one answer, to the bit: no row's result may depend on who shares its batch. Matrix products round by the number of
# rows, so models that use them are computed in whole blocks of 16 (`pred_server/model/sklearn_engine.py`).
#
# ## How near the floor?
#
# A step says how much better than before; not how much is left. So `make bench` also runs `pred_server/lab/floor.py`: ratios
# with a target that was set before, some to the article's server, others to what nothing can beat, a *floor*: the same bytes
# sent back by a server that does not look at them, plus `predict` in process. All in one run, on all cores.

# %%
from pred_server.lab import floor

near = experiments.read(ROOT / "data/results/floor.parquet")
cases = floor.cases(near)
figure = floor.margins(cases, near.attrs["stamp"])
plots.show(figure, plots.alt(figure))

# %% [markdown]
# In process, `predict` is given a DataFrame, which it has to check first. That costs more than our server needs to read a
# tensor, so the first case gets below its floor; the second one is stricter, as its floor begins with a checked array.
#
# Hardest of all are thirty-two callers at once, and a model that takes some microseconds for a row. So quick a model is computed
# by the event loop itself, as to wake another thread would take longer; so all parts of a call add up. The replies say how long
# decoding, predicting (a row's share of its batch) and encoding took:

# %%
from pred_server.lab import stats

us = 1e6 / stats.throughput(near[near["rows"] == 1]).set_index("arm")["calls_per_s"]
busy = near[near["arm"] == "forest, 32 callers"].assign(
    predict_ms=lambda calls: calls["predict_ms"] / calls["batch_rows"]
)
parts_us = 1e3 * busy[["decode_ms", "predict_ms", "encode_ms"]].median()
echo_us, ours_us = us["echo, 32 callers"], us["forest, 32 callers"]
Markdown(
    f"Published: the echo finishes a call every **{echo_us:.0f} µs**, ours every **{ours_us:.0f} µs**. Of these it decodes for "
    f"{parts_us['decode_ms']:.0f} µs, predicts for {parts_us['predict_ms']:.0f} µs and encodes for "
    f"{parts_us['encode_ms']:.0f} µs. If all else cost nothing, it would reach "
    f"**{echo_us / (echo_us + parts_us.sum()):.0%}** of the echo's rate; it reaches {echo_us / ours_us:.0%}."
)

# %% [markdown]
# Among what is left are limits and refusals, timing, and telling the times: `server-timing` is metadata, which gRPC has to write
# for each reply. The processor's own count: what does a call cost all threads of the server, an echo's and ours, here with the
# `linear` model?

# %%
import psutil

from pred_server.lab import baselines
from pred_server.lab.calls import Arm, messages_of, target_of
from pred_server.lab.load import Generator, Segment

arms = {"echo": Arm("echo", "echo", "tensor"), "ours": Arm("ours", encoding="tensor")}
row = messages_of(arms["ours"], experiments.table_of(load("linear")).head(1))
cpu_us = {name: [] for name in arms}
with (
    serve("linear", "--kind", "echo", module=baselines.__name__) as echo,
    serve("linear") as ours,
    Generator() as generator,
):
    for _ in range(4):
        for name, server in {"echo": echo, "ours": ours}.items():
            process, target = psutil.Process(server.pid), target_of(arms[name], server.address, row)
            before = process.cpu_times()
            generator.run([target], [Segment(name, BUSY_CALLS, callers=32)])
            after = process.cpu_times()
            taken_s = after.user + after.system - before.user - before.system
            cpu_us[name].append(taken_s / BUSY_CALLS * 1e6)
per_call = pd.DataFrame(cpu_us).iloc[1:].median()  # the first round warms up
Markdown(
    f"A call costs the echo **{per_call['echo']:.0f} µs** of processor time and ours **{per_call['ours']:.0f} µs**; where that is "
    f"what limits both, ours reaches {per_call['echo'] / per_call['ours']:.0%} of the echo's rate."
)

# %% [markdown]
# Why does our part cost so much more than the microseconds that ONNX Runtime needs for a row? Those were measured in a tight
# loop. In a server other work comes in between, and what the next call needs has left the processor's caches. We do the same
# here: write to 8 MB before each prediction, outside of its time.

# %%
other_work = np.zeros(1_000_000)
taken_us = {"in a tight loop": [], "after other work": []}
for _ in range(20 * REPEATS):
    for name, times in taken_us.items():
        if name == "after other work":
            other_work += 1
        for _ in range(3 if name == "in a tight loop" else 1):  # the last one counts
            start_ns = time.perf_counter_ns()
            converted.predict_aligned(one)
            one_us = (time.perf_counter_ns() - start_ns) / 1e3
        times.append(one_us)
cold_us = {name: float(np.median(times)) for name, times in taken_us.items()}
Markdown(
    f"One flight in ONNX Runtime takes **{cold_us['in a tight loop']:.0f} µs** in a tight loop and "
    f"**{cold_us['after other work']:.0f} µs** after other work."
)

# %% [markdown]
# On one thread of Python each microsecond is missing at the rate. Beyond that help more processes, not less code.
#
# ## What we found

# %%
lines = []
for rows, callers in ladder.ladders(published):
    steps = ladder.steps_at(published, rows, callers)
    ends, largest = steps.iloc[-1], steps.iloc[1:-2].sort_values("factor").iloc[-1]
    lines.append(
        f"- Published, {stats.at(rows)}, {callers} caller{'s' if callers > 1 else ''}: the last step is {ends['factor']:.2g} times "
        f"[{ends['low']:.2g}, {ends['high']:.2g}] as fast as the first; the largest single step is "
        f"*{largest['step']}*, {largest['factor']:.2g} times."
    )
missed = "; ".join(cases.loc[cases["margin"] < 1, "case"]) or "none"
lines.append(f"- Published: {(cases['margin'] >= 1).sum()} of {len(cases)} targets are met; missed: {missed}.")
Markdown(
    "\n".join(lines)
    + f"\n- pyarrow reads this text {csv_ms['read, pandas'] / csv_ms['read, pyarrow']:.1f} times and writes it "
    f"{csv_ms['write, pandas'] / csv_ms['write, pyarrow']:.1f} times as fast as pandas; a tensor is encoded "
    f"{encode_ms['csv'] / encode_ms['tensor']:.0f} times as fast as CSV.\n"
    f"- For one flight ONNX Runtime is {engine_ms['scikit-learn'] / engine_ms['ONNX Runtime']:.0f} times as fast as "
    "scikit-learn.\n"
    f"- With {CALLERS} callers, batching answers {batching.loc['on', 'calls/s'] / batching.loc['off', 'calls/s']:.1f} times "
    "as many calls a second."
)

# %% [markdown]
# ## Exercises
#
# 1. `pred-server bench --varies ladder --quick --model linear` walks the same way with a model that costs next to nothing to
#    compute. Which step is the largest now?
# 2. Start `serve("flights", "--engine", "onnx")`, and let the callers of this lesson ask it, with and without batching. Does
#    batching still help?
#
# <details><summary>Answers</summary>
#
# 1. For many rows, the encoding: without a model to wait for, text is what the call consists of. For one row the steps are
#    small, and the engine's is the largest of them or none is found.
# 2. Hardly: a row costs the model less than the call around it. Such a quick model is asked on the event loop, at once, and
#    little ever waits.
#
# </details>
#
# ## Close
#
# The servers of this lesson ended with their `with` blocks.
#
# Next: [Explorer](explorer.ipynb)
