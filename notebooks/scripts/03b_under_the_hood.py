# %% [markdown]
# # 03b · Under the hood
#
# **What travels between client and server, and where does the time of a call go?**
#
# In lesson 03 the strict server answered. Now we open it. We ask it what it knows about itself. We send one table in four
# ways. We take the time of a call apart, and find out how far such a measurement can be trusted.
#
# You will
#
# - ask a server what it takes and whether it is well, without knowing its contract;
# - see one table in four encodings, with their sizes and their times, and learn which to choose when;
# - compute a ratio of two times with its 95 % interval, by hand, and say what the interval tells and what it does not.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 25 s to run, about 30 minutes to read.
# **Built before:** the `flights` model ([01](01_train_a_model.ipynb)), the contract ([02](02_write_the_contract.ipynb))
# and the strict server with its errors and deadlines ([03](03_serve_and_call.ipynb)).
#
# **Core and optional:** two parts are marked *(optional)*, "What is your contract?" and "A message that lies". Lessons 05
# to 07 stand on the part "How sure is that?".

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "protobuf", "pyarrow", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = 10_000  # of the table that travels in four encodings
REPEATS = 30  # how often each encoding is timed

# %% [markdown]
# ## Three models on one port
#
# A server may have several models. A call names the model that it wants. Our server has three:
#
# - `flights`, as before;
# - `linear`, which is built in: ten numbers in, their weighted sum out. It costs next to nothing to compute, so it shows
#   what the way there and back costs;
# - `iris`, a classifier that we train and save here, as in lesson 01.

# %%
import tempfile
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from pred_server import save, serve

scratch = tempfile.TemporaryDirectory()
iris_dir = Path(scratch.name) / "iris"
iris = load_iris(as_frame=True)
species = iris.target.map(dict(enumerate(iris.target_names)))
save(LogisticRegression(max_iter=1_000).fit(iris.data, species), iris.data, iris_dir, target="species")

logs = ("--log-level", "info", "--log-format", "json")
server = serve("flights", "--model", "linear", "--model", str(iris_dir), *logs)
server

# %% [markdown]
# ## What do you take?
#
# The contract says that a table goes in. *Which* table depends on the model. `Describe`, another rpc of the contract,
# tells: the columns and their types, the target and its unit, how good the model is, and the server's other models.

# %%
client = server.client(timeout_s=30)
client.describe()

# %% [markdown]
# ## Are you well?
#
# Lesson 03 asked for *health*, a small service with a contract of its own (`grpc.health.v1`). It comes with gRPC, so other
# programs know it too: a load balancer, which deals out calls to several servers, or Kubernetes, which starts and stops
# them. The empty name asks about the server as a whole. Our server also answers for each model.

# %% tags=["deterministic"]
import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

channel = grpc.insecure_channel(server.address)
for name in ("", "flights", "linear/1", "iris"):
    answer = HealthStub(channel).Check(HealthCheckRequest(service=name), timeout=10)
    print(f"{name or '(the server)':13}", HealthCheckResponse.ServingStatus.Name(answer.status))

# %% [markdown]
# ## What is your contract? *(optional)*
#
# *Reflection* is another such service. With it the server hands out its own contract. So a tool can call a server
# without its `pred.proto`.

# %% tags=["deterministic"]
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

reflected = ProtoReflectionDescriptorDatabase(channel)
print("services:", *sorted(reflected.get_services()))
for method in reflected.FindFileContainingSymbol("prediction.Prediction").service[0].method:
    takes, gives = (name.rpartition(".")[2] for name in (method.input_type, method.output_type))
    print(
        f"  {method.name}({'stream ' * method.client_streaming}{takes}) -> {'stream ' * method.server_streaming}{gives}"
    )

# %% [markdown]
# Such a tool for the terminal is [grpcurl](https://github.com/fullstorydev/grpcurl):
#
#     grpcurl -plaintext 127.0.0.1:50051 list
#     grpcurl -plaintext 127.0.0.1:50051 describe prediction.Prediction
#     grpcurl -plaintext 127.0.0.1:50051 prediction.Prediction/Describe
#
# ## One table, four messages
#
# An *encoding* is the way in which a table becomes a message. The contract has four. Each is a field of `Request`, and the
# answer comes in the encoding of the request. `pred_server/wire/codec.py` lists them, and each has a file beside it
# (`csv.py`, `columns.py`, `tensor.py`, `arrow.py`). Here is a table of two rows in all four, as protobuf prints them:

