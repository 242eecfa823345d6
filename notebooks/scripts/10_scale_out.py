# %% [markdown]
# # 10 · Scale out
#
# **When one process is full, what do more of them give, and what does each layer cost?**
#
# Python computes in one thread at a time, so one server process uses about one core. In this notebook we fill it, and start a
# second one beside it. Then we look at everything that this brings along: who deals out the calls, what callers notice when a
# model is replaced or a worker dies, how many workers a load needs, and what TLS, tokens, a gateway and a proxy add to a call.
#
# You will
#
# - find the limit of one process, and measure what a second one gives, in calls and in CPU time;
# - see a worker get no calls at all, and learn who must deal them out;
# - replace a model and kill a worker under load, and count the calls that fail;
# - ask how many workers a load needs, and check the answer.
#
# **Needs:** the trained model, and the programs in Go (`make setup`, or `make lab`); without Go, a line says what is left out. **Takes:**
# 90 s to run, about 30 minutes to read. Leave the machine alone while it runs. **Built before:** closed and open loops
# ([06](06_under_load.ipynb)), batching ([07](07_make_it_fast.ipynb)), the good caller ([08](08_break_it.ipynb)), arms and experiments
# ([09](09_which_way.ipynb)).

# %%
import os
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas", "psutil"):
    print(f"{package:13}{version(package)}")
print(os.cpu_count(), "cores, for servers and callers together")

# %% tags=["parameters"]
MODEL = "boosting"  # what many callers ask; it computes about a millisecond for a row
CALLS = 8  # of each caller in each half of a round
BLOCKS = 5  # rounds; in each round every arm takes its turn
SECONDS = 0.4  # of an open loop in each half of a round
DRAWS = 20  # pairs of connections
SWAP_S, SWAP_RATE = 6.0, 200  # of a load in which models are replaced: seconds, calls a second
AFTER_S = 1.0  # for which we watch before and after a worker is killed
CHECK_S = 1.5  # of a load that checks a prediction; it runs three times
LAYER_CALLS = 40  # through each layer, in each half of a round

# %% [markdown]
# ## One process, and its limit
#
# Callers in closed loops ask for one row each: one caller, then 4, then 32. Beside one process stands the same server with
# `--workers 2`: two processes, each with the whole model. We measure both in the same rounds, and look at one process first. (Two more
# arms have calls after pauses. They are for the last part.)
#
# `service_times` (in `pred_server/lab/studies_load.py`) declares such loops for a server.

# %%
from contextlib import ExitStack
from dataclasses import replace

import pandas as pd

from pred_server.lab import findings, findings_service, stats, words
from pred_server.lab.arms import TRAINED, trained
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.native import LOADGEN
from pred_server.lab.studies_load import service_times
from pred_server.lab.ways import Arm

caller = "go" if LOADGEN.exists() else "python"
TWO = ("--workers", "2", "--spares", "0")
model = trained(MODEL) if MODEL in TRAINED else MODEL
one = service_times(Arm("one process", encoding="tensor", model=model, rows=(1,)), CALLS)
two = [replace(arm, name=arm.name.replace("one process", "two workers"), flags=TWO) for arm in one if not arm.share]
experiment = Experiment(
    (*one, *two), tuple((arm.name, beside.name) for arm, beside in zip(one, two, strict=False)),
    rows=(1,), repetitions=1, blocks=BLOCKS, seconds=SECONDS, warmup=50, pin=False,
)  # fmt: skip
stack = ExitStack()  # what is started here runs until the last cell
bench = stack.enter_context(running(experiment))
prepared = bench.prepare(1)
calls = bench.run_blocks(prepared, 0, range(BLOCKS))
calls.attrs["experiment"] = experiment.described
print(
    "The callers are a program in", "Go." if caller == "go" else "Python: the one in Go is not built (`make gateway`)."
)
print(f"{len(calls):,} calls, failed: {int((~calls['ok']).sum())}")

