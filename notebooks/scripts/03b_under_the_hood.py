# %% [markdown]
# # 03b · Under the hood
#
# **What travels between client and server, and where does the time of a call go?**
#
# In lesson 03 the strict server answered, and that was that. Now we open it. We ask it what it knows about itself, send
# one table in four ways, take the time of a call apart, and then send a table that fits into no message at all.
#
# You will
#
# - ask a server what it takes and whether it is well, without knowing its contract;
# - see one table in four encodings, with their sizes and their times, and learn which to choose when;
# - stream a table of any length through two processes that do not grow, and see what a full or a stopping server says.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** under a minute. **Built before:** the `flights`
# model ([01](01_train_a_model.ipynb)), the contract ([02](02_write_the_contract.ipynb)) and the strict server with its
# errors and deadlines ([03](03_serve_and_call.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "protobuf", "pyarrow", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = 10_000  # of the table that travels in four encodings
REPEATS = 30  # how often each encoding is timed
STREAM_ROWS = 2_000_000  # of the table that is streamed
CHUNK_ROWS = 10_000  # rows in each message of the stream

# %% [markdown]
# ## Three models on one port
#
# A server may have several models; a call names the one that it wants. Ours has `flights`, then `linear`, and a
# classifier of irises that we train and save here as in lesson 01. `linear` is built in: ten numbers in, their weighted
# sum out. It costs next to nothing to compute, so what is left to see is the way there and back.

# %%
import tempfile
from pathlib import Path

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from pred_server import save, serve

scratch = tempfile.TemporaryDirectory()
iris = load_iris(as_frame=True)
species = iris.target.map(dict(enumerate(iris.target_names)))
save(
    LogisticRegression(max_iter=1_000).fit(iris.data, species), iris.data, Path(scratch.name) / "iris", target="species"
)

server = serve(
    "flights", "--model", "linear", "--model", f"{scratch.name}/iris", "--log-level", "info", "--log-format", "json"
)
server

# %% [markdown]
# ## What do you take?
#
# The contract says that a table goes in. *Which* table is the model's business, and `Describe`, another rpc of the
# contract, tells it: the columns and their types, the target and its unit, how good the model is, and what else the
# server has.

# %%
client = server.client(timeout_s=30)
client.describe()

# %% [markdown]
# ## Are you well?
#
# *Health* is a small service with a contract of its own (`grpc.health.v1`) that comes with gRPC. Whatever looks after
# servers, a load balancer or Kubernetes, say, knows it. The empty name asks about the server as a whole; ours also
# answers for each model.

# %% tags=["deterministic"]
import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub


def word(answer):
    return HealthCheckResponse.ServingStatus.Name(answer.status)


channel = grpc.insecure_channel(server.address)
for name in ("", "flights", "linear/1", "iris"):
    print(f"{name or '(the server)':13}", word(HealthStub(channel).Check(HealthCheckRequest(service=name), timeout=10)))

# %% [markdown]
# ## What is your contract?
#
# *Reflection* is another such service: the server hands out its own contract. So a tool can call it that has never seen
# `pred.proto`.

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
# In a terminal that tool is [grpcurl](https://github.com/fullstorydev/grpcurl), where it is installed:
#
#     grpcurl -plaintext 127.0.0.1:50051 list
#     grpcurl -plaintext 127.0.0.1:50051 describe prediction.Prediction
#     grpcurl -plaintext 127.0.0.1:50051 prediction.Prediction/Describe
#
# ## One table, four messages
#
# An *encoding* is the way in which a table becomes a message. The contract has four, each a field of `Request`, and the
# answer comes in the encoding of the request. `pred_server/wire/codec.py` has a small class for each. A table of two rows
# in all four, as protobuf prints them:

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
# - **csv** is the article's: all numbers as text, as people write them.
# - **columns** has a typed list for each column: numbers as eight bytes, whole numbers as varints
#   ([02](02_write_the_contract.ipynb) decoded some), text as text. Plain protobuf, so each language with a stub reads
#   it without a further library.
# - **tensor** is one block of bytes with a shape. A *tensor* is what machine learning calls an array of numbers of one
#   type; these bytes are those that NumPy has in memory, so there is hardly anything to convert.
# - **arrow** is a stream of [Apache Arrow](https://arrow.apache.org), a format for tables that pandas, R, Java, Go and
#   many databases have libraries for: each column as it lies in memory, with its type. Its beginning, which describes
#   the columns, makes up nearly all of this small message.
#
# Now two tables of real size. `numbers` has ten columns of random numbers with all the digits that fit. `flights` has
# whole numbers, short fractions and text.

