# %% [markdown]
# # 08 · Break it
#
# **What does a caller see when the server dies, hangs, is full or is attacked, and do the other callers notice?**
#
# A server meets bad days and bad callers. In this lesson you are both. You kill it, freeze it, take its port, send it
# nonsense and bombs, flood it, and never read its answers. All the while a good caller asks for one flight, again and
# again, and somebody asks for the server's health. We draw what these two see.
#
# You will
#
# - cause eight kinds of trouble, and learn the status, the reason and the sentence that a caller gets for each;
# - see a message of a few hundred bytes that stands for millions of values, and what stops it;
# - watch a server being replaced while callers use it.
#
# **Needs:** the trained model (`make setup`, or `make lab`); for one cell the gateway, too. **Takes:** 60 s to run, about
# 30 minutes to read.
# **Built before:** errors and deadlines ([03](03_serve_and_call.ipynb)), health and encodings
# ([03b](03b_under_the_hood.ipynb)), streams, limits and draining ([03c](03c_streams.ipynb)).
#
# **Core and optional:** "Somebody else has the port" and the second exercise are marked *(optional)*. Each part stands
# alone: run the first cells, down to `table_of`, then choose. Everything stays on this machine. Do not try it on a server that others use.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "pyarrow", "psutil"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
STALL_S = 2.5  # for which the server is frozen
MUTANTS = 1_000  # damaged messages
BOMB_MIB = 32  # of the largest bomb
FLOOD_CALLS, FLOOD_WAVES = 1_000, 4  # calls at once, on one connection; and how often
AFTER_S = 1.0  # for which we go on watching after each trouble

# %% [markdown]
# ## The ward
#
# `Vitals` (in `pred_server/lab/vitals.py`) watches a patient. A process of its own looks at the server's memory a hundred
# times a second, asks for its health, and is the good caller: it asks for the same flight with the usual `Client`.
#
# The attacker needs two things. `outcome` and `ended` say how a call ended. `send` sends any bytes in place of a message, on a
# connection of its own, as a program would that does not play by the rules.

# %%
from pred_server import Client, serve

server = serve("flights")
server

# %%
import time

import grpc
import pandas as pd

from pred_server.checkout import FLIGHTS
from pred_server.errors import PredServerError
from pred_server.generated.pred_pb2 import Request
from pred_server.lab.vitals import Vitals
from pred_server.wire.codec import CODECS
from pred_server.wire.status import from_call

# Without the first option, channels of one process share a connection. The others keep the window for answers small.
APART = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]


def outcome(ask):
    """Return how a call ended: status, reason and sentence."""
    try:
        ask()
        return {"status": "OK", "reason": "", "sentence": ""}
    except PredServerError as error:
        return {"status": error.code, "reason": getattr(error, "reason", ""), "sentence": str(error)}


def ended(call):
    """Return the outcome of a call of gRPC's own that has ended."""

    def take():
        if call.code() is not grpc.StatusCode.OK:
            raise from_call(call)

    return outcome(take)


def send(data, address, compression=grpc.Compression.NoCompression):
    """Send bytes as the message of a Predict call. Raises what the client would raise."""
    with grpc.insecure_channel(address, APART) as channel:
        try:
            channel.unary_unary("/prediction.Prediction/Predict")(data, timeout=20, compression=compression)
        except grpc.RpcError as error:
            raise from_call(error) from None


def encoded(table, encoding):
    request = Request()
    CODECS[encoding].write_table(table, request)
    return request


# %%
from IPython.display import Markdown

from pred_server.lab import words
from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import vitals

flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay")
one_flight = encoded(flights.head(1), "csv")


def table_of(outcomes):
    """Show outcomes as a table; a long sentence is cut."""
    lines = [
        [f"**{name}**", got["status"], got["reason"], got["sentence"][:170].replace("|", "/").replace("\n", " ")]
        for name, got in outcomes.items()
    ]
    return Markdown("\n".join(words.table(["what we did", "status", "reason", "sentence"], lines)))


def longest_ms(watched, kind):
    """Return the longest time that health, or the good caller, waited, and how often no answer came."""
    samples = watched.samples[watched.samples["kind"] == kind]
    return samples["value"].max(), int((samples["code"] != "OK").sum())