# %%
loops = calls[calls["rate_per_s"] == 0].assign(servers=lambda found: found["arm"].str.split(", ").str[0])
by = ["servers", "callers"]
found = stats.throughput(loops, by).set_index(by)[["calls_per_s", "p50_ms"]].sort_index()
means = loops.groupby(by)[["server_cpu_ms", "caller_cpu_ms", "batch_rows"]].mean()
found["cores of the servers"] = found["calls_per_s"] * means["server_cpu_ms"] / 1e3
found["cores of the callers"] = found["calls_per_s"] * means["caller_cpu_ms"] / 1e3
found.loc["one process"].round(2)

# %%
from IPython.display import Markdown

alone, full = found.loc[("one process", 1)], found.loc[("one process", 32)]
Markdown(
    f"32 callers get **{full['calls_per_s']:,.0f} calls a second**, {words.factor(full['calls_per_s'] / alone['calls_per_s'])} "
    f"times as many as one caller gets, and wait {words.factor(full['p50_ms'] / alone['p50_ms'])} times as long. The process "
    f"keeps {full['cores of the servers']:.2f} cores busy, and has {os.cpu_count()}. More callers would wait longer, and get no more."
)

# %% [markdown]
# ## Two workers
#
# A *supervisor* starts the workers, and computes nothing. Each worker is a whole server with a port of its own, and the ready line lists
# them. Clients send each call to the next address of the list.
#
# ### Guess first
#
# 32 callers. **How many times as many calls a second do two workers answer?**

# %%
GUESS_TIMES = None  # your guess, a number

# %%
from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import lines

gain = findings.rates(calls).set_index("arm").loc["one process, 32 callers"]
times = f"{words.factor(gain['ratio'])} [{words.factor(gain['low'])}, {words.factor(gain['high'])}]"
verdict = "; 1 is inside, so no difference was found" if gain["low"] <= 1 <= gain["high"] else ""
rates = found["calls_per_s"].unstack("servers")
finding = f"32 callers get {times} times as many calls a second from two workers as from one process{verdict}"
show(
    lines(rates, finding, "callers, each waiting for its answer", "calls a second", every_x=True),
    f"Calls a second by callers, from one process and from two workers. {finding}.",
)

# %%
found.round(2)

# %%
cost = means["server_cpu_ms"].unstack("servers").loc[32]
both = found.loc[("two workers", 32)]
Markdown(
    f"- **{times}** times as many calls a second{verdict}{', ' + gain['doubt'] if gain['doubt'] else ''}. Your guess: {GUESS_TIMES or 'none yet'}.\n"
    f"- Each call costs the servers {words.duration(cost['two workers'])} of CPU time, and {words.duration(cost['one process'])} "
    "with one process.\n"
    f"- The servers keep {both['cores of the servers']:.2f} cores busy now, and the callers {both['cores of the callers']:.2f}, of "
    f"{os.cpu_count()}. On this machine the callers take a part of what a second worker could have. In use they are elsewhere."
)

# %% [markdown]
# ## What more workers do to batches
#
# A busy server takes all calls that wait as one batch. Two workers share the calls, so in each queue half as many wait:

# %%
batches = means["batch_rows"].unstack("servers")
batches.rename_axis(columns=None).round(1)

# %%
in_one, in_two = batches.loc[32, ["one process", "two workers"]]
Markdown(
    f"From 32 callers a batch has {in_one:.1f} rows in one process, and {in_two:.1f} in each of two workers. "
    + (
        "A batch pays once for what a call of the model costs, so with smaller batches each row costs more. "
        if in_two < in_one
        else "They should be smaller there: something else used the cores, and calls piled up. "
    )
    + "More workers help a model that computes long for each row. They help less where the model takes as long for one row as for thirty."
)

