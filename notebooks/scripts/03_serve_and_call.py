# %% [markdown]
# # 03 · Serve and call
#
# **What does a prediction server need, and what does it still need before others may use it?**
#
# This project grew from [an article](https://abap34.com/posts/grpc_ml.html) that serves a model with some forty lines of
# Python. We write that server in a cell and call it. Then we do to it what users do: we send wrong tables, huge tables,
# and we hang up in the middle. Each bad answer is a reason for a part of the server that `pred-server serve` runs.
#
# You will
#
# - write a gRPC server around a model, run it in the background, and call it with a deadline;
# - read its errors, tell "nobody is there" from "no answer in time", and choose the next step;
# - see, one by one, what `pred_server` does differently, and why.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 30 s to run, about 35 minutes to read.
# **Built before:** the `flights` model ([01](01_train_a_model.ipynb)) and the stubs, the code that protoc generated from
# the contract ([02](02_write_the_contract.ipynb)).
#
# **Core and optional:** two parts are marked *(optional)*, "Cancel" and "A port that is taken". You may skip them in the
# reading; still run their cells.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "protobuf", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
LARGE = 150_000  # rows of a table that gRPC refuses by default
SLOW_S = 2.0  # seconds that the slow model of this lesson takes
PATIENT_S = 20.0  # a deadline that is longer than the client's attempts, in seconds
HURRIED_S = 1.0  # a deadline that is shorter

# %% [markdown]
# ## The article's server
#
# The model comes from lesson 01:

# %%
from pred_server import load  # before grpc: it turns off the lines that gRPC prints by itself when a connection ends

model = load("flights")
model

# %% [markdown]
# Three things make a gRPC server in Python:
#
# - The *servicer* is a class with one method for each rpc of the contract: a request goes in, a response comes out.
# - `add_PredictionServicer_to_server` tells the server which path leads to which method. protoc generated it.
# - A pool of threads runs the methods, here ten calls at a time.
#
# In the method, `pd.read_csv` turns the text into a *DataFrame*, a table with named columns. The predictions become a
# *Series*, one column of values, and then text again.
#
# The file `pred_server/tutorial/article.py` holds the same server, with a command line around it. In a terminal it is
# `python -m pred_server.tutorial.article`.

# %%
import io
from concurrent import futures

import grpc
import pandas as pd

from pred_server.generated import pred_pb2, pred_pb2_grpc


class Prediction(pred_pb2_grpc.PredictionServicer):
    def Predict(self, request, context):
        table = pd.read_csv(io.StringIO(request.input_data))
        result = pd.Series(model.estimator.predict(table[model.schema.names]))
        return pred_pb2.Response(result=result.to_csv(index=False))