# %% [markdown]
# ## Kill it
#
# `kill -9` ends a process without a last word. We do it while two large tables are being predicted. One caller asks once
# (`retry=False`). The other is the usual client: when a server is lost it asks again, for some seconds. Meanwhile we start
# another server at the same address.

# %%
import os
import signal
from concurrent.futures import ThreadPoolExecutor

large = flights.head(100_000)
killed, after_s = {}, {}


def ask_for_much(name, retry):
    with Client(server.address, retry=retry) as client:
        start_s = time.monotonic()
        killed[name] = outcome(lambda: client.predict(large, encoding="arrow", stream=False))
        after_s[name] = time.monotonic() - start_s


with ThreadPoolExecutor(2) as callers:
    callers.submit(ask_for_much, "killed, asked once", retry=False)
    callers.submit(ask_for_much, "killed, the usual client", retry=True)
    time.sleep(0.5)
    os.kill(server.pid, signal.SIGKILL)
    server.close()
    server = serve("flights", "--address", server.address)
table_of(killed)

# %%
usual, usual_s = killed["killed, the usual client"]["status"], after_s["killed, the usual client"]
Markdown(
    f"`UNAVAILABLE` means: nobody is there to answer, or no longer. Predicting changes nothing, so it is always safe to ask again. The usual client "
    f"ended with `{usual}` after {usual_s:.1f} s. "
    + (
        "It got its answer from the next server, and never knew."
        if usual == "OK"
        else "It gives up after some seven seconds, and this time the next server was not ready by then."
    )
)

# %% [markdown]
# ## Freeze it
#
# A dead server is easy to see: the system closes its connections. A *frozen* one is worse. SIGSTOP stops a process as it
# is. Its connections stay open, the system even accepts new ones for it, and nobody answers. A machine that swaps, or a
# virtual machine that is being moved, looks like this.

# %%
with Client(server.address) as client, Vitals(server.address, {"ours": server.pid}, one_flight) as frozen:
    client.predict(flights.head(1))  # connects
    time.sleep(AFTER_S)
    with frozen.during("frozen"):
        os.kill(server.pid, signal.SIGSTOP)
        stalled = {"frozen, a deadline of 1 s": outcome(lambda: client.predict(flights.head(1), timeout_s=1))}
        time.sleep(max(0, STALL_S - 1))
        os.kill(server.pid, signal.SIGCONT)
    time.sleep(AFTER_S)
table_of(stalled)

# %%
waited_ms, missed = longest_ms(frozen, "a good caller")
health_ms, unhealthy = longest_ms(frozen, "health")
finding = (
    f"Frozen for {STALL_S:g} s: health does not answer, and the good caller, who has time, waits "
    f"{words.duration(waited_ms)} and {'loses nothing' if not missed else f'misses {missed} answers'}"
)
show(vitals(frozen.samples, frozen.spans, finding))

# %% [markdown]
# Only a deadline ends such a wait. That is why `Client` always has one, and why a health check needs one, too: a check
# that waits for ever never reports an illness.
#
# The call that was under way is not lost. When the process goes on, it answers as if nothing had been.
#
# ## Take its port
#
# Two servers cannot have one port. Many gRPC servers can be started twice all the same (SO_REUSEPORT), and each then gets
# a part of the calls. You deploy a new model, and half of your callers go on asking the old one. Ours refuses:

# %%
from pred_server.errors import ServerStartError

try:
    serve("flights", "--address", server.address)
except ServerStartError as error:
    print(str(error).replace(server.address, "ADDRESS"))

# %% [markdown]
# ### Somebody else has the port *(optional)*
#
# You mistype a port, and reach a program that is no gRPC server. Two kinds: one that says nothing at all, and a web server.
# A third case is a port where nobody listens.

# %%
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


with socket.create_server(("127.0.0.1", 0)) as silent, ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as web:
    threading.Thread(target=web.serve_forever).start()
    with socket.create_server(("127.0.0.1", 0)) as closed_port:
        nobody = closed_port.getsockname()
    ports = {"a silent program": silent.getsockname(), "a web server": web.server_address, "nobody": nobody}
    strangers = {}
    for name, (host, port) in ports.items():
        with Client(f"{host}:{port}", timeout_s=1, retry=False, encoding="csv") as client:
            strangers[name] = outcome(lambda client=client: client.predict(flights.head(1)))
            strangers[name]["sentence"] = strangers[name]["sentence"].replace(f":{port}", ":PORT")
    web.shutdown()
