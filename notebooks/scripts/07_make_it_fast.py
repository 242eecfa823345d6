# %% [markdown]
# # 07 · Make it fast
#
# **From the article's server to ours: which change gave how much? And which change would help you?**
#
# Lesson 05 compared the server of [the article](https://abap34.com/posts/grpc_ml.html) with ours. Here we walk from one to the
# other, one change at a time: the server, the encoding, the stream, batching, the engine. Each step is measured against the step before it. Then we turn the result into a decision for a
# model of your own.
#
# You will
#
# - read a *ladder*: a figure with one change a line, each with its factor and its interval;
# - decide what to change first, from one share and one number: how much of a call is the model, and how many callers there are;
# - convert a model to ONNX, see what a prediction costs then, and where float32 would be wrong without a word;
# - climb the ladder of a model of your own.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 100 s to run, about 60 minutes to read (the core: 47).
# **Built before:** the waterfall and the four encodings ([03b](03b_under_the_hood.ipynb)), experiments
# ([05](05_how_fast_is_it.ipynb)), closed loops and batching ([06](06_under_load.ipynb)).
#
# **Core:** the share, the ladder, the decision, the three reasons, what a conversion may cost, exercise 1. **Optional:** exercise 2, and the appendix. It
# shows how the server does it, and how much is left.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "pyarrow", "scikit-learn", "onnxruntime"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
ROWS = 20_000  # of the table that we write and read as text
REPEATS = 15  # of each small measurement
CALLERS = 16  # who ask at the same time
CALLS = 20  # of each caller
BUSY_CALLS = 2_000  # calls whose processor time we count

# %% [markdown]
# ## Where does the time of a call go? Guess first
#
# One caller asks for one flight. The call has many parts: write the table, send it, read it, check it, predict, and the way
# back. **Which share of the call is the prediction itself?** Write down your guess before you run on.

# %%
GUESS_SHARE = None  # your guess, between 0 and 1

# %% [markdown]
# ### Then measure
#
# The reply's waterfall has the answer ([03b](03b_under_the_hood.ipynb)). We take the median of some calls, and show the last
# one.

# %%
import numpy as np
import pandas as pd

from pred_server import serve
from pred_server.checkout import FLIGHTS

server = serve("flights")
one_flight = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(1)


def share_of_predict(client, table):
    """Return the share of a call for which the model computes: the median of some calls of a single caller."""
    waterfalls = [client.predict(table).waterfall for _ in range(CALLS)]
    return float(np.median([waterfall.phases_ms["predict"] / waterfall.wall_ms for waterfall in waterfalls]))


client = server.client()
share = share_of_predict(client, one_flight)
client.predict(one_flight).waterfall

# %%
from IPython.display import Markdown

Markdown(f"The prediction is **{share:.0%}** of a call with one flight. Your guess: {GUESS_SHARE or 'none yet'}.")

# %% [markdown]
# If the model is most of the call, a better way to send the table cannot give much. If the model is a small part, a quicker
# model cannot give much. Keep this in mind when you look at the ladder.
#
# ## The ladder
#
# `make bench` measures it (`ladder` in `pred_server/lab/studies.py`), with the `flights` model. Every call is in
# `data/results/ladder.parquet`. How to read the figures:
#
# - A factor of 2 says: twice as fast as the step above. The bar is its 95 % interval. If it crosses the dotted line, no
#   difference was found.
# - The two black marks check the rest. One is the product of all steps. The other is the first and the last server, measured
#   side by side, with processes and calls of their own. If the steps are right, the two agree.

# %%
from pred_server.checkout import ROOT
from pred_server.lab import experiments, findings, stats, words
from pred_server.lab.figures import show
from pred_server.lab.study_figures import ladder, margins

published = experiments.read(ROOT / "data/results/ladder.parquet")
for rows, callers in findings.ladders(published):
    steps = findings.steps_at(published, rows, callers)
    show(ladder(steps, rows, callers, published.attrs["stamp"]))


