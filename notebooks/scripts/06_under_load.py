# %% [markdown]
# # 06 · Under load
#
# **What happens when many callers ask at the same time, and how much can one server process carry?**
#
# So far one caller asked, waited, and asked again. A server in use has many callers. They know nothing of one another, and
# they do not wait for each other's answers. In this notebook we load a server in both ways. We stop it for a moment, and see
# which way notices. Then we ask for more and more, until it cannot follow.
#
# You will
#
# - tell a closed loop from an open one, and see with your own eyes the mistake called coordinated omission;
# - see why one server has two medians, one for a caller who waits and one for visitors;
# - find what a server process can carry, from latencies alone, by a law of one line;
# - see what threads, an event loop and batching each give when many callers ask at once.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 120 s to run, about 55 minutes to read (the core: 50).
# Leave the machine alone while it runs. **Built before:** the article's server and the strict one
# ([03](03_serve_and_call.ipynb)), encodings, `server-timing` and the 95 % interval ([03b](03b_under_the_hood.ipynb)).
#
# **Core:** two ways to apply load, the stop, what one process carries, the hockey stick, exercise 1. **Optional:** the sections
# that say so, and exercise 2.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas", "psutil"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
STOP_CALLS = 1_000  # calls of the open loop in which we stop the server
STOP_RATE = 200  # calls a second in that loop
STOP_MS = 200  # how long we stop the server
ROWS = 10  # flights in one call
CALLERS = (1, 4, 16, 32)  # at the same time, in closed loops
CALLS = 4  # of each caller, in each half of a round
BLOCKS = 5  # rounds; in each round every case takes its turn
QUIET_RATE = 50  # calls a second, of open loops that leave the server idle most of the time
LOADS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.2, 1.6)  # of the open loops, as shares of what the server can carry
SECONDS = 1.0  # how long each open loop lasts; it runs twice

# %% [markdown]
# ## Two ways to apply load
#
# In a *closed loop* each caller waits for its answer before it asks again. When the server is slow, the callers are slow
# too, so the load becomes smaller by itself. A batch job that works through a table is such a caller.
#
# In an *open loop* each call is sent when it is due, whether or not earlier calls are answered. When the server is slow,
# calls pile up. The visitors of a web site are an open loop: they do not know that others wait.
#
# The *load generator*, `pred_server/lab/load.py`, can do both. It is a process of its own, so it does not compete with the
# server for Python's lock. Where there are two cores, the servers get one and the generator gets the other. It takes
# *targets*, whose messages are ready bytes, and *segments*, each a stretch of calls. It returns a table with one line for
# each call: when it was due, when it was sent, when it was answered, and with which status.

# %%
import pandas as pd

from pred_server import load, serve
from pred_server.lab.experiments import Experiment, sample, table_of
from pred_server.lab.load import MOST_LATE, Generator, Segment, on_cores
from pred_server.lab.ways import Arm, Target, messages_of

server_cores, generator_cores = Experiment(arms=()).cores  # (None, None) where there is only one core
with on_cores(server_cores):
    server = serve("flights", "--model", "linear")
generator = Generator(generator_cores)


def target(name, server, encoding="csv", model="flights", rows=ROWS):
    arm, table = Arm(name, encoding=encoding), sample(table_of(load(model)), rows, seed=0)
    return Target(arm, server.address, messages_of(arm, table), metadata=(("model-name", model),), timeout_s=30)


# %%
one_row = target("linear", server, "tensor", "linear", rows=1)
warm_up = Segment("linear", calls=20, warmup=True)
closed_loop = Segment("linear", calls=200, callers=1)
open_loop = Segment("linear", calls=50, rate_per_s=STOP_RATE, arrivals="constant")
calls = generator.run([one_row], [warm_up, closed_loop, open_loop])
calls[["code", "scheduled_ns", "sent_ns", "done_ns", "latency_ms", "service_ms"]].iloc[[0, 1, -2, -1]]

# %% [markdown]
# Each line has two times. *Service time* (`service_ms`) runs from the moment of sending to the answer. *Response time*
# (`latency_ms`) runs from the moment at which the call was *due*. In a closed loop the two are equal: a call is due when its
# caller is free. In an open loop the response time is what a visitor waits. It also counts a delay of the generator itself.
#
# ## One server, two medians
#
# Is the median of a closed loop what a visitor waits, when the server has next to nothing to do? Three loops ask for the same row.
# In the closed loop a caller asks again at once. In the open loop with even gaps there is a pause after each call, and no call meets
# another. In the last one calls come at random, as visitors do, and at the same rate. The loops take turns.
#
# So the second loop shows what a pause costs: threads sleep and must be woken, and caches hold other data. The third one shows what
# it costs to meet other calls.
#
# Guess first: **how many times as long as in the closed loop does a call take after a pause?**