# %%
import pandas as pd

from pred_server.generated.pred_pb2 import Column, Columns, Request, Tensor
from pred_server.wire.codec import CODECS


def encoded(table, encoding):
    request = Request()
    CODECS[encoding].write_table(table, request)
    return request


two_rows = pd.DataFrame({"x": [1.0, 0.1], "y": [2.0, 0.2]})
for encoding in CODECS:
    request = encoded(two_rows, encoding)
    text = " ".join(str(request).split())
    print(f"{encoding}, {request.ByteSize()} bytes\n  {text[:230]}{' …' * (len(text) > 230)}\n")

# %% [markdown]
# - **csv** is the article's encoding: all numbers as text, as people write them.
# - **columns** has a typed list for each column. Fractions take eight bytes each. Whole numbers are varints, which are
#   short for small numbers ([02](02_write_the_contract.ipynb) decoded some). Text stays text. All this is plain protobuf,
#   so any language with a stub can read it and needs no further library.
# - **tensor** is one block of bytes with a shape. In machine learning a *tensor* is an array of numbers of one type. NumPy
#   has the same bytes in memory, so there is hardly anything to convert.
# - **arrow** is a stream of [Apache Arrow](https://arrow.apache.org), a format for tables. pandas, R, Java, Go and many
#   databases have libraries for it. Each column travels as it lies in memory, with its type. The description of the
#   columns comes first; it is nearly all of this small message.
#
# Now two tables of real size. `numbers` has ten columns of random numbers with all their digits. `flights` has whole
# numbers, short fractions and text.

# %%
import numpy as np

from pred_server.checkout import FLIGHTS

numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 10))).add_prefix("x")
flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(ROWS)

# %% tags=["deterministic"]
from pred_server.errors import InvalidInput

try:
    encoded(flights, "tensor")
except InvalidInput as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# A tensor has one type, so a table with text cannot be a tensor. Seven messages are left:

# %%
WAYS = [("numbers", encoding) for encoding in CODECS]
WAYS += [("flights", encoding) for encoding in CODECS if encoding != "tensor"]
TABLES = {"numbers": numbers, "flights": flights}
CLIENTS = {"numbers": server.client(model="linear", timeout_s=60), "flights": client}

messages = {(name, encoding): encoded(TABLES[name], encoding) for name, encoding in WAYS}
request_bytes = {way: message.ByteSize() for way, message in messages.items()}
answers = {way: CLIENTS[way[0]].call(message) for way, message in messages.items()}
sizes = pd.DataFrame(
    {
        "request (bytes)": request_bytes,
        "bytes a row": {way: size / ROWS for way, size in request_bytes.items()},
        "response (bytes)": {way: response.ByteSize() for way, (response, _) in answers.items()},
    }
).rename_axis(["table", "encoding"])
sizes.round(1).map("{:,}".format)

# %%
from IPython.display import Markdown

per_row = sizes["bytes a row"]
Markdown(
    f"A number with all its digits is long as text: a row of ten takes {per_row['numbers', 'csv']:.0f} bytes in CSV and "
    f"{per_row['numbers', 'tensor']:.0f} as a tensor. A whole number such as a month is *short* as text, and shorter "
    f"still as a varint: a flight takes {per_row['flights', 'csv']:.0f} bytes in CSV and "
    f"{per_row['flights', 'columns']:.0f} in columns. In Arrow it takes {per_row['flights', 'arrow']:.0f}, since a number takes "
    "eight bytes there. But size is not time. As columns and as a tensor, `numbers` has nearly the same size. Their times, "
    "below, differ."
)

# %% [markdown]
# Do the predictions depend on the encoding? They must not, to the last bit:

# %% tags=["deterministic"]
from pred_server import load

expected = {"numbers": load("linear").predict(numbers), "flights": load("flights").predict(flights)}
for name, encoding in WAYS:
    served = CLIENTS[name].predict(TABLES[name], encoding=encoding)
    equal = served.to_numpy().tobytes() == expected[name].tobytes()
    print(f"{name:9}{encoding:9}equal to in process, to the bit: {equal}")

