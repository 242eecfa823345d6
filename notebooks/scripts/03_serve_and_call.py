# %% [markdown]
# # 03 · Serve and call
#
# **What does a prediction server need, and what does it still need before others may use it?**
#
# The article that this project grew from serves a model with some forty lines of Python. We write that server in a
# cell, call it, and then do to it what users do: send wrong tables, huge tables, and hang up in the middle. What it
# answers is the reason for every line of the server that `pred-server serve` runs.
#
# You will
#
# - write a gRPC server around a model, run it in the background, and call it with a deadline;
# - read its errors, and find out which side refused a message that was too large;
# - see, one by one, what `pred_server` does differently, and why.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** under a minute.
# **Built before:** the `flights` model ([01](01_train_a_model.ipynb)) and the stubs, the code that protoc generated from
# the contract ([02](02_write_the_contract.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "protobuf", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
LARGE = 150_000  # rows of a table that gRPC refuses by default
SLOW_S = 2.0  # seconds that the slow model of this lesson takes

# %% [markdown]
# ## The article's server
#
# Three things make a gRPC server in Python. The *servicer* is a class with a method for each rpc of the contract: request in,
# response out. `add_PredictionServicer_to_server`, which protoc generated, tells the server which path leads to which
# method. And a pool of threads does the calls, ten at a time here.
#
# `pred_server/tutorial/article.py` holds the same in a file, with a command line around it: `python -m pred_server.tutorial.article`.

# %%
import io
from concurrent import futures

import grpc
import pandas as pd

from pred_server import load
from pred_server.generated import pred_pb2, pred_pb2_grpc

model = load("flights")


class Prediction(pred_pb2_grpc.PredictionServicer):
    def Predict(self, request, context):
        table = pd.read_csv(io.StringIO(request.input_data))
        result = pd.Series(model.estimator.predict(table[model.schema.names]))
        return pred_pb2.Response(result=result.to_csv(index=False))


def start(servicer, address="127.0.0.1:0", options=()):
    """A started server, and the port that it got: port 0 asks for any free one."""
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
# A *channel* is the connection, or rather the promise of one: it connects when the first call needs it, and again
# whenever the connection is lost. Make one and keep it. The *stub*, generated as well, turns a method call into a
# message on the channel. `timeout` is the deadline of this call, in seconds; without it a call may wait forever.

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
# The first line of the answer is `0`: that is what pandas calls a Series without a name. It has been part of the
# answer since the article, so clients may count on it.
#
# ## Its errors
#
# A table lacks a column. What does the caller learn? A failed call raises `grpc.RpcError`, with a *status code* (one of
# seventeen, the same in all languages) and a text. The server writes a log; we catch it, to read both sides.

# %%
import logging

server_log = io.StringIO()
logger = logging.getLogger("grpc._server")
logger.addHandler(logging.StreamHandler(server_log))
logger.propagate = False


def ask(text, timeout=10, through=stub):
    """The answer's first lines, or the error, as one line."""
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
# `UNKNOWN` says that something went wrong, and nobody decided what: grpc caught an exception and sent its text on. The
# caller cannot tell whether to mend the table, try again, or wake somebody up. And whatever stands in an exception,
# a path or a piece of someone's data, goes to whoever called.
#
# Worse are the tables that should be refused and are not. pandas was made to read what people have, not to check it:


# %% tags=["deterministic"]
def with_first_row(old, new):
    """The same three flights, with something in the first row replaced."""
    header, first, *rest = text.splitlines()
    assert old in first
    return "\n".join([header, first.replace(old, new, 1), *rest]) + "\n"


WRONG = {
    "as it should be": text,
    "a row that ends early": with_first_row(",IAH,1400,2.0", ""),
    "text for the distance": with_first_row("1400", "far"),
    "a thousands separator": with_first_row("1400", '"1,400"'),
    "a decimal comma": with_first_row("2.0", '"2,0"'),
    "a quote that swallows a row": with_first_row("UA,EWR", '"UA,EWR').replace("UA,LGA", '"UA",LGA'),
    "a column twice": text.replace("minute", "hour", 1),
    "no rows": text.splitlines()[0],
    "nothing": "",
}
before = {what: ask(table) for what, table in WRONG.items()}
for what, answer in before.items():
    print(f"{what:28} {answer[:100]}")

# %% [markdown]
# Look at the short row: it is answered, with a missing distance and delay that nobody sent. Look at the quote: three
# flights went in, and fewer predictions came out. Nobody is told.
#
# ## Deadlines, and what goes on behind them
#
# A deadline travels with the call: the client gives up when it has passed, and the server can know that it has. Whether
# the server cares is another matter. Here is a model that takes its time:

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
    f"The client gave up after **{gave_up_after_s:.1f} s**. The server worked for **{worked_s:.1f} s**, and when it was "
    f"done, was anybody still waiting? **{'Yes' if slow.caller_was_there else 'No'}.** A handler that never looks at "
    "`context` computes for nobody, and holds one of ten threads meanwhile."
)