# %%
GUESS_PAUSE = None  # your guess, a number

# %%
from IPython.display import Markdown

from pred_server.lab import stats, words

LOOP, EVEN, RANDOM = "closed loop, one caller", "open loop, even gaps", "open loop, at random"
each_s = 0.4  # of each open loop, in each half of a round
segments = [warm_up]
for block in range(BLOCKS):
    for half, names in enumerate(((LOOP, EVEN, RANDOM), (RANDOM, EVEN, LOOP))):
        for name in names:
            rate, arrivals = (0, "") if name == LOOP else (QUIET_RATE, "constant" if name == EVEN else "poisson")
            labels = {"loop": name, "rows": 1, "block": block, "half": half}
            n_calls = round(QUIET_RATE * each_s)
            segments.append(
                Segment("linear", n_calls, rate_per_s=rate, arrivals=arrivals, seed=len(segments), labels=labels)
            )
loops = generator.run([one_row], segments).assign(arm=lambda calls: calls["loop"])
medians = loops.groupby("loop")["latency_ms"].median()[[LOOP, EVEN, RANDOM]]
medians.round(2).to_frame("median (ms)")

# %%
pause, meeting = (stats.ratio(loops, *pair).iloc[0] for pair in ((EVEN, LOOP), (RANDOM, EVEN)))
Markdown(
    f"- A pause before each call: {words.difference(pause)}. Your guess: {GUESS_PAUSE or 'none yet'}.\n"
    f"- Random moments in place of even gaps: {words.difference(meeting)}.\n"
    f"- Both medians are right: {words.duration(medians[LOOP])} for a caller who asks without a break, "
    f"{words.duration(medians[RANDOM])} for visitors at {QUIET_RATE} calls a second. Say which one you mean."
)

# %% [markdown]
# ## Stop the server
#
# SIGSTOP is a signal that freezes a process where it stands. SIGCONT lets it go on. For the callers this looks like a long
# garbage collection, a full disk, or another program that takes the machine. We stop our server once in an open loop, and
# once in a closed loop. The model is `linear`, which computes next to nothing, so we see the stop and little else.

# %%
Markdown(
    f"The open loop sends {STOP_RATE} calls a second, {STOP_CALLS:,} in all. The closed loop has one caller, who makes "
    f"{4 * STOP_CALLS:,} calls. In each loop we stop the server once, for {STOP_MS} ms."
)

# %% [markdown]
# ### Guess first
#
# p99 is the time within which 99 of 100 calls are answered. **What will p99 be, in each loop?** Write down your guesses
# before you run on.

# %%
GUESS_OPEN_MS, GUESS_CLOSED_MS = None, None  # your guesses of p99, in milliseconds

# %% [markdown]
# ### Then measure
#
# `stopped_once` runs a segment in a thread. It waits until the load has begun: until the server has computed for a moment.
# Then it stops the server.

# %%
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil


def computed_s():
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system


def stopped_once(segment):
    """Run a segment, and stop the server once meanwhile; return its calls, and when the stop began and ended."""
    with ThreadPoolExecutor(1) as pool:
        before_s = computed_s()
        running = pool.submit(generator.run, [one_row], [warm_up, segment])
        while computed_s() < before_s + 0.06 and not running.done():
            time.sleep(0.002)
        begin_ns = time.monotonic_ns()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            time.sleep(STOP_MS / 1000)
        finally:
            os.kill(server.pid, signal.SIGCONT)
            end_ns = time.monotonic_ns()
        return running.result(), begin_ns, end_ns


# %%
LOOPS = {
    "open loop": Segment("linear", STOP_CALLS, rate_per_s=STOP_RATE, arrivals="constant"),
    "closed loop": Segment("linear", 4 * STOP_CALLS, callers=1),
}
frames = []
for loop, segment in LOOPS.items():
    calls, begin_ns, end_ns = stopped_once(segment)
    calls["arm"], calls["stop_ms"] = loop, (end_ns - begin_ns) / 1e6
    calls["at_ms"] = (calls["scheduled_ns"] - begin_ns) / 1e6
    calls["caught"] = (calls["sent_ns"] < end_ns) & (calls["done_ns"] > end_ns)  # still waited when the server went on
    frames.append(calls)