# %% [markdown]
# ## Who deals out the calls?
#
# There is an older way to have several servers: all listen on one port, with the option SO_REUSEPORT. `--reuse-port` does that. Then the
# system deals out *connections*, by a hash of their addresses. A gRPC client has few connections, and each carries many calls.
#
# Which worker answers? Each counts its calls, and publishes them for Prometheus (`--metrics`, [docs/watch.md](../docs/watch.md)).
#
# ### Guess first
#
# Two workers on one port, and a client with two connections that it uses in turn. **What share of the calls does the busier worker get?**

# %%
GUESS_SHARE = None  # your guess, between 0.5 and 1

# %%
import re
import urllib.request

from pred_server import Client, load, serve
from pred_server.lab.experiments import sample, table_of

row = sample(table_of(load("linear")), 1, seed=0)


def answered(server):
    """Return how many calls each worker has answered, as its own metrics say."""
    counts = []
    for url in re.findall(r"metrics on (\S+)", server.logs()):
        page = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
        counted = (line for line in page if line.startswith("pred_server_calls_total{") and 'rpc="Predict"' in line)
        counts.append(sum(float(line.split()[-1]) for line in counted))
    return pd.Series(counts)


def busier_share(server, connections):
    """Return the share of the busier worker in the calls of a new client."""
    start = answered(server)
    with Client(server.address, connections=connections, encoding="tensor") as client:
        client.predict(row)
        while "," in server.address and (answered(server) - start).min() == 0:
            client.predict(row)  # until its connections to all workers are there
        before = answered(server)
        for _ in range(40):
            client.predict(row)
    more = answered(server) - before
    return more.max() / more.sum()


shares = {}
for name, flags, connections in (
    ("one port (SO_REUSEPORT), two connections", ["--reuse-port"], 2),
    ("a list of ports, call by call", [], 1),
):
    with serve("linear", *TWO, *flags, "--metrics", "127.0.0.1:0") as server:
        shares[name] = sorted(busier_share(server, connections) for _ in range(DRAWS))
shares = pd.DataFrame(shares, index=pd.RangeIndex(1, DRAWS + 1))

# %%
by_port, by_call = shares.columns
idle = int((shares[by_port] > 0.99).sum())
finding = f"One port: {idle} of {DRAWS} clients use one worker alone. A list: the busier worker gets {shares[by_call].max():.0%} at most"
figure = lines(shares, finding, "clients, sorted", "calls of the busier worker (share)", legend="lower left")
figure.axes[0].set_ylim(0, 1.05)
show(figure, f"For each of {DRAWS} clients, the share of its calls that the busier of two workers gets. {finding}.")
Markdown(
    f"By arithmetic half of the pairs lead to one worker: the second connection goes where the first one went, or it does not. "
    f"Measured: {idle} of {DRAWS}. Your guess of the share: {GUESS_SHARE or 'none yet'}."
)

# %% [markdown]
# A client keeps its connections for hours, so bad luck lasts. Hence workers have a port each, and clients balance *per call*. This is
# gRPC's policy `round_robin`; `Client`, the gateway and the Go package choose it by themselves for a list or for a name with several
# addresses ([docs/network.md](../docs/network.md#several-servers-behind-one-name)). One port suits very many clients with one connection each.
#
# ## Replace the model
#
# A new version must come in without a stop. With `--reload` the server looks at the model's directory. It loads a new version beside the
# old one, has it predict once, and switches between two calls ([docs/server.md](../docs/server.md#replacing-a-model)). Loading takes a
# core for a moment. What do callers notice?
#
# We save two versions, and a link leads to one of them. An open loop asks, first in quiet. Then it asks again, while we have the link lead
# to the other version, again and again.

# %%
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sklearn.ensemble import HistGradientBoostingRegressor

from pred_server import save
from pred_server.checkout import FLIGHTS
from pred_server.lab.load import Segment
from pred_server.lab.ways import Target, messages_of