# %% [markdown]
# ## Cancel
#
# `.future(...)` sends the call and returns at once. What has begun can be taken back: a user who closes the page
# should not cost a prediction.

# %%
slow.finished.clear()
call = slow_stub.Predict.future(pred_pb2.Request(input_data="x,y\n1,2\n"), timeout=10 * SLOW_S)
call.cancel()
print("cancelled:", call.cancelled(), " code:", call.code().name)

# %% [markdown]
# ## A table that is too large
#
# Now a table of more than four megabytes.

# %%
large = flights.head(LARGE).to_csv(index=False)
print(f"{len(large) / 2**20:.1f} MiB")
print(ask(large, timeout=60))

# %% [markdown]
# `RESOURCE_EXHAUSTED`: gRPC receives no message larger than 4 MiB unless it is told to. *Receives* is the word to read:
# sending has no such limit by default. Who received here? The client sent the request, so the server did, and refused
# it; this version of gRPC says so as well, other versions and languages leave the word `SERVER` out.
#
# There is another case that looks the same. Take a model that adds two columns, where a short line such as `.1,.2` is answered with a
# long one, `0.30000000000000004`:


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
print("calls that reached the handler:", adder.calls)

# %% [markdown]
# The same code, almost the same words. But this request was small enough: the handler was called and did its work. It was
# the *client* that received too much, and refused the answer. To raise the limit of the server would not help.
#
# The limit is raised on the side that receives, and there are two of them:

# %%
roomy = [("grpc.max_receive_message_length", 64 * 2**20)]
roomy_server, roomy_port = start(adder, options=roomy)
for side, options in {"server only": [], "both sides": roomy}.items():
    with grpc.insecure_channel(f"127.0.0.1:{roomy_port}", options=options) as wide:
        print(f"{side:12} {ask(pairs, timeout=60, through=pred_pb2_grpc.PredictionStub(wide))[:70]}")

# %% [markdown]
# Why is there a limit at all? A message is held in memory whole, on both sides, some times over: as bytes, as text, as a table.
# Who may send any size may also take all the memory.
#
# ## A port that is taken
#
# One more surprise. Start a second server on the port of the first:

# %%
second, second_port = start(Prediction(), address=f"127.0.0.1:{port}")
print("the second server got", "the same port" if second_port == port else "no port", "and no error was raised")
_ = second.stop(grace=None).wait()

# %% [markdown]
# On Linux, gRPC lets servers share a port (`SO_REUSEPORT`), and the system deals the connections out among them. Made for
# good reasons, it means that an old server that was forgotten goes on taking a part of the calls, with the old
# model.
#
# ## The strict server
#
# `pred-server serve` speaks the same contract. `serve` starts it in the background, and its `Client` turns tables into
# calls and statuses into Python exceptions:

# %%
from pred_server import serve

server = serve("flights")
client = server.client()
server

# %%
client.predict(flights.head(3))

# %% [markdown]
# The same wrong tables, to both:

# %% tags=["deterministic"]
strict_channel = grpc.insecure_channel(server.address)
strict_stub = pred_pb2_grpc.PredictionStub(strict_channel)
for what, table in WRONG.items():
    if what != "as it should be":
        print(f"{what}\n    article  {before[what][:90]}\n    strict   {ask(table, through=strict_stub)[:110]}")

# %% [markdown]
# All are `INVALID_ARGUMENT` now: the caller's table is at fault, and trying again will not help. The text names line and
# column, and so does a machine-readable detail beside it (`google.rpc.BadRequest`), which `Client` turns into `violations`:

# %% tags=["deterministic"]
from pred_server.errors import InvalidInput

try:
    client.call(pred_pb2.Request(input_data=WRONG["text for the distance"]))
except InvalidInput as error:
    for violation in error.violations:
        print(f"field        {violation.field}\ndescription  {violation.description}")

# %% [markdown]
# A second server on the port is refused, in a sentence:

# %%
import subprocess

done = subprocess.run(
    [sys.executable, "-m", "pred_server", "serve", "--address", server.address],
    cwd=ROOT, capture_output=True, text=True,
)  # fmt: skip
print(done.stderr.splitlines()[-1].replace(server.address, "127.0.0.1:PORT"))
print("exit code", done.returncode)

# %% [markdown]
# And the large table is simply answered, in one message, since both sides were told so. (Left to itself, the client would
# send it in pieces: [03b](03b_under_the_hood.ipynb).)

