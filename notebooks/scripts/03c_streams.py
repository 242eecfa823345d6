# %% [markdown]
# # 03c · Streams
#
# **How does a table of any length pass through a server, and what does a full or a stopping server say?**
#
# A message has a limit. A table need not have one. In this lesson a table that fits into no message travels in pieces. Then
# we fill a server up, stop it in the middle of its work, and see that nothing is lost.
#
# You will
#
# - stream a long table through two processes, and measure that neither of them grows with it;
# - see how a slow reader slows the sender, and how a bad piece ends a stream;
# - meet a full server and a stopping one, and know what to do in each case.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 15 s to run, about 20 minutes to read.
# **Built before:** the strict server with its errors and deadlines ([03](03_serve_and_call.ipynb)), encodings and the
# waterfall ([03b](03b_under_the_hood.ipynb)).
#
# **Core and optional:** "A bad chunk" and the second exercise are marked *(optional)*. If you are in a hurry, go on to
# [04](04_call_it_from_go.ipynb), which needs nothing from here. Come back before [05](05_how_fast_is_it.ipynb), which
# streams.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "pandas", "psutil"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
STREAM_ROWS = 2_000_000  # of the table that is streamed
CHUNK_ROWS = 10_000  # rows in each message of the stream

# %% [markdown]
# ## A table that fits no message
#
# A message has a limit, 64 MiB at our server, because both sides hold a whole message in memory. A larger table goes as a
# *stream*: one call that carries many messages each way. Each message is a *chunk*: some rows, with all columns. The
# server answers a chunk as soon as it has computed it.
#
# `client.predict` does this by itself for tables above 1 MiB, and puts the answers together. But the caller must have the
# whole table to give it away. `client.predict_stream` takes an *iterator* of chunks, and returns an iterator of
# predictions. Our chunks come from a Python *generator*. It makes a chunk when somebody asks for the next one. It might as
# well read a file, or a database.

# %%
import time

import numpy as np

from pred_server import serve

server = serve("linear", "--model", "flights")  # a call that names no model gets the first, `linear`
client = server.client(timeout_s=60)
n_chunks = STREAM_ROWS // CHUNK_ROWS
made_at_s = []


def chunks():
    random = np.random.default_rng(2)
    for _ in range(n_chunks):
        made_at_s.append(time.perf_counter())
        yield random.normal(size=(CHUNK_ROWS, 10))


# %% [markdown]
# ## Guess first: how much memory does it take?
#
# We watch the *resident memory* of both processes: the part of the machine's memory that a process holds. (`psutil` reads
# it from the system.) One of them will grow more than the other. By how many MiB? Write your guess into the next cell, then
# run it.

# %%
my_guess = None  # a number, in MiB

import pandas as pd
import psutil
from tqdm.auto import tqdm

ENDS = {"client (this notebook)": psutil.Process(), "server": psutil.Process(server.pid)}


def resident_mib():
    return {end: process.memory_info().rss / 2**20 for end, process in ENDS.items()}


memory, answered_at_s, answered_rows = [{"rows": 0, **resident_mib()}], [], 0
start_s = time.perf_counter()
stream = client.predict_stream(chunks())
for predictions in tqdm(stream, total=n_chunks, desc="chunks"):
    answered_at_s.append(time.perf_counter())
    answered_rows += len(predictions)
    memory.append({"rows": answered_rows, **resident_mib()})

memory = pd.DataFrame(memory).set_index("rows")
grown_mib = memory - memory.iloc[0]
most_mib, table_mib = max(grown_mib.max().max(), 0), answered_rows * 10 * 8 / 2**20
print(f"the table has {table_mib:.0f} MiB; your guess: {my_guess}   measured: {most_mib:.0f} MiB")

# %%
from matplotlib.figure import Figure

from pred_server.lab.figures import COLOURS, show

finding = f"{answered_rows:,} rows, {table_mib:.0f} MiB, pass; no process grows by more than {most_mib:.0f} MiB"
figure = Figure(figsize=(8, 3.8), layout="constrained")
axes = figure.subplots()
axes.plot(memory.index, memory.index * 80 / 2**20, color="0.45", linestyle=":", label="the table, if it were kept")
for (end, values), colour, line in zip(grown_mib.items(), COLOURS, ("-", "--"), strict=False):
    axes.plot(values, color=colour, linestyle=line, label=end)
axes.xaxis.set_major_formatter("{x:,.0f}")
axes.set(xlabel="rows answered", ylabel="growth of resident memory (MiB)", title=finding, xlim=(0, None))
axes.legend(frameon=False, loc="upper left")
axes.grid(True, alpha=0.3)
show(figure, f"Growth of the memory of client and server against rows, beside the table's own size. {finding}.")

