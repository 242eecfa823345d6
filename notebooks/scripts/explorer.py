# %% [markdown]
# # Explorer
#
# **What does a call cost, for the model, the encoding, the size and the load of your choice?**
#
# Choose, press *run*, and watch the plot and the waterfall grow. Below the widgets, one cell does the same without them. You
# change its parameters instead. A browser that runs no Python shows that part only.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 20 s to run, about 5 minutes to read; half a minute for
# each choice. **Built before:** encodings and waterfalls ([03b](03b_under_the_hood.ipynb)), closed and open loops
# ([06](06_under_load.ipynb)).
#
# **Core:** either part is enough, with widgets or without. **Optional:** the other one.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas", "ipywidgets"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
MODEL = "flights"  # or linear, sum, or the directory of a model of yours
ENCODING = "arrow"  # or csv, columns, tensor
ROWS = (1, 10, 100, 1_000, 10_000)  # rows in one call; each number is a point
STREAM = False  # True: send chunks of 1,000 rows
LOAD = "1 caller"  # 1, 4 or 16 callers in a closed loop; 20, 100 or 500 calls/s in an open loop
CALLS = 40  # at each point

# %% [markdown]
# ## With widgets
#
# The code is in `pred_server/lab/explorer.py`. *run* starts a server and a load generator. It measures from few rows to many,
# and closes both. For several values of *rows*, hold Ctrl or Shift while you click. If a choice does not work, for example text in
# a tensor, a sentence below the button says why. To stop a run: Kernel → Interrupt.

# %%
from pred_server.lab.explorer import Choice, Explorer, draw, explore

explorer = Explorer()
explorer.view

# %% [markdown]
# `explorer.calls` is a DataFrame with all calls of the last run, one a line.
#
# ## Without widgets
#
# These are the same functions. `explore` measures point by point. `draw` makes the figures of the points so far.

# %%
from tqdm.auto import tqdm

choice = Choice(MODEL, ENCODING, ROWS, STREAM, LOAD, CALLS)
for so_far in tqdm(explore(choice), total=len(ROWS), desc=str(choice)):
    calls = so_far

# %%
from pred_server.lab.figures import show

for figure in draw(calls, choice):
    show(figure)

# %%
from pred_server.lab import stats

stats.summary(calls).round(2)

# %%
from IPython.display import Markdown

from pred_server.lab.explorer import FLOOR_NOTE

Markdown(FLOOR_NOTE)

# %% [markdown]
# Do not trust points that are crossed out in red: the generator was late, or had too much to do.
#
# One look is no comparison. To say that one thing is faster than another, measure both in turns, with intervals and a control.
# `pred-server bench` does that, also for your own model with `--model DIR`.
#
# Each run closes what it started, so nothing is left to close.
