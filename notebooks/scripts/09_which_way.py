# %% [markdown]
# # 09 · Which way?
#
# **gRPC, REST, or the model inside the Go process: should you build a server at all?**
#
# All lessons so far put a server in Python beside a program in Go. There are other ways. The Go program can compute the model by
# itself, or start Python as its child, or post JSON. In this notebook we try five ways with the same models, and measure them at the
# hand of the caller: a table in, predictions out. Then we ask what is not in the numbers.
#
# You will
#
# - run a scikit-learn model inside a Go process, text and missing values included, and see how far its predictions are off;
# - measure five ways side by side, with the same model and the same rows;
# - choose a way for your own case from a table of reasons, not from one latency.
#
# **Needs:** the trained model, and the generators in Go (`make setup`, or `make lab`); without Go or a C compiler, a line says what is
# left out. **Takes:** 60 s to run, about 25 minutes to read. **Built before:** the strict server ([03](03_serve_and_call.ipynb)), the
# caller in Go ([04](04_call_it_from_go.ipynb)), blocks and intervals ([05](05_how_fast_is_it.ipynb)), ONNX Runtime
# ([07](07_make_it_fast.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "onnxruntime", "skl2onnx", "pandas"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
MODEL = "linear"  # what the ways are measured with: a model that computes next to nothing shows what a way costs
SIZES = (1, 1_000)  # rows in one call
BLOCKS = 6  # rounds; in each round every way takes its turn
CALLS = 20  # in each half of a round
FLIGHTS = 10_000  # rows whose predictions are compared

# %% [markdown]
# ## Five ways
#
# | way | what runs where | what lies between caller and model |
# |---|---|---|
# | **gRPC** | a server in Python, a client in Go or Python | a contract, HTTP/2, TCP |
# | **Unix socket** | the same | a contract, HTTP/2, and a file in place of a port |
# | **REST** | a server in Python (here FastAPI with orjson), any client | JSON, HTTP/1.1, TCP |
# | **pipe** | a Python process that the caller starts | bytes with a length in front of them |
# | **in process** | the model in the caller: in Go, ONNX Runtime computes it | nothing |
#
# *ONNX Runtime* is a library in C++ that computes a graph of operations. Python writes the graph once, from the fitted model, and is not
# needed after that. Go reaches the library through *cgo*, Go's bridge to C; so the program needs a C compiler when it is built, and the
# library where it runs.
#
# ### Guess first
#
# A call with one row of ten numbers, from Go. **How many times as long does it take over gRPC as in the same process?**

# %%
GUESS_RATIO = None  # your guess, a number

# %% [markdown]
# ## A Unix socket
#
# A socket has two kinds of address. One is a host and a port: every user of the machine can connect. The other is a file, and the file's
# mode says who can. Our server and all its clients take `unix:/PATH`. Everything else stays as it is: contract, limits, deadlines.

# %%
import stat
import tempfile
from pathlib import Path

from pred_server import load, serve
from pred_server.lab.experiments import sample, table_of

folder = tempfile.TemporaryDirectory()
socket = Path(folder.name, "pred.sock")
flights_model = load("flights")
flights = sample(table_of(flights_model), FLIGHTS, seed=7)

with serve("flights", "--address", f"unix:{socket}") as server:
    served = server.client().predict(flights)
    print("the socket's mode:", stat.filemode(socket.stat().st_mode))
print("served == in process:", bool((served.to_numpy() == flights_model.predict(flights)).all()))
print("the file is gone with the server:", not socket.exists())

# %% [markdown]
# ## A pipe
#
# The smallest way to use Python from another program is to start it, write to its standard input, and read its standard output. There
# is no format on a pipe, only bytes. So a message needs a length in front. This is a whole service, both ends of it:

# %%
import struct
import subprocess

import numpy as np
import pandas as pd

CHILD = """
import struct, sys
import numpy as np
from pred_server import load

model, (requests, replies) = load("linear"), (sys.stdin.buffer, sys.stdout.buffer)
while head := requests.read(8):
    rows = np.frombuffer(requests.read(*struct.unpack("<Q", head))).reshape(-1, 10)
    values = model.predict_rows(model.schema.array_to_rows(rows, model.schema.names)).values.tobytes()
    replies.write(struct.pack("<Q", len(values)) + values)
    replies.flush()
"""
child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(rows):
    """Return the predictions for an array of shape (n_rows, 10)."""
    child.stdin.write(struct.pack("<Q", rows.nbytes) + rows.tobytes())
    child.stdin.flush()
    (length,) = struct.unpack("<Q", child.stdout.read(8))
    return np.frombuffer(child.stdout.read(length))


