# %% [markdown]
# # Explorer
#
# **What does a call cost, for the model, the encoding, the size and the load of your choice?**
#
# Choose, press *run*, and watch the plot and the waterfall grow. Below the widgets a cell does the same without them, from
# the line of values that you change; that is also what a reader of this page sees whose browser runs no Python.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** half a minute a choice. **Built before:** encodings
# and waterfalls ([03b](03b_under_the_hood.ipynb)), closed and open loops ([06](06_under_load.ipynb)).

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas", "ipywidgets"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
MODEL = "flights"  # or linear, sum, the directory of a model of yours
ENCODING = "arrow"  # or csv, columns, tensor
ROWS = (1, 10, 100, 1_000, 10_000)  # of one call; each is a point
STREAM = False  # True: in chunks of 1,000 rows
LOAD = "1 caller"  # 1, 4 or 16 callers in a closed loop; 20, 100 or 500 calls/s in an open one
CALLS = 40  # at each point

# %% [markdown]
# ## With widgets
#
# The code is `pred_server/lab/explorer.py`. *run* starts a server and a load generator, measures from few rows to many, and
# closes both. *rows* takes several (Ctrl or Shift and click). What is wrong with a choice, say text in a tensor, is said in
# a sentence below the button. To stop in the middle: Kernel → Interrupt.

# %%
from pred_server.lab.explorer import Choice, Explorer, draw, explore

explorer = Explorer()
explorer.view

# %% [markdown]
# All calls of the last run, one a line, are in `explorer.calls`, a DataFrame.
#
# ## Without widgets
#
# The same functions: `explore` measures point by point, `draw` makes the figures of what there is so far.

# %%
from tqdm.auto import tqdm

choice = Choice(MODEL, ENCODING, ROWS, STREAM, LOAD, CALLS)
for so_far in tqdm(explore(choice), total=len(ROWS), desc=str(choice)):
    calls = so_far

# %%
from pred_server.lab import plots, stats

for figure in draw(calls, choice):
    plots.show(figure, plots.alt(figure))

# %%
stats.summary(calls).round(2)

# %% [markdown]
# `in process (floor)` is the prediction alone, without server or message: no way to ask can be quicker. Points crossed
# out in red are not to be trusted, since the generator was late or had too much to do.
#
# One look is no comparison. To claim that one thing is faster than another, measure both in turns, with intervals and a
# control: `pred-server bench`, on your own model with `--model DIR`.
#
# Everything that was started is closed already: each run closes its own.
