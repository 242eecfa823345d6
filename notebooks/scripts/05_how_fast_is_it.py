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
# - compare our server with others as a caller meets them: from a table to its predictions;
# - read a result as ratios with intervals, with a control that says how small a difference may be noise;
# - tell which part of a difference is the encoding's, and which the transport's;
# - hit gRPC's limit of 4 MiB, get past it with a stream, and see what a stream costs and gives.
#
# **Needs:** what `make setup` installs. **Takes:** 105 s to run, about 60 minutes to read (the core: 45). **Built before:**
# the article's server ([03](03_serve_and_call.ipynb)), the four encodings and the 95 % interval
# ([03b](03b_under_the_hood.ipynb)).
#
# **Core:** at the caller's hand, the encoding or the transport, one row to a million, the wall, the answer, exercise 1.
# **Optional:** the sections that say so, exercises 2 and 3.

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
# ## At the caller's hand
#
# A caller has a table, calls a function, and gets predictions. So we measure just that first: from a DataFrame to
# predictions, for each server with the client that its users have.
#
# If you measure first and then look for something to compare, you will always find something. So we say it before. An
# *experiment* is a dataclass in `pred_server/lab/experiments.py`. It lists its *arms*, the things to compare, and the pairs
# of arms that we will compare. We report all these pairs, also those where nothing happens.
#
# The model is `linear`: ten numbers in, their weighted sum out. It costs next to nothing. So we see the cost of the way
# there and back. All servers have the same model. The other servers are built as people who know them would build them
# (`pred_server/lab/ways`):
#
# - **FastAPI** is REST at its best: JSON by orjson, NumPy and no pandas, a quick model called on the event loop, httpx as the
#   client. **FastAPI, pydantic** is REST as most people write it: a pydantic model for a row, and pandas.
# - **Arrow Flight** sends a table as it lies in memory, by gRPC's core in C++. **KServe** and **MLServer** serve models over
#   gRPC, too.
#
# The arms depend on what is installed here. `make rivals` installs what is missing.
#
# Some arms send *ready bytes*. There the message is written before the clock starts, and the reply is not read. A program in Go
# sends it, whose own work is small (`gateway/loadgen`; where it is not built, Python does). So these arms show server and
# transport. The difference to the same server at the caller's hand is its client in Python.

# %%
from dataclasses import replace

import numpy as np
import pandas as pd

from pred_server.lab.experiments import Experiment
from pred_server.lab.native import LOADGEN
from pred_server.lab.ways import RIVALS, WAYS, Arm

by = "go" if LOADGEN.exists() else "python"  # who sends ready bytes
article, in_process = Arm("the article's server", "article", frame=True), Arm("in process", "predict")
with_client = Arm("ours", encoding="auto", frame=True)
again = replace(with_client, name="ours, again", process=1)
rivals = [Arm(way.title, way.name, frame=True) for way in RIVALS if not way.missing()]
ready = [arm for arm in rivals if arm.server != "rest_pydantic"]
ready = [replace(arm, name=f"{arm.name}, ready bytes", frame=False, generator=by) for arm in ready]
ready.append(Arm("ours, ready bytes", encoding="tensor", generator=by))  # what our client chooses for such a table
at_hand = Experiment(
    arms=(with_client, again, article, *rivals, *ready, in_process),
    compare=tuple((arm.name, with_client.name) for arm in (article, *rivals)),
    control=(again.name, with_client.name),
    model="linear",
    rows=ROWS,
    repetitions=1,
    blocks=BLOCKS,
    calls=CALLS,
    most_rows=20_000,
)
print("compared with ours:", " · ".join(arm.name for arm in (article, *rivals)))

# %% [markdown]
# One arm is there twice, each in a server process of its own: the *control*. The two are the same, so any difference between
# them is noise. It tells us how far we can trust the other pairs. *In process* is a *floor*: it only predicts.
#
# ### Guess first
#
# Before you run on, write down two guesses, for the first and the last number of `ROWS`. **How many times as long as ours does
# the quickest of the other servers take?** (Below 1, it is ahead of ours.)