table_of(strangers)

# %% [markdown]
# ## Send it nonsense
#
# Now messages that are wrong in some way. `UNKNOWN` or `INTERNAL` would mean that the server stumbled. A caller's fault
# must be the caller's: `INVALID_ARGUMENT`, with a sentence that helps.

# %%
import random

good = encoded(flights.head(20), "columns").SerializeToString()
no_dest = flights.head(3).drop(columns="dest")
month = flights.head(3).astype({"month": "float64"})
month.loc[1, "month"] = float("nan")
nonsense = {
    "random bytes": random.Random(1).randbytes(200),
    "nothing": b"",
    "half a message": good[: len(good) // 2],
    "a column is missing": encoded(no_dest, "csv").SerializeToString(),
    "a value is missing": encoded(month, "columns").SerializeToString(),
    "a word where a number belongs": encoded(flights.head(3).assign(hour="noon"), "csv").SerializeToString(),
    "a quote that never ends": Request(input_data='month,day\n"1,2\n').SerializeToString(),
}
table_of({name: outcome(lambda data=data: send(data, server.address)) for name, data in nonsense.items()})

# %% [markdown]
# We know these kinds. What about those that we do not know? We take a good message and change some of its bytes at random,
# many times. This is *fuzzing*. (The project's tests do it at length, for each encoding.)

# %%
from collections import Counter

random_bytes, tally = random.Random(2), Counter()
with grpc.insecure_channel(server.address, APART) as channel:
    predict = channel.unary_unary("/prediction.Prediction/Predict")
    for _ in range(MUTANTS):
        mutant = bytearray(good)
        for _ in range(random_bytes.randint(1, 4)):
            mutant[random_bytes.randrange(len(mutant))] = random_bytes.randrange(256)
        try:
            predict(bytes(mutant), timeout=10)
            tally["OK"] += 1
        except grpc.RpcError as error:
            tally[error.code().name] += 1
stumbled = sum(tally[code] for code in ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"))
print(dict(tally.most_common()), "  the server stumbled", stumbled, "times")

# %% [markdown]
# `OK` is no mistake: another distance is still a distance, and the model predicts for it. A server can check the form of a
# table. It cannot know what you meant.
#
# ## Send it a bomb
#
# A *bomb* is small where it travels and large where it is opened. `columns` is a list of columns, and an empty column takes
# two bytes in the message. In memory it is an object with a name and a list for each type, about a hundred bytes.
#
# Guess: we send the same message of 3.9 MiB, nothing but empty columns, to the article's server and to ours. By how many
# MiB does each of them grow?

# %%
my_guess = {"the article's server": None, "ours": None}  # in MiB

# %%
import io

import pyarrow as pa


def field(number, data):
    """Return a field of a protobuf message: its tag, the length of its content, the content."""
    length, size = bytearray(), len(data)
    while size > 127:
        length.append(size & 127 | 128)  # seven bits a byte; the eighth says that more follow
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + data


def empty_columns(mib):
    columns = Request.DESCRIPTOR.fields_by_name["columns"].number
    return field(columns, field(1, b"") * int(mib * 2**19))


def nothing_in_arrow(rows):
    """Return a table in Arrow that has so many rows of nothing: null columns take no bytes."""
    table = pa.table({name: pa.nulls(rows) for name in flights.columns})
    with io.BytesIO() as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        return field(Request.DESCRIPTOR.fields_by_name["arrow"].number, file.getvalue())


same = empty_columns(3.9)
bombs = {
    f"{BOMB_MIB} MiB of empty columns": empty_columns(BOMB_MIB),
    "ten million rows of nothing": nothing_in_arrow(10_000_000),
    "a million short lines": Request(input_data="x\n" + "1\n" * 1_000_001).SerializeToString(),
}
exploded = {}
article = serve("flights", module="pred_server.tutorial.article")
with Vitals(server.address, {"the article's server": article.pid, "ours": server.pid}, one_flight) as bombed:
    time.sleep(AFTER_S)
    with bombed.during("to the article's"):
        exploded["empty columns, the article's server"] = outcome(lambda: send(same, article.address))
        time.sleep(AFTER_S)
    with bombed.during("the same, to ours"):
        exploded["empty columns, ours"] = outcome(lambda: send(same, server.address))
        time.sleep(AFTER_S)
    with bombed.during("larger ones, to ours"):
        for name, data in bombs.items():
            exploded[f"{name}, {len(data):,} bytes"] = outcome(lambda data=data: send(data, server.address))
            time.sleep(AFTER_S / 4)
    with bombed.during("gzip, to ours"):
        zeros = field(2, bytes(60 * 2**20))  # gRPC makes some 60 KB of it, and the server 60 MiB again
        exploded["60 MiB of zeros, by gzip"] = outcome(lambda: send(zeros, server.address, grpc.Compression.Gzip))
    time.sleep(AFTER_S)
article.close()
table_of(exploded)


# %%
def grown_mib(watched, name, span):
    """Return by how many MiB a process grew at most during a span."""
    start_s, end_s = watched.spans[span]
    memory = watched.samples.query("kind == 'memory' and name == @name").sort_values("at_s")
    before = memory.loc[memory["at_s"] < start_s, "value"].iloc[-1]
    return memory.loc[memory["at_s"].between(start_s, end_s), "value"].max() - before


grown = {
    "the article's server": grown_mib(bombed, "the article's server", "to the article's"),
    "ours": grown_mib(bombed, "ours", "the same, to ours"),
}
for name, guess in my_guess.items():
    print(f"{name:21} your guess: {guess}   measured: {grown[name]:.0f} MiB")
article_mib, ours_mib = grown.values()
health_ms, _ = longest_ms(bombed, "health")
most_mib = max(grown_mib(bombed, "ours", span) for span in bombed.spans if "ours" in span)
finding = (
    f"3.9 MiB of empty columns unfold to {article_mib:.0f} MiB in the article's server; "
    f"no bomb takes more than {most_mib:.0f} MiB of ours, and health answers within {words.duration(health_ms)}"
)
show(vitals(bombed.samples, bombed.spans, finding))

# %% [markdown]
# Ours does not open the box to look inside. It walks over the fields and counts (`pred_server/guard/weight.py`), and stops
# at the first limit. An Arrow message names its number of rows in a header, a tensor in its shape, so these need no
# counting at all. Only then is the message parsed, when there is memory for what it unfolds to. A table for which there is
# none waits.
#
# gzip is different: gRPC inflates a message before it hands it to us. It stops at twice `--max-message-bytes`, so this bomb
# does take memory, for a moment. Then it is free again. The gateway inflates by itself, and counts as it goes:

# %%
import gzip
import json
import urllib.error
import urllib.request

from pred_server.tutorial import background

if background.GATEWAY.exists():
    spaces = gzip.compress(b"[" + b" " * (100 * 2**20) + b"]", compresslevel=6)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with background.gateway(server.address) as gateway:
        request = urllib.request.Request(f"{gateway.address}/predict", spaces, headers)
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except urllib.error.HTTPError as error:
            print(f"{len(spaces):,} bytes sent, 100 MiB of spaces inside: {error.code}")
            print(json.loads(error.read())["error"]["message"])
else:
    print("The gateway is not built (`make gateway`); its limits stand in docs/gateway.md.")

# %% [markdown]
# ## Flood it
#
# Each message is fine now. There are only too many of them: one caller sends all at once. The server below takes 20 calls
# at the same time (the default is 1,000), so that a small flood is enough. Where does the good caller come in?

# %%
small = serve("flights", "--model", "linear", "--max-calls-in-flight", "20", "--idle-stream-s", "2")
from pred_server.generated.pred_pb2_grpc import PredictionStub

many_flights = encoded(flights.head(500), "arrow")
with (
    Vitals(small.address, {"ours": small.pid}, one_flight) as flooded,
    grpc.insecure_channel(small.address, APART) as greedy,
):
    time.sleep(AFTER_S)
    with flooded.during("flood"):
        calls = []
        for _ in range(FLOOD_WAVES):
            wave = [PredictionStub(greedy).Predict.future(many_flights, timeout=30) for _ in range(FLOOD_CALLS)]
            calls += [call for call in wave if call.code()]  # waits for the end of each
    time.sleep(AFTER_S)
codes = Counter(call.code().name for call in calls)
print(dict(codes))
table_of({f"flood, {call.code().name}": ended(call) for call in calls})  # one line for each status

# %%
start_s, end_s = flooded.spans["flood"]
during = flooded.samples.query("kind == 'a good caller' and @start_s <= at_s <= @end_s")
answered, waited_ms = int((during["code"] == "OK").sum()), during["value"].max()
health_ms, unhealthy = longest_ms(flooded, "health")
finding = (
    f"Of {len(calls):,} calls in a flood {codes['RESOURCE_EXHAUSTED']:,} are refused; the good caller gets "
    f"{answered} of {len(during)} answers, the slowest after {words.duration(waited_ms)}"
)
show(vitals(flooded.samples, flooded.spans, finding))

# %% [markdown]
# A refusal is cheap, and says what to do: `OVERLOADED`, come back later. Why is the good caller not refused? All 20 slots
# are taken. But slots are shared *by connection*. The attacker has one connection, and the good caller has another, so
# each has a share of 10. While nobody else asks, the attacker may use all 20. When all are taken, a connection that has
# less than its share still gets in, beyond the 20, and only one that has its share is refused.
#
# The good caller does wait longer, since it shares the processor with the flood (and on this machine with the attacker).
#
# ## Never read the answers
#
# A quieter attack: ask politely, and do not read what comes back. The answers fill the connection's window, and then the
# server must wait. 20 such streams hold 20 slots. They cost the attacker nothing.

# %%
import contextlib

import numpy as np

numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(8_000, 10))).add_prefix("x")
chunk = encoded(numbers, "tensor")
unread = {}
with (
    Vitals(small.address, {"ours": small.pid}, one_flight) as deafened,
    grpc.insecure_channel(small.address, APART) as deaf,
    Client(small.address) as somebody_else,
):
    time.sleep(AFTER_S)
    with deafened.during("unread streams"):
        ask_for = (("model-name", "linear"),)
        streams = [
            PredictionStub(deaf).PredictStream(iter([chunk] * 8), metadata=ask_for, timeout=60) for _ in range(20)
        ]
        for _ in range(100):  # until all streams have come
            same_connection = PredictionStub(deaf).Predict.future(one_flight, timeout=10)
            if same_connection.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                break
        unread["meanwhile, the same connection"] = ended(same_connection)
        unread["meanwhile, another connection"] = outcome(lambda: somebody_else.predict(flights.head(1)))
        time.sleep(3)
    time.sleep(AFTER_S)
    n_answers = 0
    with contextlib.suppress(grpc.RpcError):
        for _ in streams[0]:  # now we read at last
            n_answers += 1
    unread[f"a stream, after {n_answers} of 8 answers"] = ended(streams[0])
