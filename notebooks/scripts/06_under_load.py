# %% [markdown]
# # 06 · Under load
#
# **What happens when many callers ask at the same time, and how much can one server process carry?**
#
# So far one caller asked, waited, and asked again. A server in use has many callers, who know nothing of one another and
# do not wait for each other's answers. In this notebook we load a server in both ways, stop it for a moment to see which
# way notices, and then ask for more and more until it cannot follow.
#
# You will
#
# - tell a closed loop from an open one, and see the mistake called coordinated omission with your own eyes;
# - find what a server process can carry, from latencies alone, by a law of one line;
# - see what threads, an event loop and batching each do with thirty callers at once.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** under two minutes; let the machine rest meanwhile.
# **Built before:** the article's server and the strict one ([03](03_serve_and_call.ipynb)), encodings and `server-timing`
# ([03b](03b_under_the_hood.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas", "psutil"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
STOP_CALLS = 1_000  # of the open loop in which the server is stopped
STOP_RATE = 200  # calls a second in that loop
STOP_MS = 200  # how long the server is stopped
ROWS = 10  # flights in one call
CALLERS = (1, 2, 4, 8, 16, 32)  # at the same time, in closed loops
BLOCKS = 5  # how often all of them take turns
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.2)  # of the open loops, in shares of what the server can carry
SECONDS = 1.2  # how long each open loop lasts, twice

# %% [markdown]
# ## Two ways to apply load
#
# In a *closed loop* each caller waits for its answer before it asks again. When the server is slow, the callers are slow
# with it: the load eases by itself. A batch job that works through a table is such a caller.
#
# In an *open loop* calls are sent when their time has come, whether or not earlier ones are answered. When the server
# is slow, calls pile up. The visitors of a web site are an open loop: they do not know that others wait.
#
# The *load generator*, `pred_server/lab/load.py`, does both. It is a process of its own, so that whoever measures does
# not compete with what is measured for Python's lock; where there are two cores, the servers get one and the generator
# another. It is told targets, whose messages are bytes already, and segments, each a stretch of calls, and it returns a
# table with one line for every call: when it was scheduled, sent, answered, and with which status.

# %%
import pandas as pd

from pred_server import load, serve
from pred_server.lab.calls import Arm, Target, messages_of
from pred_server.lab.experiments import Experiment, sample, table_of
from pred_server.lab.load import MOST_LATE, Generator, Segment, on_cores

servers_on, generator_on = Experiment(arms=()).cores  # (None, None) where there is one core only
with on_cores(servers_on):
    server = serve("flights", "--model", "linear")
generator = Generator(generator_on)


def target(name, server, encoding="csv", model="flights", rows=ROWS):
    table = sample(table_of(load(model)), rows, seed=0)
    message = messages_of(Arm(name, encoding=encoding), table)
    return Target(name, "unary", server.address, message, metadata=(("model-name", model),), timeout_s=30)


one_row = target("linear", server, "tensor", "linear", rows=1)
closed = Segment("linear", calls=200, callers=1)
opened = Segment("linear", calls=50, rate_per_s=STOP_RATE, arrivals="constant")
calls = generator.run([one_row], [Segment("linear", 20, warmup=True), closed, opened])
calls[["code", "scheduled_ns", "sent_ns", "done_ns", "latency_ms", "service_ms"]].iloc[[0, 1, -2, -1]]

# %% [markdown]
# There are two times in each line. *Service time* runs from the moment of sending to the answer. *Response time*
# (`latency_ms`) runs from the moment at which the call was *due*. In a closed loop they are the same, since a call is due
# when the caller is free. In an open loop the second is what a visitor waits, also if the generator itself was held up.
#
# ## Stop the server
#
# SIGSTOP is a signal that halts a process where it stands; SIGCONT lets it go on. For its callers that looks like a long
# garbage collection, a full disk, or a neighbour who takes the machine. We stop our server once, in an open loop and then in
# a closed one. (The model is `linear`, which computes next to nothing, so that the stop is all that there is to see.)

# %%
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil


def busy_s():
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system


