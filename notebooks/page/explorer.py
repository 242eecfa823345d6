# What `make explorer` shows as a page, by Voilà: the widgets of explorer.ipynb, and no code.
from pred_server.lab.explorer import Explorer

Explorer().view  # noqa: B018 - the last value of the page