numbers = np.random.default_rng(0).normal(size=(5, 10))
by_pipe = ask(numbers)
child.stdin.close()  # which ends it
child.stdout.close()
child.wait()
linear = load("linear")
expected = linear.predict(pd.DataFrame(numbers, columns=linear.schema.names))
print("by the pipe == in process:", bool((by_pipe == expected).all()))

# %% [markdown]
# It is short since much is missing. A wrong column is not noticed: nothing has a name. A second caller must wait. There is no deadline: if
# the child hangs, so do we. If it dies, the next read returns nothing, and we have to start it again, and to send again what was on its
# way. A new model needs a new child. Each of these is a few lines more, and after some weeks you have written a server.
#
# ## Inside Go
#
# [`gateway/examples/inprocess`](../gateway/examples/inprocess/model.go) loads a graph and predicts. `export` writes the graph from a
# fitted model, and the names of its columns. Our flights have three columns of text. They go into the graph as text: the encoder for
# categories is a part of it. A missing number is NaN. Missing text becomes empty text, since ONNX knows no other; for this model both are
# an unknown category.
#
# Equal predictions are a claim to be tested. We take away some values, and compare with scikit-learn.

# %%
from pred_server.checkout import ROOT
from pred_server.lab.export import export
from pred_server.tutorial import stubs

rng = np.random.default_rng(0)
gaps = {
    name: flights[name].mask(rng.random(len(flights)) < 0.05) for name in ("carrier", "origin", "dest", "dep_delay")
}
flights_with_gaps = flights.assign(**gaps)
exported = Path(folder.name, "flights")
export(flights_model, exported)

differences, why = None, ""
try:
    if stubs.go("env", "CGO_ENABLED").strip() != "1":
        raise RuntimeError("cgo needs a C compiler")
    program, table = Path(folder.name, "predict"), Path(folder.name, "flights.csv")
    stubs.go("build", "-C", str(ROOT / "gateway/examples/inprocess"), "-o", str(program), "./predict")
    flights_with_gaps.to_csv(table, index=False)
    command = [program, "-model", exported, "-csv", table]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    differences = np.abs(np.array(ran.stdout.split(), float) - flights_model.predict(flights_with_gaps))
except (stubs.GoMissing, RuntimeError) as error:
    why = f"The Go program cannot be built here, so nothing is compared: {str(error).splitlines()[0]}"
print(why or f"{len(differences):,} flights, {int(flights_with_gaps.isna().sum().sum()):,} values missing")

# %%
from IPython.display import Markdown

from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import lines

parity = "Parity was not measured here"
if differences is not None:
    parity = f"{len(differences):,} flights: Go and scikit-learn differ by at most {differences.max():.1e} minutes"
    places = np.unique(np.geomspace(1, len(differences), 100).astype(int))
    points = pd.DataFrame({"difference": np.sort(differences)[::-1][places - 1].clip(1e-16)}, index=places)
    x, y = "flights, from the largest difference on", "difference (minutes; 1e-16 stands for none)"
    figure = lines(points, parity, x, y, log=True, legend="lower left")
    figure.axes[0].yaxis.set_major_formatter("{x:.0e}")
    show(figure, f"The differences of both engines' predictions, sorted, both axes logarithmic. {parity}.")
Markdown(parity + ".")

# %% [markdown]
# What is lost is the guard. Our server compares the engines before it serves, and gives rows of which it is not sure to scikit-learn
# ([07](07_make_it_fast.ipynb)). In Go nobody can be asked. For a model in which single precision or an unknown category makes a
# difference, the Go program would be wrong without a word.
#
# ## Side by side
#
# Now all ways, from Go. The lab's generator in Go has the table as a slice of values for each column. Each call writes its message,
# sends it, and reads the predictions. For the pipe, Python is started once and has both ends open.

# %%
from pred_server.lab import stats, words
from pred_server.lab.experiments import Experiment, running
from pred_server.lab.native import LOADGEN
from pred_server.lab.ways import WAYS, Arm

SERVERS = {"gRPC": "serve", "Unix socket": "unix", "REST": "rest", "pipe": "pipe", "in process": "inprocess"}
caller, notes = "go", []
if not LOADGEN.exists():
    caller, SERVERS["in process"] = "python", "predict"
    notes.append(
        "The generator in Go is not built (`make gateway`): the callers are in Python, and so is the model in process."
    )
for way in ("rest", SERVERS["in process"]):
    if missing := WAYS[way].missing():
        SERVERS = {name: server for name, server in SERVERS.items() if server != way}
        notes.append(f"Left out: {missing}.")
