# %% [markdown]
# # 05 · How fast is it?
#
# **How long does a call take, from one row to a million, and what does the way in which the table travels change?**
#
# The article that this project grew from ends on a question that it leaves open: how fast is it, say when the test data
# is enormous? We measure small tables here and now, take the large ones from the published results, and answer it.
#
# You will
#
# - declare an experiment, and read its result as ratios with intervals, beside floors, judged by a control;
# - see where one way of sending overtakes another, and where the time of a call goes at one row and at a million;
# - run into the wall that gRPC puts at 4 MiB, climb it with a stream, and choose the size of its chunks.
#
# **Needs:** what `make setup` installs. **Takes:** about a minute. **Built before:** the article's server
# ([03](03_serve_and_call.ipynb)), the four encodings and streams ([03b](03b_under_the_hood.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = (1, 100, 10_000)  # sizes that are measured here
BLOCKS = 6  # rounds in which everything takes its turn
CALLS = 10  # of each, in each half of a round

# %% [markdown]
# ## What is compared, said before
#
# Who measures first and then looks for something to compare will find something. So an *experiment* (a dataclass in
# `pred_server/lab/experiments.py`) says it before: its *arms*, which are what is compared, and the pairs that we will
# read against each other. All of these are reported, the dull ones too.
#
# The model is `linear`, ten numbers in and their weighted sum out. It costs next to nothing, so that what we see is the
# way there and back. Two arms are *floors*: `echo` answers with as many bytes as the real server, over the same gRPC,
# and computes nothing; `in process` only predicts. And one arm is there twice, in a process of its own: the *control*.
# Whatever difference shows between the two is no difference at all, and measures how far the rest can be trusted.

# %%
from pred_server.lab.calls import Arm
from pred_server.lab.experiments import Experiment

article, in_process = Arm("the article's server", "article"), Arm("in process", "predict")
encodings = [Arm(name, encoding=name) for name in ("csv", "columns", "tensor", "arrow")]
again = Arm("csv, again", process=1)
experiment = Experiment(
    arms=(article, *encodings, again, in_process, Arm("echo of tensor", "echo", "tensor")),
    compare=(*((arm.name, article.name) for arm in encodings), ("tensor", in_process.name)),
    control=(again.name, "csv"),
    model="linear",
    rows=ROWS,
    repetitions=1,
    blocks=BLOCKS,
    calls=CALLS,
)

# %% [markdown]
# ## Run it
#
# The calls are made by a *load generator*, a process of its own. It gets the messages ready-made as bytes, so a latency
# here is from the first byte sent to the last byte received; writing the table into the message comes on top, and we
# will see it in the waterfall. All arms take their turns in *blocks*, in a shuffled order and then in its reverse, so
# that a slow moment of the machine hits all of them, and who comes first has no advantage.

# %%
import tempfile
from pathlib import Path

from pred_server.lab import experiments

scratch = tempfile.TemporaryDirectory()
calls = experiments.run(experiment, Path(scratch.name) / "here.parquet")
first_block = calls[(calls["rows"] == ROWS[0]) & (calls["block"] == 0)].sort_values("sent_ns")
print(f"{len(calls):,} calls, {(~calls['ok']).sum()} of them failed; the order of the first block:")
for half, part in first_block.groupby("half"):
    print(f"  {('forth', 'back ')[half]}  {' · '.join(part['arm'].drop_duplicates())}")

# %%
from pred_server.lab import stats

order = [arm.name for arm in experiment.arms]
medians = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms").loc[order]
medians.rename_axis(columns="rows").round(2)

# %% [markdown]
# Milliseconds, medians. On another machine they are others; *ratios* travel better.
#
# ## A ratio, and how sure it is
#
# Within a block two arms saw the same moment of the machine, so we divide there: median by median, one ratio a block.
# How much would their mean change if the machine had given us other blocks? The *bootstrap* asks the blocks that we
# have: draw as many of them, with repetition, thousands of times, and look at where the means lie. By hand:

# %%
import numpy as np