# %%
from IPython.display import Markdown

first_ms = 1000 * (answered_at_s[0] - start_s)
when_first = sum(made <= answered_at_s[0] for made in made_at_s)
rate = answered_rows / (answered_at_s[-1] - start_s)
Markdown(
    f"The first predictions came after **{first_ms:.0f} ms**. At that moment {when_first} of {n_chunks} chunks were made. The "
    f"last chunk was made after {made_at_s[-1] - start_s:.1f} s. In all, {rate:,.0f} rows passed in a second."
)

# %% [markdown]
# A stream has a waterfall too. Its phases *overlap*: while the model computes one chunk, the server reads the next, and
# the client prepares the one after. So a bar shows how long its phase was busy. All bars together may be longer than the
# whole stream.

# %%
stream.waterfall

# %% [markdown]
# ## A slow reader slows the sender
#
# Suppose that the caller stops reading the answers, because its disk is full. If the chunks went on, they would pile up
# somewhere in memory. *Back-pressure* prevents that: a slow reader makes the one before it wait, and so on, back to the
# generator. We start an endless generator, read one answer, and then read nothing:

# %%
numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(2_000, 10))).add_prefix("x")
chunks_made = 0


def endless():
    global chunks_made
    while True:
        chunks_made += 1
        yield numbers.head(100)


answers = iter(client.predict_stream(endless()))
next(answers)
time.sleep(0.5)  # reads nothing
after_half_a_second = chunks_made
time.sleep(0.5)
print(f"chunks made: {after_half_a_second} after half a second, {chunks_made} after a second")
answers.close()  # leaving a stream ends the call, and the work at the server

# %% [markdown]
# ## A bad chunk *(optional)*
#
# Somewhere in a long table a value is missing, and the model needs it. The stream ends there. The error says which rows.
# You keep the predictions that came before it.

# %% tags=["deterministic"]
from pred_server.errors import InvalidInput

good = numbers.head(40)
bad = good.copy()
bad.loc[3, "x4"] = np.nan

answered = 0
try:
    for predictions in client.predict_stream([good, good, bad, good]):
        answered += len(predictions)
except InvalidInput as error:
    print(f"{answered} predictions, then {type(error).__name__}: {error}")

# %% [markdown]
# When `client.predict` streams, its error has these predictions as the attribute `answered`. In a terminal, `pred-server
# predict FILE.csv` streams a file of any size.
#
# ## Limits
#
# A server has a limit on everything that a caller can make it hold or do. Each limit is a flag of `pred-server serve`
# (`pred_server/limits.py` has the whole list):

# %% tags=["deterministic"]
from dataclasses import fields

from pred_server.limits import Limits, flag

lines = ["| flag | default | what |", "|---|---|---|"]
lines += [f"| `{flag(limit.name)}` | {limit.default:,} | {limit.metadata['help']} |" for limit in fields(Limits)]
Markdown("\n".join(lines))

# %% [markdown]
# Above a limit the answer is `RESOURCE_EXHAUSTED`, at once. A reason for programs travels with it: `TOO_LARGE` (send less;
# the same message will not fit later either) or `OVERLOADED` (the server is full; come back later).
#
# To see both, we start a server with little room: messages of 100,000 bytes, and one call at a time.

# %%
from pred_server import Client
from pred_server.errors import LimitExceeded, Unavailable

small = serve("linear", "--max-message-bytes", "100000", "--max-calls-in-flight", "1")
caller = Client(small.address, encoding="tensor", retry=False)  # ask once only: see below


def refusal(ask):
    """Print why a server refuses a call."""
    try:
        ask()
    except (LimitExceeded, Unavailable) as error:
        reason = f"  reason {error.reason}, flag {error.flag}" if isinstance(error, LimitExceeded) else ""
        print(f"{error.code}{reason}\n    {error}")


refusal(lambda: caller.predict(numbers, stream=False))

# %% [markdown]
# That was `TOO_LARGE`. Now we use up the one call: we open a stream, send one chunk, and leave the stream open. A *queue*
# holds the sizes of the chunks to come, so we can send more of them later.

# %%
import queue

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub


def word(answer):
    return HealthCheckResponse.ServingStatus.Name(answer.status)


to_send = queue.Queue()  # how many rows the next chunk has; 0 ends the stream
open_stream = iter(caller.predict_stream(numbers.head(rows) for rows in iter(to_send.get, 0)))
to_send.put(2)
next(open_stream)  # the first chunk has its answer, and the stream stays open
refusal(lambda: caller.predict(numbers.head(1)))

