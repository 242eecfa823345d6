# %% [markdown]
# # Explorer
#
# **What does a call cost, for the model, the encoding, the size and the load of your choice?**
#
# Choose two to four *arms*, the things to compare, and press *run*. The figure grows while it is measured, and the verdict is a
# sentence. Below the widgets, one cell does the same without them. A browser that runs no Python shows that part only.
# `make explorer` opens the widgets alone, as a page without code.
#
# **Needs:** the trained model (`make setup`, or `make lab`). **Takes:** 1 minute to run, about 5 minutes to read; about a minute for
# each choice. **Built before:** encodings and waterfalls ([03b](03b_under_the_hood.ipynb)), ratios and controls
# ([05](05_how_fast_is_it.ipynb)), closed and open loops ([06](06_under_load.ipynb)).
#
# **Core:** either part is enough, with widgets or without. **Optional:** the other one.

# %%
import sys
from importlib.metadata import version

print("Python      ", sys.version.split()[0])
for package in ("grpcio", "scikit-learn", "pandas", "ipywidgets", "plotly"):
    print(f"{package:13}{version(package)}")

# %% tags=["parameters"]
MODEL = "flights"  # or linear, sum, forest, boosting, or the directory of a model of yours
POINTS = (1, 10, 100, 1_000, 10_000)  # on the axis
BLOCKS, CALLS = 6, 6  # at each point, and of each arm in half a block

# %% [markdown]
# ## With widgets
#
# Each row of widgets is an arm. All others are compared with the first. On the axis stand rows, or a load: callers who wait for
# each answer (closed loop), or calls a second (open loop).
#
# - *run* starts the servers and a load generator, in a process of its own, so the notebook stays free for other cells.
#   It measures in *blocks*: in each block every arm has its turn, in a shuffled order, and then in the reverse order.
# - Above are medians, with a band up to p90. Below is the *ratio* to the first arm, with its 95 % interval, which narrows from block
#   to block. Grey is the control: the first arm against itself. Point at a marker to see its numbers.
# - The verdict comes at the end. *stop* ends everything at once, and then there is none: who stops when a difference shows,
#   finds differences that are none.
# - Below the figure are the code of this experiment, its numbers, where the time goes, and a place to save the result, or to open one.

# %%
from pred_server.lab.explorer import Explorer

explorer = Explorer()
explorer.view

# %% [markdown]
# `explorer.calls` is a DataFrame with all calls of the last run, one a line.
#
# ## Without widgets
#
# These are the same functions. A `Choice` says what to compare. `watch` measures it block by block.

# %%
from tqdm.auto import tqdm

from pred_server.lab.choices import Choice
from pred_server.lab.live import watch
from pred_server.lab.ways import Arm

choice = Choice((Arm("csv"), Arm("arrow", encoding="arrow")), MODEL, points=POINTS, blocks=BLOCKS, calls=CALLS)
for state in tqdm(watch(choice.experiment), desc="blocks"):
    calls = state.calls

# %%
from IPython.display import Markdown

from pred_server.lab import curves

Markdown("\n".join(f"- {sentence}" for sentence in curves.conclusions(calls)))

# %%
from pred_server.lab.figures import show
from pred_server.lab.study_figures import figures_of

for figure in figures_of(calls).values():
    show(figure)

# %%
columns = ["line", "base_line", "x", "ratio", "low", "high", "verdict", "blocks"]
curves.ratios(calls)[columns].round(2)

# %% [markdown]
# Do not trust points that are crossed out in red: the generator was late, or had too much to do.
#
# ## A published figure again
#
# One cell draws any figure of `data/results` again. Without the second name it draws all figures of that result.

# %%
from pred_server.lab.report import redraw

redraw("rows_linear", "latency")

# %% [markdown]
# With *open*, the widgets show the same result: write `rows_linear` in place of the file's name.
#
# Each run closes what it started, so nothing is left to close.