# %%
import numpy as np

from pred_server.checkout import FLIGHTS

numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 10))).add_prefix("x")
flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(ROWS)

# %% tags=["deterministic"]
from pred_server.errors import InvalidInput, LimitExceeded, Unavailable

try:
    encoded(flights, "tensor")
except InvalidInput as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# A tensor has one type, so a table with text in it cannot be one. That leaves seven messages:

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
    f"A number with all its digits takes about twice the room as text: {per_row['numbers', 'csv']:.0f} bytes a row in CSV, and "
    f"{per_row['numbers', 'tensor']:.0f} as a tensor. A whole number such as a month takes *less* as text, and less "
    f"again as a varint: the flights are {per_row['flights', 'csv']:.0f} bytes a row in CSV, "
    f"{per_row['flights', 'columns']:.0f} in columns, and {per_row['flights', 'arrow']:.0f} in Arrow, which keeps eight bytes "
    "for each. Size is not all that counts: as columns and as a tensor the numbers are equally large. Look at their times below."
)

# %% [markdown]
# Do the predictions depend on the way? They must not, to the last bit:

# %% tags=["deterministic"]
from pred_server import load

expected = {"numbers": load("linear").predict(numbers), "flights": load("flights").predict(flights)}
for name, encoding in WAYS:
    served = CLIENTS[name].predict(TABLES[name], encoding=encoding)
    print(
        f"{name:9}{encoding:9}equal to in process, to the bit:", served.to_numpy().tobytes() == expected[name].tobytes()
    )

# %% [markdown]
# ## Where the time goes
#
# Each reply brings a line of text in its *trailing metadata*, the short texts that follow a message. It is called
# `server-timing`, and its syntax is one that web browsers know: the gateway passes it on as an HTTP header, and the
# browser's developer tools draw it. The times are milliseconds.

# %%
print(answers["numbers", "arrow"][1]["server-timing"])

# %% [markdown]
# (`batch` is no time: it says how many rows the model computed at once, since requests that wait are computed
# together.)
#
# The server knows four phases; the client adds its own two. What is left of the time that the caller waited is
# *transport*: the wire, and protobuf on both ends. All together is the *waterfall*, since each phase begins where the
# one before it ends. What `predict` returns is a pandas Series that has it as an attribute:

# %%
CLIENTS["numbers"].predict(numbers, encoding="csv").waterfall

# %%
waterfall = CLIENTS["numbers"].predict(numbers, encoding="tensor").waterfall
waterfall.table.round(2)

# %% [markdown]
# `waterfall.plot()` is a figure. For a terminal there are bars in characters, which is what `pred-server predict
# --timing` prints:

# %%
print(waterfall.text())

# %% [markdown]
# And the operator need not ask the caller: the same
# times stand in the server's log, with an id for each request. `--log-format json` makes each line an object that log
# collectors read.

# %%
import json

line = json.loads(server.logs().splitlines()[-1])
print({key: value for key, value in line.items() if key not in ("asctime", "levelname", "name", "message")})

# %% [markdown]
# ## The four beside each other
#
# One call says little: the machine may have been busy elsewhere. So we take turns: in each round every encoding has its
# call, in random order, and we look at medians.

# %%
from tqdm.auto import tqdm

