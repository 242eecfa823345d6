# %% [markdown]
# # 04 · Call it from Go
#
# **How does a web server in Go ask a model in Python, and what does the extra hop cost?**
#
# The users of a website do not speak gRPC. Their browser sends HTTP to a web server, which at many places is written
# in Go. So a prediction takes two steps: HTTP to the Go server, and gRPC from there to Python. Our Go server in
# between is the *gateway*. We run it, look inside, break the server behind it, and measure what it adds. You need not
# have written Go before.
#
# You will
#
# - call the Python server from Go, first with the stubs alone, then with the client package `pred`;
# - post flights to the gateway as CSV and as JSON, and see what its user gets when something goes wrong;
# - measure the extra hop, and what it costs to connect anew for each request, as
#   [the article](https://abap34.com/posts/grpc_ml.html) does;
# - give the client to a colleague whose program lives in another repository.
#
# **Needs:** Go and the trained model (`make setup` brings both), and Go's modules, which the first build fetches.
# **Takes:** about a minute to run, about 35 minutes to read. The first run takes longer: Go compiles everything once.
# **Core:** all sections but "Prepare the table in Go?", which is optional.
# **Built before:** the `flights` model ([01](01_train_a_model.ipynb)), the contract
# ([02](02_write_the_contract.ipynb)), and the server with its errors and deadlines ([03](03_serve_and_call.ipynb)).

# %%
import re
import sys
from importlib.metadata import version

from pred_server.checkout import ROOT  # the folder of the checkout

grpc_go = re.search(r"google.golang.org/grpc v(\S+)", (ROOT / "go.mod").read_text())[1]
print("Python ", sys.version.split()[0])
print("grpcio ", version("grpcio"), "(gRPC in Python)")
print("grpc-go", grpc_go, "(gRPC in Go; go.mod pins it)")

# %% tags=["parameters"]
BLOCKS = 30  # of the measurement: in each, all ways to a prediction take their turns
CALLS = 40  # of each way in each block; an even number

# %% [markdown]
# ## Is Go here?
#
# Go is a *compiled* language: `go build` turns source into a program that runs by itself. `stubs.go`
# (`pred_server/tutorial/stubs.py`) runs the Go that `make setup` installed beside Python. We build all programs of this
# lesson at once. A Go *module* is a library with a version; the first build fetches those that we need.
#
# Where Go or the modules cannot be had, the run ends at this cell with one line, and you can still read the lesson.
# (JupyterLab empties the cells that it was about to run; *File → Reload Notebook from Disk* fills them again.)


# %%
class NoGo(Exception):
    """Ends the run with one line in place of a traceback."""

    def _render_traceback_(self):
        return [str(self)]


# %%
import tempfile
from pathlib import Path

from pred_server.tutorial import stubs
from pred_server.tutorial.background import GATEWAY  # bin/gateway

tools_folder = tempfile.TemporaryDirectory()
tools = Path(tools_folder.name)
programs = ("./gateway/examples/article", "./gateway/examples/client", "./gateway/hopbench")
try:
    go_version = stubs.go("env", "GOVERSION").strip().removeprefix("go")
    stubs.go("build", "-o", str(GATEWAY), "./gateway/cmd/gateway")
    stubs.go("build", "-o", f"{tools}/", *programs)
    stubs.go("build", "-C", "gateway/examples/gota", "-o", f"{tools}/", ".")  # a module of its own
except stubs.GoMissing as error:
    reason = str(error).splitlines()[-1].split(" failed: ")[-1]
    raise NoGo(f"This lesson can be read but not run here: {reason}") from None
print("Go", go_version)
print("built:", GATEWAY.relative_to(ROOT), *sorted(path.name for path in tools.iterdir()))

# %% [markdown]
# ## As much Go as we need
#
# We read a real program piece by piece: `gateway/examples/article/main.go`, which does in Go what the article's client
# does. `go_code` cuts a piece out of a source file.

# %%
import textwrap

from IPython.display import Markdown


def go_code(path, first, last):
    """The lines from the one that contains `first` to the next that contains `last`, and on until brackets close."""
    lines = (ROOT / path).read_text().splitlines()
    begin = next(at for at, line in enumerate(lines) if first in line)
    end = next(at for at in range(begin, len(lines)) if last in lines[at])
    code = "\n".join(lines[begin : end + 1])
    while sum(map(code.count, "({")) > sum(map(code.count, ")}")):
        end += 1
        code += "\n" + lines[end]
    code = textwrap.dedent(code).replace("\t", "    ")
    return Markdown(f"`{path}`, from line {begin + 1}\n```go\n{code}\n```")


ARTICLE = "gateway/examples/article/main.go"

# %% tags=["deterministic"]
go_code(ARTICLE, "package main", "predpb")