# %%
def largest_step(rows, callers):
    """Return the sentence of a ladder: how much all steps gave, and which gave most."""
    steps = findings.steps_at(published, rows, callers)
    ends, largest = steps.iloc[-1], steps.iloc[1:-2].sort_values("factor").iloc[-1]
    interval = f"[{words.factor(ends['low'])}, {words.factor(ends['high'])}]"
    return (
        f"published, {words.at(rows)}, {callers} caller{'s' if callers > 1 else ''}: the last step is "
        f"{words.factor(ends['factor'])} times {interval} as fast as the first; the largest step is *{largest['step']}*, "
        f"{words.factor(largest['factor'])} times"
    )


ladder_sentences = [largest_step(rows, callers) for rows, callers in findings.ladders(published)]
Markdown("\n".join(words.bullets(ladder_sentences)))

# %% [markdown]
# The same change gives much in one figure and little in another. It depends on what a call spends its time on, and on how many
# callers there are.
#
# The ladder has a stream where a table is large, since our client sends it so. That is a trade, and no mere gain: early answers
# and a bound on memory, for a little time up to a certain size. [05](05_how_fast_is_it.ipynb) shows what overlaps in a stream, and
# from which size on it is quicker, too.

# %%
lines = []
for rows, callers in findings.ladders(published):
    for step in findings.steps_at(published, rows, callers).query("step == 'as a stream'").itertuples():
        gain = (
            "quicker"
            if step.low > 1
            else "slower"
            if step.high < 1
            else "neither quicker nor slower, as far as we can tell"
        )
        interval = f"{words.factor(step.factor)} times [{words.factor(step.low)}, {words.factor(step.high)}] as fast"
        lines.append(f"published, {words.at(rows)}: as a stream a call is {interval} as in one message, so {gain}")
Markdown("\n".join(words.bullets(lines)) or "Published: no table of the ladder is large enough for a stream.")

# %% [markdown]
# ## From the ladder to a decision
#
# So ask two questions about *your* service. The first: which share of a call is the prediction, with a single caller? You have
# just measured it. (With many callers it does not tell: most of a call is then `queue`, and a call waits there for the
# predictions of others.) The second: how many callers ask at the same time? The factors in the table come from the published
# results: those of `flights` in the first line, those of `linear`, which computes next to nothing, in the last.

# %%
MANY = published["callers"].max()
FEW_ROWS, MANY_ROWS = published["rows"].min(), published["rows"].max()


def step_factor(rows, callers, step):
    """Return how much a step of the published ladder gave; `step` is a pattern for its name."""
    steps = findings.steps_at(published, rows, callers)
    return steps.loc[steps["step"].str.contains(step), "factor"].iloc[0]


def factor(rows, callers, step):
    """Return the same as text: "9.56×"."""
    return words.factor(step_factor(rows, callers, step)) + "×"


# %%
linear = experiments.read(ROOT / "data/results/rows_linear.parquet")
by_tensor = stats.ratio(linear, "csv", "tensor").set_index("rows")["ratio"].map(words.factor) + "×"
no_text = f"no text: a tensor, or Arrow ({by_tensor[1]} at 1 row, {by_tensor[MANY_ROWS]} {words.at(MANY_ROWS)})"
lines = [
    [
        "more than 2/3",
        f"a faster engine, or a smaller model (ONNX Runtime: {factor(FEW_ROWS, 1, 'ONNX')} {words.at(FEW_ROWS)}, "
        f"{factor(MANY_ROWS, 1, 'ONNX')} {words.at(MANY_ROWS)}); leave the encoding ({factor(FEW_ROWS, 1, 'CSV$')})",
        f"batching, on by default ({factor(FEW_ROWS, MANY, '^batching')}); then the engine "
        f"({factor(FEW_ROWS, MANY, 'ONNX')}); then more processes",
    ],
    ["between", "the larger part first; then measure again", "batching; then the larger part; then more processes"],
    ["less than 1/3", f"more rows in one call; {no_text}", "more rows in one call; no text; then more processes"],
]
header = ["predict's share", "one caller", f"many callers ({MANY} in the ladder)"]
Markdown("\n".join(words.table(header, lines)))

# %% [markdown]
# *More processes* means: start the server several times, and spread the callers over them. One process has one Python. It splits
# the rows of a large table over all cores, where that pays (see the appendix). But small calls it answers on one core most of the
# time. More processes do not make a single call quicker.