# %% [markdown]
# ## Where the time goes
#
# Each reply brings a line of text called `server-timing`. It travels in the *trailing metadata*, short texts that follow
# the message. Web browsers know its syntax: the gateway of lesson 04 passes it on as an HTTP header, and the browser's
# developer tools draw it. The times are milliseconds. (`batch` is not a time. It is the number of rows that the model
# computed at once. Requests that wait at the same time are computed together.)

# %%
print(answers["numbers", "arrow"][1]["server-timing"])

# %% [markdown]
# The server knows four phases, and the client adds two. The rest of the caller's time is *transport*:
#
# | phase | where | what happens |
# |---|---|---|
# | client encode | client | the table becomes a message |
# | transport | between | the wire, and protobuf on both ends |
# | decode | server | the message becomes a table, and is checked |
# | queue | server | the call waits for the thread that computes |
# | predict | server | the model computes |
# | encode | server | the predictions become a message |
# | client decode | client | the message becomes a Series |
#
# Together they are the *waterfall*: each phase begins where the one before it ends. `predict` returns a pandas Series, and
# the Series carries its waterfall:

# %%
CLIENTS["numbers"].predict(numbers, encoding="csv").waterfall

# %%
waterfall = CLIENTS["numbers"].predict(numbers, encoding="tensor").waterfall
waterfall.table.round(2)

# %% [markdown]
# `waterfall.plot()` is a figure. A terminal gets bars made of characters. The command `pred-server predict --timing`
# prints them too:

# %%
print(waterfall.text())

# %% [markdown]
# The operator of the server sees the same times in its log, with an id for each request. With `--log-format json` each
# line is an object that log collectors can read.

# %%
import json

line = json.loads(server.logs().splitlines()[-1])
print({key: value for key, value in line.items() if key not in ("asctime", "levelname", "name", "message")})

# %% [markdown]
# ## Guess first: how much longer does CSV take than a tensor?
#
# One call says little: the machine may have been busy with something else. So we measure in *blocks*. In each block every
# encoding has one call, in random order. Two blocks at the beginning warm up and do not count.

# %%
from tqdm.auto import tqdm


def timed(name, n_rows, repeats=REPEATS):
    """Return one line for each call: its encoding, its block, milliseconds in all and by phase."""
    shuffle = np.random.default_rng(1)
    table, encodings = TABLES[name].head(n_rows), [encoding for table_name, encoding in WAYS if table_name == name]
    lines = []
    for block in tqdm(range(-2, repeats), desc=f"{name}, {n_rows:,} rows"):
        for encoding in shuffle.permutation(encodings):
            call = CLIENTS[name].predict(table, encoding=encoding, stream=False).waterfall
            # The lab calls each of the things that it compares an arm.
            lines.append({"arm": encoding, "block": block, "latency_ms": call.wall_ms, **call.phases_ms})
    return pd.DataFrame(lines).query("block >= 0").assign(table=name, rows=n_rows)


# %% [markdown]
# How many times as long does CSV take as a tensor, for `numbers`? The waterfalls above are a hint. Write your guess into
# the next cell, then run it.

# %%
my_guess = None  # a number: 2 means "twice as long"

by_phase = timed("numbers", ROWS)
by_encoding = by_phase.groupby("arm")  # one group of calls for each encoding
medians = by_encoding[["latency_ms", *waterfall.phases_ms]].median().loc[list(CODECS)]
in_all = medians["latency_ms"]
print(f"your guess: {my_guess}   measured: {in_all['csv'] / in_all['tensor']:.1f} times as long")
medians.rename(columns={"latency_ms": "in all"}).round(2)

# %% [markdown]
# The table shows medians in milliseconds: half of the calls took less, half took more. `figures.waterfall` (in
# `pred_server/lab/figures.py`) draws them. The number beside a bar is the sum of its pieces. It is near the median of the
# whole call, and need not be equal to it.

# %%
from pred_server.lab import figures