def stopped_once(segment):
    """The calls of a segment, and from when to when the server was stopped meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        before_s = busy_s()
        running = pool.submit(generator.run, [one_row], [Segment("linear", 20, warmup=True), segment])
        while busy_s() < before_s + 0.06 and not running.done():  # until the load has been on for a while
            time.sleep(0.002)
        from_ns = time.monotonic_ns()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            time.sleep(STOP_MS / 1000)
        finally:
            os.kill(server.pid, signal.SIGCONT)
            until_ns = time.monotonic_ns()
        return running.result(), from_ns, until_ns


LOOPS = {
    "open loop": Segment("linear", STOP_CALLS, rate_per_s=STOP_RATE, arrivals="constant"),
    "closed loop": Segment("linear", 4 * STOP_CALLS, callers=1),
}
frames = []
for loop, segment in LOOPS.items():
    calls, from_ns, until_ns = stopped_once(segment)
    calls["arm"], calls["stop_ms"] = loop, (until_ns - from_ns) / 1e6
    calls["at_ms"] = (calls["scheduled_ns"] - from_ns) / 1e6
    calls["caught"] = (calls["sent_ns"] < until_ns) & (calls["done_ns"] > until_ns)  # waited when the server went on
    frames.append(calls)
stops = pd.concat(frames, ignore_index=True)
stops.groupby("arm", sort=False).agg(calls=("call", "size"), caught=("caught", "sum"), stop_ms=("stop_ms", "first"))

# %%
from matplotlib.figure import Figure

from pred_server.lab import plots, stats
from pred_server.lab.plots import COLOURS, show

open_ms, closed_ms = (stops.loc[stops["arm"] == loop, "latency_ms"] for loop in LOOPS)
gap_ms, each_ms = 1000 / STOP_RATE, closed_ms.median()  # between two calls of the open loop; of one call's own
caught = stops.groupby("arm")["caught"].sum()
stop_ms = stops.groupby("arm")["stop_ms"].first()
finding = (
    f"One stop of {stop_ms['open loop']:.0f} ms: {caught['open loop']} calls of the open loop wait for its end, "
    f"{caught['closed loop']} of the closed one"
)

figure = Figure(figsize=(8, 3.6), layout="constrained")
axes = figure.subplots()
axes.axvspan(0, stop_ms["open loop"], color="0.9", label="the server is stopped")
rest = [stop_ms["open loop"], 0]
axes.plot([0, rest[0]], rest, ":", color="0.35", label="what is left of the stop")
if each_ms < gap_ms:
    until_ms = rest[0] / (1 - each_ms / gap_ms)
    axes.plot([0, until_ms], rest, "-", color="0.35", linewidth=1, label="… and then those who came before")
for (loop, style), colour in zip({"open loop": "o", "closed loop": "s"}.items(), COLOURS, strict=False):
    near = stops[(stops["arm"] == loop) & stops["at_ms"].between(-150, 400)]
    axes.plot(
        near["at_ms"],
        near["latency_ms"],
        style,
        color=colour,
        label=loop,
        markersize=4 if style == "o" else 6,
        fillstyle="full" if style == "o" else "none",
    )
axes.set(
    xlabel="when the call was due (ms after the stop began)", ylabel="response time (ms)", title=finding, ylim=(0, None)
)
axes.title.set_fontsize(10.5)
axes.legend(frameon=False, fontsize=9)
axes.grid(True, alpha=0.3)
show(figure, f"Each call's response time against when it was due. {finding}.")

# %% [markdown]
# The callers of the open loop went on asking. Whoever asked when the stop began waited for all of it, whoever asked just
# before its end for a moment only. The single caller of the closed loop waited once, politely, and asked nothing
# meanwhile: of the many calls that it would have made, none is in the record.
#
# This is *coordinated omission*: who measures lets the server decide when to measure, and leaves out just the bad
# moments.
#
# The arithmetic of the open loop: at 200 calls a second a stop of 200 ms delays 40 calls, by 100 ms on average. That is the
# dotted line. Then the server goes on and has to work off those who came before, one after the other; how long each takes
# is known from the closed loop. That is the solid line. A percentile can be computed in advance: of *n* calls, the slowest
# hundredth are the *n/100* that came first after the stop began, so p99 is what the last of these waits.


# %%
def by_arithmetic_ms(slowest_share):
    return max(0, stop_ms["open loop"] - slowest_share * STOP_CALLS * (gap_ms - each_ms))


during = stops[(stops["arm"] == "open loop") & stops["at_ms"].between(0, stop_ms["open loop"])]
percentiles = pd.DataFrame(
    [
        (f"p{100 - 100 * share:g}", by_arithmetic_ms(share), open_ms.quantile(1 - share), closed_ms.quantile(1 - share))
        for share in (0.5, 0.1, 0.03, 0.02, 0.01)
    ],
    columns=["percentile", "arithmetic (ms)", "open loop, response time (ms)", "closed loop, service time (ms)"],
).set_index("percentile")
percentiles.round(1)

# %%
from IPython.display import Markdown

hidden = closed_ms.quantile(0.99) < 0.5 * open_ms.quantile(0.99)
off = abs(percentiles.iloc[-1, 1] / percentiles.iloc[-1, 0] - 1) if percentiles.iloc[-1, 0] else float("inf")
Markdown(
    f"The stop lasted {stop_ms['open loop']:.0f} ms. By arithmetic {STOP_RATE * stop_ms['open loop'] / 1000:.0f} calls of the open loop came "
    f"meanwhile and waited for its end {stop_ms['open loop'] / 2:.0f} ms on average; measured, backlog included: {len(during)} calls, "
    f"{during['latency_ms'].mean():.0f} ms. The open loop's p99 is **{open_ms.quantile(0.99):.0f} ms**, by arithmetic "
    f"{by_arithmetic_ms(0.01):.0f} ms ({off:.0%} apart). The closed loop's p99 is **{closed_ms.quantile(0.99):.1f} ms**"
    + (
        f", although the same thing happened to it. Only its maximum, {closed_ms.max():.0f} ms, knows."
        if hidden
        else ": this time it shows more than the stop, or made so few calls that one of them is a percent."
    )
    + (
        ""
        if (late := stops["late_share"].max()) <= MOST_LATE
        else f" ({late:.0%} of a loop's calls were sent late: something else used the cores.)"
    )
)

# %% [markdown]
# A *spectrum* shows all percentiles at once, the rare ones spread out.

# %%
finding = (
    f"Stopped for {stop_ms['open loop']:.0f} ms: p99 is {open_ms.quantile(0.99):.0f} ms in the open loop, "
    f"{closed_ms.quantile(0.99):.1f} ms in the closed one, which {'hides' if hidden else 'shows'} the stop"
)
figure = plots.spectrum(stops, finding)
axes = figure.axes[0]
slowest_shares = [1 / (10**0.5 * 1.05**step) for step in range(200) if 10**0.5 * 1.05**step <= STOP_CALLS]
expected_ms = [waits if (waits := by_arithmetic_ms(share)) > each_ms else float("nan") for share in slowest_shares]
axes.plot(
    [1 / share for share in slowest_shares], expected_ms, color="black", linewidth=4, alpha=0.25, label="arithmetic"
)
axes.legend(frameon=False, fontsize=9, loc="upper left")
show(figure, plots.alt(figure))

# %% [markdown]
# So: a percentile from a closed loop says what callers wait who ask one after the other. It says nothing about visitors.
#
# ## What can one process carry?
#
# Now the real model, `flights`, and more and more callers at a time, in closed loops. Four servers, each one process,
# all with the same model and the same flights:
#
# - the **article's**: each call gets one of ten *threads*, and the eleventh caller waits. Python lets one thread compute at a
#   time (the *global interpreter lock*; libraries let go of it now and then);
# - **ours, one by one**: an *event loop* (asyncio), a single thread that turns to whichever call has something to do,
#   reads and writes; one further thread computes. Its *batching* is turned off by `--max-batch-rows 1`;
# - **ours**, as it is: whatever waits while the model computes is computed together, next. This is batching;
# - **ours, columns**: the same process, asked in `columns` in place of CSV.

# %%
from dataclasses import replace

with on_cores(servers_on):
    article = serve("flights", module="pred_server.tutorial.article")
    one_by_one = serve("flights", "--max-batch-rows", "1")

TARGETS = {
    each.name: each
    for each in (
        target("article's, ten threads", article),
        target("ours, one by one", one_by_one),
        target("ours", server),
        target("ours, columns", server, "columns"),
    )
}
ARTICLE, ONE_BY_ONE, OURS, COLUMNS = TARGETS
AGAIN = "ours, again"  # the control: the same thing a second time
again = replace(TARGETS[OURS], name=AGAIN)

# %% [markdown]
# As in all comparisons of this project, they take turns: in each block all cases run in a shuffled order, then in the
# reverse, so that a slow moment of the machine does not hit one of them alone.

# %%
import random

from tqdm.auto import tqdm

WARMUP = [Segment(name, 5, warmup=True) for name in TARGETS]
cases = [(name, callers) for name in TARGETS for callers in CALLERS]
cases += [(AGAIN, callers) for callers in (min(CALLERS), max(CALLERS))]
order = random.Random(0)
frames = []
for block in tqdm(range(BLOCKS), desc="blocks"):
    forth = order.sample(cases, len(cases))
    segments = [
        Segment(
            name, max(8, 2 * callers), callers, labels={"callers": callers, "block": block, "half": half, "rows": ROWS}
        )
        for half, these in enumerate((forth, forth[::-1]))
        for name, callers in these
    ]
    frames.append(generator.run([*TARGETS.values(), again], [*WARMUP, *segments]))
by_callers = pd.concat(frames, ignore_index=True)
carried = stats.throughput(by_callers, ("arm", "callers")).set_index(["arm", "callers"]).sort_index()
carried["calls_per_s"].unstack("arm")[list(TARGETS)].round(0).astype(int)

# %% [markdown]
# Calls answered per second. There is a law that ties such a table to latencies, *Little's law*: **the calls that are inside
# = the calls per second × the time that each stays**. It needs no assumption about what goes on inside. In a closed loop the
# callers are always inside, so *callers ÷ mean latency* must be what the server carries, whoever counts. Two things follow:
#
# - if nobody ever had to wait, *N* callers would get *N ÷ (latency of a single caller)*: the dotted lines below;
# - *saturation* is where more callers bring no more answers. Then each further caller only makes all wait longer, and
#   the line bends at *capacity × latency of a single caller*: so many callers keep the server busy.

# %%
in_full_swing = by_callers[
    by_callers["call"] >= by_callers["callers"]
]  # each caller's first call found fewer before it
mean_s = in_full_swing.groupby(["arm", "callers"])["latency_ms"].mean() / 1000
by_little = mean_s.index.get_level_values("callers").to_numpy() / mean_s
capacity = carried["calls_per_s"].groupby("arm").max()
alone_s = mean_s.xs(min(CALLERS), level="callers") / min(CALLERS)
little = pd.DataFrame(
    {
        "capacity, counted (calls/s)": capacity,
        "by Little's law (calls/s)": by_little.groupby("arm").max(),
        "one caller waits (ms)": 1000 * alone_s,
        "kept busy by (callers)": capacity * alone_s,
    }
).loc[list(TARGETS)]
little.round(1)

# %%
from matplotlib.ticker import LogLocator

most = max(CALLERS)
answers = carried["calls_per_s"].xs(most, level="callers").loc[list(TARGETS)]
finding = (
    f"With {most} callers one process answers from {answers.min():,.0f} calls/s ({answers.idxmin()}) "
    f"to {answers.max():,.0f} ({answers.idxmax()})"
)
figure = Figure(figsize=(8, 4.4), layout="constrained")
axes = figure.subplots()
for name, colour, marker, line in zip(TARGETS, COLOURS, plots.MARKERS, plots.LINES, strict=False):
    rates = carried.loc[name, "calls_per_s"]
    axes.plot(rates, color=colour, marker=marker, linestyle=line, label=name)
    bad = rates[~carried.loc[name, "valid"]]
    axes.plot(bad, "x", color="red", markersize=11, markeredgewidth=2, linestyle="none")
axes.plot(CALLERS, [callers / alone_s[OURS] for callers in CALLERS], ":", color="0.45", label="ours, if nobody waited")
axes.set(xscale="log", yscale="log", xlabel="callers at the same time", ylabel="answered (calls/s)")
axes.set_xticks(CALLERS, [str(callers) for callers in CALLERS])
axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
axes.yaxis.set_major_formatter("{x:,.0f}")
axes.minorticks_off()
axes.set_title(finding, fontsize=10)
axes.grid(True, alpha=0.3)
axes.legend(frameon=False, fontsize=9)
show(figure, f"Answered calls per second against callers, four servers, both axes logarithmic. {finding}.")

# %% [markdown]
# ## Threads, or an event loop?
#
# Every closed loop's latency is its callers ÷ its calls per second, so it is enough to compare latencies, block by
# block, with 95 % intervals. Each line below changes one thing:


# %%
def against(arm, base, callers):
    """How many times as long calls take, in words. (`ratio` groups by rows; here the callers are what varies.)"""
    found = stats.ratio(by_callers.query("callers == @callers").assign(rows=callers), arm, base)
    if found.empty:
        return "not measured"
    ratio = found.iloc[0]
    verdict = ratio["verdict"]
    if verdict == "faster":
        return f"{1 / ratio['ratio']:.2f} times faster ({1 / ratio['high']:.2f} to {1 / ratio['low']:.2f})"
    if verdict == "slower":
        return f"{ratio['ratio']:.2f} times slower ({ratio['low']:.2f} to {ratio['high']:.2f})"
    if verdict == stats.NO_DIFFERENCE:
        return f"{verdict} ({ratio['ratio']:.2f} times as long, {ratio['low']:.2f} to {ratio['high']:.2f})"
    return verdict


STEPS = {
    "an event loop in place of ten threads": (ONE_BY_ONE, ARTICLE),
    "batching": (OURS, ONE_BY_ONE),
    "columns in place of CSV": (COLUMNS, OURS),
}
lines = [f"| what changes | 1 caller | {most} callers |", "|---|---|---|"]
lines += [f"| {what} | {against(*arms, min(CALLERS))} | {against(*arms, most)} |" for what, arms in STEPS.items()]
lines += [f"| **all three** | {against(COLUMNS, ARTICLE, min(CALLERS))} | {against(COLUMNS, ARTICLE, most)} |"]
lines += [f"| nothing: ours, again | {against(AGAIN, OURS, min(CALLERS))} | {against(AGAIN, OURS, most)} |"]
Markdown("\n".join(lines))

# %% [markdown]
# The last line is the *control*: by as much as its intervals miss 1, the others may be off as well.
#
# An event loop is often said to be faster than threads. Read the first line before you believe it. Both have one core and
# Python's lock, and the model takes the time that it takes; also our server checks each table, and the article's does
# not. What an event loop gives is that a waiting call costs next to nothing, and that all that wait are in one place, where
# they can be put together. That is the second line.
#
# ## Batching by itself
#
# A prediction has a fixed price, whatever the number of rows ([00](00_start_here.ipynb)). So it pays to compute many calls
# at once, and a timer is often set for that: wait five milliseconds, and see who comes. Ours has none. While the model computes,
# others arrive; when it is free, it takes them all. An idle server adds no delay, a busy one makes its batches larger by
# itself. (For a model so quick that nothing ever waits for it, the event loop first takes in the calls that have arrived, and
# asks it once.) Each reply's `server-timing` says how many rows its batch had:

# %%
told = by_callers[by_callers["batch_rows"].notna()]
batches = told.groupby(["arm", "callers"])["batch_rows"]
p50, p90 = batches.median(), batches.quantile(0.9)
per_row_us = (1000 * told["predict_ms"] / told["batch_rows"]).groupby([told["arm"], told["callers"]]).median()
finding = (
    f"With {most} callers the model computes {p50[OURS, most]:.0f} rows at a time, "
    f"and a row costs it {per_row_us[OURS, most]:.0f} µs; with {min(CALLERS)}, {per_row_us[OURS, min(CALLERS)]:.0f} µs"
)
figure = Figure(figsize=(8, 3.6), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(CALLERS, [ROWS * callers for callers in CALLERS], ":", color="0.45", label="all that are there")
for name, place in ((ONE_BY_ONE, 1), (OURS, 2), (COLUMNS, 3)):
    style = {"color": COLOURS[place], "marker": plots.MARKERS[place], "linestyle": plots.LINES[place]}
    left.plot(p50[name], label=name, **style)
    left.fill_between(CALLERS, p50[name], p90[name], color=COLOURS[place], alpha=0.15)
    right.plot(per_row_us[name], label=name, **style)
left.set(ylabel="rows in a batch, p50 to p90")
right.set(ylabel="computing, per row (µs), p50")
for axes in (left, right):
    axes.set(xscale="log", yscale="log", xlabel="callers at the same time")
    axes.minorticks_off()
    axes.set_xticks(CALLERS, [str(callers) for callers in CALLERS])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.grid(True, alpha=0.3)
left.legend(frameon=False, fontsize=9)
figure.suptitle(finding, fontsize=10.5)
show(figure, f"Rows in a batch, and time to compute a row, against callers. {finding}.")

# %% [markdown]
# A batch is smaller than all that are there: while the model computes, the same process reads other calls and writes
# answers, with the same core and the same lock. The less a message costs to read, the more calls are ready when the model
# is free.
#
# ## The hockey stick
#
# A closed loop never overloads a server: the callers wait. An open loop does. Now we offer calls at rising rates, at
# random moments as visitors come (a *Poisson* process: the gaps between calls are random and know nothing of one another),
# from a tenth of what each server carried up to more than that. Latency stays flat for a long while and then goes up
# steeply; hence the name. The bend is called the *knee*.
#
# Where must it be? By Little's law no later than at *callers ÷ mean latency* of the closed loop: more than that never
# leaves the server, so the calls inside only become more. These are the vertical lines.

# %%
OFFERED = [(name, round(load_ * capacity[name], 1)) for name in (ARTICLE, OURS) for load_ in LOADS]
forth = order.sample(OFFERED, len(OFFERED))
frames = []
for half, these in enumerate((forth, forth[::-1])):
    for name, rate in tqdm(these, desc=f"offered loads, {'forth' if half == 0 else 'back'}"):
        labels = {"server": name, "rate_per_s": rate, "block": 0, "half": half, "rows": ROWS}
        segment = Segment(
            name, max(10, round(rate * SECONDS)), rate_per_s=rate, seed=order.randrange(2**32), labels=labels
        )
        frames.append(generator.run([TARGETS[name]], [Segment(name, 5, warmup=True), segment]))
by_rate = pd.concat(frames, ignore_index=True)
points = stats.throughput(by_rate, ("server", "rate_per_s")).sort_values(["server", "rate_per_s"])
mean_ms = by_rate.groupby(["server", "rate_per_s"])["latency_ms"].mean().rename("mean_ms")
points = points.join(mean_ms, on=["server", "rate_per_s"])
points["inside"] = points["calls_per_s"] * points["mean_ms"] / 1000  # Little's law again
points.set_index(["server", "rate_per_s"])[
    ["calls_per_s", "p50_ms", "p99_ms", "inside", "failed_share", "late_share", "valid"]
].round(2)

# %%
stretches = by_rate.groupby(["server", "rate_per_s", "half"])
due_s = (stretches["scheduled_ns"].max() - stretches["scheduled_ns"].min()) / 1e9
behind_s = (stretches["done_ns"].max() - stretches["scheduled_ns"].max()) / 1e9  # how long after the last call was due
points = points.join(
    (behind_s / due_s).groupby(["server", "rate_per_s"]).mean().rename("behind"), on=["server", "rate_per_s"]
)
kept_up = (
    points[points["valid"] & (points["behind"] < 0.1) & (points["failed_share"] == 0)]
    .groupby("server")["rate_per_s"]
    .max()
)
turned_up = points[points["p50_ms"] > 2 * points.groupby("server")["p50_ms"].transform("first")]

knees = pd.DataFrame(
    {
        "by Little's law (calls/s)": by_little.groupby("arm").max().loc[[ARTICLE, OURS]],
        "kept up with (calls/s)": kept_up,
        "p50 has doubled at (calls/s)": turned_up.groupby("server")["rate_per_s"].min(),
    }
)
crossed = int((~points["valid"]).sum())
finding = "; ".join(
    f"{name}: {'no valid point was' if pd.isna(row.iloc[1]) else format(row.iloc[1], ',.0f') + ' calls/s'} kept up with, "
    f"knee by Little's law {row.iloc[0]:,.0f}"
    for name, row in knees.iterrows()
)
if crossed > len(points) / 2:
    finding = f"{crossed} of {len(points)} points are not valid. {finding}"
figure = plots.load(points, finding)
for place in range(len(knees)):
    for axes in figure.axes:
        axes.axvline(knees.iloc[place, 0], color=COLOURS[place], linewidth=1, linestyle=(0, (4, 3)), alpha=0.8)
show(figure, plots.alt(figure))

# %%
knees.round(0)

# %%
Markdown(
    "A server *kept up* if its last answer came soon after the last call was due, within a tenth of the whole time. "
    + (
        f"{crossed} of {len(points)} points are crossed out: more than 1 % of the calls were sent over a millisecond late, "
        "so the generator did not offer what it should have. Usually something else uses the cores; run the lesson again on a "
        "machine that rests before you believe these."
        if crossed
        else "No point is crossed out: the generator sent what it should have, when it should have."
    )
)

# %% [markdown]
# The knee is no cliff at a certain rate. Long before the server is full, calls meet by chance: two visitors in the same
# millisecond, and one of them waits. The nearer to the limit, the longer it takes until such a queue is gone, and beyond
# the limit it never is: then latency tells how long the experiment was, and nothing about the server. So a server is given
# fewer calls than it can carry, half as many, say, and each call a deadline, lest it wait in vain.
#
# ## What we found

# %%
lowest, highest = points.groupby("server").first(), points.groupby("server").last()
Markdown(
    f"- A stop of {stop_ms['open loop']:.0f} ms moved the open loop's p99 to **{open_ms.quantile(0.99):.0f} ms** (arithmetic: "
    f"{by_arithmetic_ms(0.01):.0f} ms). The closed loop's p99 was **{closed_ms.quantile(0.99):.1f} ms**: it omits what it did not ask.\n"
    f"- One process on one core, {ROWS} flights a call: the article's server carried **{capacity[ARTICLE]:,.0f}** calls/s, ours "
    f"**{capacity[OURS]:,.0f}** with CSV and **{capacity[COLUMNS]:,.0f}** with columns.\n"
    f"- With {most} callers, calls took: an event loop in place of threads, {against(ONE_BY_ONE, ARTICLE, most)}; batching, "
    f"{against(OURS, ONE_BY_ONE, most)}; columns in place of CSV, {against(COLUMNS, OURS, most)}.\n"
    f"- The same with a single caller, all three together: {against(COLUMNS, ARTICLE, min(CALLERS))}.\n"
    f"- Batches grew from {p50[OURS, min(CALLERS)]:.0f} to {p50[OURS, most]:.0f} rows by themselves ({p50[COLUMNS, most]:.0f} with columns).\n"
    f"- From {min(LOADS):.0%} to {max(LOADS):.0%} of what it had carried, our p50 rose from {lowest.loc[OURS, 'p50_ms']:.0f} to "
    f"{highest.loc[OURS, 'p50_ms']:.0f} ms, the article's from {lowest.loc[ARTICLE, 'p50_ms']:.0f} to {highest.loc[ARTICLE, 'p50_ms']:.0f} ms."
)

# %% [markdown]
# `pred-server bench --varies load` asks the last question in earnest, longer and with a control, also of your own model
# (`--model`).
#
# ## Exercises
#
# (Start again from the top, and stop before *Close*.)
#
# 1. Mend the record of the closed loop. It called once in about `closed_ms.median()` milliseconds. Had it gone on so, each call
#    that took longer would have been followed by others that waited for the rest. Add them, and look at p99.
# 2. Visitors come at random. What if they came like clockwork? Offer `ONE_BY_ONE` seven tenths of what it carried, once with
#    `arrivals="poisson"` and once with `"constant"`, and compare p50 and p99.
#
# <details><summary>Answers</summary>
#
# 1. The 200 ms become 200, 199, 198 … :
#
#    ```python
#    import numpy as np
#
#    gap_ms = closed_ms.median()
#    mended = np.concatenate([np.arange(waited_ms, 0, -gap_ms) for waited_ms in closed_ms])
#    print(np.quantile(mended, 0.99))
#    ```
#
#    p99 is now many times what it was. That is what load testers do that promise to correct coordinated omission. It is a
#    guess, though, at calls that nobody made; an open loop makes them.
# 2. The same number of calls at the same rate, and yet those that come like clockwork wait less: when one comes, the one
#    before it has mostly left. At random moments they meet. A load test with even gaps flatters the server.
#
#    ```python
#    rate = 0.7 * capacity[ONE_BY_ONE]
#    ways = [Segment(ONE_BY_ONE, 300, rate_per_s=rate, arrivals=way, labels={"way": way}) for way in ("poisson", "constant")]
#    calls = generator.run([TARGETS[ONE_BY_ONE]], [Segment(ONE_BY_ONE, 5, warmup=True), *ways])
#    print(calls.groupby("way")["latency_ms"].quantile([0.5, 0.99]).unstack())
#    ```
#
# </details>
#
# ## Close

# %%
generator.close()
for each in (one_by_one, article, server):
    each.close()
server

# %% [markdown]
# Next: [07 Make it fast](07_make_it_fast.ipynb)