# %%
GUESS_FEW, GUESS_MANY = None, None  # your guesses, two numbers

# %% [markdown]
# ### Then measure
#
# A *load generator* makes the calls. It is a process of its own. The arms take turns, in *blocks*. In each block they run in a
# shuffled order, and then in the reverse order. So a slow moment of the machine hits all of them, and no arm gains by being
# first.

# %%
import tempfile
from pathlib import Path

from pred_server.lab import experiments

scratch = tempfile.TemporaryDirectory()
by_hand = experiments.run(at_hand, Path(scratch.name) / "by_hand.parquet")
first_block = by_hand[by_hand["frame"] & (by_hand["rows"] == ROWS[0]) & (by_hand["block"] == 0)].sort_values("sent_ns")
print(f"{len(by_hand):,} calls, {(~by_hand['ok']).sum()} of them failed; the order of the first block:")
for half, part in first_block.groupby("half"):
    print(f"  {('forth', 'back ')[half]}  {' · '.join(part['arm'].drop_duplicates())}")

# %%
from pred_server.lab import findings, stats
from pred_server.lab.figures import latency_by_rows, show
from pred_server.lab.study_figures import best_rivals, figures_of

others = findings.rivals(by_hand)
shown = findings.in_order(by_hand)
shown = shown[shown["frame"] | (shown["arm"] == in_process.name)]
show(latency_by_rows(stats.summary(shown), in_process.name, best_rivals(others), by_hand.attrs["stamp"]))

# %%
from IPython.display import Markdown

from pred_server.lab import words

quickest = others.loc[others.groupby("rows")["ratio"].idxmin()].set_index("rows")
lines = [
    f"{words.at(rows)} the quickest of the others, {quickest.loc[rows, 'arm']}, takes **{words.interval(quickest.loc[rows])} times** "
    f"as long as ours; your guess: {guess or 'none yet'}"
    for rows, guess in ((ROWS[0], GUESS_FEW), (ROWS[-1], GUESS_MANY))
]
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# ## Ratios, and how sure they are
#
# Another machine has other times. *Ratios* differ less from machine to machine. In [03b](03b_under_the_hood.ipynb) we computed a
# 95 % interval by hand: draw the blocks again and again, with repetition, and look at how far their mean ratio moves. If the
# interval contains 1, we say "no difference found".
#
# `stats.declared` does this for every pair of the experiment, and `words.difference` writes it down. The first line of the table
# is the control. A difference that is no larger than the control's counts as none.


# %%
def verdict_table(report, base):
    """Return a table in Markdown: a line for each arm that was compared with `base`, a column for each size."""
    compared = report[report["base"] == base]
    cells = {(row.arm, row.rows): words.difference(row) for row in compared.itertuples()}
    sizes = sorted(set(compared["rows"]))
    lines = [[arm, *(cells.get((arm, rows), "") for rows in sizes)] for arm in dict.fromkeys(compared["arm"])]
    return "\n".join(words.table([f"compared with {words.named(base)}", *(words.at(rows) for rows in sizes)], lines))


report = stats.declared(by_hand)
Markdown(verdict_table(report, with_client.name))

# %% [markdown]
# The table writes a ratio below 1 the other way round: "0.5 times as long" is "2× faster", since 0.5 is 1/2. Here with the
# largest difference of the run:

# %%
row = report.loc[np.log(report["ratio"]).abs().idxmax()]
times = max(row["ratio"], 1 / row["ratio"])
slow, quick = (row["arm"], row["base"]) if row["ratio"] > 1 else (row["base"], row["arm"])
Markdown(
    f"{words.capital(words.at(row['rows']))} {slow} takes {words.factor(times)} times as long as {quick}. The other way round, "
    f"{quick} takes {1 / times:.2g} times as long, and {1 / times:.2g} is 1/{words.factor(times)}."
)

