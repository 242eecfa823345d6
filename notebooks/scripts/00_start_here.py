# %% [markdown]
# # 00 · Start here
#
# **What is the gRPC-ML pattern, and how fast is one call?**
#
# A team trains a model in Python. Another team serves the web, in Go, say. Between them stands a small server that
# takes a table and gives predictions: Python inside, callable from any language. In this notebook we start that
# server, ask it about real flights, and draw a first plot of how long an answer takes.
#
# You will
#
# - start a prediction server in the background and call it;
# - check that what comes back is, to the last bit, what the model says in this process;
# - measure one call, by the size of its table, beside the least that it could take.
#
# **Needs:** what `make lab` has set up: the packages and the trained model. **Takes:** under a minute.
# **Built before:** nothing.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = (1, 10, 100, 1_000, 10_000)  # sizes of the tables to time
CALLS = 30  # calls for each size

# %% [markdown]
# ## A server, in one line
#
# `serve` (in `pred_server/tutorial/background.py`) starts `pred-server serve` as a process of its own, on a free port of this
# machine, and waits until it is ready. A *port* is the number under which a program on a machine can be called.

# %%
from pred_server import serve

server = serve("flights")
server

# %% [markdown]
# ## A table of flights
#
# The model predicts how late a flight arrives, in minutes, from what is known when it leaves the gate. Here are some
# of the flights that left New York in 2013; negative delays are early.

# %% tags=["deterministic"]
import pandas as pd

from pred_server.checkout import FLIGHTS

flights = pd.read_parquet(FLIGHTS)
some = flights.sample(5, random_state=1)
some

# %% [markdown]
# ## Ask
#
# A *client* is the side that asks. It turns the table into CSV text, sends it in one message, and turns the answer into
# a pandas Series with the index of the table. (CSV is what the pattern began with, and what everybody can read; lesson
# 03b has quicker ways.) Every call has a *deadline*: how long the caller is willing to wait.

# %%
client = server.client(timeout_s=10, encoding="csv")
table = some.drop(columns="arr_delay")

some.assign(predicted=client.predict(table).round(1))[["carrier", "dest", "dep_delay", "arr_delay", "predicted"]]

# %% [markdown]
# ## Is it the same model?
#
# The table went out as text and came back as text, so a doubt is allowed. Let us load the model into this notebook as
# well, and compare 10,000 predictions, bit for bit.

# %% tags=["deterministic"]
import numpy as np

from pred_server import load

model = load("flights")
many = flights.drop(columns="arr_delay").sample(10_000, random_state=2)
served, in_process = client.predict(many), model.predict(many)
print("equal to the last bit:", np.array_equal(served, in_process))

# %% [markdown]
# They are equal since a 64-bit number is written with as many digits as it takes to read the same bits back, in both
# directions. That is a promise of this project, and a test holds it.
#
# ## How long does a call take?
#
# We time the same tables twice: over gRPC, and by calling the model right here. The second is the *floor*: no server
# can answer sooner than its model predicts. We take turns between the two, so that a slow moment of the machine hits
# both, and look at the *median* (p50: half of the calls are faster) and at p90 (nine of ten are).

# %%
import time

from tqdm.auto import tqdm


def milliseconds(predict, batch):
    start_ns = time.perf_counter_ns()
    predict(batch)
    return (time.perf_counter_ns() - start_ns) / 1e6


ways = {"over gRPC": client.predict, "in process (floor)": model.predict}
calls = []
for rows in tqdm(ROWS, desc="sizes"):
    batch = many.head(rows)
    for predict in ways.values():
        predict(batch)  # a first call, to warm up; not counted
    for _ in range(CALLS):
        calls += [(way, rows, milliseconds(predict, batch)) for way, predict in ways.items()]

latencies = pd.DataFrame(calls, columns=["way", "rows", "latency_ms"])
medians = latencies.groupby(["rows", "way"])["latency_ms"].median().unstack()
medians.round(2)

# %%
import matplotlib.pyplot as plt

from pred_server.lab.plots import show  # shows a figure with a text for those who cannot see it

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
styles = {"over gRPC": ("#0072B2", "o", "-"), "in process (floor)": ("0.45", ".", ":")}
for way, (colour, marker, line) in styles.items():
    by_rows = latencies[latencies["way"] == way].groupby("rows")["latency_ms"]
    axes.plot(by_rows.median(), color=colour, marker=marker, linestyle=line, label=way)
    axes.fill_between(list(by_rows.groups), by_rows.median(), by_rows.quantile(0.9), color=colour, alpha=0.15)