# %%
place = "the first line" if share > 2 / 3 else "the last line" if share < 1 / 3 else "the middle line"
at_csv = published[(published["arm"] == "ours, CSV as well") & (published["rows"] == FEW_ROWS)]
published_share = (at_csv["predict_ms"] / at_csv["service_ms"]).median()
promised, given = 1 / (1 - published_share), step_factor(FEW_ROWS, 1, "ONNX")
lines = [
    f"one flight, one caller: predict's share was {share:.0%} here, so {place} holds",
    f"a check of the rule: in the published ladder the share was {published_share:.0%} for one flight; if the model took no time at "
    f"all, a call would be {promised:.1f} times as fast; ONNX Runtime gave {given:.1f} times",
]
if given > promised:
    lines.append("that is more than the share promises, so the rest of the call became quicker too")
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# The rest can become quicker because a model that needs less than half a millisecond is computed on the event loop, without a
# second thread (see the appendix). So the share tells you where to begin. Then measure.
#
# The next three sections look at the reasons: the engine, batching, and text. Each has a small measurement of its own.
#
# ## Reason 1: the engine
#
# scikit-learn is made for tables. For one row, most of a prediction is Python that checks and prepares. ONNX is a file format for
# fitted models, and ONNX Runtime computes them without Python. `with_onnx` (`pred_server/engines/onnx.py`) converts a model, and
# compares the two engines before it serves. It refuses if labels differ at all, or numbers by more than a hundred-thousandth of
# the predictions' spread.


# %%
import time


def medians_ms(ways, repeats=REPEATS):
    """Return the median milliseconds of each way, measured in turns."""
    taken_ms = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start_ns = time.perf_counter_ns()
            way()
            taken_ms[name].append((time.perf_counter_ns() - start_ns) / 1e6)
    return pd.Series({name: float(np.median(times)) for name, times in taken_ms.items()}, name="ms")


# %%
from pred_server import load
from pred_server.engines.onnx import with_onnx

flights = load("flights")
converted = with_onnx(flights)
one = flights.schema.frame_to_rows(one_flight)  # checked, as the server has it after reading a message
engine_ms = medians_ms({"scikit-learn": lambda: flights.predict_rows(one), "ONNX": lambda: converted.predict_rows(one)})
Markdown(
    f"One flight takes **{engine_ms['scikit-learn']:.2f} ms** in scikit-learn and **{engine_ms['ONNX'] * 1000:.0f} µs** in ONNX "
    f"Runtime. The predictions are {converted.parity}."
)

# %% [markdown]
# `client.describe()` says the same of a running server: how far the engines are apart, and on which rows that was seen. The
# second part matters as much as the first.
#
# ### What a conversion may cost
#
# scikit-learn computes in *float64*: 53 binary digits. Most of what the converter `skl2onnx` writes computes in *float32*: 24
# binary digits, about seven decimal ones. Often nobody notices. Here is a model where it matters. A shop numbers its customers
# from 1. Later it began anew at 16,777,216, which is 2²⁴. Customers with an odd number pay 10 euros, the others nothing. We
# convert the model by hand.

# %%
import tempfile
from pathlib import Path

import onnxruntime
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingRegressor

from pred_server import save

scratch = tempfile.TemporaryDirectory()
customers = pd.DataFrame({"customer": np.tile(np.r_[1:101, 2**24 : 2**24 + 100], 20)})
trees = HistGradientBoostingRegressor(max_iter=50, min_samples_leaf=1, max_leaf_nodes=200, random_state=0)
trees.fit(customers, 10.0 * (customers["customer"] % 2))

graph = to_onnx(trees, customers.head(1).to_numpy(np.float32))
session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


class ByHand:
    """An engine, as the server asks one: `rows.array` is the table, of shape (n_rows, n_columns)."""

    name = "by hand"

    def predict(self, rows, output):
        return session.run(None, {"X": rows.array.astype(np.float32)})[0].ravel().astype(float)


# %% [markdown]
# We check the conversion on some rows of the table, as one does. Then we look at all customers.

# %%
shop = save(trees, customers.head(), Path(scratch.name) / "shop", target="price", target_unit="euros")


def apart(table):
    """Return how far the conversion by hand is from scikit-learn, in euros, for each row."""
    return np.abs(ByHand().predict(shop.schema.frame_to_rows(table), "labels") - shop.predict(table))