# %% [markdown]
# ### What the control says
#
# The control decides how small a difference we may believe. Where its interval misses 1, something else than the arms changed
# in the run.


# %%
def what_the_control_says(calls):
    """Return a sentence for each size: what the control reads, and which differences are too small to be believed."""
    lines = []
    for row in stats.ratio(calls, *stats.control(calls)).itertuples():
        noise = max(row.high, 1 / row.low) - 1
        misses = "" if row.low <= 1 <= row.high else ", and **misses 1**, though both are the same"
        said = f"{words.at(row.rows)} the control reads {words.interval(row)}{misses}"
        lines.append(f"{said}; so believe no effect below about {noise:.0%} here")
    return "\n".join(words.bullets([*lines, "more `BLOCKS` make the intervals narrower"]))


Markdown(what_the_control_says(by_hand))

# %% [markdown]
# A good report also says what speaks against it. `stats.doubts` looks for a drift, for noise, for failed calls, and for a
# control that misses 1.

# %%
doubts = words.bullets(stats.doubts(by_hand, stats.control(by_hand)))
Markdown("\n".join(["What speaks against this result:", "", *doubts]) if doubts else "No doubts were found.")

# %% [markdown]
# ## Who is ahead of ours, and why?
#
# For each server that was found to be ahead, we ask: is it ahead from ready bytes, too? If so, its server and its transport are
# quicker. If not, its client is.

# %%
order = [arm.name for arm in at_hand.arms]
medians = stats.summary(by_hand).pivot(index="arm", columns="rows", values="p50_ms").loc[order]


def why_ahead(row):
    """Return a sentence on a server that is ahead of ours: how much of its lead is there from ready bytes, too."""
    base, at = with_client.name, row.rows
    lead_ms = medians.loc[base, at] - medians.loc[row.arm, at]
    said = f"{words.at(at)} {row.arm} is {words.difference(row)} than ours, by {lead_ms:.2f} ms"
    if f"{row.arm}, ready bytes" not in medians.index:
        return said
    served_ms = medians.loc[f"{base}, ready bytes", at] - medians.loc[f"{row.arm}, ready bytes", at]
    if served_ms <= 0:
        return f"{said}; from ready bytes it is {-served_ms:.2f} ms behind, so the lead is its client's"
    part = "all" if served_ms >= lead_ms else "most" if served_ms > lead_ms / 2 else "the smaller part"
    return f"{said}; from ready bytes by {served_ms:.2f} ms, so server and transport make {part} of the lead"


ahead = report[(report["verdict"] == "faster") & report["arm"].isin([arm.name for arm in rivals])]
Markdown("\n".join(words.bullets(map(why_ahead, ahead.itertuples()))) or "No server was found to be ahead of ours.")

# %% [markdown]
# What does ours do in that time? Our client looks up the columns in the model's description, chooses an encoding, and checks the
# reply. Our server checks names, types and limits, keeps a deadline, and says where the time went. The others check less: FastAPI
# here takes a row as it comes. The floor "in process" is scikit-learn's own `predict` of the same DataFrame: for this model nearly all of
# it is a look at the table, not arithmetic. What a call takes beyond it is the way there and back. The next section shows what gRPC costs
# on that way, beside HTTP/1.1.
#
# Here are all medians, in milliseconds:

# %%
medians.rename_axis(columns="rows").round(2)

# %% [markdown]
# `make bench` measures the same up to a million rows, with more blocks.

# %%
from pred_server.checkout import ROOT
from pred_server.lab import report as published_report

RESULTS = ROOT / "data/results"
at_hand_published = RESULTS / "hand_linear.parquet"
if at_hand_published.exists():
    published_by_hand = experiments.read(at_hand_published)
    show(figures_of(published_by_hand)["latency"])
    summary = "\n".join(published_report.short(published_by_hand))
else:
    summary = "These results are not there yet: `make bench` measures them."
Markdown(summary)