arms = [Arm(way, server, "auto", frame=True, generator=caller) for way, server in SERVERS.items()]
again = Arm("gRPC, again", "serve", "auto", frame=True, generator=caller, process=1)
experiment = Experiment(
    (*arms, again), tuple((arm.name, "gRPC") for arm in arms[1:]), (again.name, "gRPC"),
    model=MODEL, rows=SIZES, repetitions=1, blocks=BLOCKS, calls=CALLS, pin=False,
)  # fmt: skip
with running(experiment) as bench:
    measured = pd.concat([bench.measure(rows, repetition=0) for rows in SIZES], ignore_index=True)
print(*notes or ["All ways are there."], sep="\n")
print(f"{len(measured):,} calls, failed: {int((~measured['ok']).sum())}")

# %%
medians = measured.pivot_table("latency_ms", "arm", "rows", "median", sort=False)
medians = medians.loc[[arm.name for arm in experiment.arms]]
medians.columns = [f"p50 {words.at(rows)} (ms)" for rows in medians.columns]
first = measured[measured["rows"] == min(SIZES)].groupby("arm", sort=False)
medians["memory of its process (MiB)"] = first["server_ready_mib"].first()
medians["ready after (ms)"] = first["start_ms"].first()
medians.round(3)

# %%
compared = stats.report(measured, [(arm.name, "gRPC") for arm in arms[1:]], (again.name, "gRPC"))
one_row = medians.iloc[:, 0].drop(again.name)
inside = one_row.get("in process")
answer = "In process was not measured."
if inside:
    times, more = words.factor(one_row["gRPC"] / inside), words.duration(one_row["gRPC"] - inside)
    answer = f"One row over gRPC takes **{times} times** as long as in process, which is **{more}** more."
Markdown(
    f"- {answer} Your guess: {GUESS_RATIO or 'none yet'}.\n"
    + "\n".join(words.bullets(words.sentence(row) for row in compared.itertuples()))
)

# %% [markdown]
# "gRPC, again" is the control: gRPC against itself. Read nothing into a difference as small as that one.
#
# The ratio is large, and the difference is small. What matters is the difference, and how often you pay it. For one call in a web request, which takes many milliseconds, nobody will see it. At thousands of
# calls a second it is cores that you pay for.
#
# ## The published numbers
#
# `make bench` measures all ways with four models, from Go and from Python: tables up to 100,000 rows, 16 callers at the same
# time, memory, cold start, and the CPU time of caller and server together.

# %%
from pred_server.lab import experiments, report
from pred_server.lab.study_figures import figures_of

result = ROOT / "data/results/ways.parquet"
published = experiments.read(result) if result.exists() else None
if published is not None:
    for figure in figures_of(published).values():
        show(figure)
Markdown(
    "\n".join(report.short(published))
    if published is not None
    else "They are not here: `make bench` writes `data/results/ways.parquet`, and this cell draws it."
)

# %% [markdown]
# ## How much code, and what breaks
#
# Latency is one cost. Code that somebody must keep working is another. We count the lines that are neither empty nor comments, of what this
# project has for each way, beside the model itself.

# %%
FILES = {
    "gRPC": ["proto/pred.proto", "gateway/examples/article/main.go", "pred_server/tutorial/article.py"],
    "Unix socket, beside gRPC": ["pred_server/ops/socket_file.py"],
    "REST": ["pred_server/lab/ways/rest.py", "pred_server/lab/ways/web.py", "gateway/internal/load/rest.go"],
    "pipe": ["pred_server/lab/ways/pipe.py", "gateway/internal/load/pipe.go"],
    "in process, in Go": ["gateway/examples/inprocess/model.go", "gateway/examples/inprocess/library.go"],
    "in process, export and proof": [
        f"pred_server/engines/{name}.py" for name in ("convert", "converters", "parity", "probes")
    ],
}


def lines_of(path):
    """Count the lines of a file that are neither empty nor comments."""
    stripped = (line.strip() for line in (ROOT / path).read_text().splitlines())
    return sum(bool(line) and not line.startswith(("#", "//")) for line in stripped)


pd.DataFrame(
    {
        "files": [len(files) for files in FILES.values()],
        "lines": [sum(map(lines_of, files)) for files in FILES.values()],
    },
    index=list(FILES),
)