every_customer = customers.drop_duplicates()
n_wrong = int((apart(every_customer) > 1).sum())
Markdown(
    f"On the {len(shop.sample)} rows of the sample the two differ by {apart(shop.sample).max():.0e} euros at most. But of all "
    f"{len(every_customer)} customers, **{n_wrong} get a wrong price**, wrong by up to {apart(every_customer).max():.1f} euros."
)

# %% [markdown]
# From 2²⁴ on, float32 holds only every second whole number. A tree separates two neighbours by a threshold halfway between them,
# and float32 moves the threshold to one of the two. Nothing complains: neither the converter, nor the runtime, nor the check of
# some rows.
#
# ### How the server notices
#
# The server does not rely on the sample. It makes rows from the model itself (`pred_server/engines/probes.py`): values at, just
# below and just above the thresholds of its trees, categories that its encoders know and one that they do not, missing values,
# the ends of ranges, and thousands of random rows. Then it compares (`pred_server/engines/parity.py`). We hand it our engine:

# %%
from pred_server.engines.parity import prove
from pred_server.errors import ServerStartError


def refusal(function, *arguments):
    """Return the sentence with which the server refuses to start."""
    try:
        function(*arguments)
    except ServerStartError as error:
        return str(error)
    raise AssertionError("it was not refused")


print(refusal(prove, shop, ByHand()))

# %% [markdown]
# `with_onnx` does not leave the trees to `skl2onnx`. It writes them in double precision itself (`pred_server/engines/trees.py`).
# So it can serve this model, and says on how many rows it has seen that:

# %%
exact = with_onnx(shop)
assert np.abs(exact.predict(every_customer) - shop.predict(every_customer)).max() < 1e-9
print(exact.parity)

# %% [markdown]
# The end of this sentence is a fence. A row with a number beyond all that was compared is computed by scikit-learn, in the same
# table and with the same reply. It is slower, and right.

# %%
asked = pd.DataFrame({"customer": [1, 2**24 + 1, 2**40]})
inside = exact.engine.domain.covers(shop.schema.frame_to_rows(asked))
assert np.allclose(exact.predict(asked), shop.predict(asked))
asked.assign(engine=np.where(inside, "ONNX Runtime", "scikit-learn"), price=exact.predict(asked).round(2))

# %% [markdown]
# What ONNX Runtime has in float32 only is refused, and so is what is not made of scikit-learn's parts. The sentence names the part of
# the model. The conversion runs in a process of its own and is ended after 25 seconds, since a converter may loop for ever.

# %%
from sklearn.svm import SVC

odd_or_even = SVC().fit(customers.head(200), customers["customer"].head(200) % 2)
machine = save(odd_or_even, customers.head(), Path(scratch.name) / "machine")
print(refusal(with_onnx, machine))
print(refusal(with_onnx, load("sum")))

# %% [markdown]
# ## Reason 2: batching
#
# One prediction of a hundred rows costs far less than a hundred predictions of one row. So the server takes all requests that
# wait while the model computes, and computes them as one table (`pred_server/server/predictor.py`). Nobody waits for a batch to
# fill: an idle server answers at once. `--max-batch-rows 1` turns batching off, and shows what it gives.

# %%
import threading

answers = set()


def rate_of(server):
    """Return the calls per second of all callers together, and the rows that the model computed at once, the median."""
    client, batches = server.client(), []

    def ask():
        for _ in range(CALLS):
            predicted = client.predict(one_flight)
            batches.append(predicted.waterfall.batch_rows)
            answers.add(predicted.to_numpy().tobytes())

    client.predict(one_flight)
    callers = [threading.Thread(target=ask) for _ in range(CALLERS)]
    start_ns = time.perf_counter_ns()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return CALLERS * CALLS / ((time.perf_counter_ns() - start_ns) / 1e9), float(np.median(batches))


# %%
rates = []
with serve("flights", "--max-batch-rows", "1") as without:
    for _ in range(3):
        for name, asked in {"on": server, "off": without}.items():
            rates.append((name, *rate_of(asked)))
batching = pd.DataFrame(rates, columns=["batching", "calls/s", "rows at once"]).groupby("batching").median()
print("different answers, compared by their bits:", len(answers))
batching.round(1)