from pred_server.client.waterfall import COLOURS, PHASES


def timed(name, n_rows, repeats=REPEATS):
    """A line for each call: encoding, round, milliseconds in all and by phase."""
    order = np.random.default_rng(1)
    table, encodings = TABLES[name].head(n_rows), [encoding for table_name, encoding in WAYS if table_name == name]
    lines = []
    for block in tqdm(range(-2, repeats), desc=f"{name}, {n_rows:,} rows"):
        for encoding in order.permutation(encodings):
            found = CLIENTS[name].predict(table, encoding=encoding, stream=False).waterfall
            lines.append({"arm": encoding, "block": block, "latency_ms": found.wall_ms, **found.phases_ms})
    return pd.DataFrame(lines).query("block >= 0").assign(table=name, rows=n_rows)  # the first two rounds warm up


by_phase = timed("numbers", ROWS)
medians = by_phase.groupby("arm")[["latency_ms", *PHASES]].median().loc[list(CODECS)]
medians.rename(columns={"latency_ms": "in all"}).round(2)

# %% [markdown]
# Medians of parts need not add up to the median of the whole. For a picture in which they do, we take each encoding's
# *ordinary* calls, the half that is neither very quick nor very slow, and their means.

# %%
from matplotlib.figure import Figure

from pred_server.lab import stats
from pred_server.lab.plots import show

in_all = medians["latency_ms"].sort_values()
slowest, fastest = in_all.index[-1], in_all.index[0]
against_csv = pd.concat({each: stats.ratio(by_phase, each, "csv") for each in CODECS if each != "csv"}).droplevel(1)
largest = medians.loc[slowest, list(PHASES)].idxmax()
finding = f"{ROWS:,} rows of numbers: {slowest} takes {in_all[slowest]:.0f} ms, {fastest} {in_all[fastest]:.0f} ms"

quartiles = by_phase.groupby("arm")["latency_ms"].rank(pct=True)
ordinary = by_phase[quartiles.between(0.25, 0.75)].groupby("arm")[list(PHASES)].mean()

figure = Figure(figsize=(8.5, 3.6), layout="constrained")
axes = figure.subplots()
for place, encoding in enumerate(in_all.index):
    start = 0.0
    for (phase, says), colour in zip(PHASES.items(), COLOURS, strict=True):
        width = ordinary.loc[encoding, phase]
        label = f"{phase}: {says}" if place == 0 else None
        axes.barh(place, width, left=start, color=colour, edgecolor="white", linewidth=0.6, label=label)
        start += width
    calls = by_phase.loc[by_phase["arm"] == encoding, "latency_ms"]
    axes.plot(calls, [place + 0.47] * len(calls), "|", color="0.35", markersize=4, alpha=0.6)
    axes.plot(in_all[encoding], place, "D", color="black", markersize=4, label=None if place else "the whole call")
    where = (max(start, in_all[encoding]), place)
    axes.annotate(f"{in_all[encoding]:.1f} ms", where, xytext=(7, 0), textcoords="offset points", va="center")
axes.set_yticks(range(len(in_all)), list(in_all.index))
axes.set_ylim(-0.6, len(in_all) - 0.3)
axes.set_xlim(0, 1.15 * by_phase["latency_ms"].quantile(0.95))
axes.set(xlabel="milliseconds: bars are ordinary calls, diamonds medians, ticks single calls", title=finding)
axes.legend(frameon=False, fontsize=8, loc="lower right")
alt = "; ".join(f"{encoding} {in_all[encoding]:.1f} ms" for encoding in in_all.index)
show(figure, f"Four stacked bars, one for each encoding, with the phases of a call. {finding}. In all: {alt}.")

# %%
text_ms = medians.loc["csv", ["client encode", "decode", "encode", "client decode"]].sum()


def in_words(found):
    """A ratio with its interval, or that there is none to speak of."""
    ratio = found["verdict"] if found["verdict"].startswith("no ") else f"{found['ratio']:.2f} times as long"
    return f"{ratio} ({found['low']:.2f} to {found['high']:.2f})"