stops = pd.concat(frames, ignore_index=True)
stops.groupby("arm", sort=False).agg(calls=("call", "size"), caught=("caught", "sum"), stop_ms=("stop_ms", "first"))

# %% [markdown]
# The callers of the open loop kept asking. A call that was due when the stop began waited for all of it. A call that was due
# just before its end waited only a moment. The single caller of the closed loop waited once, and asked nothing meanwhile.
# It would have made many calls in that time, and none of them is in the record.
#
# This is *coordinated omission*: the server decides when we measure, and we leave out just the bad moments.
#
# We can compute what the open loop must show. First, a call waits for the rest of the stop: the dotted line. Then the server
# goes on, and works off the calls that came before, one after the other. The closed loop tells us how long one call takes.
# That gives the solid line.

# %%
open_ms, closed_ms = (stops.loc[stops["arm"] == loop, "latency_ms"] for loop in LOOPS)
stop_ms = stops.loc[stops["arm"] == "open loop", "stop_ms"].iloc[0]
gap_ms, call_ms = 1000 / STOP_RATE, closed_ms.median()  # between two calls of the open loop; of one call

expected = {"the rest of the stop": pd.Series([stop_ms, 0], index=[0, stop_ms])}
if call_ms < gap_ms:
    worked_off_ms = stop_ms / (1 - call_ms / gap_ms)
    expected["… and the calls that came before"] = pd.Series([stop_ms, 0], index=[0, worked_off_ms])

# %%
from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import stopped

caught = stops.groupby("arm")["caught"].sum()
finding = (
    f"One stop of {stop_ms:.0f} ms: {caught['open loop']} calls of the open loop wait for its end, "
    f"{caught['closed loop']} of the closed loop"
)
show(
    stopped(stops, stop_ms, expected, finding),
    f"Each call's response time against when it was due, in both loops. {finding}.",
)

# %% [markdown]
# Percentiles can be computed too. Of *n* calls, the slowest hundredth are the *n/100* that came first after the stop began.
# So p99 is what the last of these waits.


# %%
def by_arithmetic_ms(slowest_share):
    """Return what the last of the slowest calls waits, in the open loop."""
    return max(0, stop_ms - slowest_share * STOP_CALLS * (gap_ms - call_ms))


shares = pd.Series([0.5, 0.1, 0.03, 0.02, 0.01], index=["p50", "p90", "p97", "p98", "p99"], name="percentile")
percentiles = pd.DataFrame(
    {
        "arithmetic (ms)": shares.map(by_arithmetic_ms),
        "open loop (ms)": shares.map(lambda share: open_ms.quantile(1 - share)),
        "closed loop (ms)": shares.map(lambda share: closed_ms.quantile(1 - share)),
    }
)
percentiles.round(1)

# %%
p99 = percentiles.loc["p99"]
hidden = p99["closed loop (ms)"] < 0.5 * p99["open loop (ms)"]
during = stops[(stops["arm"] == "open loop") & stops["at_ms"].between(0, stop_ms)]
late = stops["late_share"].max()
lines = [
    f"- By arithmetic, {stop_ms / gap_ms:.0f} calls of the open loop came during the stop of {stop_ms:.0f} ms, and waited "
    f"{stop_ms / 2:.0f} ms for its end on average. Measured, with the backlog: {len(during)} calls, "
    f"{during['latency_ms'].mean():.0f} ms.",
    f"- The open loop's p99 is **{p99['open loop (ms)']:.0f} ms**, by arithmetic {p99['arithmetic (ms)']:.0f} ms. "
    f"Your guess: {GUESS_OPEN_MS or 'none yet'}.",
    f"- The closed loop's p99 is **{p99['closed loop (ms)']:.1f} ms**. Your guess: {GUESS_CLOSED_MS or 'none yet'}.",
    f"- The same stop hit the closed loop. Only its maximum shows it, {closed_ms.max():.0f} ms."
    if hidden
    else "- This time the closed loop's p99 shows more than the stop, or its calls were few.",
]
if late > MOST_LATE:
    lines.append(f"- Careful: {late:.0%} of a loop's calls were sent late, because something else used the cores.")
Markdown("\n".join(lines))

# %% [markdown]
# So a percentile from a closed loop says how long callers wait who ask one after the other. It says nothing about visitors.
#
# ### All percentiles at once (optional)
#
# A *spectrum* shows latency for all percentiles. The rare ones get more room.