# %% [markdown]
# All calls asked for the same flight, and got the same answer, to the bit. It may not depend on the other rows of a batch. The
# appendix shows how the server makes sure of that.
#
# ## Reason 3: text
#
# The article's server reads and writes CSV with pandas. Ours uses pyarrow, which works on columns in C++. This must not cost a
# digit, so we check that too.

# %%
import io

import pyarrow as pa
import pyarrow.csv

numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 10))).add_prefix("x")
text = numbers.to_csv(index=False)
data = text.encode()
csv_ms = medians_ms(
    {
        "read, pandas": lambda: pd.read_csv(io.StringIO(text)),
        "read, pyarrow": lambda: pa.csv.read_csv(pa.BufferReader(data)),
        "write, pandas": lambda: numbers.to_csv(index=False),
        "write, pyarrow": lambda: pa.csv.write_csv(pa.Table.from_pandas(numbers), io.BytesIO()),
    }
)
exact = {
    "pandas": np.array_equal(pd.read_csv(io.StringIO(text)), numbers),
    "pyarrow": np.array_equal(pa.csv.read_csv(pa.BufferReader(data)).to_pandas(), numbers),
}
print("every bit comes back:", exact)
csv_ms.round(1).to_frame()

# %% [markdown]
# It is better not to write text at all. A number has eight bytes in memory. As text it has about twice as many characters, and
# each of them must be computed. A `tensor` message is the memory itself. `arrow` is the memory of each column, so it carries
# text columns too. The flights need that.

# %%
from pred_server.generated.pred_pb2 import Request
from pred_server.wire.codec import CODECS


def message(encoding):
    request = Request()
    CODECS[encoding].write_table(numbers, request)
    return request


encode_ms = medians_ms({encoding: (lambda encoding=encoding: message(encoding)) for encoding in CODECS})
row_bytes = pd.Series({encoding: message(encoding).ByteSize() / ROWS for encoding in CODECS}, name="bytes a row")
pd.concat([encode_ms.rename("ms to encode"), row_bytes], axis=1).round(1)

# %% [markdown]
# ## What we found

# %%
lines = [
    *ladder_sentences,
    f"the prediction is {share:.0%} of a call with one flight; this share and the number of callers say what to change first",
    f"for one flight ONNX Runtime is {engine_ms['scikit-learn'] / engine_ms['ONNX']:.0f} times as fast as scikit-learn",
    f"converted in float32, a model agreed with scikit-learn on its sample, and was wrong for {n_wrong} of {len(every_customer)} "
    "customers; the server refused it on rows that it had made itself, beside the thresholds of the trees",
    f"with {CALLERS} callers, batching answers {batching.loc['on', 'calls/s'] / batching.loc['off', 'calls/s']:.1f} times as many "
    "calls a second",
    f"this text is read {csv_ms['read, pandas'] / csv_ms['read, pyarrow']:.1f} times and written "
    f"{csv_ms['write, pandas'] / csv_ms['write, pyarrow']:.1f} times as fast by pyarrow as by pandas; a tensor is encoded "
    f"{encode_ms['csv'] / encode_ms['tensor']:.0f} times as fast as CSV",
]
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# ## Exercises
#
# **1.** Climb the ladder of a model of your own. If you have none, take the random forest that this cell trains. First look at its
# share. Then say which step will be the largest for one row, with one caller and with many callers: `"server"` (from the
# article's to ours), `"encoding"`, `"batching"` or `"engine"`. Fill in `my_steps`, and run this cell and the next one. The next
# cell measures the ladder (one to two minutes) and checks you.

# %%
from sklearn.ensemble import RandomForestRegressor

my_model = Path(scratch.name) / "forest"  # or the directory of a model that you have saved
table = numbers.head(500)
save(RandomForestRegressor(n_estimators=100, random_state=0).fit(table, table["x0"] * table["x1"]), table, my_model)
with serve(my_model) as mine:
    print(
        f"predict's share of a call with one row: {share_of_predict(mine.client(), load(my_model).sample.head(1)):.0%}"
    )

# %%
my_steps = {"one caller": None, "many callers": None}

# %%
from pred_server.lab import studies


