# %% [markdown]
# # 05 · How fast is it?
#
# **From one row to a million, what does a call cost, and what does the encoding change?**
#
# [The article](https://abap34.com/posts/grpc_ml.html) that this project grew from ends with an open question: how fast is
# it, say when the test data is enormous? We measure small tables here and now. For large tables we read the published
# results. Then we answer the question.
#
# You will
#
# - declare an experiment, and read its result as ratios with intervals, with a control beside them;
# - see where the time of a call goes at one row and at a million rows;
# - hit gRPC's limit of 4 MiB, and get past it with a stream.
#
# **Needs:** what `make setup` installs. **Takes:** 80 s to run, about 35 minutes to read (the core: 30). **Built before:**
# the article's server ([03](03_serve_and_call.ipynb)), the four encodings and the 95 % interval
# ([03b](03b_under_the_hood.ipynb)).
#
# **Core:** the experiment, one row to a million, the wall, the answer, exercise 1. **Optional:** the sections that say so,
# exercises 2 and 3.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = (1, 100, 10_000)  # the sizes that we measure here
BLOCKS = 6  # rounds; in each round every arm takes its turn
CALLS = 10  # calls of each arm, in each half of a round

# %% [markdown]
# ## First say what you compare
#
# If you measure first and then look for something to compare, you will always find something. So we say it before. An
# *experiment* is a dataclass in `pred_server/lab/experiments.py`. It lists its *arms*, the things to compare. It lists the
# pairs of arms that we will compare. We report all these pairs, also those where nothing happens.
#
# The model is `linear`: ten numbers in, their weighted sum out. It costs next to nothing. So we see the cost of the way
# there and back.
#
# - Two arms are *floors*, which do only a part of the work. `echo` answers with as many bytes as the real server, over the
#   same gRPC, and computes nothing. `in process` only predicts.
# - One arm is there twice, each in a process of its own: the *control*. The two are the same, so any difference between
#   them is noise. It tells us how far we can trust the other pairs.

# %%
from pred_server.lab.experiments import Experiment
from pred_server.lab.ways import Arm

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
# ## Guess first
#
# Before you run on, write down your guess. Take the largest table, the last number of `ROWS`. **How many times as long does
# the article's server take as our server with a tensor?**

# %%
GUESS_TIMES = None  # your guess, a number

# %% [markdown]
# ## Then measure
#
# A *load generator* makes the calls. It is a process of its own, and it gets the messages as ready bytes. So a latency here
# runs from the first byte sent to the last byte received. To write the table into the message takes time too. The waterfall
# below shows that part.
#
# The arms take turns, in *blocks*. In each block they run in a shuffled order, and then in the reverse order. So a slow
# moment of the machine hits all of them, and no arm gains by being first.

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
from IPython.display import Markdown

from pred_server.lab import stats, words

order = [arm.name for arm in experiment.arms]
medians = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms").loc[order]
medians.rename_axis(columns="rows").round(2)

# %%
times = medians.loc[article.name, ROWS[-1]] / medians.loc["tensor", ROWS[-1]]
Markdown(
    f"{words.capital(words.at(ROWS[-1]))} the article's server takes **{words.factor(times)} times** as long as ours with a "
    f"tensor. Your guess: {GUESS_TIMES or 'none yet'}."
)

# %% [markdown]
# The table shows medians, in milliseconds. Another machine has other times. *Ratios* differ less from machine to machine.
#
# ## Ratios, and how sure they are
#
# In [03b](03b_under_the_hood.ipynb) we computed a 95 % interval by hand: draw the blocks again and again, with repetition,
# and look at how far their mean ratio moves. If the interval contains 1, we say "no difference found".
#
# `stats.declared` does this for every pair of the experiment, and `words.sentence` writes it down. A ratio below 1 is turned
# around: "0.5 times as long" becomes "2× faster". The control comes first. A difference that is no larger than the
# control's counts as none.

# %%
report = stats.declared(calls)
Markdown("\n".join(words.bullets(words.sentence(row) for row in report.itertuples())))

# %%
control = stats.ratio(calls, *experiment.control)
noise = [max(row.high, 1 / row.low) for row in control.itertuples()]
factors = [f"{words.factor(factor)} {words.at(rows)}" for factor, rows in zip(noise, control["rows"], strict=True)]
Markdown(
    f"The control's interval reaches to a factor of {', '.join(factors)}. **Treat smaller differences as noise.** More `BLOCKS` "
    "make the intervals narrower."
)

# %% [markdown]
# A good report also says what speaks against it. `stats.doubts` looks for a drift, for noise, for failed calls, and for a
# control that misses 1.

# %%
doubts = words.bullets(stats.doubts(calls, experiment.control))
Markdown("\n".join(["What speaks against this result:", "", *doubts]) if doubts else "No doubts were found.")