# %% [markdown]
# A *package* is a folder of source files that belong together; `package main` becomes a program. `import` names the
# packages in use: some that come with Go, three of grpc-go, and `predpb`, our stubs, generated from `pred.proto`. A name
# that other packages may use begins with a capital letter; that is why protoc turned `input_data` into `InputData`.

# %% tags=["deterministic"]
go_code(ARTICLE, "func main()", "fmt.Print(result)")

# %% [markdown]
# `func` declares a function, and it may return *several results*: `predict` returns the predictions and an error. `:=`
# makes new variables for them. Go has no exceptions for ordinary failures: **`if err != nil`** asks whether an error
# came back. A program that does not ask goes on as if all were well. `*address` is the text that the pointer `address`
# points to.
#
# Now `predict`. It reads the table, from the file that was named or from standard input:

# %% tags=["deterministic"]
go_code(ARTICLE, "read := func", "table, err := read()")

# %% tags=["deterministic"]
go_code(ARTICLE, "conn, err :=", "defer conn.Close()")

# %% [markdown]
# `NewClient` makes what Python calls a channel; it connects when the first call needs it. `insecure` means without
# encryption. **`defer`** delays a call until the function returns, on whichever way: here it hangs up.

# %% tags=["deterministic"]
go_code(ARTICLE, "ctx, cancel :=", "return res.Result, nil")

# %% [markdown]
# A **context** carries a deadline, or the news that the caller gave up, to every function that gets it. This one ends
# after `timeout`; the call takes it to the server. Then the call itself: make a stub, call its method, one message in
# and one out. `&` makes a pointer, and `nil` is the pointer to nothing; as an error it says that all went well.
#
# One word more, which a client does not need and a server does. This is from the gateway:

# %% tags=["deterministic"]
go_code("gateway/cmd/gateway/main.go", "failed := make", "go func()")

# %% [markdown]
# `go` before a call starts a **goroutine**: the call runs beside everything else, as in a thread, but so cheaply that
# a server has thousands. Go's HTTP server runs one for each connection, so a handler may simply wait for Python. `<-`
# sends through a *channel* (not gRPC's), a queue between goroutines.
#
# ## A Go client and two Python servers
#
# That was the whole client. It asks the strict server and the article's for the flights in `data/flights.csv`. The
# client cannot tell the two servers apart: the contract is the same.

# %%
import subprocess

import numpy as np
import pandas as pd

from pred_server import load, serve

server = serve("flights", "--log-level", "info")
article = serve("flights", module="pred_server.tutorial.article")