def kind_of(step):
    """Return the kind of a step of a ladder, by its name."""
    beginnings = {"ours": "server", "batching": "batching", "ONNX": "engine"}
    return next((kind for beginning, kind in beginnings.items() if step.startswith(beginning)), "encoding")


if None in my_steps.values():
    print("exercise 1: not yet answered")
else:
    study = studies.declared("ladder", str(my_model), rows=(1,), quick=True)
    climbed = experiments.run(study, Path(tempfile.mkdtemp(dir=scratch.name)) / "ladder.parquet")
    for (rows, callers), (where, answer) in zip(findings.ladders(climbed), my_steps.items(), strict=True):
        steps = findings.steps_at(climbed, rows, callers)
        show(ladder(steps, rows, callers))
        steps = steps.iloc[1:-2].assign(kind=lambda steps: steps["step"].map(kind_of))
        largest, yours = steps.sort_values("factor").iloc[-1], steps[steps["kind"] == answer]
        near = yours["high"].max() >= largest["low"]  # if the intervals overlap, either answer is right
        assert near, (
            f"{where}: the largest step is {largest['step']!r}, {words.factor(largest['factor'])}×, not {answer!r}"
        )
    print("exercise 1: right")

# %% [markdown]
# <details><summary>Answer</summary>
#
# For the forest: `my_steps = {"one caller": "engine", "many callers": "batching"}`. The model is most of a call, so the table says:
# the engine for one caller, batching for many callers. Now ask for another model: write `my_model = "linear"` above `my_steps`.
# There the model is a small part of a call. What the server does around the model counts most, so the answer is `"server"` for
# both.
#
# For a ladder that you can rely on, run `pred-server bench --varies ladder --model DIR` without `--quick`. It takes fifteen
# minutes.
#
# </details>
#
# **2. (optional)** Start `serve("flights", "--engine", "onnx")`, and measure it with `rate_of`, with and without batching. Does
# batching still help?
#
# <details><summary>Answer</summary>
#
# Look at the rows at once: nearly every batch has a single row. In ONNX Runtime a row costs the model less than the call around it
# costs the server. A quick model answers at once, so few calls wait. The callers may be the limit too: in this notebook they all
# share one Python.
#
# </details>
#
# ## Appendix: how the server does it (optional)
#
# The rest is for those who want to know what is inside. Nothing later needs it.
#
# ### Row blocks: the same bits in any batch
#
# A matrix product takes rows four or eight at a time, and rounds the rest in another way. So the last bit of a linear model's
# sum may depend on how many rows are computed together. The server asks such a model for whole blocks of rows, and fills up the
# last block (`pred_server/model/row_blocks.py`). Trees need no blocks.

# %%
linear_model = load("linear")
some = numbers.head(64)
together, alone = (
    {
        "estimator": np.concatenate([linear_model.estimator.predict(part) for part in parts]),
        "in blocks": np.concatenate([linear_model.predict(part) for part in parts]),
    }
    for parts in ([some], [some.iloc[[row]] for row in range(len(some))])
)
differ = {name: int((together[name] != alone[name]).sum()) for name in together}
Markdown(
    f"Of {len(some)} rows, {differ['estimator']} get another last bit if the estimator predicts them one by one, and "
    f"{differ['in blocks']} if it is asked for blocks of {linear_model.engine.row_block}."
)

# %% [markdown]
# ### Threads: a large table is split by its rows
#
# scikit-learn computes boosting with OpenMP, whose threads meet after every tree. If one of them has no core, since a client runs
# there, all others wait for it, as many times as there are trees. So the server keeps OpenMP to one thread. It splits the *rows*:
# each thread predicts rows of its own, and they meet once, at the end (`pred_server/engines/threads.py`). Whether that pays depends
# on the model: many hold Python's lock while they compute. So the server tries both ways when it loads a model, and says what it
# found.

# %%
from pred_server.engines.threads import with_threads

many_flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(min(ROWS, 5_000))
checked = flights.schema.frame_to_rows(many_flights)
found, single = with_threads(flights), with_threads(flights, 1)
assert np.array_equal(found.predict_rows(checked).values, single.predict_rows(checked).values)
threads_ms = medians_ms(
    {"one thread": lambda: single.predict_rows(checked), "as found": lambda: found.predict_rows(checked)}
)
Markdown(
    f"The running server says: threads **{client.describe().threads}**. Here, {len(many_flights):,} flights take "
    f"{threads_ms['one thread']:.0f} ms on one thread, and {threads_ms['as found']:.0f} ms with what was found in this notebook "
    f"(threads {found.threads}). The predictions are the same, to the bit."
)