# %%
start_ns = time.perf_counter_ns()
predictions = client.predict(flights.head(LARGE), encoding="csv", stream=False, timeout_s=60)
took_s = (time.perf_counter_ns() - start_ns) / 1e9
print(f"{len(predictions):,} predictions")

# %% [markdown]
# ## From the article's listing to our files
#
# | the article's listing | our file | what changed, and why |
# |---|---|---|
# | `pd.read_csv` | [`codecs.py`](../pred_server/wire/codec.py), [`csv_text.py`](../pred_server/wire/csv.py) | four ways to send a table; for CSV a reader that goes by the model's types and refuses what does not fit, with line and column |
# | `table[names]` | [`schema.py`](../pred_server/wire/schema.py) | columns by name in any order; what is missing or unknown is named, and what is lost in a cast is refused |
# | a model kept as a pickle, as is usual | [`model.py`](../pred_server/model/store.py) | a directory with a manifest; loading runs no code of the file's ([lesson 01](01_train_a_model.ipynb)); several models on one port |
# | `estimator.predict` in ten threads | [`predictor.py`](../pred_server/server/predictor.py) | one thread that computes: ten at once would fight for the cores, and OpenMP keeps threads for each. (A model that is quick for a few rows is asked without it: to wake a thread would take as long.) What waits meanwhile is computed together; what nobody waits for any more is not computed |
# | the servicer | [`service.py`](../pred_server/server/service.py) | `grpc.aio`, one event loop for all callers; it decodes, asks the predictor, encodes, and tells how long each took ([`timing.py`](../pred_server/wire/timing.py)) |
# | an exception in the handler | [`errors.py`](../pred_server/errors.py), [`status.py`](../pred_server/wire/status.py) | one tree of errors, one mapping to status codes; internals go to the log under a request id, never to the caller |
# | `add_insecure_port` on any address | [`server.py`](../pred_server/server/run.py) | loopback only, unless a flag that names the danger says otherwise; a taken port is an error |
# | limits by default | [`limits.py`](../pred_server/limits.py) | all in one place: bytes and rows of a message, calls in flight, rows that wait, time. Each is a flag, and told to the caller who meets it |
# | `wait_for_termination()` | [`server.py`](../pred_server/server/run.py) | SIGTERM and Ctrl-C let accepted calls finish, and new ones are refused; exit code 0 |
# | nothing | [`server.py`](../pred_server/server/run.py) | health, for whoever watches over servers, and reflection, for tools that do not have the contract |
# | `stub.Predict(request)` | [`client.py`](../pred_server/client/client.py), [`streams.py`](../pred_server/client/stream.py) | a deadline on every call, typed exceptions, a Series with your index; it asks again while a server is replaced, and sends large tables as a stream |
# | a terminal of its own | [`background.py`](../pred_server/tutorial/background.py) | a process that notebooks and tests start, wait for, read the log of, and never leave behind |
#
# What has not changed is the article's part of the contract: its clients get their answers from either.
#
# ## What we found

# %%
refused = sum(not answer.startswith("OK") for what, answer in before.items() if what != "as it should be")
Markdown(
    f"- Of {len(WRONG) - 1} wrong tables, the article's server refused {refused}, all as `UNKNOWN`, and answered "
    f"{len(WRONG) - 1 - refused} with wrong predictions. The strict one names line and column each time.\n"
    f"- A deadline freed the caller after {gave_up_after_s:.1f} s; the server worked on to the end.\n"
    "- *Received message larger than max* comes from the side that receives: the server for a large request, the client "
    "for a large answer.\n"
    f"- {LARGE:,} flights in one call took {took_s:.1f} s once both sides had the room."
)

# %% [markdown]
# ## Exercises
#
# 1. Make the `Slow` servicer stop early: sleep in short pieces, and return when `context.is_active()` is false. How
#    long does it work for the caller who gave up?
# 2. Start the strict server with `serve("flights", "--max-rows", "100")` and send 101 flights. Which exception comes, and
#    what does its `reason` say?
#
# <details><summary>Answers</summary>
#
# 1. `for _ in range(20): time.sleep(SLOW_S / 20)` with `if not context.is_active(): return pred_pb2.Response()` in the loop: it
#    stops within a twentieth of `SLOW_S` after the deadline. A model that computes in one piece cannot look up; a server
#    can at least not begin what nobody waits for.
# 2. `LimitExceeded`, from the code `RESOURCE_EXHAUSTED`; `error.reason` is `TOO_LARGE`: a size, so the caller should send
#    less at once. The message names the flag.
#
# </details>
#
# ## Close

# %%
for each in (channel, slow_channel, sum_channel, strict_channel):
    each.close()
for each in (article, slow_server, sum_server, roomy_server):
    _ = each.stop(grace=1).wait()
server.close()
server

# %% [markdown]
# Next: [03b Under the hood](03b_under_the_hood.ipynb)