compared = "; ".join(f"{encoding} {in_words(found)}" for encoding, found in against_csv.iterrows())
Markdown(
    f"The model took {medians['predict'].min():.1f} to {medians['predict'].max():.1f} ms, whatever the encoding. Of CSV's "
    f"{in_all['csv']:.1f} ms, **{text_ms:.1f} ms** were writing and reading text, on both ends; the largest phase of {slowest} is "
    f"*{largest}*. Against CSV, with 95 % intervals: {compared}."
)

# %% [markdown]
# ## Which to choose
#
# The same for the flights, and for one row of each table, since many calls ask about one thing only.

# %%
measured = pd.concat([by_phase, timed("flights", ROWS, max(2, REPEATS // 3)), timed("numbers", 1), timed("flights", 1)])
groups = measured.groupby(["table", "rows", "arm"])
p50 = groups["latency_ms"].median()
share = groups["predict"].median() / p50

CHOOSE = {
    "csv": "people and files: `curl`, the article's clients, a look at what was sent",
    "columns": "text and numbers, few rows, or a language with nothing but its stub; small where numbers are whole",
    "tensor": "all columns of one type: arrays, embeddings, images",
    "arrow": "mixed types and many rows, where both ends have an Arrow library",
}


def cell(table, n, encoding):
    return f"{p50[table, n, encoding]:.1f}" if (table, n, encoding) in p50.index else "–"


lines = [
    f"| encoding | choose it for | numbers, {ROWS:,} rows | numbers, 1 row | flights, {ROWS:,} rows | flights, 1 row |",
    "|---|---|---|---|---|---|",
]
for encoding, reason in CHOOSE.items():
    times = " | ".join(cell(table, n, encoding) for table in TABLES for n in (ROWS, 1))
    lines.append(f"| **{encoding}** | {reason} | {times} |")
Markdown("\n".join(lines) + "\n\nMilliseconds a call, medians.")

# %%
spread = p50["flights", ROWS].max() - p50["flights", ROWS].min()
one_row = measured[(measured["table"] == "numbers") & (measured["rows"] == 1)]
against_csv_1 = pd.concat({each: stats.ratio(one_row, each, "csv") for each in CODECS if each != "csv"}).droplevel(1)
many_flights = measured[(measured["table"] == "flights") & (measured["rows"] == ROWS)]
arrow_columns = stats.ratio(many_flights, "arrow", "columns").iloc[0]
Markdown(
    f"For {ROWS:,} flights the model itself is {share['flights', ROWS].min():.0%} to {share['flights', ROWS].max():.0%} of the "
    f"time, and between the best and the worst encoding lie {spread:.0f} of {p50['flights', ROWS].max():.0f} ms: a heavy model "
    "makes the choice matter less. One row of numbers, against CSV: "
    + "; ".join(f"{encoding} {in_words(found)}" for encoding, found in against_csv_1.iterrows())
    + "."
)

# %% [markdown]
# You need not choose. `encoding="auto"`, the client's default, takes `tensor` for arrays and for tables whose columns
# have one numeric type; else `columns` up to 64 rows, and `arrow` above. It asks `Describe` first, once, and falls back
# to `csv` for a server that has no `Describe`, as the article's. `Client(..., encoding="csv")` fixes it for all calls.
#
# What goes in may be a DataFrame, an array, or an Arrow table. And from a classifier you may have the probabilities in
# place of the labels:

# %%
classifier = server.client(model="iris")
some = iris.data.iloc[[0, 60, 120]]
classifier.predict(some, output="probabilities").round(3).assign(label=classifier.predict(some))

# %% [markdown]
# ## A message that lies
#
# Bytes from a stranger may say anything: a shape that does not fit the bytes, a column that ends early. A server that
# believed it would read memory that is not there, or crash for everybody. `client.call` sends a request as it is:

# %% tags=["deterministic"]
table_of_1 = encoded(numbers.head(1), "arrow")
LIES = {
    "a shape of two rows, bytes for one": Request(tensor=Tensor(dtype="float64", shape=[2, 10], data=bytes(80))),
    "a type that is none": Request(tensor=Tensor(dtype="object", shape=[1, 10], data=bytes(80))),
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
# Each time the *field at fault* is named, for a program to read. The server is alive, and the connection is still good.
#
# ## A table that fits no message
#
# A message has a limit, 64 MiB here, since both sides hold it in memory whole. A larger table goes as a *stream*: a
# call that carries many messages each way. Each of ours is a *chunk*, some rows with all columns, and each is answered
# as soon as it is computed.
#
# `client.predict`, left to choose, does this by itself for tables above 1 MiB, and puts the answers together. But a
# table that does not fit into memory cannot be given to it. `client.predict_stream` takes an *iterator* of chunks and
# returns one of predictions. Our chunks come from a generator that makes each when it is asked for; it might as well
# read a file, or a database.
#
# Meanwhile we watch the *resident memory* of both processes: what they hold of the machine's memory. (`psutil` tells
# it.)

# %%
import time

import psutil

ENDS = {"client (this notebook)": psutil.Process(), "server": psutil.Process(server.pid)}
n_chunks = STREAM_ROWS // CHUNK_ROWS
drawn_s = []


def chunks():
    make = np.random.default_rng(2)
    for _ in range(n_chunks):
        drawn_s.append(time.perf_counter() - start_s)
        yield make.normal(size=(CHUNK_ROWS, 10))


def resident_mib():
    return {end: process.memory_info().rss / 2**20 for end, process in ENDS.items()}


memory, answered_s, answered_rows = [{"rows": 0, **resident_mib()}], [], 0
start_s = time.perf_counter()
stream = CLIENTS["numbers"].predict_stream(chunks())
for predictions in tqdm(stream, total=n_chunks, desc="chunks"):
    answered_s.append(time.perf_counter() - start_s)
    answered_rows += len(predictions)
    if len(answered_s) % max(1, n_chunks // 100) == 0:
        memory.append({"rows": answered_rows, **resident_mib()})
stream.waterfall

# %% [markdown]
# The phases of a stream overlap: while the model computes one chunk, the server reads the next, and the client prepares
# the one after. So each bar says how long a phase was busy, and together they may be longer than the whole.

# %%
memory = pd.DataFrame(memory).set_index("rows")
grown = memory - memory.iloc[0]
table_mib = answered_rows * 80 / 2**20
most = grown.max().max()
finding = f"{answered_rows:,} rows, {table_mib:.0f} MiB, pass; no process grows by more than {max(most, 0):.0f} MiB"

figure = Figure(figsize=(8, 3.8), layout="constrained")
axes = figure.subplots()
axes.plot(memory.index, memory.index * 80 / 2**20, color="0.45", linestyle=":", label="the table, if it were kept")
for (end, values), colour, line in zip(grown.items(), ("#0072B2", "#D55E00"), ("-", "--"), strict=True):
    axes.plot(values, color=colour, linestyle=line, label=end)
axes.xaxis.set_major_formatter("{x:,.0f}")
axes.set(xlabel="rows answered", ylabel="growth of resident memory (MiB)", title=finding, xlim=(0, None))
axes.legend(frameon=False, loc="upper left")
axes.grid(True, alpha=0.3)
show(
    figure, f"Growth of the resident memory of client and server against rows, beside the table's own size. {finding}."
)

# %%
when_first = sum(at <= answered_s[0] for at in drawn_s)
rate = answered_rows / answered_s[-1]
Markdown(
    f"The first predictions were there after **{1000 * answered_s[0]:.0f} ms**. At that moment {when_first} of {n_chunks} chunks "
    f"had been made; the last was made after {drawn_s[-1]:.1f} s. In all: {rate:,.0f} rows a second."
)

# %% [markdown]
# ## Who is slow, slows the others
#
# What if the caller stops to read the answers, since the disk that they go to is full? Were the chunks sent on all the
# same, they would have to wait somewhere, in memory. *Back-pressure* is the opposite: who is slow makes those before
# him wait, up to the generator.

# %%
made = 0


def endless():
    global made
    while True:
        made += 1
        yield numbers.head(100)


answers_of = iter(CLIENTS["numbers"].predict_stream(endless()))
next(answers_of)
time.sleep(0.5)  # reads nothing
before = made
time.sleep(0.5)
print(f"chunks made: {before} after half a second, {made} after a second")
answers_of.close()  # leaving a stream ends the call, and the work at the server

# %% [markdown]
# ## A bad chunk
#
# Somewhere in a long table a value is missing that must not be. The stream ends there; the error says which rows, and
# what came before it is yours already.

# %% tags=["deterministic"]
good = numbers.head(40)
bad = good.copy()
bad.loc[3, "x4"] = np.nan

done = 0
try:
    for predictions in CLIENTS["numbers"].predict_stream([good, good, bad, good]):
        done += len(predictions)
except InvalidInput as error:
    print(f"{done} predictions, then {type(error).__name__}: {error}")

# %% [markdown]
# `client.predict`, when it streams, keeps what came in the error's attribute `answered`. In a terminal, `pred-server
# predict FILE.csv` streams a file of any size.
#
# ## Limits
#
# All that a server takes upon itself has a limit, and each limit is a flag of `pred-server serve`
# (`pred_server/limits.py` is the whole list):

# %% tags=["deterministic"]
from dataclasses import fields

from pred_server.limits import Limits, flag

lines = ["| flag | default | what |", "|---|---|---|"]
lines += [f"| `{flag(each.name)}` | {each.default:,} | {each.metadata['help']} |" for each in fields(Limits)]
Markdown("\n".join(lines))

# %% [markdown]
# Above a limit the answer is RESOURCE_EXHAUSTED, at once, with a reason for programs: `TOO_LARGE` will not fit tomorrow
# either, `OVERLOADED` may. To see both, a server with little room: messages of 100,000 bytes, and one call at a time. A
# stream that we open and leave open is that one call.

# %%
import queue

from pred_server import Client

small = serve("linear", "--max-message-bytes", "100000", "--max-calls-in-flight", "1")
caller = Client(small.address, encoding="tensor", retry=False)  # retry: see below


def refusal(ask):
    try:
        ask()
    except (LimitExceeded, Unavailable) as error:
        reason = f"  reason {error.reason}, flag {error.flag}" if isinstance(error, LimitExceeded) else ""
        print(f"{error.code}{reason}\n    {error}")


refusal(lambda: caller.predict(numbers.iloc[[0] * 2_000], stream=False))

to_send = queue.Queue()  # of how many rows the next chunk has; 0: no more chunks
open_stream = iter(caller.predict_stream(numbers.head(rows) for rows in iter(to_send.get, 0)))
to_send.put(2)
next(open_stream)  # the first chunk has its answer, and the stream stays open
refusal(lambda: caller.predict(numbers.head(1)))

with grpc.insecure_channel(small.address) as watching:
    print("health:", word(HealthStub(watching).Check(HealthCheckRequest(), timeout=10)))

# %% [markdown]
# Full is not ill: health answers all the while, so nobody restarts a server that is merely busy.
#
# ## A stop that loses nothing
#
# A server that is told to stop (SIGTERM, what Kubernetes sends, or Ctrl-C) *drains*: it takes no more calls and
# finishes those that it has. Health says so first, that new callers may be sent elsewhere. `Watch` is a health check
# that stays open and tells changes. Our stream is still open:

# %%
import os
import signal

with grpc.insecure_channel(small.address) as watching:
    watch = HealthStub(watching).Watch(HealthCheckRequest(), timeout=30)
    print("health:", word(next(watch)))
    os.kill(small.pid, signal.SIGTERM)
    print("health:", word(next(watch)))
    watch.cancel()

refusal(lambda: caller.predict(numbers.head(1)))

to_send.put(3)
print("the open stream still answers:", len(next(open_stream)), "predictions")
to_send.put(0)
print("and has ended:", next(open_stream, "no further answer"))

deadline_s = time.monotonic() + 30
while small.running and time.monotonic() < deadline_s:
    time.sleep(0.02)
small

# %% [markdown]
# UNAVAILABLE means: ask again, perhaps elsewhere. Predicting has no side effects, so that is always safe. `Client` does so
# by itself, five times in all, within some seven seconds, and callers do not notice that a server is replaced. Here we
# had turned it off with `retry=False`. A stream that breaks in the middle goes on from there if you say `resume=True`.
#
# ## What we found

# %%
Markdown(
    f"- {ROWS:,} rows of ten numbers took {in_all['csv']:.1f} ms as CSV and {in_all['tensor']:.1f} ms as a tensor; the model's part "
    f"was {medians.loc['tensor', 'predict']:.1f} ms. What CSV costs is writing and reading text: {text_ms:.1f} ms.\n"
    f"- The flights are {per_row['flights', 'columns']:.0f} bytes a row in columns and {per_row['flights', 'arrow']:.0f} in "
    f"Arrow. Arrow against columns: {in_words(arrow_columns)}.\n"
    "- The predictions are the same to the last bit, whatever way the table goes.\n"
    f"- {answered_rows:,} rows ({table_mib:.0f} MiB) were streamed at {rate:,.0f} rows a second; the first predictions came after "
    f"{1000 * answered_s[0]:.0f} ms, and no process grew by more than {max(most, 0):.0f} MiB.\n"
    "- A wrong message gets the field at fault, a full server says which limit, and a server that stops finishes what it has "
    "accepted."
)

# %% [markdown]
# ## Exercises
#
# (Start again from the top, and stop before *Close*.)
#
# 1. Which encoding does `auto` choose for 5, and for 500, of the flights, and for the numbers with `x3` as float32? The
#    `encoding` in the server's log tells.
# 2. Break a stream: iterate over `predict_stream(chunks(), resume=True)`, and after the tenth answer kill the server
#    with `os.kill(server.pid, signal.SIGKILL)` and start another at its address, `serve("linear", "--address",
#    server.address)`. How many predictions come? And without `resume`?
#
# <details><summary>Answers</summary>
#
# 1. `columns`, `arrow` and `arrow`:
#
#    ```python
#    CLIENTS["flights"].predict(flights.head(5))
#    CLIENTS["flights"].predict(flights.head(500))
#    CLIENTS["numbers"].predict(numbers.astype({"x3": "float32"}))
#    for line in server.logs().splitlines()[-3:]:
#        print(json.loads(line)["rows"], json.loads(line)["encoding"])
#    ```
#
#    The third table has two types, so it cannot be a tensor as it is. Nor is it the same table: a float32 has fewer
# digits.
# 2. All of them: the client keeps the chunks that have no answer yet, at most eight, and sends them to the new server.
#    Without `resume` the loop ends with `Unavailable`; the answers until then are yours.
#
#    ```python
#    start_s, got = time.perf_counter(), 0
#    for number, predictions in enumerate(CLIENTS["numbers"].predict_stream(chunks(), resume=True), start=1):
#        got += len(predictions)
#        if number == 10:
#            os.kill(server.pid, signal.SIGKILL)
#            second = serve("linear", "--address", server.address)
#    print(got == n_chunks * CHUNK_ROWS)
#    second.close()
#    ```
#
# </details>
#
# ## Close

# %%
caller.close()
channel.close()
for each in (small, server):
    each.close()
scratch.cleanup()
server

# %% [markdown]
# Next: [04 Call it from Go](04_call_it_from_go.ipynb)