# %%
from pred_server.lab.figures import spectrum

finding = (
    f"Stopped for {stop_ms:.0f} ms: p99 is {p99['open loop (ms)']:.0f} ms in the open loop, "
    f"{p99['closed loop (ms)']:.1f} ms in the closed loop, which {'hides' if hidden else 'shows'} the stop"
)
figure = spectrum(stops, finding)
axes = figure.axes[0]
one_in = [4 * 1.05**step for step in range(200) if 4 * 1.05**step <= STOP_CALLS]  # one call in so many is slower
expected_ms = pd.Series([by_arithmetic_ms(1 / calls) for calls in one_in], index=one_in)
axes.plot(expected_ms[expected_ms > call_ms], color="black", linewidth=4, alpha=0.25, label="arithmetic")
axes.legend(frameon=False, fontsize=9, loc="upper left")
show(figure)

# %% [markdown]
# ## What can one process carry?
#
# Now we take the real model, `flights`, and closed loops with more and more callers. Four servers take part. Each is one
# process, and all have the same model and get the same flights:
#
# - the server of [the article](https://abap34.com/posts/grpc_ml.html): each call gets one of ten *threads*, and the eleventh caller waits. Python lets one thread compute
#   at a time (the *global interpreter lock*; some libraries let go of it now and then);
# - **ours, one by one**: an *event loop* (asyncio), a single thread that turns to whichever call has something to do. It reads
#   and writes. One further thread computes, since this model is too slow to hold up the loop. (A model that takes less than half a
#   millisecond is computed on the loop itself: [07](07_make_it_fast.ipynb).) `--max-batch-rows 1` turns *batching* off;
# - **ours**, as it is. All requests that wait while the model computes are computed together, next. This is batching;
# - **ours, columns**: the same process, asked in `columns` and not in CSV.
#
# A fifth one is the control: "ours" a second time.

# %%
with on_cores(server_cores):
    article = serve("flights", module="pred_server.tutorial.article")
    one_by_one = serve("flights", "--max-batch-rows", "1")

ARTICLE, ONE_BY_ONE, OURS, COLUMNS = "article's, ten threads", "ours, one by one", "ours", "ours, columns"
AGAIN = "ours, again"
TARGETS = {
    ARTICLE: target(ARTICLE, article),
    ONE_BY_ONE: target(ONE_BY_ONE, one_by_one),
    OURS: target(OURS, server),
    COLUMNS: target(COLUMNS, server, "columns"),
    AGAIN: target(AGAIN, server),
}
SERVERS = [ARTICLE, ONE_BY_ONE, OURS, COLUMNS]

# %% [markdown]
# They take turns, as in all comparisons of this project. In each block all cases run in a shuffled order, then in the
# reverse order. So a slow moment of the machine does not hit one of them alone.

# %%
import random

from IPython.display import clear_output
from tqdm.auto import tqdm

warm_ups = [Segment(name, 5, warmup=True) for name in TARGETS]
cases = [(name, callers) for name in SERVERS for callers in CALLERS]
cases += [(AGAIN, callers) for callers in (min(CALLERS), max(CALLERS))]
order = random.Random(0)
frames = []
for block in tqdm(range(BLOCKS), desc="blocks"):
    forth = order.sample(cases, len(cases))
    segments = []
    for half, turns in enumerate((forth, forth[::-1])):
        for name, callers in turns:
            labels = {"callers": callers, "block": block, "half": half, "rows": ROWS}
            segments.append(Segment(name, max(12, CALLS * callers), callers, labels=labels))
    frames.append(generator.run(list(TARGETS.values()), [*warm_ups, *segments]))
clear_output()  # removes the progress bar
by_callers = pd.concat(frames, ignore_index=True)

# %% [markdown]
# A stretch of such a load has a beginning and an end, and both mislead. At the beginning all callers come at once, to an idle
# server. At the end there is nothing left to ask for, and they leave one by one. So we count the *steady middle* only: after each
# caller could have had an answer, and before the last call is sent.


# %%
def steady_middle(calls):
    """Return the calls that are answered while all callers are inside, and `middle_s`: how long that is, in seconds."""
    stretch = calls.groupby(["arm", "callers", "block", "half"])
    answer = stretch["done_ns"].rank(method="first")  # the first answer of a stretch is 1
    begin_ns = calls["done_ns"].where(answer <= calls["callers"])
    begin_ns = begin_ns.groupby([calls[key] for key in ("arm", "callers", "block", "half")]).transform("max")
    end_ns = stretch["sent_ns"].transform("max")
    steady = calls.assign(middle_s=(end_ns - begin_ns) / 1e9)
    return steady[(answer > calls["callers"]) & (calls["done_ns"] <= end_ns)]