small, large = medians.index.min(), medians.index.max()
times = medians.loc[large].max() / medians.loc[small].max()
finding = f"{large // small:,} times the rows cost {times:.0f} times the time"
axes.set(xscale="log", yscale="log", xlabel="rows in one call", ylabel="latency, p50 to p90 (ms)", title=finding)
axes.set_ylim(bottom=1)
for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter("{x:,.0f}")
axes.legend(frameon=False)
show(figure, f"Latency against rows, both axes logarithmic, over gRPC and in process. {finding}.")
plt.close(figure)

# %% [markdown]
# The line over gRPC is flat for small tables: a call has a fixed price, whatever it carries. For large ones most of the
# time is the model's, and what is left is mostly the price of text, written and parsed once in each direction. So one
# call with a thousand rows is far cheaper than a thousand calls with one. [03b](03b_under_the_hood.ipynb) takes a call
# apart.
#
# ## Why gRPC, and not just REST?
#
# With REST, the contract is yours to write and to hold everyone to; gRPC begins with it, and generates the code of both
# ends, in a dozen languages, from one file. A call carries a deadline and can be cancelled, on both sides of the wire,
# without a line of yours. It runs over one lasting HTTP/2 connection, which many calls share at the same time.
#
# To the browser, REST it remains: that is what the gateway in Go is for ([04](04_call_it_from_go.ipynb)).
#
# ## The lessons
#
# | lesson | its question |
# |---|---|
# | [01 Train a model](01_train_a_model.ipynb) | How do we get from past flights to a model file that is safe to serve? |
# | [02 Write the contract](02_write_the_contract.ipynb) | What do client and server agree on, and how may it change? |
# | [03 Serve and call](03_serve_and_call.ipynb) | What does a server need, and what does it still need in real use? |
# | [03b Under the hood](03b_under_the_hood.ipynb) | What travels between client and server, and where does the time of a call go? |
# | [04 Call it from Go](04_call_it_from_go.ipynb) | How does a web server in Go ask a model in Python, and what does the hop cost? |
# | [05 How fast is it?](05_how_fast_is_it.ipynb) | From one row to a million, what does a call cost, and what does the encoding change? |
# | [06 Under load](06_under_load.ipynb) | What happens when many callers ask at the same time, and how much can one server process carry? |
# | [07 Make it fast](07_make_it_fast.ipynb) | From the article's server to ours: which change gave how much? |
# | [Explorer](explorer.ipynb) | What does a call cost, for the model, the encoding, the size and the load of your choice? |
#
# [README.md](README.md) has run times, a glossary, the status codes, and help when you are stuck.
#
# ## What we found

# %%
from IPython.display import Markdown

row = medians.loc[small]
Markdown(
    f"- One flight takes **{row['over gRPC']:.1f} ms** over gRPC, and {row['in process (floor)']:.1f} ms in process "
    f"(medians of {CALLS} calls, on this machine).\n"
    f"- {large:,} flights take **{medians.loc[large, 'over gRPC']:.0f} ms** in one call: "
    f"{medians.loc[large, 'over gRPC'] / large * 1000:.0f} µs a flight.\n"
    "- The predictions are those of the model in process, to the last bit."
)

# %% [markdown]
# ## Exercises
#
# 1. Send a table without the column `dest`, and one with a column more. What does the client say to each?
# 2. Make a client of your own, `from pred_server import Client; mine = Client(server.address)`. Stop the server with
#    `server.close()`, then call `mine.predict(table)`. Which error comes, and how soon?
#
# <details><summary>Answers</summary>
#
# 1. `client.predict(table.drop(columns="dest"))` raises `InvalidInput`: the message names the missing column and those
#    that are there. `client.predict(table.assign(tail="N123"))` answers, and warns that `tail` was ignored.
# 2. `Unavailable`, after some seven seconds: nobody listens on that port, and the client asks five times, with growing
#    pauses, for the case that the server is only being replaced. `Client(server.address, retry=False)`
#    gives up at once, within milliseconds. (A client of the server's, such as `client`, is closed with it. Restart the
#    notebook to go on.)
#
# </details>
#
# ## Close
#
# A server that a notebook started ends with the notebook's kernel; closing it is good manners all the same.

# %%
server.close()
server

# %% [markdown]
# Next: [01 Train a model](01_train_a_model.ipynb)