# %% [markdown]
# ## The encoding, or the transport?
#
# REST is text over HTTP, and ours is binary over gRPC. Two things differ, and both are blamed or praised. We take them apart, with
# all four combinations: {HTTP, gRPC} × {text, binary}. One more server carries *our* messages over HTTP/1.1
# (`pred_server/lab/ways/http.py`). So the same bytes travel both ways, and the same code reads them.
#
# All arms send ready bytes: a latency runs from the first byte sent to the last byte received. To write the table into the
# message takes time too. The waterfall below shows that part. Beside them stands a second floor: `echo` takes the same bytes
# over the same gRPC, answers with as many as the real server, and computes nothing.
#
# Guess first: **what makes the larger difference for the largest table, the encoding or the transport? And for one row?**

# %%
GUESS_LARGEST, GUESS_ONE_ROW = None, None  # "encoding" or "transport"

# %%
encodings = [Arm(name, encoding=name, generator=by) for name in ("csv", "columns", "tensor", "arrow")]
again, echo = replace(encodings[0], name="csv, again", process=1), Arm("echo of tensor", "echo", "tensor", generator=by)
over_http = [replace(arm, name=f"{arm.name} over HTTP", server="http") for arm in encodings[::2]]
over_http = [] if WAYS["http"].missing() else over_http
http_pairs = (("csv over HTTP", "csv"), ("tensor over HTTP", "tensor"), ("tensor over HTTP", "csv over HTTP"))
experiment = replace(
    at_hand,
    arms=(*encodings, again, *over_http, in_process, echo),
    compare=(*((arm.name, "csv") for arm in encodings[1:]), *(http_pairs if over_http else ())),
    control=(again.name, "csv"),
    most_rows=50_000,
)
calls = experiments.run(experiment, Path(scratch.name) / "here.parquet")
here_ms = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms")
here_ms.loc[[arm.name for arm in experiment.arms]].rename_axis(columns="rows").round(2)

# %%
Markdown(f"{verdict_table(stats.declared(calls), 'csv')}\n\n{what_the_control_says(calls)}")

# %% [markdown]
# Read the two by two like this: *across*, the transport stays and the encoding changes. *Down*, the encoding stays and the
# transport changes. A transport's part includes the server's library in Python: grpcio here, uvicorn there. It also includes what
# ours does for each call and the small server over HTTP does not: deadlines, limits on calls under way, a report of where the time
# went. And it includes who asks. A client in Python may cost more than the way there and back, and turn the result around: httpx
# takes longer than grpcio. So a program in Go asks, if it is built: the last line says whose calls these are.

# %%
published = experiments.read(RESULTS / "rows_linear.parquet")
ACROSS, DOWN = ("tensor", "csv"), ("tensor over HTTP", "tensor")
crossed = calls if over_http else published
measured = {*crossed["arm"]} >= {*ACROSS, *DOWN, "csv over HTTP"}


def two_by_two(rows):
    """Return the lines of a table for one size, and a sentence on what makes the larger difference."""
    some = crossed[crossed["rows"] == rows]
    judged = stats.report(some, [ACROSS, *http_pairs], stats.control(crossed)).set_index(["arm", "base"])
    said, ms = judged.apply(words.difference, axis=1), some.groupby("arm")["latency_ms"].median().map(words.duration)
    lines = [
        [words.at(rows), "gRPC", ms["csv"], ms["tensor"], said[ACROSS]],
        ["", "HTTP/1.1", ms["csv over HTTP"], ms["tensor over HTTP"], said["tensor over HTTP", "csv over HTTP"]],
        ["", "*HTTP/1.1 in place of gRPC*", said["csv over HTTP", "csv"], said[DOWN], ""],
    ]
    sure = judged["verdict"].isin(["faster", "slower"])
    makes = np.exp(np.log(judged["ratio"].where(sure, 1)).abs())  # 1 where no difference was found
    encoding, transport = makes[ACROSS], makes[DOWN]
    larger = "the encoding" if encoding > transport else "the transport" if transport > encoding else "neither"
    both = f"the encoding makes {words.factor(encoding)}×, the transport {words.factor(transport)}×"
    return lines, f"{words.at(rows)} {both}; the larger is: **{larger}**"