# %% [markdown]
# ## One row to a million
#
# A million rows as text are nearly 200 MB, and several processes hold them. That takes too long for a lesson. `make bench`
# has measured it, with REST and Arrow Flight beside it. `data/results` holds every single call. A result file has a
# *stamp*, which says what you must know to measure it again.

# %%
from pred_server.checkout import ROOT

published = experiments.read(ROOT / "data/results/rows_linear.parquet")
stamp = published.attrs["stamp"]
for key in ("cpu", "cores", "pinning", "python", "grpcio", "scikit-learn", "revision", "seed"):
    print(f"{key:13}{stamp[key]}")

# %%
from pred_server.lab.figures import latency_by_rows, show
from pred_server.lab.study_figures import figures_of

published_figures = figures_of(published)
show(published_figures["latency"])

# %% [markdown]
# Both axes are logarithmic. The bands reach from the median to p99, the time within which 99 of 100 calls end. On the left all
# lines are flat: a call has a fixed price. On the right the lines rise with the rows: there, the price of a row counts. In
# between, lines cross.
#
# ## Crossovers (optional)
#
# A *crossover* is the number of rows at which two ways take equally long. Below it one way is faster, above it the other.
# We measured a few sizes only. Between two sizes we *interpolate*: we draw a straight line between the two measured ratios,
# on logarithmic axes. So a crossover may lie where nothing was measured. It has an interval too.

# %%
lines, never = [], []
for arm, base in published.attrs["experiment"]["compare"]:
    point, low, high = map(words.about, stats.crossover(published, arm, base))
    if point == "nan":
        never.append(f"{arm} and {base}")
    else:
        lines.append([arm, base, point, f"{low} to {high}"])
header = ["", "takes as long as", "at about so many rows", "95 % interval"]
Markdown("\n".join([*words.table(header, lines), "", f"No crossover was found for {'; '.join(never)}."]))

# %%
crossing = [name for name in published_figures if name.startswith("crossover")]
for name in crossing[-1:]:
    show(published_figures[name])

# %% [markdown]
# ## Where the time goes, at one row and at a million
#
# These are the *waterfalls* of a call, one bar for each encoding. A black line marks the echo: what the same bytes cost when
# nothing is computed. A stream works on several chunks at once, so its phases overlap. Its pieces show how long each phase
# was busy, and the diamond shows how long the whole stream took.

# %%
few, *_, many = (name for name in published_figures if name.startswith("waterfall"))
for name in (few, many):
    show(published_figures[name])

# %% [markdown]
# ## The wall at 4 MiB
#
# In those results the article's server has no limit on the size of a message. Otherwise there would be no times for large
# tables. The article itself keeps gRPC's default: a receiver refuses a message above 4 MiB. Let us walk up to that wall.

# %% tags=["deterministic"]
import grpc
import numpy as np
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
            outcome = f"{len(answer.result.splitlines()) - 1:,} predictions"
        except grpc.RpcError as error:
            outcome = f"{error.code().name}: {error.details()}"
        print(f"{rows:,} rows, {request.ByteSize():,} bytes\n    {outcome}")
wall_rows = 4 * 1024 * 1024 * rows // request.ByteSize()
print(f"4 MiB hold about {wall_rows:,} of these rows")

# %% [markdown]
# So the article's answer to "enormous" is a refusal. You can raise the limit, but that only moves the wall: one message must
# fit into memory, several times, on both sides. A *stream* has no such wall ([03c](03c_streams.ipynb)). Our client sends a
# table as a stream when it is larger than 1 MiB:

# %%
strict = serve("linear")
ours = strict.client(timeout_s=60)
print(f"{len(numbers):,} rows, {numbers.to_numpy().nbytes:,} bytes as a tensor")
ours.predict(numbers).waterfall

# %% [markdown]
# ## How large a chunk? (optional)
#
# Each chunk is a message, and a message has a fixed price. So small chunks pay it too often. With large chunks, one end is
# idle while the other one works, and they take more memory. The level lines show the whole table in one message, and a bare
# TCP socket that carries the same bytes.

# %%
chunk_results = experiments.read(ROOT / "data/results/chunks.parquet")
(chunk_figure,) = figures_of(chunk_results).values()
show(chunk_figure)

# %%
from pred_server.client.client import CHUNK_BYTES
from pred_server.limits import MIB