COLUMNS = ["month", "hour", "distance", "dep_delay"]
folder = stack.enter_context(tempfile.TemporaryDirectory())
past = pd.read_parquet(FLIGHTS).sample(20_000, random_state=0)
for name, leaves in {"1": 15, "2": 31}.items():
    estimator = HistGradientBoostingRegressor(max_leaf_nodes=leaves).fit(past[COLUMNS], past["arr_delay"])
    save(estimator, past[COLUMNS].head(200), Path(folder, name), name="delays", version=name)
link = Path(folder, "served")
link.symlink_to("1")


def switch(name, client):
    """Have the link lead to a version, in one step, and wait until the server has it."""
    new = link.with_name("new")
    new.symlink_to(name)
    new.replace(link)
    while client.describe().version != name:
        time.sleep(0.1)


# %%
n_calls = round(SWAP_RATE * SWAP_S)
with serve(link, "--reload") as server, server.client() as client, ThreadPoolExecutor(1) as pool:
    asked = Arm("delays", encoding="columns", generator=caller)
    target = Target(asked, server.address, messages_of(asked, past[COLUMNS].head(1)))
    warm_up = Segment("delays", 50, warmup=True)
    load_of = [warm_up, Segment("delays", n_calls, rate_per_s=SWAP_RATE)]
    in_quiet = bench.generator.run([target], load_of)
    asking, n_switches = pool.submit(bench.generator.run, [target], load_of), 0
    while not asking.done():
        n_switches += 1
        switch("2" if n_switches % 2 else "1", client)
    replaced = asking.result()
swaps = pd.concat(
    [in_quiet.assign(arm="in quiet"), replaced.assign(arm="while models are replaced")], ignore_index=True
)
swaps = swaps.assign(rows=1)
summary = stats.summary(swaps).set_index("arm")
summary[["calls", "failed", "p50_ms", "p90_ms", "p99_ms", "mark"]].round(2)

# %%
from pred_server.lab.figures import spectrum

quiet, busy = summary.loc["in quiet"], summary.loc["while models are replaced"]
finding = (
    f"{n_switches} new versions in {SWAP_S:g} s: {busy['failed']} of {busy['calls']:,} calls fail; p99 is "
    f"{words.duration(busy['p99_ms'])}, and {words.duration(quiet['p99_ms'])} in quiet"
)
show(spectrum(swaps, finding))

# %% [markdown]
# Every call is answered by one version or by the other, and its `model-identity` says which. A call that comes while a version is loaded
# shares the process with the loading. In use a new version comes once a day, and not every second. To spare even these calls their wait, start a
# second server with the new version, and stop the first: [08](08_break_it.ipynb) does that.
#
# ## Kill a worker
#
# Beside the workers waits a *spare*: one more process that has loaded everything, and has no port yet. When a worker dies, the spare takes
# over its port. We kill a worker while four callers and a good caller ask.

# %%
import signal
import threading
from collections import Counter

import psutil

from pred_server.errors import PredServerError
from pred_server.generated.pred_pb2 import Request
from pred_server.lab.lesson_figures import vitals
from pred_server.lab.vitals import Vitals
from pred_server.wire.codec import CODECS

answers, over = Counter(), threading.Event()
request = Request()
CODECS["tensor"].write_table(row, request)
right_answer = load("linear").predict(row)[0]


def busy_caller(address):
    with Client(address, encoding="tensor") as client:
        while not over.is_set():
            try:
                answers["right" if client.predict(row).iloc[0] == right_answer else "wrong"] += 1
            except PredServerError as error:
                answers[error.code] += 1


def processes(server):
    """Return the processes below a supervisor: those that listen are workers."""
    while len(children := psutil.Process(server.pid).children()) < 3:  # the spare starts once the workers are ready
        time.sleep(0.01)
    listens = [any(one.status == psutil.CONN_LISTEN for one in child.net_connections()) for child in children]
    (spare,) = (child for child, is_one in zip(children, listens, strict=True) if not is_one)
    while spare.cpu_percent(0.3) > 5:  # it has not loaded everything yet
        pass
    names = {True: "a worker", False: "the spare"}
    return {
        f"{names[is_one]} ({place + 1})": child.pid
        for place, (child, is_one) in enumerate(zip(children, listens, strict=True))
    }