sizes = [rows for rows in (*ROWS, 1_000_000) if rows in set(crossed["rows"])]
found = [two_by_two(rows) for rows in sizes] if measured else []
header = ["", "", "text (`csv`)", "binary (`tensor`)", "*binary in place of text*"]
table = words.table(header, [line for lines, _ in found for line in lines])
Markdown("\n".join(table) if measured else "Not measured: run `make rivals` first.")

# %%
whose_part = [sentence for _, sentence in found]
guesses = (
    f"your guesses: {GUESS_ONE_ROW or 'none yet'} for one row, {GUESS_LARGEST or 'none yet'} for the largest table"
)
senders = crossed.loc[crossed["arm"].isin(ACROSS), "generator"] if "generator" in crossed else pd.Series(["python"])
asked_by = f"asked by the load generator in {' and '.join(name.capitalize() for name in senders.unique())}"
Markdown("\n".join(words.bullets([*whose_part, guesses, asked_by])))

# %% [markdown]
# `make bench` measures all encodings over both transports, up to a million rows. In the figure, left of the dotted line is
# quicker than before the change.

# %%
published_figures = figures_of(published)
if "two_by_two" in published_figures:
    show(published_figures["two_by_two"])

# %% [markdown]
# ## One row to a million
#
# A million rows as text are nearly 200 MB, and several processes hold them. That takes too long for a lesson. `make bench`
# has measured it, from ready bytes like the two by two. `data/results` holds every single call. A result file has a *stamp*,
# which says what you must know to measure it again.

# %%
stamp = published.attrs["stamp"]
for key in ("cpu", "cores", "pinning", "python", "grpcio", "scikit-learn", "revision", "seed"):
    print(f"{key:13}{stamp[key]}")

# %%
show(published_figures["latency"])

# %% [markdown]
# Both axes are logarithmic. The bands reach from the median to p99, the time within which 99 of 100 calls end. On the left all
# lines are flat: a call has a fixed price. On the right the lines rise with the rows: there, the price of a row counts. In
# between, lines cross.
#
# ### One caller who waits
#
# All these medians come from a *closed loop*: one caller, who asks again as soon as the answer is there. Visitors of a web site do
# not come like that. Between two of them there are pauses, in which threads sleep and caches cool. And sometimes two come at once,
# and one of them waits. So the same server has another median for them. `make bench` measures three kinds of load on one server.
# Lesson [06](06_under_load.ipynb) does it live, and takes the difference apart.

# %%
loops = findings.loops(experiments.read(RESULTS / "load.parquet"))
lines = [
    [loop.server, *map(words.duration, (loop.closed_ms, loop.even_ms, loop.open_ms)), f"{loop.share:.0%}"]
    for loop in loops.itertuples()
]
header = ["published medians", "closed loop", "open loop, even gaps", "open loop, at random", "of the capacity"]
Markdown("\n".join(words.table(header, lines)) if lines else "Not published yet: lesson 06 measures the three here.")

# %% [markdown]
# ## Crossovers (optional)
#
# A *crossover* is the number of rows at which two ways take equally long. Below it one way is faster, above it the other.
# We measured a few sizes only. Between two sizes we *interpolate*: we draw a straight line between the two measured ratios,
# on logarithmic axes. So a crossover may lie where nothing was measured. It has an interval too.

# %%
lines, never = [], []
for arm, base in published.attrs["experiment"]["compare"]:
    crossover = stats.crossover(published, arm, base)
    if not np.isfinite(crossover[0]):
        never.append(f"{arm} and {base}")
        continue
    sizes = sorted(published.loc[published["arm"] == arm, "rows"].unique())
    place = np.searchsorted(sizes, crossover[0])
    point, low, high = map(words.about, crossover)
    lines.append([arm, base, point, f"{low} to {high}", f"{sizes[place - 1]:,} and {sizes[place]:,}"])