steady = steady_middle(by_callers)
middles = steady.groupby(["callers", "arm", "block", "half"])["middle_s"].agg(["size", "first"])
totals = middles.groupby(["callers", "arm"]).sum()
calls_per_s = (totals["size"] / totals["first"]).unstack("arm")[SERVERS]
calls_per_s.round(0).astype(int)

# %% [markdown]
# These are answered calls per second. One law ties such a table to latencies, *Little's law*: **the calls inside = the calls
# per second × the time that each stays**. It assumes nothing about what goes on inside, but the calls inside must not become more
# or fewer. In the steady middle of a closed loop all callers are inside. So *callers ÷ mean latency* is what the server carries.
# Two things follow:
#
# - If nobody ever had to wait, *N* callers would get *N ÷ (latency of a single caller)*: the dotted line in the figure below.
# - *Saturation* is where more callers bring no more answers. From there on, each further caller only makes all others wait
#   longer. The line bends at *capacity × latency of a single caller*: so many callers keep the server busy.

# %%
mean_s = steady.groupby(["callers", "arm"])["latency_ms"].mean().unstack("arm")[SERVERS] / 1000
by_little = (1 / mean_s).mul(mean_s.index, axis=0)
capacity = calls_per_s.max()
alone_s = mean_s.loc[min(CALLERS)] / min(CALLERS)
little = pd.DataFrame(
    {
        "capacity, counted (calls/s)": capacity,
        "by Little's law (calls/s)": by_little.max(),
        "one caller waits (ms)": 1000 * alone_s,
        "kept busy by (callers)": capacity * alone_s,
    }
)
little.round(1)

# %%
apart = (by_little / calls_per_s - 1).abs()
whole = stats.throughput(by_callers, ("callers", "arm")).set_index(["callers", "arm"])["calls_per_s"].unstack("arm")
Markdown(
    f"The first two columns must be equal. They differ by up to {(little.iloc[:, 1] / little.iloc[:, 0] - 1).abs().max():.0%}; of "
    f"all {apart.size} cases, the median one by {apart.stack().median():.1%}. The rest is calls that are partly outside of the middle. If "
    f"we counted beginning and end, too, the calls per second would be up to {(1 - whole / by_little).max().max():.0%} too low."
)

# %%
from pred_server.lab.lesson_figures import lines as line_figure

most = max(CALLERS)
answers = calls_per_s.loc[most]
finding = (
    f"With {most} callers one process answers from {answers.min():,.0f} calls/s ({answers.idxmin()}) "
    f"to {answers.max():,.0f} ({answers.idxmax()})"
)
unhindered = "ours, if nobody waited"
drawn = calls_per_s.assign(**{unhindered: calls_per_s.index / alone_s[OURS]})
valid = by_callers.groupby(["callers", "arm"])["valid"].mean().unstack("arm") > 0.5
crossed = valid.reindex(columns=drawn.columns).eq(False)
figure = line_figure(
    drawn, finding, "callers at the same time", "answered (calls/s)",
    grey=[unhindered], crossed=crossed, log=True, every_x=True, height=4.2,
)  # fmt: skip
show(figure, f"Answered calls per second against callers, four servers, both axes logarithmic. {finding}.")

# %% [markdown]
# ## Threads, or an event loop? (optional)
#
# In a closed loop, latency is callers ÷ calls per second. So it is enough to compare latencies, block by block, with 95 %
# intervals. Each line of the table changes one thing.


# %%
def against(arm, base, callers):
    """Return the verdict on two arms with so many callers, with its interval. (`ratio` groups by rows.)"""
    ratios = stats.ratio(steady.query("callers == @callers").assign(rows=callers), arm, base)
    return words.difference(ratios.iloc[0]) if len(ratios) else "not measured"


STEPS = {
    "an event loop in place of ten threads": (ONE_BY_ONE, ARTICLE),
    "batching": (OURS, ONE_BY_ONE),
    "columns in place of CSV": (COLUMNS, OURS),
    "**all three**": (COLUMNS, ARTICLE),
    "nothing: the control": (AGAIN, OURS),
}
table = [[step, against(*arms, min(CALLERS)), against(*arms, most)] for step, arms in STEPS.items()]
Markdown("\n".join(words.table(["what changes", f"callers: {min(CALLERS)}", f"callers: {most}"], table)))