with serve("linear", "--workers", "2") as server:
    pids = processes(server)
    victim = next(pid for name, pid in pids.items() if "worker" in name)
    with Vitals(server.address, pids, request) as killed, ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(busy_caller, server.address)
        time.sleep(AFTER_S)
        with killed.during("until it serves again"):
            os.kill(victim, signal.SIGKILL)
            deadline_s = time.monotonic() + 30
            while "serves again" not in server.logs() and time.monotonic() < deadline_s:
                time.sleep(0.01)
        time.sleep(AFTER_S)
        over.set()
    said = [line for line in server.logs().splitlines() if "the worker at" in line]
for line in said:
    print(
        re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", re.sub(r"process \d+", "process PID", line[line.index("the worker") :]))
    )

# %%
begin_s, end_s = killed.spans["until it serves again"]
good = killed.samples.query("kind == 'a good caller'")
n_asked, n_failed = answers.total() + len(good), answers.total() - answers["right"] + int((good["code"] != "OK").sum())
finding = (
    f"A worker is killed, and {words.duration(1e3 * (end_s - begin_s))} later another serves at its address: {n_failed} of {n_asked:,} "
    f"calls fail or are wrong, and the good caller waits {words.duration(good['value'].max())} at the most"
)
show(vitals(killed.samples, killed.spans, finding))

# %% [markdown]
# The calls that the dead worker had were lost with it. The client asks the other worker, since predicting changes nothing. Each worker
# holds the model and all libraries, and so does the spare: that is what a quick return costs.
#
# ## What each layer costs
#
# Workers are one layer between caller and model. There are others. Each is asked in turn by one caller with one row of `linear`, which
# computes next to nothing, so that the layer shows. The gateway takes text, so text without it stands beside it. *echo* is a floor: a
# gRPC server that sends back as many bytes, and reads none.

# %%
from pred_server.lab.study_figures import layers
from pred_server.lab.ways import WAYS
from pred_server.tutorial.background import GATEWAY

direct = Arm("direct", encoding="tensor", generator=caller)
text = replace(direct, name="direct, text", encoding="csv")
through = [
    replace(direct, name="TLS", server="tls"),
    replace(direct, name="TLS and a token", server="tls_token"),
    text,
    replace(text, name="gateway, text", server="gateway"),
    replace(direct, name="two workers", flags=TWO),
    replace(direct, name="echo", server="echo"),
]
left_out = {way: WAYS[way].missing() for way in ("tls", "tls_token")}
left_out["gateway"] = "" if GATEWAY.exists() else "the gateway is not built: run `make gateway`"
through = [arm for arm in through if not left_out.get(arm.server)]
again = replace(direct, name="direct, again", process=1)
pairs = [*((arm.name, "direct") for arm in through), ("gateway, text", "direct, text")]
experiment = Experiment(
    (direct, *through, again), tuple(pair for pair in pairs if pair[0] in {arm.name for arm in through}), ("direct, again", "direct"),
    model="linear", rows=(1,), repetitions=1, blocks=BLOCKS, calls=LAYER_CALLS, warmup=50, pin=False,
)  # fmt: skip
with running(experiment) as layered:
    measured = layered.measure(1, repetition=0)
measured.attrs["experiment"] = experiment.described
print("\n".join(f"Left out: {why}." for why in left_out.values() if why) or "All layers are there, but for Ray Serve.")
costs = findings_service.layers(measured)
show(layers(costs))

# %%
hop = findings_service.layers(measured, "direct, text").dropna(subset="ratio")
(control, *_) = stats.declared(measured).itertuples()
Markdown(
    "\n".join(
        words.bullets(
            [
                f"the control, direct against itself, reads {words.interval(control)}: read nothing into a difference as small",
                *(f"the gateway, beside a direct call with text: {words.interval(row)}" for row in hop.itertuples()),
                "CPU time of the server's processes for a call: "
                + ", ".join(f"{layer.layer} {words.duration(layer.cpu_ms)}" for layer in costs.itertuples()),
            ]
        )
    )
)