def start(servicer, address="127.0.0.1:0", options=()):
    """Start a server; return it and its port. Port 0 asks the system for any free one."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=10), options=options)
    pred_pb2_grpc.add_PredictionServicer_to_server(servicer, server)
    port = server.add_insecure_port(address)
    server.start()  # returns at once: the threads work in the background
    return server, port


article, port = start(Prediction())
print("serving" if port else "not serving")

# %% [markdown]
# ## Call it
#
# A *channel* is a lasting connection to a server. It connects when the first call needs it, and again whenever the
# connection is lost. Make one channel and keep it.
#
# The *stub* is generated too. It turns a method call into a message on the channel. `timeout` is the *deadline* of this
# call, in seconds. Without a deadline a call may wait forever.

# %%
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
stub = pred_pb2_grpc.PredictionStub(channel)

from pred_server.checkout import FLIGHTS, ROOT

flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay")
text = flights.head(3).to_csv(index=False)
response = stub.Predict(pred_pb2.Request(input_data=text), timeout=10)
print(text)
print(response.result)

# %% [markdown]
# The first line of the answer is `0`. pandas gives this name to a Series that has none. The article's server has always
# sent it, so clients may count on it.
#
# ## Its errors
#
# We send a table that lacks a column. What does the caller learn?
#
# A failed call raises `grpc.RpcError`. It has a *status code* (one of seventeen, the same in all languages) and a text.
# The server writes a log at the same time. We catch the log, to read both sides.

# %%
import logging

server_log = io.StringIO()
logger = logging.getLogger("grpc._server")
logger.addHandler(logging.StreamHandler(server_log))
logger.propagate = False


def ask(text, timeout=10, through=stub):
    """Return the beginning of the answer, or the error, as one line."""
    try:
        answer = through.Predict(pred_pb2.Request(input_data=text), timeout=timeout).result
        return "OK  " + repr(answer[:40])
    except grpc.RpcError as error:
        return f"{error.code().name}  {error.details()[:160]}"


print(ask(flights.head(3).drop(columns="dest").to_csv(index=False)))

# %%
lines = server_log.getvalue().splitlines()
print(f"the server's log has {len(lines)} lines; the last one:\n{lines[-1]}")

# %% [markdown]
# `UNKNOWN` says that something went wrong, and no more. Nobody chose this code: gRPC caught an exception and sent its
# text to the caller. This is bad in two ways:
#
# - The caller cannot choose the next step: fix the table, try again, or call the team that runs the server?
# - An exception's text may hold a path, or a piece of somebody's data. Here it goes to whoever called.
#
# A method chooses with `context.abort(grpc.StatusCode.INVALID_ARGUMENT, "line 2: ...")`: this ends the call with that code
# and that sentence. The strict server below does so for each fault of a caller.
#
# ## Guess first: how many wrong tables are refused?
#
# pandas was made to read what people have. It was not made to check it. Here are wrong tables as users send them. Each
# is a small change of the same three flights:


# %% tags=["deterministic"]
def with_first_row(old, new):
    """Return the same three flights, with a text in the first row replaced."""
    header, first, *rest = text.splitlines()
    assert old in first
    return "\n".join([header, first.replace(old, new, 1), *rest]) + "\n"


WRONG = {
    "a row that ends early": with_first_row(",IAH,1400,2.0", ""),
    "text for the distance": with_first_row("1400", "far"),
    "a thousands separator": with_first_row("1400", '"1,400"'),
    "a decimal comma": with_first_row("2.0", '"2,0"'),
    "a quote that swallows a row": with_first_row("UA,EWR", '"UA,EWR').replace("UA,LGA", '"UA",LGA'),
    "a column twice": text.replace("minute", "hour", 1),
    "no rows": text.splitlines()[0],
    "nothing": "",
}
print(f"{len(WRONG)} wrong tables")

# %% [markdown]
# How many of them does the article's server refuse? Write your guess into the next cell, then run it.

# %% tags=["deterministic"]
my_guess = None  # a number: how many of the wrong tables are refused?

by_article = {what: ask(table) for what, table in WRONG.items()}
refused = sum(not answer.startswith("OK") for answer in by_article.values())
print(f"your guess: {my_guess}   measured: {refused} of {len(WRONG)}\n")
for what, answer in by_article.items():
    print(f"{what:28} {answer[:100]}")

# %% [markdown]
# Read the two lines that say `OK`. The short row got an answer, from a distance and a delay that nobody sent. The quote
# is worse: three flights went in, and fewer predictions came out. The caller gets no sign of either.
#
# ## Deadlines, and the work behind them
#
# A deadline travels with the call. When it has passed, the client gives up. The server can know it, too: the method's
# second argument, `context`, tells whether the caller is still there. (In Go this is `ctx.Done()`.) But a server must
# look. Here is a slow model whose server does not:

# %%
import threading
import time


class Slow(pred_pb2_grpc.PredictionServicer):
    def __init__(self):
        self.finished = threading.Event()
        self.caller_was_there = None

    def Predict(self, request, context):
        time.sleep(SLOW_S)  # stands for a large model
        self.caller_was_there = context.is_active()
        self.finished.set()
        return pred_pb2.Response(result="0\n1\n")


slow = Slow()
slow_server, slow_port = start(slow)
slow_channel = grpc.insecure_channel(f"127.0.0.1:{slow_port}")
slow_stub = pred_pb2_grpc.PredictionStub(slow_channel)

start_ns = time.perf_counter_ns()
print(ask("x,y\n1,2\n", timeout=SLOW_S / 10, through=slow_stub))
gave_up_after_s = (time.perf_counter_ns() - start_ns) / 1e9
slow.finished.wait(10 * SLOW_S)
worked_s = (time.perf_counter_ns() - start_ns) / 1e9

# %%
from IPython.display import Markdown

Markdown(
    f"The client gave up after **{gave_up_after_s:.1f} s**. The server worked for **{worked_s:.1f} s**. When it was done, "
    f"was the caller still there? **{'Yes' if slow.caller_was_there else 'No'}.** A method that never looks at `context` "
    "may compute for nobody, and it holds one of the ten threads all the while."
)

# %% [markdown]
# ## Cancel *(optional)*
#
# `.future(...)` sends the call and returns at once. The caller can take the call back later. Think of a user who closes
# the page: there is no need to finish the prediction.

# %%
slow.finished.clear()
call = slow_stub.Predict.future(pred_pb2.Request(input_data="x,y\n1,2\n"), timeout=10 * SLOW_S)
call.cancel()
print("cancelled:", call.cancelled(), " code:", call.code().name)

# %% [markdown]
# ## A table that is too large
#
# Now a table of more than four megabytes:

# %%
large = flights.head(LARGE).to_csv(index=False)
print(f"{len(large) / 2**20:.1f} MiB")
print(ask(large, timeout=60))

# %% [markdown]
# `RESOURCE_EXHAUSTED`. By default, gRPC *receives* no message larger than 4 MiB. It may *send* a message of any size.
# Which side received here? The client sent the request, so the server received it, and refused. This version of gRPC
# says so: `SERVER`. Other versions and languages leave this word out.
#
# There is another case that looks the same. Take a model that adds two columns. A short line such as `.1,.2` gets a long
# answer, `0.30000000000000004`:


# %%
class Sum(pred_pb2_grpc.PredictionServicer):
    calls = 0

    def Predict(self, request, context):
        self.calls += 1
        table = pd.read_csv(io.StringIO(request.input_data))
        return pred_pb2.Response(result=(table["x"] + table["y"]).to_csv(index=False))


adder = Sum()
sum_server, sum_port = start(adder)
sum_channel = grpc.insecure_channel(f"127.0.0.1:{sum_port}")
sum_stub = pred_pb2_grpc.PredictionStub(sum_channel)
pairs = "x,y\n" + ".1,.2\n" * 500_000

print(f"{len(pairs) / 2**20:.1f} MiB")
print(ask(pairs, timeout=60, through=sum_stub))
print("calls that reached the method:", adder.calls)

# %% [markdown]
# The same code, and almost the same words. But this request was small enough: the method was called and did its work.
# The *client* received an answer that was too large, and refused it. A higher limit at the server would not help.
#
# So there are two limits, one on each side that receives. We raise one, then both:

# %%
roomy = [("grpc.max_receive_message_length", 64 * 2**20)]
roomy_server, roomy_port = start(adder, options=roomy)
for side, options in {"server only": [], "both sides": roomy}.items():
    with grpc.insecure_channel(f"127.0.0.1:{roomy_port}", options=options) as wide:
        print(f"{side:12} {ask(pairs, timeout=60, through=pred_pb2_grpc.PredictionStub(wide))[:70]}")

# %% [markdown]
# Why is there a limit at all? Both sides hold a whole message in memory, and hold it several times: as bytes, as text, as
# a table. A caller who may send any size may also fill all the memory.
#
# ## A port that is taken *(optional)*
#
# Start a second server on the port of the first:

# %%
second, second_port = start(Prediction(), address=f"127.0.0.1:{port}")
print("the second server got", "the same port" if second_port == port else "no port", "and no error was raised")
_ = second.stop(grace=None).wait()

# %% [markdown]
# On Linux, gRPC lets servers share a port (`SO_REUSEPORT`), and the system deals out the connections among them. This has
# good uses. It also has a bad surprise: a forgotten old server goes on answering some of the calls, with the old model.
#
# ## The strict server
#
# `pred-server serve` speaks the same contract. In a notebook, `serve` starts it in the background. Its `Client` turns
# tables into calls, and status codes into Python exceptions:

# %%
from pred_server import serve

server = serve("flights")
client = server.client()
server

# %%
client.predict(flights.head(3))

# %% [markdown]
# We send the same wrong tables to both servers:

# %% tags=["deterministic"]
strict_channel = grpc.insecure_channel(server.address)
strict_stub = pred_pb2_grpc.PredictionStub(strict_channel)
by_strict = {what: ask(table, through=strict_stub) for what, table in WRONG.items()}
for what in WRONG:
    print(f"{what}\n    article  {by_article[what][:90]}\n    strict   {by_strict[what][:110]}")

# %% [markdown]
# All are `INVALID_ARGUMENT` now. This code means: the caller's table is at fault, and to try again does not help. The
# text names the column and the line, if there is one at fault. A second copy, for programs, travels beside the text
# (`google.rpc.BadRequest`). `Client` turns it into `violations`:

# %% tags=["deterministic"]
from pred_server.errors import InvalidInput

try:
    client.call(pred_pb2.Request(input_data=WRONG["text for the distance"]))
except InvalidInput as error:
    for violation in error.violations:
        print(f"field        {violation.field}\ndescription  {violation.description}")

# %% [markdown]
# A second server on the same port is refused, in one sentence:

# %%
import subprocess

done = subprocess.run(
    [sys.executable, "-m", "pred_server", "serve", "--address", server.address],
    cwd=ROOT, capture_output=True, text=True,
)  # fmt: skip
print(done.stderr.splitlines()[-1].replace(server.address, "127.0.0.1:PORT"))
print("exit code", done.returncode)

# %% [markdown]
# The large table gets an answer, in one message, because here both sides have the higher limit. (By default the client
# would send such a table in pieces: [03c](03c_streams.ipynb).)

# %%
start_ns = time.perf_counter_ns()
predictions = client.predict(flights.head(LARGE), encoding="csv", stream=False, timeout_s=60)
took_s = (time.perf_counter_ns() - start_ns) / 1e9
print(f"{len(predictions):,} predictions")

# %% [markdown]
# ## No answer: five cases
#
# A wrong table is the caller's fault, and the answer says so. But what if there is no answer? Then the call ends in one
# of two codes:
#
# - `UNAVAILABLE`: nobody is there to answer. No server took the call, or the one that did is gone.
# - `DEADLINE_EXCEEDED`: the deadline passed, and there was no answer yet.
#
# The code alone does not tell you what to do next. So ask a second question, about the server's *health*. Health is a
# small gRPC service with a contract of its own. Our server answers it even while a model computes. We try five cases:
#
# | case | what we do |
# |---|---|
# | dead port | No program listens at the address. The deadline is long. |
# | dead port, short deadline | The same, with a deadline shorter than the client's attempts. |
# | stopped process | The signal SIGSTOP freezes the server. Its port stays open, but the server reads nothing. A process that hangs looks like this. |
# | slow model | The table is too large for the deadline. |
# | draining server | The signal SIGTERM asks the server to stop. It *drains*: it finishes the calls that it has, and closes its port to new ones. |
#
# `Client` knows that servers get replaced. After `UNAVAILABLE` it tries again, five times in all, with growing pauses.
# First we set the cases up:

# %%
import os
import signal
import socket

with socket.socket() as unused:  # the system gives us a free port; we let it go, and nobody listens there
    unused.bind(("127.0.0.1", 0))
    nobody = f"127.0.0.1:{unused.getsockname()[1]}"
stopped, draining = serve("flights"), serve("flights")
few, many = flights.head(3), flights.head(LARGE)

CASES = {  # address, table, deadline in seconds
    "dead port": (nobody, few, PATIENT_S),
    "dead port, short deadline": (nobody, few, HURRIED_S),
    "stopped process": (stopped.address, few, HURRIED_S),
    "slow model": (server.address, many, HURRIED_S / 10),
    "draining server": (draining.address, few, PATIENT_S),
}

# %% [markdown]
# A server without a call has nothing to finish, so it would stop at once. A *stream*, one call with many messages, keeps
# the last server draining: we send one message, and hold the second one back.

# %%
may_end = threading.Event()


def one_message_then_wait():
    yield few
    may_end.wait()


holding = draining.client()
open_stream = iter(holding.predict_stream(one_message_then_wait()))
print(len(next(open_stream)), "predictions, and the stream stays open")

# %% [markdown]
# Two functions: one asks for health, one makes a call and takes its time.

# %%
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from pred_server import Client
from pred_server.errors import PredServerError


def health(address):
    """Return the server's own word, or the code of a health check that failed."""
    with grpc.insecure_channel(address) as asking:
        try:
            answer = HealthStub(asking).Check(HealthCheckRequest(), timeout=HURRIED_S)
            return HealthCheckResponse.ServingStatus.Name(answer.status)
        except grpc.RpcError as error:
            return error.code().name