table_of(unread)

# %%
waited_ms, missed = longest_ms(deafened, "a good caller")
finding = (
    f"20 streams hold all slots and read nothing: the good caller on another connection misses {missed} answers, and waits "
    f"{words.duration(waited_ms)} at the most"
)
show(vitals(deafened.samples, deafened.spans, finding))
small.close()

# %% [markdown]
# A slot comes back by itself. Here `--idle-stream-s` was 2 seconds (the default is 120). The deaf caller learns that its
# stream was ended, if it ever listens. With `--log-level info` the server's log says why. A unary call that is not read ends with
# its deadline, the caller's or the server's (`--max-deadline-s`).
#
# ## Replace it
#
# The last trouble is a wanted one. You have a new model, and want the new server in the place of the old one, in the middle
# of the day. Four more callers keep it busy while you do that. Nobody may get an error, or a wrong number.
#
# The order matters: first start the new server, then stop the old one. The callers know both addresses. (A name with two
# addresses would do, or a load balancer, or the gateway.) The client shares its calls out between those that serve.

# %%
from pred_server import load

first_flight = flights.head(1)
right_answer = load("flights").predict(first_flight)[0]
successor = serve("flights")
both = f"{server.address},{successor.address}"
over, answers = threading.Event(), Counter()


def busy():
    with Client(both) as client:
        while not over.is_set():
            try:
                answers["right" if client.predict(first_flight).iloc[0] == right_answer else "wrong"] += 1
            except PredServerError as error:
                answers[error.code] += 1