# %% [markdown]
# Connections are kept open, so TLS costs only the encryption of each message. A single caller gains nothing from two
# workers, and may lose: it waits for one call at a time, and each call finds a process that has been idle for longer.
#
# ### Ray Serve, and larger tables
#
# Past one machine, or where replicas shall come and go with the load, the same service runs behind the proxy of Ray Serve
# ([docs/ray.md](../docs/ray.md)). Ray has an environment of its own (`make ray`, 1 GB), so this lesson only shows what was published.
# `make bench` measures all layers at 1, 1,000 and 100,000 rows.

# %%
from pred_server.checkout import ROOT
from pred_server.lab import experiments, report
from pred_server.lab.study_figures import figures_of

result = ROOT / "data/results/layers.parquet"
published = experiments.read(result) if result.exists() else None
if published is not None:
    show(figures_of(published)["rows"])
    shown = report.short(published)
    if "ray" not in set(published["server"]):
        shown.append("- Ray Serve was not installed where this was measured.")
Markdown(
    "\n".join(shown)
    if published is not None
    else "They are not here: `make bench` writes `data/results/layers.parquet`, and this cell draws it. Ray Serve is in it where `make ray` has installed it."
)

# %% [markdown]
# ## How many workers?
#
# `plan` is `pred-server capacity` for notebooks ([docs/capacity.md](../docs/capacity.md)). It reads from our first measurement how long the
# parts of a server's work take, and simulates a load that comes at random times. We ask twice: for half of what one process can do, and for
# a fifth more than it can.

# %%
from pred_server.lab.capacity import plan

limit = full["calls_per_s"]
P99_MS = 20
LOADS = {"half": 0.5 * limit, "a fifth more": 1.2 * limit}
plans = {
    name: plan(calls, rate_per_s=round(rate), p99_ms=P99_MS, cores=os.cpu_count(), most_workers=2)
    for name, rate in LOADS.items()
}
Markdown("\n".join(f"- {some.recommendation}" for some in plans.values()))

# %%
plans["a fifth more"]

# %% [markdown]
# Now we check. The servers of the first part still run. An open loop at the same rate asks as many of them as were recommended (two, where
# none was enough), three times. A prediction is *near* if it is within a quarter of the range of the three.

# %%
checked = []
for name, some in plans.items():
    workers, rate = some.workers or 2, round(LOADS[name])
    asked = prepared.targets["one process, closed loop" if workers == 1 else "two workers, closed loop"]
    loads = [Segment(asked.arm.name, round(rate * CHECK_S), rate_per_s=rate, seed=seed) for seed in range(3)]
    runs = [bench.generator.run([asked], [segment])["latency_ms"] for segment in loads]
    for percentile in (50, 99):
        predicted_ms, low, high = some.table.loc[workers, [f"p{percentile}_{end}" for end in ("ms", "low", "high")]]
        least_ms, _, most_ms = sorted(run.quantile(percentile / 100) for run in runs)
        line = {"load": f"{name}: {rate:,}/s", "workers": workers, "percentile": f"p{percentile}"}
        line["predicted (ms)"] = f"{words.number(predicted_ms)} [{words.number(low)}, {words.number(high)}]"
        line["measured (ms)"] = f"{words.number(least_ms)} to {words.number(most_ms)}"
        checked.append(line | {"near": least_ms / 1.25 <= predicted_ms <= most_ms * 1.25})
checks = pd.DataFrame(checked)
checks.set_index(["load", "workers", "percentile"])

# %%
Markdown(
    f"{int(checks['near'].sum())} of {len(checks)} predictions are near. A plan for two workers gives each of them a core. This machine has "
    f"{os.cpu_count()} cores, and the callers need a part of them. What else a plan leaves out, in its own words:\n\n"
    + "\n".join(words.bullets(plans["a fifth more"].caveats))
)