header = ["", "takes as long as", "at about so many rows", "95 % interval", "interpolated between"]
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
# In a stream the phases overlap. We look at that more closely, and cut the table in four. For each chunk we note when the client
# begins to write it, when it is written, and when its predictions come and have been read. (You may skip the code, and look at the
# figure.)

# %%
import time

from pred_server.wire.timing import Stopwatch


def steps_of(n_chunks):
    """Predict all rows in so many chunks; return when each step of each chunk begins and ends, in ms."""
    names = [f"chunk {number}" for number in range(1, n_chunks + 1)] if n_chunks > 1 else ["one message"]
    parts = [ours.prepare(part, "tensor") for part in np.array_split(numbers.to_numpy(), n_chunks)]
    watch, steps, since = Stopwatch(), [], {}
    start_ns = time.perf_counter_ns()

    def note(name, step):
        now_ms = (time.perf_counter_ns() - start_ns) / 1e6
        if step:
            steps.append((name, step, since[name], now_ms))
        since[name] = now_ms

    def requests():
        for name, part in zip(names, parts, strict=True):
            note(name, "")
            request = part.write(watch)
            note(name, "the client writes")
            yield request

    for name, part, response in zip(names, parts, ours.stream(requests(), timeout_s=60), strict=True):
        note(name, "under way, and in the server")
        part.read(response, None, "labels", watch)
        note(name, "the client reads")
    return pd.DataFrame(steps, columns=["line", "step", "begin_ms", "end_ms"])


# %%
from pred_server.lab.lesson_figures import spans