slowest, fastest = in_all.idxmax(), in_all.idxmin()
finding = f"{ROWS:,} rows of numbers: {slowest} takes {in_all[slowest]:.0f} ms, {fastest} {in_all[fastest]:.0f} ms"
bars = medians.drop(columns="latency_ms").loc[in_all.sort_values(ascending=False).index]
bars.columns = [f"{phase.replace(' ', '_')}_ms" for phase in bars.columns]
figure = figures.waterfall(bars.rename_axis("label").reset_index(), finding)
figures.show(figure, figures.alt(figure))

# %%
text_ms = medians.loc["csv", ["client encode", "decode", "encode", "client decode"]].sum()
largest = medians.loc[slowest].drop("latency_ms").idxmax()
Markdown(
    f"The model took {medians['predict'].min():.1f} to {medians['predict'].max():.1f} ms. Of CSV's {in_all['csv']:.1f} ms, "
    f"**{text_ms:.1f} ms** went into writing and reading text, on both ends. The largest phase of {slowest} is *{largest}*."
)

# %% [markdown]
# ## How sure is that? An interval by hand
#
# We have a ratio. Would another run give the same one? Not exactly. The question is how far off it may be.
#
# **Step 1: one ratio for each block.** The calls of one block are milliseconds apart. A slow moment of the machine hits
# all of them, and most of it cancels out when we divide.

# %%
by_block = by_phase.pivot(index="block", columns="arm", values="latency_ms")  # a row a block, a column an encoding
ratios = by_block["csv"] / by_block["tensor"]
print("csv ÷ tensor in the first blocks:", *ratios.head(8).round(2))
print(f"over all {len(ratios)} blocks: from {ratios.min():.2f} to {ratios.max():.2f}")

# %% [markdown]
# **Step 2: their mean.** We take the mean of the logarithms, and go back with `exp`. This is the *geometric mean*. Why?
# "Twice as long" and "half as long" should cancel out, and give 1. Their logarithms do so. Their plain mean does not: it is
# (2 + ½) / 2 = 1.25.
#
# **Step 3: how far may the mean be off?** If we ran everything a thousand times, we would see a thousand means, and how
# far they lie apart. We have one run. The *bootstrap* makes new runs out of it: draw a block, put it back, draw again,
# until we have as many as before. Some blocks come twice, and some do not come. Take the mean. Do all this 2,000 times. The
# range that holds the middle 95 % of these means is the **95 % interval**.

# %%
log_ratios = np.log(ratios.to_numpy())
rng = np.random.default_rng(0)
means = [rng.choice(log_ratios, size=len(log_ratios)).mean() for _ in range(2_000)]

mean = np.exp(log_ratios.mean())
low, high = np.exp(np.quantile(means, [0.025, 0.975]))
print(f"csv takes {mean:.2f} times as long as tensor, 95 % interval from {low:.2f} to {high:.2f}")

# %%
from matplotlib.figure import Figure

finding = (
    f"{len(ratios)} blocks from {ratios.min():.1f} to {ratios.max():.1f}; their mean {mean:.2f} [{low:.2f}, {high:.2f}]"
)
figure = Figure(figsize=(8, 3), layout="constrained")
axes = figure.subplots()
axes.hist(np.exp(means), bins=40, color="#56B4E9", label="2,000 drawn means")
axes.axvspan(low, high, color="#E69F00", alpha=0.3, zorder=0, label="the middle 95 % of them")
axes.plot(ratios, np.full(len(ratios), -12), "|", color="black", markersize=9, label="the blocks")
axes.set(xlabel="csv ÷ tensor", ylabel="how many means", title=finding)
axes.legend(frameon=False)
figures.show(
    figure, f"A histogram of the drawn means with the interval, and below it the ratio of each block. {finding}."
)

# %% [markdown]
# The ratios of single blocks lie far apart. Their mean is known much better. This is why we measure many blocks.
#
# **How to read an interval.**
#
# - It contains 1: *no difference found*. The two may be equal, or the difference is too small for this run.
# - It does not contain 1: there is a difference, and the interval says how large it may be.
# - It knows chance within this run, and nothing else. Another machine, another table or a mistake in the method may move
#   the result further. Lesson 05 adds a *control* against that.
#
# Why do we draw blocks, and not single calls? Calls that follow each other resemble each other. A thousand calls in one bad
# second tell about that second only.
#
# `stats.ratio`, in `pred_server/lab/stats.py`, does the same three steps. With few blocks the plain bootstrap comes out too
# narrow, so `stats.ratio` makes the interval a little wider:

# %%
from pred_server.lab import stats

stats.ratio(by_phase, "csv", "tensor").drop(columns="verdict").round(3)


# %%
def compared(calls, arms, base):
    """Say for each arm how many times as long it takes as the base, with the interval."""
    words = []
    for arm in arms:
        result = stats.ratio(calls, arm, base).iloc[0]
        verdict = stats.NO_DIFFERENCE if result["verdict"] == stats.NO_DIFFERENCE else f"{result['ratio']:.2f}"
        words.append(f"{arm}: {verdict} [{result['low']:.2f}, {result['high']:.2f}]")
    return "; ".join(words)


others = [encoding for encoding in CODECS if encoding != "csv"]
Markdown(f"{ROWS:,} rows of numbers, how many times as long as CSV? {compared(by_phase, others, 'csv')}.")

# %% [markdown]
# From here on we write a ratio like this: the ratio, and in brackets its 95 % interval.
#
# ## Which to choose
#
# The same for the flights, and for one row of each table: many calls ask about one thing only. Medians in milliseconds:

# %%
many_flights = timed("flights", ROWS, max(2, REPEATS // 3))
one_number, one_flight = timed("numbers", 1), timed("flights", 1)
measured = pd.concat([by_phase, many_flights, one_number, one_flight])
p50 = measured.groupby(["table", "rows", "arm"])["latency_ms"].median()
p50.unstack("arm").loc[["numbers", "flights"], list(CODECS)].map("{:.1f}".format).replace("nan", "–")

# %%
share = many_flights.groupby("arm")["predict"].median() / p50["flights", ROWS]
spread_ms = p50["flights", ROWS].max() - p50["flights", ROWS].min()
Markdown(
    f"For {ROWS:,} flights the model itself takes {share.min():.0%} to {share.max():.0%} of the time. The best and the worst "
    f"encoding are {spread_ms:.1f} ms apart, of {p50['flights', ROWS].max():.0f}. The heavier the model, the less the encoding "
    f"matters.\n\nOne row of numbers, how many times as long as CSV? {compared(one_number, others, 'csv')}."
)

# %% [markdown]
# | encoding | choose it for |
# |---|---|
# | **csv** | people and files: `curl`, the article's clients, a look at what was sent |
# | **columns** | text and numbers in few rows; a language that has a stub and no Arrow library; whole numbers, which are small in it |
# | **tensor** | columns of one type: arrays, embeddings, images |
# | **arrow** | mixed types in many rows, where both ends have an Arrow library |
#
# You need not choose. The client's default, `encoding="auto"`, decides by the table:
#
# - an array, or a table whose columns have one numeric type: `tensor`;
# - any other table: `columns` up to 64 rows, `arrow` above;
# - a server that has no `Describe`, as the article's: `csv`.
#
# The client asks `Describe` once, before its first call. `Client(..., encoding="csv")` fixes the encoding for all calls.
#
# You may send a DataFrame, an array, or an Arrow table. A classifier can answer with probabilities in place of labels:

# %%
classifier = server.client(model="iris")
some = iris.data.iloc[[0, 60, 120]]
classifier.predict(some, output="probabilities").round(3).assign(label=classifier.predict(some))

# %% [markdown]
# ## A message that lies *(optional)*
#
# Bytes from a stranger may say anything: a shape that does not fit the bytes, or a column that ends early. Suppose a
# server believes them. It may read memory that it must not read, or crash for all callers. `client.call` sends a
# request as it is, so we can try:

# %% tags=["deterministic"]
table_of_1 = encoded(numbers.head(1), "arrow")
LIES = {
    "a shape of two rows, bytes for one": Request(tensor=Tensor(dtype="float64", shape=[2, 10], data=bytes(80))),
    "a type that is no type": Request(tensor=Tensor(dtype="object", shape=[1, 10], data=bytes(80))),
    "two tables at once": Request(input_data="x0\n1\n", arrow=table_of_1.arrow),
    "an Arrow stream that breaks off": Request(arrow=table_of_1.arrow[:-200]),
    "a missing row beyond the end": Request(
        columns=Columns(columns=[Column(name=f"x{i}", float64=[1.0], missing=[7] * (i == 3)) for i in range(10)])
    ),
    "a column that ends early": Request(
        columns=Columns(columns=[Column(name=f"x{i}", float64=[1.0] * (2 - (i == 3))) for i in range(10)])
    ),
}
for what, request in LIES.items():
    try:
        CLIENTS["numbers"].call(request)
    except InvalidInput as error:
        at_fault = error.violations[0]
        print(f"{what}\n    {error.code}  {at_fault.field}: {at_fault.description}")

# %% [markdown]
# The answer names the *field at fault* each time, for a program to read. The server still runs, and the connection still
# works.
#
# ## What we found

# %%
Markdown(
    f"- {ROWS:,} rows of ten numbers took {in_all['csv']:.1f} ms as CSV and {in_all['tensor']:.1f} ms as a tensor: CSV takes "
    f"{mean:.1f} times as long [{low:.1f}, {high:.1f}]. The model's part was {medians.loc['tensor', 'predict']:.1f} ms. What "
    f"CSV costs is writing and reading text: {text_ms:.1f} ms.\n"
    f"- A flight takes {per_row['flights', 'columns']:.0f} bytes in columns and {per_row['flights', 'arrow']:.0f} in Arrow. "
    f"How many times as long as columns? {compared(many_flights, ['arrow'], 'columns')}.\n"
    "- The predictions are the same to the last bit in every encoding.\n"
    '- A ratio has an interval. An interval that contains 1 reads "no difference found".\n'
    "- A message that lies gets an answer that names the field at fault."
)

# %% [markdown]
# ## Exercises
#
# **1. An interval of your own** (a cell checks your answer). How many times as long does `arrow` take as `tensor`, for the
# rows of `numbers` above? Compute the 95 % interval by hand, from `by_block`, and write it into the next cell as
# `(low, high)`.

# %%
my_interval = None  # (low, high)


# %%
def check(interval):
    """Compare an interval with one that is drawn here, by other random numbers."""
    logs = np.log((by_block["arrow"] / by_block["tensor"]).to_numpy())
    means = np.random.default_rng(7).choice(logs, size=(20_000, len(logs))).mean(axis=1)
    right, spread = (np.exp(np.quantile(values, [0.025, 0.975])) for values in (means, logs))
    if np.allclose(interval, right, rtol=0, atol=0.2 * np.ptp(right)):
        return f"right: mine is [{right[0]:.3f}, {right[1]:.3f}]"
    if np.allclose(interval, spread, rtol=0, atol=0.2 * np.ptp(right)):
        return "not yet: this is where the blocks lie; draw blocks, and look at where their means lie"
    return "not yet: divide arrow by tensor, take logarithms, draw, take means, quantiles, and go back with exp"


print("not yet answered" if my_interval is None else check(my_interval))

# %% [markdown]
# **2. Which encoding does `auto` choose** for 5 of the flights, for 500 of them, and for `numbers` with `x3` as float32?
# Guess first. Then read `encoding` in the server's log.
#
# <details><summary>Answers</summary>
#
# 1. The same lines as above, with another pair:
#
#    ```python
#    log_ratios = np.log((by_block["arrow"] / by_block["tensor"]).to_numpy())
#    means = [rng.choice(log_ratios, size=len(log_ratios)).mean() for _ in range(2_000)]
#    my_interval = np.exp(np.quantile(means, [0.025, 0.975]))
#    ```
#
# 2. `columns`, `arrow` and `arrow`:
#
#    ```python
#    CLIENTS["flights"].predict(flights.head(5))
#    CLIENTS["flights"].predict(flights.head(500))
#    CLIENTS["numbers"].predict(numbers.head(500).astype({"x3": "float32"}))
#    calls = [json.loads(line) for line in server.logs().splitlines() if '"Predict"' in line]
#    for call in calls[-3:]:
#        print(call["rows"], call["encoding"])
#    ```
#
#    The third table has two types, so it cannot be a tensor. It is not the same table either: a float32 has fewer digits.
#
# </details>
#
# ## Close

# %%
channel.close()
server.close()
scratch.cleanup()
server

# %% [markdown]
# Next: [03c Streams](03c_streams.ipynb)