# %% [markdown]
# The last line is the *control*: it changes nothing. If its interval misses 1, the other lines may be wrong by as much.
#
# Many people say that an event loop is faster than threads. Read the first line before you believe it. Both servers have one
# core and Python's lock, and the model takes its time in both. Our server also checks each table, and the article's does not.
# What an event loop gives is this: a waiting call costs next to nothing, and all waiting calls are in one place. There they can
# be put together. That is the second line.
#
# ## Batching by itself (optional)
#
# A prediction has a fixed price, whatever the number of rows ([00](00_start_here.ipynb)). So it pays to compute many calls at
# once. Many servers set a timer for that: wait some milliseconds, and see which calls come. Ours has no timer. While the model
# computes, other calls arrive. When the model is free, it takes them all (`pred_server/server/predictor.py`). So an idle server
# adds no delay, and a busy one makes its batches larger by itself. Each reply says in `server-timing` how many rows its batch
# had.

# %%
timed = by_callers[by_callers["batch_rows"].notna() & (by_callers["arm"] != AGAIN)]
timed = timed.assign(row_us=1000 * timed["predict_ms"] / timed["batch_rows"])
groups = timed.groupby(["callers", "arm"])
batch_rows, row_us = (
    groups[column].median().unstack("arm").reindex(columns=SERVERS) for column in ("batch_rows", "row_us")
)

finding = f"With {most} callers the model computes {batch_rows.loc[most, OURS]:.0f} rows at a time"
all_there = "all rows that are there"
figure = line_figure(
    batch_rows.assign(**{all_there: ROWS * batch_rows.index}), finding, "callers at the same time", "rows in a batch, p50",
    grey=[all_there], log=True, every_x=True, height=3.2,
)  # fmt: skip
show(figure, f"Rows in a batch against callers, both axes logarithmic. {finding}.")

# %%
finding = f"A row costs the model {row_us.loc[min(CALLERS), OURS]:.0f} µs at first, and {row_us.loc[most, OURS]:.0f} µs with {most} callers"
figure = line_figure(
    row_us, finding, "callers at the same time", "computing, per row (µs), p50",
    log=True, every_x=True, legend="lower left", height=3.2,
)  # fmt: skip
show(figure, f"Time to compute one row against callers, both axes logarithmic. {finding}.")

# %% [markdown]
# A batch is smaller than all rows that are there. While the model computes, the same process reads other calls and writes
# answers, on the same core and under the same lock. The less time it takes to read a message, the more calls are ready when
# the model is free.
#
# ## The hockey stick
#
# A closed loop never overloads a server, because its callers wait. An open loop does. Now we offer calls at rising rates, from a
# tenth of what each server carried to more than that. They come at random moments, as visitors do. (This is a *Poisson*
# process: the gaps between calls are random, and do not depend on one another.) Latency stays flat for a long while, then it
# goes up steeply. The curve looks like a hockey stick. Its bend is called the *knee*.
#
# Where must the knee be? By Little's law, at about *callers ÷ mean latency* of the closed loop. Beyond that the calls inside only
# become more. The vertical lines in the figure mark this rate. (A server with batches may follow a little further: the more calls
# are inside, the larger its batches.)

# %%
offered = [(name, round(share * capacity[name], 1)) for name in (ARTICLE, OURS) for share in LOADS]
forth = order.sample(offered, len(offered))
frames = []
for half, turns in enumerate((forth, forth[::-1])):
    for name, rate in tqdm(turns, desc="offered loads"):
        labels = {"server": name, "rate_per_s": rate, "block": 0, "half": half, "rows": ROWS}
        n_calls = max(10, round(rate * SECONDS))
        segment = Segment(name, n_calls, rate_per_s=rate, seed=order.randrange(2**32), labels=labels)
        frames.append(generator.run([TARGETS[name]], [Segment(name, 5, warmup=True), segment]))
clear_output()  # removes the progress bar
by_rate = pd.concat(frames, ignore_index=True)

# %%
KEY = ["server", "rate_per_s"]
points = stats.throughput(by_rate, KEY).sort_values(KEY).set_index(KEY)
points["p90_ms"] = by_rate.groupby(KEY)["latency_ms"].quantile(0.9)
points["inside"] = points["calls_per_s"] * by_rate.groupby(KEY)["latency_ms"].mean() / 1000  # Little's law again
points[["calls", "calls_per_s", "p50_ms", "p90_ms", "inside", "failed_share", "late_share", "valid"]].round(2)