def run(program, *arguments):
    """Run one of the programs that we built, and return what it printed."""
    command = [tools / program, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def numbers(text):
    """The predictions in a CSV text, without its header."""
    return np.array([float(line) for line in text.splitlines()[1:]])


# %%
answers = {
    "strict server": run("article", "-address", server.address, "data/flights.csv"),
    "article's server": run("article", "-address", article.address, "data/flights.csv"),
}
flights = pd.read_csv(ROOT / "data/flights.csv")
model = load("flights")
for name, answer in answers.items():
    print(f"{name:17} header {answer.split()[0]:10} first {answer.split()[1]:20}", end=" ")
    print("equal to in process, to the bit:", np.array_equal(numbers(answer), model.predict(flights)))

# %% [markdown]
# ## The client package
#
# CSV and one connection for each call are fine for a script. A web server needs more: one connection for all requests,
# typed columns, errors that a program can read, a second try when the server is just restarting. That is package `pred`
# (`gateway/pred`), the Go sibling of Python's `Client`. A handler with it fits on a page: `gateway/examples/client`.

# %% tags=["deterministic"]
go_code("gateway/examples/client/main.go", "// table returns", "return pred.Table")

# %% tags=["deterministic"]
go_code("gateway/examples/client/main.go", "// predict returns", "return func")

# %% [markdown]
# A *handler* answers one web request: `r` is the request, `w` takes the reply. This one reads a list of points, makes a
# table of it, asks, and writes the list of predictions. The deadline hangs on `r.Context()`, which ends when the user
# goes away. `client` is made once, at the start of the program, and shared by all requests.
#
# Three pieces of `pred` itself. `Predict` turns a table into a message, sends it, and reads the answer:

# %% tags=["deterministic"]
go_code("gateway/pred/client.go", "func (c *Client) Predict(", "return decode")

# %% [markdown]
# The table chooses how it travels: numbers of one type as one block of bytes (a tensor), everything else as typed columns.

# %% tags=["deterministic"]
go_code("gateway/pred/table.go", "func (t Table) request()", "return &predpb.Request{Columns")

# %% [markdown]
# gRPC itself can retry and share calls among servers, if it is told to. The setting is a piece of JSON:

# %% tags=["deterministic"]
go_code("gateway/pred/target.go", "func serviceConfig", "return")

# %% [markdown]
# We start the page-long web server with a backend that adds, and post two points. (`Process` is what `serve` returns: a
# program behind the notebook, with its address and its log.)

# %% tags=["deterministic"]
from pred_server.tutorial.background import Process

adder = serve("sum")
paste = Process([str(tools / "client"), "-backend", adder.address, "-listen", "127.0.0.1:0"], start_timeout_s=10)

import urllib.error
import urllib.request

without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http(path, body=None, headers=None, *, at):
    """Status, headers and text of the answer; with a body it is a POST."""
    request = urllib.request.Request(at.address + path, data=body, headers=headers or {})
    try:
        answer = without_proxy.open(request, timeout=60)
    except urllib.error.HTTPError as error:  # an answer too: 4xx, 5xx
        answer = error
    with answer:
        return answer.status, answer.headers, answer.read().decode()


for points in (b'[{"x": 1, "y": 2}, {"x": 0.1, "y": 0.2}]', b"x,y"):
    status, _, text = http("/", points, at=paste)
    print(status, text, end="")

# %% [markdown]
# ## The gateway
#
# The gateway is a handler for any model, and the first user of `pred`. `gateway` (`pred_server/tutorial/background.py`)
# starts `bin/gateway` on a free port, as `serve` does with the Python server. In a terminal it is
# `bin/gateway -backend 127.0.0.1:50051`; the *backend* is the server behind it.

# %%
from pred_server.tutorial.background import gateway

web = gateway(server.address)
web

# %% [markdown]
# A program that posts things is `curl`, and with it this would be
#
#     curl --data-binary @data/flights.csv http://127.0.0.1:8080/predict
#
# We do the same in Python, without a shell and with the port that the gateway got. (`curl` and `urllib` label any body as
# a form unless they are told otherwise; the gateway knows that, and reads CSV.)

# %% tags=["deterministic"]
csv_body = (ROOT / "data/flights.csv").read_bytes()
status, headers, text = http("/predict", csv_body, at=web)
print(status, headers["Content-Type"])
print(*text.splitlines()[:4], "...", sep="\n")

# %% [markdown]
# CSV in, CSV out. JSON in, JSON out: an array of *records*, one object for each row. The gateway makes the CSV that
# Python reads, and copies the digits as they came; no number is parsed on the way.

# %% tags=["deterministic"]
import json

records = json.dumps(flights.to_dict("records")).encode()
print(records[:155].decode(), "...")
status, headers, json_text = http("/predict", records, {"Content-Type": "application/json"}, at=web)
print(status, headers["Content-Type"])
print(json_text[:88], "...")

# %% tags=["deterministic"]
from_json = [record["arr_delay"] for record in json.loads(json_text)]
in_process = model.predict(flights)
print("CSV,  equal to in process, to the bit:", np.array_equal(numbers(text), in_process))
print("JSON, equal to in process, to the bit:", np.array_equal(from_json, in_process))

# %% [markdown]
# ## One request, two logs
#
# When a user complains, you want to find that one request in both logs. So each request has an id. The user may choose
# one, in the header `X-Request-Id`; otherwise the gateway makes one up. It travels to Python in the call's metadata, and
# comes back to the user.

# %%
status, headers, _ = http("/predict", csv_body, {"X-Request-Id": "complaint-17"}, at=web)
print("user     ", status, headers["X-Request-Id"])
for name, process in (("gateway  ", web), ("server   ", server)):
    print(name, *(line for line in process.logs().splitlines() if "complaint-17" in line))

# %% [markdown]
# ## What can go wrong
#
# **A bad table.** A carrier stands where the distance belongs, in the second line of the table. The error comes from
# Python; the gateway makes JSON of it.


# %% tags=["deterministic"]
def show_answer(status, headers, text):
    print(status, json.dumps(json.loads(text), indent=1, ensure_ascii=False))


bad = csv_body.replace(b",444,", b",MQ,", 1)
show_answer(*http("/predict", bad, {"X-Request-Id": "lesson-1"}, at=web))

# %% [markdown]
# `violations` has each fault with its column, for a program to read: a web form can mark the field in red.
#
# **A media type that it does not know.** The header `Content-Type` says what a body is.

# %% tags=["deterministic"]
show_answer(*http("/predict", csv_body, {"Content-Type": "application/pdf", "X-Request-Id": "lesson-2"}, at=web))

# %% [markdown]
# **A deadline that is too short.** The header `Request-Timeout-Ms` says how long the user is willing to wait. It
# becomes the context's deadline, and travels to Python with the call. Here it is one millisecond, for a large table:

# %% tags=["deterministic"]
large = pd.concat([flights] * 500)
print(f"{len(large):,} flights")
show_answer(
    *http(
        "/predict", large.to_csv(index=False).encode(), {"Request-Timeout-Ms": "1", "X-Request-Id": "lesson-3"}, at=web
    )
)

# %% [markdown]
# ## Break what is behind it
#
# The Python server ends, and the gateway stays. What do its users get, and after how long?

# %%
import time

address = server.address
server.close()
start_ns = time.perf_counter_ns()
broken = http("/predict", csv_body, {"X-Request-Id": "lesson-4"}, at=web)
refused_after_ms = (time.perf_counter_ns() - start_ns) / 1e6

# %% tags=["deterministic"]
show_answer(*broken)
print("/healthz", http("/healthz", at=web)[0])
print("/readyz ", http("/readyz", at=web)[0])

# %% [markdown]
# The reply says what happened and what to do. It does not say where the server was: that is for the log. `/healthz` and
# `/readyz` are for the machine that watches over the gateway. The gateway is *healthy*, so a restart would not help; it
# is not *ready*, so send users elsewhere if you can.
#
# Now a Python server comes back at the same address. We do not touch the gateway, and ask until we get an answer.

# %%
server = serve("flights", "--log-level", "info", "--address", address)
start_ns = time.perf_counter_ns()
deadline_ns = start_ns + 30_000_000_000
while (status := http("/predict", csv_body, at=web)[0]) != 200:
    assert time.perf_counter_ns() < deadline_ns, "the gateway did not find the server again"
    time.sleep(0.02)
back_after_ms = (time.perf_counter_ns() - start_ns) / 1e6
print(status, "from the same gateway:", web)

# %%
Markdown(
    f"Without the server, the user had the 503 after **{refused_after_ms:.0f} ms**, and not at the end of a deadline. "
    "In that time the gateway asked once more, after a quarter of a second: a server that restarts is often back by "
    f"then. When the server was ready again, the first prediction came after **{back_after_ms:.0f} ms**. The "
    "connection tries again by itself, at least once a second (`gateway/pred/target.go` sets that; left alone, gRPC "
    "waits longer and longer, up to two minutes)."
)

# %% [markdown]
# ## From gRPC's codes to HTTP's
#
# gRPC has seventeen status codes, the web has numbers. One table in `gateway/web/errors.go` leads from the ones to the
# others; we read it from there. Where it has a sentence, the user reads that in place of the server's message, which
# may say what is not the public's business. `OK`, the seventeenth, is no error and left out here.

# %% tags=["deterministic"]
from http import HTTPStatus

source = (ROOT / "gateway/web/errors.go").read_text()
sentences = source + (ROOT / "gateway/internal/problem/problem.go").read_text()
constants = dict(re.findall(r"^(?:const )?\s*(\w+)\s+= (?:problem\.)?(.+)$", sentences, re.MULTILINE))


def upper_snake(name):
    """InvalidArgument -> INVALID_ARGUMENT"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).upper().replace("CANCELED", "CANCELLED")


lines = ["| gRPC | HTTP | what the user reads |", "|---|---|---|"]
for code, status, sentence in re.findall(r"codes\.(\w+): +\{([\w.]+), (.*?)\}", source):
    if code == "OK":
        continue
    number = constants.get(status) or HTTPStatus[upper_snake(status.removeprefix("http.Status"))].value
    while sentence in constants:  # one may name another
        sentence = constants[sentence]
    sentence = sentence.strip('"') or "the server’s own message"
    lines.append(f"| `{upper_snake(code)}` | {number} | {sentence} |")
Markdown("\n".join(lines))

# %% [markdown]
# The number says whose fault it is: 4xx is the user's, 5xx ours. `UNAUTHENTICATED` looks like a 401, and is a 502: it is
# the gateway that the server does not let in, and the user can do nothing about that.
#
# 499 is no official number; nginx made it common, for logs. And `RESOURCE_EXHAUSTED` means two things: too much *at
# once* (429, try again later) and too large *altogether* (413, it will never fit). The detail that Python sends along,
# `TOO_LARGE`, tells them apart.
#
# ## What does the hop cost?
#
# `gateway/hopbench` measures from Go. It knows four ways, called *arms*, to the same prediction:
#
# - `direct`: over gRPC to Python, on one connection that stays;
# - `gateway`: over HTTP to the gateway, and from there over gRPC, on connections that stay;
# - `dial`: over gRPC to Python, on a new connection for each call, as the article's handler does (*to dial* is to
#   connect);
# - `direct-again`: the first once more, the *control*. It differs from `direct` by chance alone.
#
# One caller waits for each answer before it asks again. A *block* visits all arms in random order and then in reverse,
# so that a slow moment of the machine hits all of them. Everything runs on this one machine, not pinned to cores.
#
# All arms use the same client package with the same options, HTTP/2's windows among them; only the way differs. The model is `sum`, and the table has
# one row. That is on purpose: a prediction that costs next to nothing lets the way show. With a real model the same hop
# is a smaller part of the whole.
#
# **Guess first, then measure.** How many times as long as a direct call does a call through the gateway take? And one
# that dials? Write your guesses down before you go on.

# %%
GUESSES = {"gateway": 1.5, "dial": 1.5}  # times as long as a direct call: put yours here

# %%
import io

(tools / "one_row.csv").write_text("x,y\n1,2\n")
with gateway(adder.address, "-retries", "0") as adder_web:  # as hopbench's own client has it
    printed = run(
        "hopbench", "-backend", adder.address, "-gateway", adder_web.address, "-body", tools / "one_row.csv",
        "-blocks", BLOCKS, "-calls", CALLS,
    )  # fmt: skip
calls = pd.read_csv(io.StringIO(printed))
calls = calls.assign(latency_ms=calls["latency_us"] / 1000, ok=calls["ok"] == 1, rows=1)
calls.head(3)

# %% [markdown]
# Each block gives a ratio of medians. Its 95 % interval comes from drawing blocks again and again (`stats.ratio` in
# `pred_server/lab/stats.py`; lesson [03b](03b_under_the_hood.ipynb) does it by hand). If the interval contains 1, the verdict
# is "no difference found". The last way is the direct one again, the *control*: it shows what chance alone does.

# %%
from pred_server.lab import stats

ARMS = {
    "direct": "direct",
    "gateway": "through the gateway",
    "dial": "dialling each time",
    "direct-again": "direct again (the control)",
}
ratios = pd.concat({arm: stats.ratio(calls, arm, "direct") for arm in ARMS if arm != "direct"}).droplevel(1)
hop = stats.summary(calls).set_index("arm").join(ratios.drop(columns="rows")).loc[list(ARMS)]
hop[["calls", "failed", "p50_ms", "p90_ms", "ratio", "low", "high", "verdict"]].round(3).astype(object).fillna("")

# %%
from pred_server.lab import experiments, figures, words

compared = {arm: words.difference(hop.loc[arm]) for arm in ARMS if arm != "direct"}  # in words
finding = f"A call through the gateway: {compared['gateway']}; dialling each time: {compared['dial']}"
lines = hop.loc[list(compared)].assign(
    label=[ARMS[arm] for arm in compared],
    text=[f"{hop.loc[arm, 'ratio']:.2f}   ({hop.loc[arm, 'p50_ms']:.2f} ms)" for arm in compared],
    style=range(len(compared)),
)
alt = f"Each way's latency as a ratio to a direct call, with its 95 % interval. A direct call takes {hop['p50_ms'].iloc[0]:.2f} ms"
xlabel = "times as long as a direct call, 95 % interval (median ms)"
stamp = experiments.stamp(seed=1) | {"go": go_version, "grpc-go": grpc_go}
figures.show(figures.factors(lines, finding, alt, xlabel, stamp))

# %%


def cost(arm):
    """The finding, with its interval and in milliseconds."""
    if hop.loc[arm, "verdict"] == "no difference found":
        return "no difference found"
    extra_ms = hop.loc[arm, "p50_ms"] - hop.loc["direct", "p50_ms"]
    interval = f"95 % interval {hop.loc[arm, 'low']:.2f} to {hop.loc[arm, 'high']:.2f}"
    return f"{compared[arm]} ({interval}), **{extra_ms:+.2f} ms** in the median"


trust = (
    "Direct against itself: no difference found, as it should be."
    if hop.loc["direct-again", "verdict"] == "no difference found"
    else f"Direct against itself is {compared['direct-again']}, where it should be the same: the machine was not quiet "
    "or the blocks were few, and differences of that size mean nothing here. Run it again."
)
guessed = ", ".join(f"{ARMS[arm]} {guess:g}×, measured {hop.loc[arm, 'ratio']:.2f}×" for arm, guess in GUESSES.items())
Markdown(
    f"The hop through the gateway: {cost('gateway')}. A new connection for each call: {cost('dial')}. {trust}\n\n"
    f"Your guesses: {guessed}."
)

# %% [markdown]
# The gateway does real work in that time: it reads HTTP, checks the body, makes a gRPC call, writes HTTP and a line of
# log. Dialling does work that nobody needs: TCP and HTTP/2 are set up, both sides announce their settings, and all is
# thrown away after one answer. Here that happens inside one machine and without encryption. Over a network each of these
# steps waits for messages to travel there and back, and encryption adds more of them.
#
# ## Prepare the table in Go? (optional)
#
# The article prepares tables in Go, with `gota`, a data frame for Go (the pandas of Go). `gateway/examples/gota` does
# that: it drops flights whose departure delay is unknown, and columns that the model does not need.

# %% tags=["deterministic"]
go_code("gateway/examples/gota/main.go", "// prepare drops", "return table.String(), err")

# %% [markdown]
# We give it five flights, with the aircraft's number (`tailnum`) as a column too many, and with one delay missing. The
# article's client sends the same table as it is.

# %% tags=["deterministic"]
raw = flights.head(5).copy()
raw.insert(0, "tailnum", ["N1", "N2", "N3", "N4", "N5"])
raw.loc[2, "dep_delay"] = np.nan
raw.to_csv(tools / "raw.csv", index=False)
print((tools / "raw.csv").read_text())
as_it_is = numbers(run("article", "-address", server.address, tools / "raw.csv"))
by_gota = numbers(run("gota", "-address", server.address, "-csv", tools / "raw.csv"))
print("as it is:", as_it_is.round(1))
print("by gota: ", by_gota.round(1))

# %% [markdown]
# It works. The server ignores `tailnum` by itself. It also predicts the flight whose delay is missing, since this kind of
# model can work with missing numbers. Whether you want that is your decision, and Go is a fine place for it. But mind
# the answer: predictions have no names, only an order. If you drop rows, remember which.
#
# ### Where gota loses digits
#
# A data frame guesses the types of its columns. What looks like a number becomes a float, and gota prints floats with
# six digits after the point:

# %% tags=["deterministic"]
digits = run("gota", "-show-digits")
print(digits)

# %% [markdown]
# The first number is rounded, nothing is left of the second, and the third has lost its last digits. Read as strings
# (`dataframe.DetectTypes(false)`) they stay as they are. What does that do to a prediction? The `sum` model shows each
# digit:

# %% tags=["deterministic"]
for line in digits.splitlines():
    _, _, _, as_float, _, _, as_string = line.split()
    two_rows = pd.DataFrame({"x": [float(as_string), float(as_float)], "y": [0.0, 0.0]})
    exact, rounded = map(float, adder.client().predict(two_rows))
    print(f"x as string: {exact!r:18} as float: {rounded!r:17} the same: {exact == rounded}")

# %% [markdown]
# And flights? A tree asks whether a delay is above or below a limit. So its digits do not matter, unless the limit
# lies between the number and what became of it. We try two kinds of delays: thirds of a minute, which gota rounds, and
# whole minutes with a hair more, which gota makes whole. The second kind is chosen to do harm: delays are known in
# whole minutes, so that is where many limits lie.

# %%
HAIR = 4e-7  # minutes: less than the last digit that gota prints
minutes = np.arange(-10.0, 31.0)
first_flight = pd.concat([flights.head(1)] * len(minutes), ignore_index=True)


def steps(delays):
    """By how much each prediction changes when the delay is rounded to six digits after the point."""
    predicted, after_rounding = (
        model.predict(first_flight.assign(dep_delay=each)) for each in (delays, delays.round(6))
    )
    return after_rounding - predicted


thirds, hairs = steps(minutes + 1 / 3), steps(minutes + HAIR)
delay = float(minutes[np.abs(hairs).argmax()] + HAIR)
flights.head(1).assign(dep_delay=delay).to_csv(tools / "hair.csv", index=False)
exact = numbers(run("article", "-address", server.address, tools / "hair.csv"))[0]
rounded = numbers(run("gota", "-address", server.address, "-csv", tools / "hair.csv"))[0]
Markdown(
    f"Of {len(minutes)} delays with a third of a minute, **{np.count_nonzero(thirds)}** predictions changed; of "
    f"{len(minutes)} with a hair more than a whole minute, **{np.count_nonzero(hairs)}**. The worst: a flight leaves "
    f"**{delay!r}** minutes late. Sent by the article's client, it arrives **{exact:.2f}** minutes late; sent through gota, "
    f"**{rounded:.2f}**."
)

# %% [markdown]
# Nobody knows a delay to a fraction of a millisecond, and delays in whole minutes pass gota unharmed. A model whose
# numbers are small, such as shares, rates or concentrations, is harmed, and nothing warns you. This is why our gateway
# does not parse numbers: the Python server does, once.
#
# ## The article's handler
#
# Here is a handler as the article has it, in our words. It works, and it has four slips; numbers mark them.

# %%
HANDLER = r"""
func handle(w http.ResponseWriter, r *http.Request) {
	table, _ := io.ReadAll(r.Body) // 4
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials())) // 1
	if err != nil {
		log.Fatalf("connect: %v", err) // 2
	}
	defer conn.Close()
	request := &predpb.Request{InputData: string(table)}
	answer, err := predpb.NewPredictionClient(conn).Predict(context.Background(), request) // 3
	if err != nil {
		log.Fatalf("predict: %v", err) // 2
	}
	w.Write([]byte(answer.Result))
}
"""
MAIN = r"""
func main() {
	go func() { io.Copy(io.Discard, os.Stdin); os.Exit(0) }() // ends with this notebook
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("naive ready on http://%s (%s)\n", listener.Addr(), os.Args[1])
	log.Fatal(http.Serve(listener, http.HandlerFunc(handle)))
}
"""
IMPORTS = ["context", "fmt", "io", "log", "net", "net/http", "os", "google.golang.org/grpc",
           "google.golang.org/grpc/credentials/insecure", f"{stubs.module_path()}/generated/predpb"]  # fmt: skip

imports = "\n".join(f'import "{name}"' for name in IMPORTS)
(tools / "naive.go").write_text(f"package main\n{imports}\n{HANDLER}{MAIN}")
_ = stubs.go("build", "-o", str(tools / "naive"), str(tools / "naive.go"))

# %% [markdown]
# One user sends a good table, the next one a bad table, the third a good one again:


# %%
def ask(process, body):
    try:
        status, _, text = http("/", body, at=process)
        return f"{status}, {len(text.splitlines()) - 1} predictions"
    except (urllib.error.URLError, ConnectionError) as error:
        return f"no answer at all: {type(getattr(error, 'reason', error)).__name__}"


naive = Process([str(tools / "naive"), server.address], start_timeout_s=10)
print("first user: ", ask(naive, csv_body))
print("second user:", ask(naive, bad))
deadline_ns = time.perf_counter_ns() + 10_000_000_000
while naive.running and time.perf_counter_ns() < deadline_ns:
    time.sleep(0.01)
print("third user: ", ask(naive, csv_body))
print("the server: ", "running" if naive.running else "gone")
print("its log:    ", naive.logs().splitlines()[-1][20:100])

# %% [markdown]
# `log.Fatalf` writes a line and ends *the program*. One wrong table from one user, and the website is down for all,
# with every other request that was in flight. The four slips, and where ours are mended:
#
# | | the slip | what it does | mended | where |
# |---|---|---|---|---|
# | 1 | a connection for each request | pays for dialling each time, as measured above | connections are made once, at the start, and shared by all requests; one, unless `-connections` asks for more | `New` in [`pred/client.go`](../gateway/pred/client.go) |
# | 2 | `log.Fatalf` in a handler | one failed request ends the server | the handler returns the error; one place makes a reply and a line of log of it | `wrap` in [`web/handler.go`](../gateway/web/handler.go), `problemOf` in [`web/errors.go`](../gateway/web/errors.go) |
# | 3 | `context.Background()`: no deadline | a server that hangs holds the request, and its memory, for ever; the work goes on for a user who left | `context.WithTimeout` around the request's own context, which ends when the user goes away | `predictWhole` in [`web/predict.go`](../gateway/web/predict.go) |
# | 4 | `table, _ :=` throws an error away, `w.Write` is not looked at | a body that broke off is sent on as if it were whole: half a table gets half the predictions | errors of reading are answered, and sizes are limited; an error of writing can reach nobody, and the code says so | `readBody` in [`web/body.go`](../gateway/web/body.go), `BrokenOff` in [`internal/problem`](../gateway/internal/problem/problem.go) |
#
# The mended lines, cut from the sources:

# %% tags=["deterministic"]
go_code("gateway/pred/client.go", "for range o.connections", "c.stubs = append")

# %% tags=["deterministic"]
go_code("gateway/web/handler.go", "a, err := callSafely", "writeError(out")

# %% tags=["deterministic"]
go_code("gateway/web/predict.go", "// The context ends", "h.client.Call(")

# %% tags=["deterministic"]
go_code("gateway/internal/problem/problem.go", "func BrokenOff", "e.Reason = err.Error()")

# %% [markdown]
# The second piece sees every error of every handler, so that no handler can forget. `wrap` also catches a *panic*,
# Go's word for a fault of the program itself. `gateway/examples/client`, the page from above, has none of the slips.
#
# ## Give it to your colleague
#
# Your colleague writes Go in another repository. Hand over three things:
#
# 1. **the module**: a checkout of this project, or the place where you published it
#    (`make module MODULE=github.com/you/predserver` gives it a name that `go get` can fetch);
# 2. **the model's description**: which columns, of what types, and what comes back (`pred-server describe` prints it);
# 3. **the addresses**: `HOST:PORT`; several with commas between them; or `dns:///HOST:PORT`, for all that a name has.
#
# We play the colleague in an empty folder. `go.mod` is a module's list of what it needs; `replace` says that our module
# is found in a folder, and not on the web. Nothing else of this project is used.

# %%
PROGRAM = r"""
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"MODULE/gateway/pred"
)