at = calls[calls["rows"] == ROWS[-1]]
by_block = at.groupby(["block", "arm"])["latency_ms"].median().unstack()
ratios = by_block["tensor"] / by_block[article.name]
drawn = np.random.default_rng(0).choice(np.log(ratios), size=(2_000, len(ratios))).mean(axis=1)
low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
print("ratio in each block:", *ratios.round(3))
print(f"mean {np.exp(np.log(ratios).mean()):.3f}, 95 % of the drawn means from {low:.3f} to {high:.3f}")

# %% [markdown]
# (Logarithms, since twice as long and half as long should weigh the same. `stats.ratio` does just this, and makes the
# interval wider where blocks are few, as it must be.) An interval that contains 1 reads "no difference found". The
# control comes first, and what differs no more than the control does is no finding either:

# %%
from IPython.display import Markdown

report = stats.declared(calls)
Markdown("\n".join(f"- {stats.sentence(row)}" for _, row in report.iterrows()))

# %%
doubts = stats.doubts(calls, experiment.control)
Markdown(
    "What speaks against this result:\n\n" + "\n".join(f"- {doubt}" for doubt in doubts) if doubts else "No doubts."
)

# %% [markdown]
# ## One to a million
#
# A million rows as text are nearly 200 MB, and several processes hold them; nobody wants to wait for that in a lesson.
# `make bench` has done it, with REST and Arrow Flight beside it, and `data/results` holds every single call. A result
# file has a *stamp*: what one must know to run it again.

# %%
from pred_server.checkout import ROOT

published = experiments.read(ROOT / "data/results/rows_linear.parquet")
stamp = published.attrs["stamp"]
for key in ("cpu", "cores", "pinning", "python", "grpcio", "scikit-learn", "revision", "seed"):
    print(f"{key:13}{stamp[key]}")

# %%
from pred_server.lab import plots

figures = plots.of(published)
plots.show(figures["latency"], plots.alt(figures["latency"]))

# %% [markdown]
# Both axes are logarithmic. On the left all lines are flat: a call has a fixed price. On the right they rise together
# with the rows, and there it counts what a row costs. The bands reach from the median to p99. In between, lines cross.
#
# ## Crossovers
#
# A *crossover* is the number of rows at which two ways take equally long: below it one is the better choice, above it
# the other. It comes from measured ratios, so it has an interval too.

# %%
lines = ["| | takes as long as | at so many rows | 95 % interval |", "|---|---|---|---|"]
never = []
for arm, base in published.attrs["experiment"]["compare"]:
    point, low, high = stats.crossover(published, arm, base)
    if np.isfinite(point):
        low, point, high = (f"{float(f'{rows:.2g}'):,.0f}" for rows in (low, point, high))
        lines.append(f"| {arm} | {base} | {point} | {low} to {high} |")
    else:
        never.append(f"{arm} and {base}")
Markdown("\n".join(lines) + f"\n\nNo crossover that the data could vouch for: {'; '.join(never)}.")

# %%
crossing = [name for name in figures if name.startswith("crossover")]
for name in crossing[-1:]:
    plots.show(figures[name], plots.alt(figures[name]))

# %% [markdown]
# ## Where the time goes, at one row and at a million
#
# The *waterfall* of a call in each encoding; `echo` marks what the same bytes cost over the same gRPC when nothing is
# computed. A stream works on several chunks at once, so its phases overlap: the pieces say how long each was busy, the
# diamond how long the whole took.

# %%
few, *_, many = (name for name in figures if name.startswith("waterfall"))
for name in (few, many):
    plots.show(figures[name], plots.alt(figures[name]))

# %% [markdown]
# ## The wall at 4 MiB
#
# In those results the article's server has no limit on the size of a message, so that large tables have a time at all.
# As it stands in the article, it keeps gRPC's own limit for what a receiver accepts. We walk up to it:

# %% tags=["deterministic"]
import grpc
import pandas as pd

from pred_server import serve
from pred_server.generated.pred_pb2 import Request
from pred_server.generated.pred_pb2_grpc import PredictionStub

numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(200_000, 10))).add_prefix("x")
naive = serve("linear", module="pred_server.tutorial.article")
with grpc.insecure_channel(naive.address) as channel:
    for rows in (10_000, 20_000, 22_000):
        request = Request(input_data=numbers.head(rows).to_csv(index=False))
        try:
            answer = PredictionStub(channel).Predict(request, timeout=30)
            said = f"{len(answer.result.splitlines()) - 1:,} predictions"
        except grpc.RpcError as error:
            said = f"{error.code().name}: {error.details()}"
        print(f"{rows:,} rows, {request.ByteSize():,} bytes\n    {said}")
wall_rows = 4 * 1024 * 1024 * rows // request.ByteSize()
print(f"4 MiB hold {wall_rows:,} of these rows")

# %% [markdown]
# So the article's answer to "enormous" is a refusal. To raise the limit moves the wall, and one message must still fit
# into memory, several times over, on both sides. A stream has no such wall. Our client streams by itself what is larger
# than one of its chunks:

# %%
strict = serve("linear")
ours = strict.client(timeout_s=60)
print(f"{len(numbers):,} rows, {numbers.to_numpy().nbytes:,} bytes as a tensor")
ours.predict(numbers).waterfall

# %% [markdown]
# ## How large a chunk?
#
# Small chunks pay the fixed price of a message too often. Large ones leave one end idle while the other works, and take
# memory. Beside the streams stand the whole table in one message, and a bare TCP socket that carries the same bytes:

# %%
chunk_results = experiments.read(ROOT / "data/results/chunks.parquet")
(chunk_figure,) = plots.of(chunk_results).values()
plots.show(chunk_figure, plots.alt(chunk_figure))

# %%
from pred_server.client.client import CHUNK_BYTES
from pred_server.limits import MIB

streams = stats.throughput(chunk_results[chunk_results["chunk_rows"] > 0], ("chunk_rows",)).set_index("chunk_rows")
row_bytes = chunk_results["request_bytes"].min() / chunk_results["rows"].max()
best, smallest = streams["rows_per_s"].idxmax(), streams.index.min()
good = streams.index[streams["rows_per_s"] > 0.8 * streams["rows_per_s"].max()]
Markdown(
    f"Chunks of {best:,} rows carried most: {streams.loc[best, 'rows_per_s'] / 1e6:.1f} million rows a second, "
    f"{streams.loc[best, 'rows_per_s'] / streams.loc[smallest, 'rows_per_s']:.0f} times as many as chunks of {smallest:,}. The "
    f"top is flat: from {good.min():,} to {good.max():,} rows nothing is more than a fifth slower. A row is {row_bytes:.0f} bytes "
    f"here, so the chunks that the client makes, {CHUNK_BYTES / MIB:g} MiB, have about {round(CHUNK_BYTES / row_bytes, -3):,.0f} rows."
)

# %% [markdown]
# ## The answer
#
# Now the article's question, in one figure and three sentences.

# %%
names = [article.name, "csv", "tensor", "streamed tensor", "in process"]
told = stats.declared(published).set_index(["arm", "base", "rows"])
most, fewest = published["rows"].max(), published["rows"].min()
p50_ms = stats.summary(published).set_index(["arm", "rows"])["p50_ms"]
encode_ms = published[published["rows"] == most].groupby("arm")["client_encode_ms"].median()


def seconds(ms):
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def against_article(arm, rows):
    row = told.loc[(arm, article.name, rows)]
    if row["verdict"] not in ("faster", "slower"):
        return f"{row['verdict']}: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] times as long"
    low, factor, high = sorted([row["low"], row["ratio"], row["high"]])
    if row["verdict"] == "faster":
        low, factor, high = 1 / high, 1 / factor, 1 / low
    digits = 0 if factor >= 10 else 1
    return f"{factor:.{digits}f}× [{low:.{digits}f}, {high:.{digits}f}] {row['verdict']}"


finding = (
    f"{most:,} rows: the article's design takes {seconds(p50_ms[article.name, most])}, "
    f"a tensor in chunks {seconds(p50_ms['streamed tensor', most])}"
)
shown = stats.summary(published[published["arm"].isin(names)])
shown = shown.set_index("arm").loc[names].reset_index()
answer = plots.latency_by_rows(shown, "in process", finding, stamp)
plots.show(answer, plots.alt(answer))