# %% [markdown]
# When does a server *keep up*? We say: if its last answer comes soon after the last call was due, within a tenth of the whole
# time, and no call failed. If that holds at the highest rate that we tried, we have not found the bend, and say so.

# %%
stretches = by_rate.groupby([*KEY, "half"])
due_s = (stretches["scheduled_ns"].max() - stretches["scheduled_ns"].min()) / 1e9
behind_s = (stretches["done_ns"].max() - stretches["scheduled_ns"].max()) / 1e9  # how long after the last call was due
points["behind"] = (behind_s / due_s).groupby(KEY).mean()

kept_up = points.query("valid and behind < 0.1 and failed_share == 0").reset_index()
doubled = points[points["p50_ms"] > 2 * points.groupby("server")["p50_ms"].transform("first")].reset_index()
knees = pd.DataFrame(
    {
        "by Little's law (calls/s)": by_little.max()[[ARTICLE, OURS]],
        "kept up with (calls/s)": kept_up.groupby("server")["rate_per_s"].max(),
        "highest tried (calls/s)": points.reset_index().groupby("server")["rate_per_s"].max(),
        "p50 has doubled at (calls/s)": doubled.groupby("server")["rate_per_s"].min(),
    }
)
knees.round(0)

# %%
from pred_server.lab import figures

rates = knees["kept up with (calls/s)"].map("{:,.0f} calls/s".format).replace("nan calls/s", "no valid rate")
unbent = knees.index[knees["kept up with (calls/s)"] == knees["highest tried (calls/s)"]]
rates[unbent] += ", the highest tried"
finding = "Kept up with: " + ", ".join(f"{rate} ({name})" for name, rate in rates.items())
figure = figures.load(points.reset_index(), finding)
for knee, colour in zip(knees["by Little's law (calls/s)"], figures.COLOURS, strict=False):
    for axes in figure.axes:
        axes.axvline(knee, color=colour, linewidth=1, linestyle="--", alpha=0.8)
show(figure)

# %%
n_crossed = int((~points["valid"]).sum())
Markdown(
    f"{n_crossed} of {len(points)} points are crossed out: more than {MOST_LATE:.0%} of the calls were sent late, or the generator "
    "was too busy. So it did not offer the load that it should have. Usually something else used the cores. Run the lesson again on a machine at "
    "rest before you believe these points."
    if n_crossed
    else "No point is crossed out: the generator sent every load as it should."
)

# %% [markdown]
# The knee is no cliff at a certain rate. Long before the server is full, calls meet by chance: two visitors come in the same
# millisecond, and one of them waits. The nearer to the limit, the longer it takes until such a queue is gone. Beyond the limit
# it never goes. Then latency only says how long the experiment was. So give a server fewer calls than it can carry, half as
# many for example. And give each call a deadline, so that it does not wait in vain.
#
# ## What we found

# %%
lowest, highest = (points.groupby("server")["p50_ms"].agg(which) for which in ("first", "last"))
Markdown(
    f"- A caller who waits had a median of {words.duration(medians[LOOP])}, visitors at the same idle server "
    f"{words.duration(medians[RANDOM])}.\n"
    f"- A stop of {stop_ms:.0f} ms moved the open loop's p99 to **{p99['open loop (ms)']:.0f} ms** (by arithmetic "
    f"{p99['arithmetic (ms)']:.0f} ms). The closed loop's p99 was **{p99['closed loop (ms)']:.1f} ms**: the calls that it did "
    "not make are missing.\n"
    f"- One process on one core, {ROWS} flights a call: the article's server carried **{capacity[ARTICLE]:,.0f}** calls/s, ours "
    f"**{capacity[OURS]:,.0f}** with CSV and **{capacity[COLUMNS]:,.0f}** with columns.\n"
    f"- With {most} callers: an event loop in place of threads, {against(ONE_BY_ONE, ARTICLE, most)}; batching, "
    f"{against(OURS, ONE_BY_ONE, most)}; columns in place of CSV, {against(COLUMNS, OURS, most)}.\n"
    f"- Batches grew by themselves, from {batch_rows.loc[min(CALLERS), OURS]:.0f} to {batch_rows.loc[most, OURS]:.0f} rows.\n"
    f"- From {min(LOADS):.0%} to {max(LOADS):.0%} of what it had carried, our p50 went from {lowest[OURS]:.0f} to "
    f"{highest[OURS]:.0f} ms, the article's from {lowest[ARTICLE]:.0f} to {highest[ARTICLE]:.0f} ms."
)