streams = stats.throughput(chunk_results.query("server == 'serve' and chunk_rows > 0"), ("chunk_rows",))
rows_per_s = streams.set_index("chunk_rows")["rows_per_s"].sort_index()
fastest, smallest = rows_per_s.idxmax(), rows_per_s.index[0]
near = rows_per_s.index[rows_per_s > 0.8 * rows_per_s.max()]
row_bytes = chunk_results["request_bytes"].min() / chunk_results["rows"].max()
usual = CHUNK_BYTES / row_bytes
nearest = rows_per_s.index[np.abs(np.log(rows_per_s.index / usual)).argmin()]
Markdown(
    f"- Chunks of {fastest:,} rows carried most: {rows_per_s[fastest] / 1e6:.1f} million rows a second, "
    f"{rows_per_s[fastest] / rows_per_s[smallest]:.0f} times as many as chunks of {smallest:,}.\n"
    f"- The top is flat. From {near.min():,} to {near.max():,} rows, no chunk is more than a fifth slower.\n"
    f"- Our client makes chunks of {CHUNK_BYTES / MIB:g} MiB, which are about {words.about(usual)} of these rows. The nearest "
    f"size here, {nearest:,} rows, carried {rows_per_s[nearest] / rows_per_s[fastest]:.0%} of the most. It is a trade: with "
    "smaller chunks the first predictions come earlier, and less memory is in use."
)

# %% [markdown]
# ## The answer
#
# Now the article's question, in one figure and three sentences.

# %%
most, fewest = published["rows"].max(), published["rows"].min()
ms = stats.summary(published).set_index(["arm", "rows"])["p50_ms"]
took = {key: words.duration(value) for key, value in ms.items()}

names = [article.name, "csv", "tensor", "streamed tensor", "in process"]
finding = (
    f"{most:,} rows: the article's server takes {took[article.name, most]}, a tensor in chunks "
    f"{took['streamed tensor', most]}"
)
shown = stats.summary(published).set_index("arm").loc[names].reset_index()
show(latency_by_rows(shown, "in process", finding, stamp))

# %%
verdicts = stats.declared(published).set_index(["arm", "base", "rows"], drop=False)
encode_ms = published[published["rows"] == most].groupby("arm")["client_encode_ms"].median().map(words.duration)


def against_article(arm, rows):
    """Return the verdict of an arm against the article's server, with its interval."""
    return words.difference(verdicts.loc[(arm, article.name, rows)])


Markdown(
    f"1. **One row** takes {took[article.name, fewest]} at the article's server, and {took['tensor', fewest]} at ours as a "
    f"tensor: {against_article('tensor', fewest)}.\n"
    f"2. **{most:,} rows** take {took[article.name, most]} at the article's server, if its limit is lifted; otherwise it "
    f"refuses them. At ours, one tensor takes {took['tensor', most]} ({against_article('tensor', most)}), a tensor in chunks "
    f"{took['streamed tensor', most]} ({against_article('streamed tensor', most)}).\n"
    f"3. **As CSV text** the same rows take {took['csv', most]} at ours ({against_article('csv', most)}). Before "
    f"that, the caller needs {encode_ms['csv']} to write the text, and {encode_ms['tensor']} to write a tensor. The prediction "
    f"alone, in process, takes {took['in process', most]}."
)

# %% [markdown]
# The model `linear` costs nothing, so the way costs nearly everything: that is the extreme case. What is left of it for a
# real model? Here is the same comparison with the `flights` model. Its table holds text and numbers, so it travels as Arrow
# and not as a tensor.

# %%
flights = experiments.read(ROOT / "data/results/rows_flights.parquet")
largest = stats.declared(flights).query("rows == rows.max() and base == @article.name")
Markdown("\n".join(words.bullets(words.sentence(row) for row in largest.itertuples())))

# %% [markdown]
# ## What we found

# %%
Markdown(
    f"- Measured here, {ROWS[-1]:,} rows took {medians.loc[article.name, ROWS[-1]]:.1f} ms at the article's server. At ours they "
    f"took {medians.loc['csv', ROWS[-1]]:.1f} ms as CSV and {medians.loc['tensor', ROWS[-1]]:.1f} ms as a tensor. The floor, an "
    f"echo of the tensor's bytes, took {medians.loc['echo of tensor', ROWS[-1]]:.1f} ms.\n"
    f"- The control, the same server against itself, read {', '.join(f'{ratio:.2f}' for ratio in control['ratio'])}. "
    f"A factor below {words.factor(max(noise))} may be noise.\n"
    f"- Published: for {most:,} rows the article's server takes {took[article.name, most]}, a tensor in chunks "
    f"{took['streamed tensor', most]}.\n"
    f"- As it stands in the article, the server refuses more than 4 MiB. That is about {wall_rows:,} rows of ten numbers as text."
)

# %% [markdown]
# ## Exercises
#
# **1.** A colleague says: "For one row, Arrow is slower than CSV." Declare an experiment that can support this, or refute it:
# our server, the model `linear`, one row. Give it a fair comparison, a control, and enough blocks. Ten calls in each half
# are plenty. Replace the `None`, then run this cell and the next one. The next cell checks the design, runs the experiment
# (about ten seconds) and prints the verdict.