def one_call(address, table, deadline_s):
    """Return the code of one call, the seconds that it took, the server's health after it, and the error's sentence."""
    start_ns, code, sentence = time.perf_counter_ns(), "OK", ""
    with Client(address) as caller:
        try:
            caller.predict(table, encoding="arrow", stream=False, timeout_s=deadline_s)
        except PredServerError as error:
            code, sentence = error.code, str(error)
    return code, (time.perf_counter_ns() - start_ns) / 1e9, health(address), sentence


# %% [markdown]
# All five calls run at the same time, so the cell takes as long as the longest of them.

# %%
os.kill(stopped.pid, signal.SIGSTOP)
os.kill(draining.pid, signal.SIGTERM)
try:
    while health(draining.address) != "UNAVAILABLE":
        time.sleep(0.01)
    with futures.ThreadPoolExecutor(len(CASES)) as pool:
        calls = {what: pool.submit(one_call, *case) for what, case in CASES.items()}
finally:
    os.kill(stopped.pid, signal.SIGCONT)  # lets the process go on
    may_end.set()
seen = {what: call.result() for what, call in calls.items()}
_ = list(open_stream)  # its end: now the last server may stop
holding.close()

# %% [markdown]
# Code and health together give the next step:

# %%
NEXT_STEP = {  # code of the call, health
    ("UNAVAILABLE", "UNAVAILABLE"): "Nobody is there, or it is being replaced. Check the address; start a server.",
    (
        "DEADLINE_EXCEEDED",
        "UNAVAILABLE",
    ): "Nobody is there; the client was still trying. Check the address; start the server.",
    ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"): "A process is there and does nothing. Look at it; restart it.",
    ("DEADLINE_EXCEEDED", "SERVING"): "It works, but not fast enough. Give more time, or send fewer rows.",
}
rows = [
    f"| {what} | {CASES[what][2]:g} | `{code}` | {seconds:.1f} | `{healthy}` | {NEXT_STEP.get((code, healthy), '?')} |"
    for what, (code, seconds, healthy, _) in seen.items()
]
head = "| case | deadline (s) | code | took (s) | health | next step |\n|---|---|---|---|---|---|\n"
Markdown(head + "\n".join(rows))

