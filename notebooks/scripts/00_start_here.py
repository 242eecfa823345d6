# %% [markdown]
# # 00 · Start here
#
# English · [日本語](00_start_here.ja.ipynb)
#
# **What is the gRPC-ML pattern, and how fast is one call?**
#
# A team trains a model in Python. Another team writes the web server, in Go for example. Between them stands a small
# prediction server. It takes a table and returns predictions. It is written in Python, and any language can call it.
# *gRPC* is the way to call it: one program calls a function of another program, over the network.
#
# The idea comes from an article: abap34,
# [gRPCを使ったプロセス間通信でGoからいい感じに学習済みモデルを呼び出して推論](https://abap34.com/posts/grpc_ml.html)
# (2023, in Japanese). Its title says: from Go, call a trained model over gRPC and predict. It ends with a question: how
# fast is that? In this notebook we start such a server, send it real flights, and measure one call.
#
# You will
#
# - start a prediction server in the background and call it;
# - check that the server's answers equal the model's own answers, to the last bit;
# - measure how long a call takes, and how much of that is not the model.
#
# **Needs:** `make lab` has installed the packages and trained the model. **Takes:** 20 s to run, about 20 minutes to read.
# **Built before:** nothing.
#
# **Core:** all of it, with exercise 1. **Optional:** "Why gRPC, and not just REST?", exercises 2 and 3.

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
# `serve` starts the command `pred-server serve` as a process of its own, on a free port of this machine. It waits until
# the server is ready. (A *port* is the number under which a program on a machine can be called. `serve` is in
# `pred_server/tutorial/background.py`.)

# %%
from pred_server import serve

server = serve("flights")
server

# %% [markdown]
# ## A table of flights
#
# The model predicts how late a flight arrives, in minutes. It uses what is known when the flight leaves the gate. Here
# are five of the flights that left New York in 2013. A negative delay means early.

# %% tags=["deterministic"]
import pandas as pd

from pred_server.checkout import FLIGHTS

flights = pd.read_parquet(FLIGHTS)
some = flights.sample(5, random_state=1)
some

# %% [markdown]
# ## A call
#
# A *client* is the side that calls. Our client turns the table into CSV text and sends it in one message. It turns the
# reply into a pandas Series with the index of the table. (The article used CSV, and everybody can read it. Lesson 03b
# has faster ways.) Every call has a *deadline*: the longest time that the caller will wait, here 10 seconds.

# %%
client = server.client(timeout_s=10, encoding="csv")
table = some.drop(columns="arr_delay")

some.assign(predicted=client.predict(table).round(1))[["carrier", "dest", "dep_delay", "arr_delay", "predicted"]]

# %% [markdown]
# ## Is it the same model?
#
# The table was sent as text, and the predictions came back as text. Did we lose digits on the way? To find out, we load
# the model into this notebook too, and compare 10,000 predictions bit by bit.

# %% tags=["deterministic"]
import numpy as np

from pred_server import load

model = load("flights")
many = flights.drop(columns="arr_delay").sample(10_000, random_state=2)
served, in_process = client.predict(many), model.predict(many)
print("equal to the last bit:", np.array_equal(served, in_process))

# %% [markdown]
# They are equal. Client and server write each 64-bit number with enough digits to read the same bits back. The project
# promises this, and a test checks it.
#
# ## How long does a call take? Guess first
#
# We shall time calls with tables of different sizes, from one flight to 10,000. Before you run on, write down your guess:
# **how many times as long does a call with the largest table take as a call with one flight?**

# %%
GUESS_TIMES = None  # your guess, a number

# %% [markdown]
# ## Then measure
#
# We predict each table twice: over gRPC, and *in process*, with the model in this notebook. The two take turns, so a slow
# moment of the machine hits both. The first calls only warm up and are not counted.
#
# One more number comes with each reply: how long the server's model computed. We subtract it from the time of the call.
# The rest is **the hop**: writing, sending and reading the table, and the way back. It is the price of having the model
# in another process. (`waterfall` holds the times of a call; lesson 03b explains it.)

# %%
import time

from tqdm.auto import tqdm


def timed(predict, batch):
    """Predict once; return the predictions and the time it took, in milliseconds."""
    start_ns = time.perf_counter_ns()
    predictions = predict(batch)
    return predictions, (time.perf_counter_ns() - start_ns) / 1e6