# %%
# Experiment(arms=…, compare=…, control=…, model="linear", rows=(1,), repetitions=1, blocks=…, calls=10)
my_experiment = None

# %%
from dataclasses import replace


def check_design(mine):
    """Raise AssertionError if an experiment could not tell Arrow from CSV, or noise from a difference."""
    arms = {arm.name: arm for arm in mine.arms}
    assert (mine.model, mine.rows) == ("linear", (1,)), "the colleague speaks of `linear` and of one row"
    pairs = [[arms[name] for name in pair] for pair in mine.compare]
    assert [{arm.encoding for arm in pair} for pair in pairs] == [{"arrow", "csv"}], "compare one pair: Arrow and CSV"
    assert len({replace(arm, name="", encoding="") for arm in pairs[0]}) == 1, (
        "the pair differs in more than its encoding"
    )
    assert mine.control, "without a control you cannot tell noise from a difference"
    first, second = (arms[name] for name in mine.control)
    assert first.process != second.process, "the control needs a server process of its own"
    assert replace(first, name="", process=0) == replace(second, name="", process=0), (
        "the control must be the same twice"
    )
    assert mine.blocks * mine.repetitions >= stats.MIN_BLOCKS, f"take at least {stats.MIN_BLOCKS} blocks"


if my_experiment is None:
    print("exercise 1: not yet answered")
else:
    check_design(my_experiment)
    mine = experiments.run(my_experiment, Path(tempfile.mkdtemp(dir=scratch.name)) / "mine.parquet")
    print("exercise 1: right;", *(words.sentence(row) for row in stats.declared(mine).itertuples()), sep="\n  ")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# my_experiment = Experiment(
#     arms=(Arm("arrow", encoding="arrow"), Arm("csv"), Arm("csv, again", process=1)),
#     compare=(("arrow", "csv"),),
#     control=("csv, again", "csv"),
#     model="linear",
#     rows=(1,),
#     repetitions=1,
#     blocks=10,
#     calls=10,
# )
# ```
#
# Read the control before the claim. If the control differs from 1 by as much as the claim, the run says nothing.
#
# </details>
#
# **2. (optional)** Measure a model of your own. Save one as in lesson 01. Then run `pred-server bench --quick --model
# models/mine` in a terminal, and `pred-server plot latency.parquet`. At how many rows does the encoding begin to matter?
#
# **3. (optional)** How long does one row take over HTTP, through the gateway in Go? Add the arm
# `Arm("through the gateway", "gateway")` to the experiment (it starts a gateway with a server behind it). Compare it with
# `csv`.
#
# <details><summary>Answers</summary>
#
# 2. Look at the line "in process". Where it lies far below the others, the way costs most, and the encoding matters. Where
#    all lines lie close together, the model costs most. For the `flights` model that is nearly everywhere.
# 3. With `replace` from `dataclasses`:
#
#    ```python
#    through_go = replace(
#        experiment,
#        arms=(*experiment.arms, Arm("through the gateway", "gateway")),
#        compare=(*experiment.compare, ("through the gateway", "csv")),
#    )
#    ```
#
#    Run it into another file. The ratio to `csv` is the price of the hop, as in lesson 04.
#
# </details>
#
# ## Now yours
#
# All published numbers come from a machine that is not yours. Does yours agree? In a terminal:
#
# ```
# pred-server reproduce data/results/rows_linear.parquet --quick
# ```
#
# `reproduce` reads a result file, runs its experiment on your machine, and compares the verdicts. Milliseconds differ from
# machine to machine, so it does not compare them. A verdict is *confirmed* if both machines find the same direction, or
# neither finds a difference. It is *contradicted* if they find opposite directions. Otherwise it is *not resolved*.
#
# `--quick` takes at most five minutes, the whole run an hour. `--model models/mine` puts a model of your own in place of
# `linear`. Here we run only the first comparison, at one row; a run this small often ends *not resolved*.

# %%
from pred_server.lab.reproduce import reproduce

reproduce(
    ROOT / "data/results/rows_linear.parquet",
    quick=True,
    rows=[1],
    arms=published.attrs["experiment"]["compare"][0],
)

# %% [markdown]
# `pred-server reproduce … --contribute` writes a small file about your machine into `data/results/machines`: medians and
# versions, no name and no path. With it the project claims only what your machine does not contradict.
#
# ## Close

# %%
for server in (naive, strict):
    server.close()
scratch.cleanup()
print("still running:", sum(server.running for server in (naive, strict)))

# %% [markdown]
# Next: [06 Under load](06_under_load.ipynb)