pids = {"the old server": server.pid, "the new server": successor.pid}
with Vitals(both, pids, one_flight) as replaced, ThreadPoolExecutor(4) as callers:
    for _ in range(4):
        callers.submit(busy)
    time.sleep(AFTER_S)
    with replaced.during("the old one stops"):
        server.close()  # SIGTERM: it finishes what it has accepted
    time.sleep(2 * AFTER_S)
    over.set()
server = successor
print(dict(answers))

# %%
waited_ms, missed = longest_ms(replaced, "a good caller")
_, unhealthy = longest_ms(replaced, "health")
n_calls = sum(answers.values()) + (replaced.samples["kind"] == "a good caller").sum()
n_failed = sum(answers.values()) - answers["right"] + missed
finding = (
    f"One server replaces another under load: {n_failed} of {n_calls:,} calls fail or are wrong, and the good caller waits "
    f"{words.duration(waited_ms)} at the most"
)
show(vitals(replaced.samples, replaced.spans, finding))

# %% [markdown]
# A server that stops says NOT_SERVING, takes no new calls, and answers those that it has. A call that comes too late gets
# `UNAVAILABLE`, and `Client` asks again, now at the other address. A red cross, if there is one, is a health check: these
# ask once. A balancer that asks for health sends nobody to a server that is going
# ([docs/server.md](../docs/server.md#stopping), [docs/gateway.md](../docs/gateway.md)).
#
# ## What we found