# %%
tried_code, tried_s, *_ = seen["dead port"]
short_code, short_s, _, sentence = seen["dead port, short deadline"]
late = [what for what, (code, *_) in seen.items() if code == "DEADLINE_EXCEEDED"]
Markdown(
    f"Compare the two dead ports. With time enough, the client tried for {tried_s:.1f} s and then said `{tried_code}`. With "
    f"a deadline of {HURRIED_S:g} s it said `{short_code}`: the deadline passed in the middle of the attempts. Only the error's "
    f"sentence says more: *{sentence.split(' (')[0].replace(nobody, 'HOST:PORT')} …* So `DEADLINE_EXCEEDED` has {len(late)} causes here ({'; '.join(late)}), and to send fewer "
    "rows helps against one of them. Ask for health before you do that. Or ask only once, with "
    "`Client(address, retry=False)`: then a dead port says `UNAVAILABLE` at once.\n\n"
    "A dead port and a draining server look the same from here: neither takes a new connection. Who has a connection hears "
    "`NOT_SERVING` before it ends; `Client` then goes to the next address, if it has one ([08](08_break_it.ipynb)). "
    "The slow model took a little longer than its deadline: the client does not break off while it writes the table."
)

# %% [markdown]
# ## From the article's listing to our files
#
# Each line of the article's listing, the file that does its work in `pred_server`, and the reason:
#
# | the article's listing | our file | what changed, and why |
# |---|---|---|
# | `pd.read_csv` | [`wire/codec.py`](../pred_server/wire/codec.py), and one file for each encoding: [`csv`](../pred_server/wire/csv.py), [`columns`](../pred_server/wire/columns.py), [`tensor`](../pred_server/wire/tensor.py), [`arrow`](../pred_server/wire/arrow.py) | There are four ways to send a table. CSV has a reader that knows the model's types. It refuses a value that does not fit, and names line and column |
# | `table[names]` | [`wire/schema.py`](../pred_server/wire/schema.py) | Columns are matched by name, in any order. A missing column is an error that names it; an unknown one is ignored, with a warning. A number that would change in a conversion is refused |
# | a model kept as a pickle, as is usual | [`store/`](../pred_server/store/saving.py) | A model is a directory with a manifest. Loading it runs no code from the file ([01](01_train_a_model.ipynb)). One port can serve several models |
# | `estimator.predict` in ten threads | [`server/predictor.py`](../pred_server/server/predictor.py) | One thread computes. Ten at once would fight for the cores. Requests that wait meanwhile are computed together. A request whose caller has left is not computed |
# | the servicer | [`server/service.py`](../pred_server/server/service.py) | One event loop (`grpc.aio`: one thread that turns to whichever call has something to do) serves all callers. It decodes, asks the predictor, encodes, and reports how long each step took ([`wire/timing.py`](../pred_server/wire/timing.py)) |
# | | [`server/inline.py`](../pred_server/server/inline.py) | A model that needs less time than it takes to wake a thread is asked on the event loop, without the thread |
# | an exception in the method | [`errors.py`](../pred_server/errors.py), [`wire/status.py`](../pred_server/wire/status.py) | There is one tree of errors, and one mapping to status codes. Internals go to the log with a request id, never to the caller |
# | `add_insecure_port` on any address | [`server/run.py`](../pred_server/server/run.py) | It listens on *loopback* only, which other machines cannot reach, unless a flag that names the danger says otherwise. A taken port is an error |
# | limits by default | [`limits.py`](../pred_server/limits.py), [`guard/`](../pred_server/guard/admission.py) | All limits stand in one file: bytes and rows of a message, calls at the same time, waiting rows, time. Each is a flag, and a caller above a limit learns which |
# | `wait_for_termination()` | [`ops/drain.py`](../pred_server/ops/drain.py) | After SIGTERM or Ctrl-C, accepted calls finish and new ones are refused. The exit code is 0 |
# | nothing | [`server/run.py`](../pred_server/server/run.py) | *Health*, for programs that watch over servers. *Reflection*, for tools that do not have the contract |
# | `stub.Predict(request)` | [`client/client.py`](../pred_server/client/client.py), [`client/stream.py`](../pred_server/client/stream.py) | Every call has a deadline. Errors are typed exceptions. The answer is a Series with your table's index. The client tries again while a server is replaced, and sends large tables as a stream |
# | a terminal of its own | [`tutorial/background.py`](../pred_server/tutorial/background.py) | A process that notebooks and tests start, wait for, read the log of, and never leave behind |
#
# One thing has not changed: the article's part of the contract. Its clients get their answers from either server.
#
# ## What we found