# %% [markdown]
# `pred-server bench --varies load` measures the hockey stick for longer, and with a control. `--model` takes a model of yours.
#
# ## Exercises
#
# **1.** Mend the record of the closed loop. Suppose that its caller should have called every `gap_ms` milliseconds. A call that
# takes longer hides others: the first of them is due `gap_ms` later and waits `gap_ms` less, the next waits `gap_ms` less
# again, and so on, as long as there is something left to wait. For example, with a gap of 2 ms a call of 5 ms hides calls of 3 ms
# and 1 ms. Write the function, then run this cell and the next one. The next cell checks it.


# %%
def mended(latencies_ms, gap_ms):
    """Return the latencies together with those of the hidden calls, as an array in any order."""
    return None  # your code


# %%
import numpy as np

outcome = mended(np.array([1.0, 5.0]), 2.0)
if outcome is None:
    print("exercise 1: not yet answered")
else:
    for latencies_ms, right in (([1.0, 5.0], [1, 1, 3, 5]), ([0.5, 0.5], [0.5, 0.5]), ([7.0], [1, 3, 5, 7])):
        outcome = sorted(np.asarray(mended(np.array(latencies_ms), 2.0)).tolist())
        assert np.allclose(outcome, right) if len(outcome) == len(right) else False, (
            f"with a gap of 2 ms, {latencies_ms} must become {right}; yours became {outcome}"
        )
    mended_ms = np.quantile(mended(closed_ms.to_numpy(), call_ms), 0.99)
    print(f"exercise 1: right; the closed loop's p99 was {p99['closed loop (ms)']:.1f} ms, mended {mended_ms:.0f} ms")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# def mended(latencies_ms, gap_ms):
#     return np.concatenate([np.arange(waited_ms, 0, -gap_ms) for waited_ms in latencies_ms])
# ```
#
# p99 is now many times what it was. Some load testers promise to correct coordinated omission, and this is what they do. But
# it is a guess about calls that nobody made. An open loop makes them.
#
# </details>
#
# **2. (optional)** Visitors come at random moments. What if they came at even gaps? Offer `ONE_BY_ONE` seven tenths of what it
# carried, once with `arrivals="poisson"` and once with `arrivals="constant"`. Compare p50 and p90. (Do it before *Close*.)
#
# <details><summary>Answer</summary>
#
# ```python
# rate = 0.7 * capacity[ONE_BY_ONE]
# ways = [Segment(ONE_BY_ONE, 300, rate_per_s=rate, arrivals=way, labels={"way": way}) for way in ("poisson", "constant")]
# calls = generator.run([TARGETS[ONE_BY_ONE]], [Segment(ONE_BY_ONE, 5, warmup=True), *ways])
# print(calls.groupby("way")["latency_ms"].quantile([0.5, 0.9]).unstack())
# ```
#
# The number of calls is the same, and the rate too. Yet with even gaps the calls wait less: when one comes, the one before it
# has mostly left. At random moments they meet. So a load test with even gaps flatters the server.
#
# </details>
#
# ## Now yours
#
# Does your machine agree with the published results? In a terminal:
#
# ```
# pred-server reproduce data/results/load.parquet --quick
# ```
#
# `reproduce` reads a result file, runs its experiment on your machine, and compares the verdicts. Milliseconds differ from
# machine to machine, so it does not compare them. A verdict is *confirmed* if both machines find the same direction, or
# neither finds a difference. It is *contradicted* if they find opposite directions. Otherwise it is *not resolved*.
#
# An open loop takes as long as its schedule, so here we run something shorter, with 32 callers in a closed loop: what does
# a quick model gain from the event loop?

# %%
from pred_server.checkout import ROOT
from pred_server.lab import experiments
from pred_server.lab.reproduce import reproduce

parts = ROOT / "data/results/parts.parquet"
reproduce(parts, quick=True, arms=experiments.read(parts).attrs["experiment"]["compare"][-1])

# %% [markdown]
# ## Close

# %%
generator.close()
for process in (one_by_one, article, server):
    process.close()
server

# %% [markdown]
# Next: [07 Make it fast](07_make_it_fast.ipynb)