# %%
lines = [
    f"killed: `{killed['killed, asked once']['status']}` for a caller who asks once, `{usual}` for the usual client, which asks "
    f"again. Frozen: `{stalled['frozen, a deadline of 1 s']['status']}`, "
    "and only a deadline ends the wait",
    f"of {MUTANTS:,} damaged messages, none known beforehand, the server stumbled over {stumbled}",
    f"a message of 3.9 MiB took {article_mib:.0f} MiB of the article's server and {ours_mib:.0f} of ours: "
    "what a message unfolds to is counted before it is opened",
    f"in a flood, {codes['RESOURCE_EXHAUSTED']:,} of {len(calls):,} calls were refused, by name; the good caller got {answered} of "
    f"{len(during)} answers",
    "slots are shared by connection, and come back: a caller who does not read loses its call, not the server its slot",
    f"a server was replaced under load, and {n_failed} of {n_calls:,} calls failed or were wrong",
]
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# ## Exercises
#
# **1. The smallest bomb** (a cell checks your answer). Make a message of at most 300 bytes that the server refuses as
# `TOO_LARGE`. Two bombs above are too large by far, and one is near. What makes it so long?

# %%
my_bomb = None  # bytes


# %%
def check(bomb):
    if len(bomb) > 300:
        return f"not yet: it has {len(bomb):,} bytes"
    got = outcome(lambda: send(bomb, server.address))
    return "right: " + got["sentence"] if got["reason"] == "TOO_LARGE" else f"not yet: {got}"


print("not yet answered" if my_bomb is None else check(my_bomb))

# %% [markdown]
# **2. Break it for real** *(optional)*. Find something that a caller can send, at the default limits, so that health does not
# answer for a second, or memory stays 64 MiB higher afterwards, or the good caller gets a wrong answer. Use `Vitals` to
# prove it. The places to look: what is not weighed, what is not limited, what is not shared.
#
# <details><summary>Answers</summary>
#
# 1. The description of nine columns makes the Arrow message long, not the rows. The number of rows is in its header, so one
#    column is enough:
#
#    ```python
#    with io.BytesIO() as file:
#        table = pa.table({"x": pa.nulls(2_000_000)})
#        with pa.ipc.new_stream(file, table.schema) as writer:
#            writer.write_table(table)
#        my_bomb = field(Request.DESCRIPTOR.fields_by_name["arrow"].number, file.getvalue())
#    ```
#
# 2. If you have found something, you have found a bug, and we want to know: [SECURITY.md](../SECURITY.md#how-to-report-a-hole)
#    says how to report it. Two attacks work, and are no secret. Many connections have many shares: a flood from a thousand
#    connections leaves the good caller a thousandth. And whoever can reach the server at all can use its processor.
#
# </details>
#
# ## Close

# %%
server.close()
server

# %% [markdown]
# Next: [09 Which way?](09_which_way.ipynb)