# %%
Markdown(
    f"- Of {len(WRONG)} wrong tables, the article's server refused {refused}, all as `UNKNOWN`, and answered "
    f"{len(WRONG) - refused} with wrong predictions. The strict server refused "
    f"{sum(answer.startswith('INVALID_ARGUMENT') for answer in by_strict.values())}, and said what to fix.\n"
    f"- A deadline freed the caller after {gave_up_after_s:.1f} s. The server worked on to the end.\n"
    "- *Received message larger than max* comes from the side that receives: the server for a large request, the client "
    "for a large answer.\n"
    f"- {LARGE:,} flights in one call took {took_s:.1f} s once both sides had the higher limit.\n"
    f"- A dead port said `{tried_code}` after {tried_s:.1f} s, and `{short_code}` where the deadline was {HURRIED_S:g} s. Code and "
    f"health together told {len({(code, healthy) for code, _, healthy, _ in seen.values()})} of {len(seen)} cases apart; a dead port "
    "and a draining server look the same to a new connection."
)

# %% [markdown]
# ## Exercises
#
# **1. Stop early** (a cell checks your answer). Write a copy of `Slow`, called `Polite`, that sleeps in short pieces and
# returns when `context.is_active()` is false. A caller who stays must still get the answer `0\n1\n`.