# %% [markdown]
# ### Inline: a quick model on the event loop
#
# The event loop hands a prediction to the thread that computes, and is woken when it is done. For a model that takes some
# microseconds, these two wake-ups take longer than the prediction. So the server remembers how long each model usually takes for so
# many rows, by its last calls. What usually takes less than half a millisecond is computed on the event loop itself
# (`pred_server/server/inline.py`). `--max-inline-ms 0` turns that off. We measure it with `linear`.

# %%
one_row = numbers.head(1)
with serve("linear") as inline, serve("linear", "--max-inline-ms", "0") as by_thread:
    clients = {"on the event loop": inline.client(), "on a thread": by_thread.client()}
    for asking in clients.values():
        for _ in range(20):  # the server must learn that the model is quick
            asking.predict(one_row)
    ways = {name: (lambda client=client: client.predict(one_row)) for name, client in clients.items()}
    inline_ms = medians_ms(ways, 20 * REPEATS)
parts = stats.declared(experiments.read(ROOT / "data/results/parts.parquet")).query("not arm.str.endswith('again')")
lines = [
    f"measured here, with one caller: a call with one row of `linear` takes {inline_ms['on the event loop']:.2f} ms if the event loop "
    f"computes it, and {inline_ms['on a thread']:.2f} ms if a thread does",
    *(f"published, {words.sentence(row)}" for row in parts.itertuples()),
]
Markdown("\n".join(words.bullets(lines)))

# %% [markdown]
# ### Gathering: quick models and many callers
#
# For a quick model nothing ever waits, so there would be no batches. Therefore the event loop, when several calls are there,
# first takes in the calls that have arrived, and then computes them together (`_gather` in `pred_server/server/predictor.py`). It
# waits for nobody: it stops when no further call comes in some turns of the loop, and after 2 ms at the latest. A lone caller
# is answered at once.
#
# ### How near the floor?
#
# A step says how much better than before. It does not say how much is left. So there are targets, which were set before anything
# was measured (`CASES` in `pred_server/lab/findings.py`). Some compare with other servers, at the caller's hand. Others compare
# with a *floor*, which does only a part of the work: a server that takes the same bytes, does not look at them, and sends as many
# back as our reply has, plus `predict` in process.

# %%
of_targets = [ROOT / f"data/results/{name}.parquet" for name in ("hand_linear", "hand_boosting", "callers")]
results = [experiments.read(result) for result in of_targets if result.exists()]
cases = pd.concat([findings.cases(calls) for calls in results], ignore_index=True)
show(margins(cases, results[0].attrs["stamp"]))

# %%
missed = "; ".join(
    f"{case.case} ({case.ratio:.3g}, target {case.target})" for case in cases[cases["margin"] < 1].itertuples()
)
Markdown(f"Published: {(cases['margin'] >= 1).sum()} of {len(cases)} targets are met. Missed: {missed or 'none'}.")

# %% [markdown]
# ### Thirty-two callers and a quick model
#
# This is the hardest case. The event loop does everything, so all parts of a call add up. The replies say how long the server
# decoded, predicted (a row's share of its batch) and encoded.

# %%
many = results[-1]
ours_many, echo_many = "ours, linear, 32 callers", "echo, 32 callers"
call_us = 1e6 / stats.throughput(many).set_index("arm")["calls_per_s"]
busy = many[many["arm"] == ours_many]
busy = busy.assign(predict_ms=busy["predict_ms"] / busy["batch_rows"])
parts_us = 1e3 * busy[["decode_ms", "predict_ms", "encode_ms"]].median()
echo_us, ours_us = call_us[echo_many], call_us[ours_many]
Markdown(
    f"Published: the echo finishes a call every **{echo_us:.0f} µs**, ours every **{ours_us:.0f} µs**. Of these, ours decodes for "
    f"{parts_us['decode_ms']:.0f} µs, predicts for {parts_us['predict_ms']:.0f} µs and encodes for "
    f"{parts_us['encode_ms']:.0f} µs. If all else cost nothing, it would reach "
    f"**{echo_us / (echo_us + parts_us.sum()):.0%}** of the echo's rate. It reaches {echo_us / ours_us:.0%}."
)