with grpc.insecure_channel(small.address) as watching:
    print("health:", word(HealthStub(watching).Check(HealthCheckRequest(), timeout=10)))

# %% [markdown]
# A full server is not an ill server. Health still says so, and nobody restarts a server that is only busy.
#
# ## A stop that loses nothing
#
# The signal SIGTERM asks a server to stop. Kubernetes sends it; Ctrl-C sends a similar one. Then the server *drains*: it
# takes no new calls, and finishes those that it has. First its health changes, so that new callers go elsewhere. Then it
# closes its port, and tells those who are connected: gRPC's word for that is GOAWAY.
# `Watch` is a health check that stays open and reports each change. Our stream is still open:

# %%
import os
import signal

with grpc.insecure_channel(small.address) as watching:
    watch = HealthStub(watching).Watch(HealthCheckRequest(), timeout=30)
    print("health:", word(next(watch)))
    os.kill(small.pid, signal.SIGTERM)
    print("health:", word(next(watch)))
    print("and the watch has ended:", next(watch, "no further answer"))

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
# `UNAVAILABLE` means: ask again, perhaps elsewhere. A prediction changes nothing at the server, so asking again is always
# safe. `Client` does it by itself, five times in all, for the seconds that [03](03_serve_and_call.ipynb) measured. So a
# caller does not notice that a server is replaced. Here we turned this off with `retry=False`. A stream that breaks in the
# middle goes on from there if you say `resume=True`.
#
# ## What we found

# %%
Markdown(
    f"- {answered_rows:,} rows ({table_mib:.0f} MiB) passed at {rate:,.0f} rows a second. The first predictions came after "
    f"{first_ms:.0f} ms, and no process grew by more than {most_mib:.0f} MiB.\n"
    f"- A caller who read nothing stopped the generator at {chunks_made} chunks.\n"
    "- A full server says which limit, and stays healthy.\n"
    "- A server that stops finishes the calls that it has accepted."
)

# %% [markdown]
# ## Exercises
#
# **1. Stream a file** (a cell checks your answer). A file of flights is too large for your memory, let us say. Write a
# generator that reads it in chunks of at most 1,000 rows. Look for `chunksize` in the help of `pd.read_csv`.

# %%
chunks_of = None  # replace this line by your function: chunks_of(path) yields DataFrames


# %%
def check(chunks_of):
    """Stream a file through the server, and compare with the predictions for the whole table."""
    from tempfile import TemporaryDirectory

    from pred_server import load
    from pred_server.checkout import FLIGHTS

    flights, lengths = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(10_500), []
    with TemporaryDirectory() as folder, server.client(model="flights") as caller:
        flights.to_csv(f"{folder}/flights.csv", index=False)
        chunks = chunks_of(f"{folder}/flights.csv")
        parts = list(caller.predict_stream(chunk for chunk in chunks if not lengths.append(len(chunk))))
    if max(lengths) > 1_000:
        return f"not yet: a chunk has {max(lengths):,} rows"
    if sum(lengths) != len(flights):
        return f"not yet: {sum(lengths):,} of {len(flights):,} rows came"
    right = np.array_equal(pd.concat(parts), load("flights").predict(flights))
    return "right" if right else "not yet: other predictions than for the whole table"


print("not yet answered" if chunks_of is None else check(chunks_of))

# %% [markdown]
# **2. Break a stream** *(optional)*. Iterate over `client.predict_stream(chunks(), resume=True)`. After the tenth answer,
# kill the server with `os.kill(server.pid, signal.SIGKILL)`, and start another at its address: `serve("linear",
# "--address", server.address)`. How many predictions come? And without `resume`?
#
# <details><summary>Answers</summary>
#
# 1. pandas has such an iterator:
#
#    ```python
#    def chunks_of(path):
#        yield from pd.read_csv(path, chunksize=1_000)
#    ```
#
# 2. All of them come. The client keeps the chunks that have no answer yet, at most eight, and sends them to the new
#    server. Without `resume` the loop ends with `Unavailable`, and you keep the predictions until then. (Start again from
#    the top, and stop before *Close*.)
#
#    ```python
#    total = 0
#    for number, predictions in enumerate(client.predict_stream(chunks(), resume=True), start=1):
#        total += len(predictions)
#        if number == 10:
#            os.kill(server.pid, signal.SIGKILL)
#            second = serve("linear", "--address", server.address)
#    print(total == n_chunks * CHUNK_ROWS)
#    second.close()
#    ```
#
# </details>
#
# ## Close

# %%
caller.close()
for process in (small, server):
    process.close()
server

# %% [markdown]
# Next: [04 Call it from Go](04_call_it_from_go.ipynb)