def usual_run(n_chunks, runs=9):
    """Return the steps of the run whose end is the median."""
    return sorted((steps_of(n_chunks) for _ in range(runs)), key=lambda steps: steps["end_ms"].max())[runs // 2]


one, four = usual_run(1), usual_run(4)
first_ms = four.loc[four["line"] == "chunk 1", "end_ms"].max()
finding = (
    f"{len(numbers):,} rows: one message is answered after {one['end_ms'].max():.0f} ms; of four chunks the first after "
    f"{first_ms:.0f} ms, the last after {four['end_ms'].max():.0f} ms"
)
show(spans(pd.concat([one, four]), finding))

# %% [markdown]
# While the server computes one chunk, the client writes the next one. So nobody waits for the whole table.
#
# ### A stream is a trade
#
# The client streams from 1 MiB on, also where one message would be quicker. What does that cost, and what does it give?

# %%
from pred_server.client.client import CHUNK_BYTES, STREAM_BYTES
from pred_server.client.stream import WINDOW
from pred_server.limits import MIB

published_ms = published.groupby(["arm", "rows"])["latency_ms"].median()
published_first_ms = published[published["arm"] == "streamed tensor"].groupby("rows")["first_ms"].median()
row_bytes = numbers.to_numpy().nbytes / len(numbers)
lines = [
    f"our client streams from {STREAM_BYTES / MIB:g} MiB on, about {words.about(STREAM_BYTES / row_bytes)} of these rows"
]
for row in stats.declared(published).itertuples():
    if (row.arm, row.base) == ("streamed tensor", "tensor"):
        whole, streamed = (words.duration(published_ms[arm, row.rows]) for arm in (row.base, row.arm))
        first = words.duration(published_first_ms[row.rows])
        lines.append(
            f"published, {words.sentence(row)}: {streamed} and {whole}; its first predictions come after {first}"
        )
lines += [
    f"however long the table is, at most {WINDOW} chunks of about {CHUNK_BYTES / MIB:g} MiB are on their way",
    f"a million of these rows in one message have {1e6 * row_bytes / MIB:.0f} MiB, and both ends hold them",
]
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# So where a stream is the slower one, you give a little time, and get early answers and a bound on memory. If you want the time,
# ask for it: `client.predict(table, stream=False)`.
#
# ## How large a chunk? (optional)
#
# Each chunk is a message, and a message has a fixed price. So small chunks pay it too often. With large chunks, one end is
# idle while the other one works, and they take more memory. The level lines show the whole table in one message, and a bare
# TCP socket that carries the same bytes. `redraw` draws the figures of any published result again.

# %%
from pred_server.lab.report import redraw

redraw("chunks")

# %%
chunk_results = experiments.read(RESULTS / "chunks.parquet")
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
# Now the article's question, in three sentences.

# %%
most, fewest = published["rows"].max(), published["rows"].min()
ms = stats.summary(published).set_index(["arm", "rows"])["p50_ms"]
took = {key: words.duration(value) for key, value in ms.items()}

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
# These are ready bytes, and the article's server without its limit. At the caller's hand, where the table is written and the
# predictions are read in the measured time, too:

# %%
results = {"measured here": by_hand}
if at_hand_published.exists():
    results["published"] = published_by_hand
lines = []
for where, result in results.items():
    ms, many = result.groupby(["arm", "rows"])["latency_ms"].median().map(words.duration), result["rows"].max()
    lines.append(f"{where}, {words.at(many)}: {ms[article.name, many]} ({article.name}) and {ms['ours', many]} (ours)")
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# The model `linear` costs nothing, so the way costs nearly everything: that is the extreme case. What is left of it for a
# real model? Here is the same comparison with the `flights` model. Its table holds text and numbers, so it travels as Arrow
# and not as a tensor.

# %%
flights = experiments.read(RESULTS / "rows_flights.parquet")
largest = stats.declared(flights).query("rows == rows.max() and base == @article.name")
Markdown("\n".join(words.bullets(words.sentence(row) for row in largest.itertuples())))

# %% [markdown]
# ## What we found

# %%
lines = [
    f"{best_rivals(others)} (measured here)",
    f"{words.at(ROWS[-1])} the article's server took {words.duration(medians.loc[article.name, ROWS[-1]])} at the caller's hand, "
    f"ours {words.duration(medians.loc['ours', ROWS[-1]])}",
    f"from ready bytes, ours took {words.duration(here_ms.loc['csv', ROWS[-1]])} as CSV and "
    f"{words.duration(here_ms.loc['tensor', ROWS[-1]])} as a tensor; the floor, an echo of the tensor's bytes, "
    f"{words.duration(here_ms.loc['echo of tensor', ROWS[-1]])}",
    *whose_part[-1:],
    f"published: for {most:,} rows the article's server takes {took[article.name, most]}, a tensor in chunks "
    f"{took['streamed tensor', most]}",
    f"as it stands in the article, the server refuses more than 4 MiB, about {wall_rows:,} rows of ten numbers as text",
]
Markdown("\n".join(words.bullets(lines)))

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
# pred-server reproduce data/results/hand_linear.parquet --quick
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

result = published_by_hand if at_hand_published.exists() else published
reproduce(result, quick=True, rows=[1], arms=result.attrs["experiment"]["compare"][0])

# %% [markdown]
# `pred-server reproduce … --contribute` writes a small file about your machine into `data/results/machines`: medians and
# versions, no name and no path. With it the project claims only what your machine does not contradict.
#
# ### Watch it (optional)
#
# The [explorer](explorer.ipynb) measures while you watch: press *run*, and see each interval narrow from block to block. It opens with
# two encodings and Arrow Flight, at the caller's hand. Change what you like; *stop* ends it at once.

# %%
from pred_server.lab.choices import Choice
from pred_server.lab.explorer import Explorer

by_client = [Arm(name, encoding=name, frame=True) for name in ("csv", "tensor")]
explorer = Explorer(Choice((*by_client, Arm("Arrow Flight", "flight", frame=True)), "linear", points=ROWS))
explorer.view

# %% [markdown]
# ## Close

# %%
explorer.stop()
for server in (naive, strict):
    server.close()
scratch.cleanup()
print("still running:", sum(server.running for server in (naive, strict)))

# %% [markdown]
# Next: [06 Under load](06_under_load.ipynb)