# %%
Markdown(
    f"1. **One row** takes the article's server {seconds(p50_ms[article.name, fewest])} and ours "
    f"{seconds(p50_ms['tensor', fewest])} as a tensor: {against_article('tensor', fewest)}.\n"
    f"2. **{most:,} rows** take it {seconds(p50_ms[article.name, most])}, if its limit is lifted, or else they are refused; as one "
    f"tensor they take {seconds(p50_ms['tensor', most])} ({against_article('tensor', most)}), streamed in chunks "
    f"{seconds(p50_ms['streamed tensor', most])} ({against_article('streamed tensor', most)}).\n"
    f"3. **What costs is text**: the same rows as CSV take our server {seconds(p50_ms['csv', most])} "
    f"({against_article('csv', most)}), and to write it took the caller {seconds(encode_ms['csv'])} before, a tensor "
    f"{seconds(encode_ms['tensor'])}. To predict the rows in process takes {seconds(p50_ms['in process', most])}."
)

# %% [markdown]
# A model that costs nothing shows the way at its worst. How much of this is left for a real one? The same sweep, with
# the `flights` model and its mixed table, which travels as Arrow in place of a tensor:

# %%
flights = experiments.read(ROOT / "data/results/rows_flights.parquet")
flights_told = stats.declared(flights)
largest = flights_told[(flights_told["rows"] == flights["rows"].max()) & (flights_told["base"] == article.name)]
Markdown("\n".join(f"- {stats.sentence(row)}" for _, row in largest.iterrows()))

# %% [markdown]
# ## What we found

# %%
control = stats.declared(calls).iloc[: len(ROWS)]
Markdown(
    f"- Measured here, {ROWS[-1]:,} rows took {medians.loc[article.name, ROWS[-1]]:.1f} ms at the article's "
    f"server, {medians.loc['csv', ROWS[-1]]:.1f} ms as CSV and {medians.loc['tensor', ROWS[-1]]:.1f} ms as a tensor at ours; the "
    f"floor, an echo of the tensor's bytes, {medians.loc['echo of tensor', ROWS[-1]]:.1f} ms.\n"
    f"- The control, the same server against itself, read {', '.join(f'{each:.2f}' for each in control['ratio'])}: so much, or so "
    "little, may any ratio here be off.\n"
    f"- For {most:,} rows the article's design takes {seconds(p50_ms[article.name, most])}; a tensor in chunks, "
    f"{seconds(p50_ms['streamed tensor', most])}.\n"
    f"- As it stands in the article it refuses more than 4 MiB, which is {wall_rows:,} rows of ten numbers as text."
)

# %% [markdown]
# ## Exercises
#
# 1. Measure your own model: save one as in lesson 01, then run `pred-server bench --quick --model models/mine` in a
#    terminal, and `pred-server plot latency.parquet`. At how many rows does the encoding begin to matter?
# 2. How long does one row take over HTTP, through the gateway in Go? Add `Arm("through the gateway", "gateway")` to the
#    experiment (the gateway has a server of its own behind it), and the pair `("through the gateway", "csv")` to what is
#    compared.
#
# <details><summary>Answers</summary>
#
# 1. Where the line "in process" is far below the others, the way is what costs, and the encoding matters; where the
#    lines lie close together, the model is what costs. For the `flights` model that is so nearly everywhere.
# 2. `replace(experiment, arms=(*experiment.arms, Arm("through the gateway", "gateway")), compare=(*experiment.compare,
#    ("through the gateway", "csv")))`, with `from dataclasses import replace`, and run it into another file. Lesson 04
#    has the hop's price for CSV; the ratio to `csv` is that price, now with your other floors beside it.
#
# </details>
#
# ## Close

# %%
for server in (naive, strict):
    server.close()
scratch.cleanup()
print("still running:", sum(server.running for server in (naive, strict)))

# %% [markdown]
# Next: [06 Under load](06_under_load.ipynb)