# %% [markdown]
# The rest goes into limits, refusals, and `server-timing` itself: gRPC has to write this metadata for each reply. The
# operating system counts processor time too. What does a call cost all threads of a server, an echo's and ours? Here with the
# `linear` model. The calls come from the load generator in Go, where it is built: a generator in Python is busy itself with so
# many callers.

# %%
from pred_server.lab.load import Generator, Segment
from pred_server.lab.native import LOADGEN
from pred_server.lab.ways import Arm, Target, messages_of, start_own

by = "go" if LOADGEN.exists() else "python"
arms = {"echo": Arm("echo", "echo", "tensor", generator=by), "ours": Arm("ours", encoding="tensor", generator=by)}
row = messages_of(arms["ours"], one_row)
cpu_us = {name: [] for name in arms}
with start_own("echo", "linear") as echo, serve("linear") as ours, Generator() as generator:
    for _ in range(4):
        for name, asked in {"echo": echo, "ours": ours}.items():
            target = Target(arms[name], asked.address, row, pids=(asked.pid,))
            answered = generator.run([target], [Segment(name, BUSY_CALLS, callers=32)])
            cpu_us[name].append(1000 * answered["server_cpu_ms"].iloc[0])  # of the segment, by its calls
per_call = pd.DataFrame(cpu_us).iloc[1:].median()  # the first round warms up
Markdown(
    f"A call costs the echo **{per_call['echo']:.0f} µs** of processor time, and ours **{per_call['ours']:.0f} µs**. Where processor "
    f"time limits both, ours reaches {per_call['echo'] / per_call['ours']:.0%} of the echo's rate."
)

# %% [markdown]
# ### Cold caches
#
# Why does our part cost so much more than the microseconds that ONNX Runtime needs for a row? Those were measured in a tight
# loop. In a server other work comes in between, and the data of the next call have left the processor's caches. We do the same
# here: before each prediction we write to 8 MB of memory, outside of the measured time.

# %%
other_work = np.zeros(1_000_000)
taken_us = {"in a tight loop": [], "after other work": []}
for _ in range(20 * REPEATS):
    for name, times in taken_us.items():
        if name == "after other work":
            other_work += 1
        for _ in range(3 if name == "in a tight loop" else 1):  # only the last one counts
            start_ns = time.perf_counter_ns()
            converted.predict_rows(one)
            one_us = (time.perf_counter_ns() - start_ns) / 1e3
        times.append(one_us)
cold_us = {name: float(np.median(times)) for name, times in taken_us.items()}
Markdown(
    f"One flight in ONNX Runtime takes **{cold_us['in a tight loop']:.0f} µs** in a tight loop and "
    f"**{cold_us['after other work']:.0f} µs** after other work."
)

# %% [markdown]
# One Python runs on one core at a time, so every microsecond of a call lowers the rate. To go further, use more processes.
#
# ## Now yours
#
# Is the ladder the same on your machine, and with your model? In a terminal:
#
# ```
# pred-server reproduce data/results/ladder.parquet --quick
# pred-server reproduce data/results/ladder.parquet --quick --model models/mine
# ```
#
# `reproduce` reads a result file, runs its experiment on your machine, and compares the verdicts. Milliseconds differ from
# machine to machine, so it does not compare them. A verdict is *confirmed* if both machines find the same direction, or
# neither finds a difference. It is *contradicted* if they find opposite directions. Otherwise it is *not resolved*.
#
# A step that your model contradicts is no fault of the ladder: it is a reason to climb it in another order. Here we run only
# the first step, for one flight.

# %%
from pred_server.lab.reproduce import reproduce

first_step = published.attrs["experiment"]["compare"][0]
reproduce(ROOT / "data/results/ladder.parquet", quick=True, rows=[1], arms=first_step)

# %% [markdown]
# ## Close
#
# The other servers of this lesson ended with their `with` blocks.

# %%
server.close()
scratch.cleanup()
server

# %% [markdown]
# Next: [08 Break it](08_break_it.ipynb)