# %% [markdown]
# Take such a plan as the first guess, leave a third free, and measure again where it will serve.
#
# ## What you pay at each step
#
# | step | you get | you pay |
# |---|---|---|
# | **one process** | no moving parts; the largest batches | one core is all that it uses |
# | **TLS, tokens** | nobody listens, nobody else asks | a little of each call, as the figure shows; certificates and tokens that somebody renews |
# | **gateway** | HTTP, a page, browsers; many web requests over few connections | text, and one more hop for each call |
# | **workers** | more cores; a death that nobody notices | the model's memory for each and for the spare; smaller batches; clients that know a list |
# | **one port (SO_REUSEPORT)** | clients that know one address | workers without calls, unless there are very many connections |
# | **several machines behind a name** | more cores than one machine has | a name with several addresses, and what starts and stops servers: [docs/network.md](../docs/network.md) |
# | **Ray Serve** | replicas that come and go with the load, on many machines | its proxy in each call, an environment of 1 GB, a cluster that somebody runs |
#
# Take the steps in this order, and stop as soon as you can. The largest step is often none of these: a quicker engine, or more rows in a
# call ([07](07_make_it_fast.ipynb)).
#
# ## What we found

# %%
worker_mib = killed.samples.query("kind == 'memory'").groupby("name")["value"].median()
dearest = costs.loc[costs["ratio"].idxmax()]
Markdown(
    "\n".join(
        words.bullets(
            [
                f"one process answers {limit:,.0f} calls a second and uses {full['cores of the servers']:.2f} cores; two workers answer "
                f"{times} times as many{verdict}, with batches of {in_two:.1f} rows in place of {in_one:.1f}",
                f"behind one port {idle} of {DRAWS} clients used one worker alone; over a list the busier worker got "
                f"{shares[by_call].max():.0%} at the most",
                f"{n_switches} new versions under load: {busy['failed']} of {busy['calls']:,} calls failed, with a p99 of "
                f"{words.duration(busy['p99_ms'])} beside {words.duration(quiet['p99_ms'])}",
                f"a killed worker was back after {words.duration(1e3 * (end_s - begin_s))}, and {n_failed} of {n_asked:,} calls failed; a "
                f"process takes {worker_mib.median():.0f} MiB",
                f"of the layers, {dearest['layer']} costs most: {words.interval(dearest)} times as long as a direct call",
            ]
        )
    )
)

# %% [markdown]
# ## Exercises
#
# **1.** Four workers listen on one port. A gateway has four connections. How probable is it that every worker gets one? The system deals
# out each connection at random. Write the expression, and run the next cell.

# %%
every_worker = None  # your expression, a probability


# %%
if every_worker is None:
    print("exercise 1: not yet answered")
else:
    verdict = (
        "right"
        if abs(every_worker - 24 / 256) < 1e-9
        else "not yet: in how many of the 4 ** 4 cases are all four different?"
    )
    print(f"exercise 1: {verdict}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# import math
# every_worker = math.factorial(4) / 4**4  # 0.09
# ```
#
# In nine of ten cases at least one worker has nothing to do, and another has twice its share.
#
# </details>
#
# **2.** Try it yourself: set `MODEL = "linear"` at the top, and run the notebook again. Does a second worker give more or less, and why?
#
# <details><summary>Answer</summary>
#
# `linear` computes next to nothing. What takes the time is gRPC and protobuf, in each process for its own calls, so a second process can
# still double the rate. But a process then answers some thousand calls a second, and the callers need a large part of the second core to
# ask so much. On two cores the second worker gives less. Look at the cores of the callers before you believe a rate.
#
# </details>
#
# ## Close

# %%
stack.close()
print("All servers have ended.")

# %% [markdown]
# Next: [Explorer](explorer.ipynb)