# %%
Polite = None  # replace this line by your class


# %%
def check(servicer_class):
    """Say whether a servicer stops for a caller who gives up, and answers one who stays."""
    done = threading.Event()

    class Watched(servicer_class):
        def Predict(self, request, context):
            try:
                return super().Predict(request, context)
            finally:
                done.set()

    watched_server, watched_port = start(Watched())
    with grpc.insecure_channel(f"127.0.0.1:{watched_port}") as checking:
        through = pred_pb2_grpc.PredictionStub(checking)
        ask("x,y\n1,2\n", timeout=SLOW_S / 10, through=through)
        stopped_early = done.wait(SLOW_S / 2)
        patient = ask("x,y\n1,2\n", timeout=5 * SLOW_S, through=through)
    watched_server.stop(grace=2 * SLOW_S).wait()
    if not stopped_early:
        return "not yet: the caller has left, and it still works"
    return "right" if patient == "OK  " + repr("0\n1\n") else f"not yet: a caller who stays gets {patient}"


print("not yet answered" if Polite is None else check(Polite))

# %% [markdown]
# **2. Meet a limit.** Start the strict server with `serve("flights", "--max-rows", "100")` and send 101 flights. Which
# exception comes? What does its `reason` say?
#
# <details><summary>Answers</summary>
#
# 1. This class stops within a twentieth of `SLOW_S` after the deadline:
#
#    ```python
#    class Polite(Slow):
#        def Predict(self, request, context):
#            for _ in range(20):
#                if not context.is_active():
#                    return pred_pb2.Response()
#                time.sleep(SLOW_S / 20)
#            return pred_pb2.Response(result="0\n1\n")
#    ```
#
#    A model that computes in one piece cannot look up in between. But a server can decline to begin a request whose
#    caller has left. Ours does that.
# 2. `LimitExceeded`; its code is `RESOURCE_EXHAUSTED`. `error.reason` is `TOO_LARGE`: send fewer rows at once. The message
#    names the flag.
#
# </details>
#
# ## Close

# %%
for open_channel in (channel, slow_channel, sum_channel, strict_channel):
    open_channel.close()
for running in (article, slow_server, sum_server, roomy_server):
    _ = running.stop(grace=1).wait()
for process in (stopped, draining, server):
    process.close()
server

# %% [markdown]
# Next: [03b Under the hood](03b_under_the_hood.ipynb)