calls = []
for rows in tqdm(ROWS, desc="sizes"):
    batch = many.head(rows)
    for call in range(-3, CALLS):
        predictions, served_ms = timed(client.predict, batch)
        _, in_process_ms = timed(model.predict, batch)
        hop_ms = served_ms - predictions.waterfall.phases_ms["predict"]
        if call >= 0:  # the first three only warm up
            calls.append({"rows": rows, "over gRPC": served_ms, "hop": hop_ms, "in process": in_process_ms})

by_rows = pd.DataFrame(calls).groupby("rows")
medians = by_rows.median()
medians.round(2)

# %% [markdown]
# The table shows *medians*, in milliseconds: half of the calls are faster than the median, half are slower. Another name
# for the median is p50. In the same way, nine of ten calls are faster than p90.

# %%
from IPython.display import Markdown

one, large = medians.iloc[0], medians.iloc[-1]
most_rows = medians.index[-1]
times = large["over gRPC"] / one["over gRPC"]
Markdown(
    f"- For one flight, **the hop costs {one['hop']:.1f} ms**. The rest of the {one['over gRPC']:.1f} ms is "
    "the prediction itself.\n"
    f"- A call with {most_rows:,} flights took **{times:.0f} times** as long as a call with one. "
    f"Your guess: {GUESS_TIMES or 'none yet'}."
)

# %% [markdown]
# Why do we read the hop from the call itself, and not as "over gRPC" minus "in process"? The notebook and the server are
# two processes, and they share the cores of this machine. On a busy machine, either one may be slowed down. So the two
# columns can differ by more than the hop, in both directions. README's tables come from quieter runs, with a core for
# each process. [Lesson 05](05_how_fast_is_it.ipynb) shows how to measure with care.
#
# Here are the same numbers as a figure. `lines` (in `pred_server/lab/lesson_figures.py`) draws it. `show` adds a
# description for readers who cannot see it.

# %%
from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import lines

ways = ["over gRPC", "in process"]
middle_to_slow = {way: pd.DataFrame({"p50": medians[way], "p90": by_rows[way].quantile(0.9)}) for way in ways}
finding = f"{most_rows:,} times the rows cost {times:.0f} times the time"

figure = lines(
    medians[ways], finding, "rows in one call", "latency (ms)",
    bands=middle_to_slow, band_label="from p50 to p90", grey=["in process"], log=True,
)  # fmt: skip
show(figure, f"Latency against rows, both axes logarithmic, over gRPC and in process. {finding}.")

# %%
price = 1_000 * medians["over gRPC"] / medians.index  # microseconds
Markdown(
    f"- In one call with {most_rows:,} rows, a flight costs {price.iloc[-1]:,.1f} µs. In a call of its own it costs "
    f"{price.iloc[0]:,.0f} µs, **{price.iloc[0] / price.iloc[-1]:,.0f} times** as much.\n"
    f"- In the largest call the model computes {1 - large['hop'] / large['over gRPC']:.0%} of the time."
)

# %% [markdown]
# A call has a fixed price, whatever it carries: so send many rows in one call. For a large table the hop is mostly the
# price of text: each side writes it once and parses it once. [03b](03b_under_the_hood.ipynb) takes a call apart.
#
# ## Why gRPC, and not just REST? (optional)
#
# *REST* is the usual style of a web API: HTTP requests with JSON. There you write the contract yourself, and you make
# sure that everyone keeps it. gRPC begins with the contract: from one file it generates the code of both sides, in a dozen
# languages. Each call carries a deadline and can be cancelled, and both sides know about it without extra code. Many
# calls share one connection at the same time, and it stays open. (It is an HTTP/2 connection.)
#
# For a browser, REST is still the right choice. That is what the gateway in Go is for ([04](04_call_it_from_go.ipynb)).
#
# ## The lessons
#
# | lesson | its question |
# |---|---|
# | [01 Train a model](01_train_a_model.ipynb) | How do we get from past flights to a model file that is safe to serve? |
# | [02 Write the contract](02_write_the_contract.ipynb) | What do client and server agree on, and how may it change? |
# | [03 Serve and call](03_serve_and_call.ipynb) | What does a server need, and what does it still need in real use? |
# | [03b Under the hood](03b_under_the_hood.ipynb) | What travels between client and server, and where does the time of a call go? |
# | [03c Streams](03c_streams.ipynb) | How does a table of any length pass through a server, and what does a full or a stopping server say? |
# | [04 Call it from Go](04_call_it_from_go.ipynb) | How does a web server in Go ask a model in Python, and what does the hop cost? |
# | [05 How fast is it?](05_how_fast_is_it.ipynb) | From one row to a million, what does a call cost, and what does the encoding change? |
# | [06 Under load](06_under_load.ipynb) | What happens when many callers ask at the same time, and how much can one server process carry? |
# | [07 Make it fast](07_make_it_fast.ipynb) | From the article's server to ours: which change gave how much? |
# | [08 Break it](08_break_it.ipynb) | What does a caller see when the server dies, hangs, is full or is attacked, and do the other callers notice? |
# | [09 Which way?](09_which_way.ipynb) | gRPC, REST, or the model inside the Go process: should you build a server at all? |
# | [10 Scale out](10_scale_out.ipynb) | When one process is full, what do more of them give, and what does each layer cost? |
# | [Explorer](explorer.ipynb) | What does a call cost, for the model, the encoding, the size and the load of your choice? |
#
# [README.md](README.md) has run times, a glossary, the status codes, and help when you are stuck.
#
# ## What we found