func main() {
	client, err := pred.New(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	predictions, err := client.Predict(context.Background(), pred.Table{
		pred.NewColumn("x", []float64{1, 0.1}),
		pred.NewColumn("y", []float64{2, 0.2}),
	})
	if err != nil {
		log.Fatal(err)
	}
	sums, err := predictions.Float64s()
	fmt.Println(sums, err, predictions.Timings.Decode > 0)
}
"""

# %%
module = stubs.module_path()
elsewhere = tools / "elsewhere"
elsewhere.mkdir()
(elsewhere / "main.go").write_text(PROGRAM.replace("MODULE", module))
(elsewhere / "go.mod").write_text(
    f"module example.org/colleague\n\ngo 1.26.0\n\nrequire {module} v0.0.0\n\nreplace {module} => {ROOT}\n"
)
stubs.go("mod", "tidy", "-C", str(elsewhere))
_ = stubs.go("build", "-C", str(elsewhere), "-o", str(tools / "colleague"), ".")

# %% tags=["deterministic"]
print("one server:   ", run("colleague", adder.address), end="")
second = serve("sum")
print("two servers:  ", run("colleague", f"{adder.address},{second.address}"), end="")
second.close()
print("one is gone:  ", run("colleague", f"{adder.address},{second.address}"), end="")
refused = subprocess.run([tools / "colleague", "xds:///predictions"], capture_output=True, text=True)
print("another scheme:", refused.stderr.split(maxsplit=2)[2], end="")

# %% [markdown]
# What did the colleague's program pull in? Go lists every package that is compiled into it:

# %% tags=["deterministic"]
packages = stubs.go(
    "list", "-C", str(elsewhere), "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "."
).split()
print(sorted({"/".join(name.split("/")[:2]) for name in packages if not name.startswith("example.org")}))

# %% [markdown]
# gRPC, protobuf, a little of Go's own `golang.org/x`, and ours. No data frame and no Arrow: the examples that need those
# are modules of their own.
#
# ## What we found

# %%
Markdown(
    f"- A Go client and the gateway get the predictions of the model in process, to the last bit, as CSV and as JSON.\n"
    "- With package `pred`, a web server that asks is one page, and a colleague's program needs nothing else of ours.\n"
    f"- The hop through the gateway, for a prediction that costs next to nothing: {cost('gateway')}. Dialling for each "
    f"call: {cost('dial')}. Direct against itself: {compared['direct-again']}.\n"
    f"- With the Python server gone, users got a 503 after {refused_after_ms:.0f} ms, and predictions again "
    f"{back_after_ms:.0f} ms after it was back; the gateway was not touched.\n"
    "- gota prints floats with six digits after the point; to keep them, read numbers as strings.\n"
    "- `log.Fatalf` in a handler let one wrong table end the server for all."
)

# %% [markdown]
# ## Exercises
#
# 1. Which status does the gateway answer? Replace each `None` by a number, and run both cells.

# %%
MINE = {
    "a table without the column `dest`": None,
    "JSON whose record holds a list": None,
    "a model that the server does not have": None,
    "a GET of /predict": None,
    "the table as XML": None,
}

# %%
asked = {
    "a table without the column `dest`": ("/predict", flights.drop(columns="dest").to_csv(index=False).encode(), {}),
    "JSON whose record holds a list": ("/predict", b'[{"month": [1]}]', {"Content-Type": "application/json"}),
    "a model that the server does not have": ("/predict", csv_body, {"Model-Name": "cats"}),
    "a GET of /predict": ("/predict", None, {}),
    "the table as XML": ("/predict", csv_body, {"Content-Type": "application/xml"}),
}
wrong = [case for case, status in MINE.items() if status is not None and http(*asked[case], at=web)[0] != status]
print(f"{sum(status is not None for status in MINE.values()) - len(wrong)} of {len(MINE)} right so far")
assert not wrong, f"think again: {wrong}"

# %% [markdown]
# 2. Measure the hop again with the model `flights` and the body `data/flights.csv`: `run("hopbench", "-backend",
#    server.address, "-gateway", web.address, "-body", ROOT / "data/flights.csv", "-blocks", 10, "-calls", 20)`. What
#    becomes of the ratios?
# 3. A server that hangs is worse than one that is gone. Stop it in the middle of its life with `os.kill(server.pid,
#    signal.SIGSTOP)`, post with `Request-Timeout-Ms` of 500, and wake it with `SIGCONT`. What does the user get, and
#    what would the article's handler have given?
#
# <details><summary>Answers</summary>
#
# 1. 400, 400, 404, 405, 415. All are the user's, so all are 4xx; the last two never reach Python.
# 2. They come much nearer to 1, and "no difference found" may well be a verdict: a prediction of
#    this model takes several times as long as the hop. The milliseconds of the hop are still there; they drown in the
#    noise of the rest. Ten blocks give a wide interval; more blocks make it narrower.
# 3. A 504, after half a second: the context's deadline passed, and the handler returned. The article's handler has no
#    deadline, and waits as long as the server sleeps; so does every other request that comes meanwhile. A 503 cannot
#    come: the connection is still there, only nobody answers.
#
# </details>
#
# ## Close

# %%
processes = (naive, web, paste, adder, article, server)
for process in processes:
    process.close()
tools_folder.cleanup()
print("still running:", sum(process.running for process in processes))

# %% [markdown]
# Next: [05 How fast is it?](05_how_fast_is_it.ipynb)