# %% [markdown]
# The simplest server for gRPC is the article's. What a server in use needs beside it (limits, health, a stop that loses nothing) is the
# rest of this project, and REST needs the same. The model in the Go process needs none of that. It needs the export and its proof, and a
# release of the Go program for each new model.
#
# | what is upgraded | gRPC, Unix socket | REST | pipe | in process, in Go |
# |---|---|---|---|---|
# | **scikit-learn** | the server alone: train again, restart it | the same | the child; the caller must start it anew | convert again, prove parity again, ship the graph to every program. A part may no longer convert |
# | **ONNX Runtime** | nothing, unless `--engine onnx`; the server proves parity when it starts | the same | nothing | the library and the Go binding must fit together: the binding asks for a version of the C interface, and an older library refuses it |
# | **Go** | nothing: the contract is fixed | nothing | nothing | cgo follows the C compiler and the C library of the machine; cross-compiling needs both for the target |
# | **protobuf, gRPC** | stubs and library must fit together on each side; the two sides need not | nothing | nothing for numbers | nothing |
# | **FastAPI, a JSON library** | nothing | how a float is written, and what NaN becomes, is theirs to decide | nothing | nothing |
# | **a new column in the model** | a caller that expects another schema is told so | what your code checks | rows are read wrong, without a word | the program refuses the table, until it is released again |
#
# ## Which way is yours?
#
# | your case | way | since |
# |---|---|---|
# | your models change weekly, and are pipelines | **gRPC** | the model is replaced without a release of any caller; whatever scikit-learn can do comes along |
# | one small tree model, and 50,000 calls a second | **in process** | a server spends nearly all of its time on the messages. Prove parity in CI, with rows of your own |
# | a gateway or a sidecar on the same machine, users who must not see each other | **Unix socket** | the file's mode is the access control. The time that it spares is small |
# | callers in a browser, in a spreadsheet, at a partner's | **REST**, or the [gateway](../docs/gateway.md) before gRPC | everybody speaks JSON, and a call with few rows loses little or nothing by text |
# | tables of 10,000 rows and more | **gRPC**, a tensor or Arrow, or in process | text is what takes the time; see [05](05_how_fast_is_it.ipynb) |
# | a batch job in Go, once a night, one machine | **pipe** | no port, no server to watch. One caller is all there is |
# | a slow model: a forest of 500 trees, a gigabyte of features | **gRPC** | the model takes the time, whatever the way; one server holds the memory once, and batches its callers |
# | callers in Python alone | none of them: `import` the model | unless they are many processes, or others own the model |
# | the model must not leave the team, or is audited | **gRPC** or **REST** | who has the graph has the model |
#
# If two rows fit, take the way that is easier to leave. The caller's code is the same for gRPC over a port and over a socket, and close
# to the same for a model in process, if all that it sees is a function from a table to predictions.
#
# ## What we found

# %%
slowest = one_row.idxmax()
Markdown(
    f"- {parity}.\n"
    f"- One row, `{MODEL}`, from {'Go' if caller == 'go' else 'Python'}: "
    + ", ".join(f"{way} {words.duration(ms)}" for way, ms in one_row.items())
    + f". The slowest way, {slowest}, costs {words.duration(one_row.max() - one_row.min())} more than the quickest.\n"
    "- The way decides for quick models and few rows. For slow models and large tables, the model and the encoding do.\n"
    "- In process is the quickest way, and the one that ties the release of the caller to the release of the model."
)

# %% [markdown]
# ## Exercises
#
# **1.** Your web server makes 20 calls with one row for each page, one after the other, and a page takes 80 ms. What share of
# it would be spared by a model in process? Write the expression with `one_row`, and run the next cell.

# %%
spared_share = None  # your expression


# %%
if spared_share is None or inside is None:
    print("exercise 1: not yet answered, or there is no model in process here")
else:
    right = 20 * (one_row["gRPC"] - inside) / 80
    verdict = (
        "right" if np.isclose(spared_share, right) else "not yet: 20 times the difference of two medians, by 80 ms"
    )
    print(f"exercise 1: {verdict}; it spares {right:.0%} of a page, and 20 rows in one call would spare nearly as much")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```python
# spared_share = 20 * (one_row["gRPC"] - one_row["in process"]) / 80
# ```
#
# Before you move the model, send the 20 rows in one call.
#
# </details>
#
# **2.** Measure the ways with the model `flights`: set `MODEL = "flights"` at the top, and run the notebook again. Which differences
# are left, and why?
#
# <details><summary>Answer</summary>
#
# The differences in milliseconds between gRPC, socket, REST and pipe stay about as they were. The ratios shrink, since
# scikit-learn takes some milliseconds for one flight. In process gains more than the message: ONNX Runtime computes one row of this model
# much faster than scikit-learn. So it is not the way that gains, it is the engine, and `pred-server serve --engine onnx` has it, too.
#
# </details>
#
# ## Close

# %%
folder.cleanup()
print("Each server and child above ended with its own cell.")

# %% [markdown]
# Next: [10 Scale out](10_scale_out.ipynb)