# %%
Markdown(
    f"- One flight takes **{one['over gRPC']:.1f} ms** over gRPC. The hop is {one['hop']:.1f} ms of it "
    f"(medians of {CALLS} calls, on this machine).\n"
    f"- {most_rows:,} flights take **{large['over gRPC']:.0f} ms** in one call: {price.iloc[-1]:,.1f} µs a flight.\n"
    "- The predictions equal those of the model in process, to the last bit."
)

# %% [markdown]
# ## Exercises
#
# **1.** A colleague has a table that is too large for one message. Write a function that predicts it in several calls.
# Replace the last line of the function, then run this cell and the next one. The next cell checks your answer.


# %%
def predict_in_batches(client, table, rows):
    """Predict `table` in calls of at most `rows` rows; return one Series with the index of the table."""
    return None  # your code


# %% tags=["deterministic"]
class CountingClient:
    """Counts the rows of each call, and asks the real client."""

    def __init__(self):
        self.rows_of_calls = []

    def predict(self, batch):
        self.rows_of_calls.append(len(batch))
        return client.predict(batch)


counting = CountingClient()
answer = predict_in_batches(counting, many.head(1_000), 300)
if answer is None:
    print("exercise 1: not yet answered")
else:
    sent = counting.rows_of_calls
    assert sent, "call `client.predict`, with the client that the function is given"
    assert max(sent) <= 300, f"no call may have more than 300 rows; yours had {sent}"
    assert sum(sent) == 1_000, f"the calls must hold each of the 1,000 rows once; yours held {sum(sent):,} rows: {sent}"
    assert isinstance(answer, pd.Series), f"return a pandas Series, not a {type(answer).__name__}"
    assert answer.index.equals(many.index[:1_000]), "the index of the Series is not the index of the table"
    assert np.array_equal(answer, served[:1_000]), "the predictions differ from those of one call"
    print(f"exercise 1: right; {len(sent)} calls with {sent} rows")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def predict_in_batches(client, table, rows):
#     parts = [client.predict(table.iloc[start : start + rows]) for start in range(0, len(table), rows)]
#     return pd.concat(parts)
# ```
#
# Each part of the reply has the index of its part of the table. So `pd.concat` needs no `ignore_index`, and must not have
# it. You will seldom need this function: the client sends a large table as a *stream*, which does the same within one
# call ([03c](03c_streams.ipynb)).
#
# </details>
#
# **2. (optional)** Send a table without the column `dest`, and one with an extra column. What does the client say to each?
#
# **3. (optional)** Make a client of your own: `from pred_server import Client; mine = Client(server.address)`. Stop the
# server with `server.close()`, then call `mine.predict(table)`. Which error do you get, and how soon?
#
# <details><summary>Answers</summary>
#
# 2. `client.predict(table.drop(columns="dest"))` raises `InvalidInput`. The message names the missing column and the
#    columns that the table has. `client.predict(table.assign(tail="N123"))` returns predictions, and warns that `tail` was
#    ignored.
# 3. `Unavailable`, after some seconds. No program listens on that port any more. The client tries several times, with
#    growing pauses, because the server may be restarting. `Client(server.address, retry=False)` gives up at once.
#    (`client` came from `server.client()`, and `server.close()` closes it too. Restart the notebook to go on.)
#
# </details>
#
# ## Close
#
# The server ends when the notebook's kernel ends. It is good style to close it all the same.

# %%
server.close()
server

# %% [markdown]
# Next: [01 Train a model](01_train_a_model.ipynb)
