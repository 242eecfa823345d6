"""The waterfall of a call: its time by phase, as numbers, text or HTML."""

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from pred_server.wire.timing import SERVER_PHASES, Stopwatch, parse_header

PHASES = {
    "client encode": "the table becomes a message",
    "transport": "the wire, and protobuf on both ends",
    "decode": "the server reads the table and checks it",
    "queue": "it waits for a thread",
    "predict": "the model computes",
    "encode": "the predictions become a message",
    "client decode": "the message becomes a Series",
}
COLOURS = ("#56B4E9", "#999999", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#0072B2")


@dataclass(frozen=True)
class Waterfall:
    """One call's time by phase, in milliseconds.

    In a unary call the phases follow one another and add up to `wall_ms`; transport is what is left of it. In a stream
    they overlap: each is the time for which that phase was busy, and transport cannot be separated from waiting.
    """

    phases_ms: Mapping[str, float]
    wall_ms: float
    batch_rows: int = 0
    chunks: int = 0
    """How many messages a stream had; 0 for a unary call."""

    @classmethod
    def of_call(cls, client: Stopwatch, server_timing: str, wall_ms: float, chunks: int = 0) -> "Waterfall":
        server, batch_rows = parse_header(server_timing)
        phases = {**client.phases_ms, **{phase: server[phase] for phase in SERVER_PHASES if phase in server}}
        if not chunks:
            phases["transport"] = max(0.0, wall_ms - sum(phases.values()))
        return cls({phase: phases[phase] for phase in PHASES if phase in phases}, wall_ms, batch_rows, chunks)

    @property
    def table(self) -> pd.DataFrame:
        """The phases in the order in which they happen: milliseconds, and their share of the wall time."""
        table = pd.DataFrame({"ms": pd.Series(dict(self.phases_ms), dtype=float)}).rename_axis("phase")
        return table.assign(share=table["ms"] / self.wall_ms)

    def _title(self) -> str:
        call = f"a stream of {self.chunks:,} chunks: busy time by phase" if self.chunks else "one call"
        return f"{self.wall_ms:.2f} ms, {call}"

    def _bars(self) -> Iterator[tuple[str, float, float, str]]:
        """Phase, where its bar begins, how long it is, in milliseconds, and its colour."""
        start_ms = 0.0
        for phase, ms in self.phases_ms.items():
            yield phase, start_ms, ms, COLOURS[list(PHASES).index(phase)]
            start_ms += 0.0 if self.chunks else ms  # in a stream, phases overlap

    def text(self, width: int = 40) -> str:
        """The bars in characters, for a terminal."""
        lines = [self._title()]
        scale = width / max(self.wall_ms, *self.phases_ms.values(), 1e-9)
        for phase, start, ms, _ in self._bars():
            bar = " " * round(start * scale) + "█" * max(1, round(ms * scale))
            lines.append(f"  {phase:13} {ms:10.3f} ms  {bar}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Waterfall({self._title()}: {', '.join(f'{name} {ms:.2f}' for name, ms in self.phases_ms.items())})"

    def _repr_html_(self) -> str:
        rows = ""
        whole = max(self.wall_ms, *self.phases_ms.values(), 1e-9)
        for phase, start, ms, colour in self._bars():
            left, width = 100 * start / whole, max(0.3, 100 * ms / whole)
            bar = f"margin-left:{left:.1f}%;width:{width:.1f}%;height:0.9em;background:{colour}"
            rows += (
                f"<tr><td>{html.escape(phase)}</td><td>{ms:.3f}</td>"
                f'<td style="min-width:22em"><div style="{bar}"></div></td><td>{html.escape(PHASES[phase])}</td></tr>'
            )
        batch = f"; the model computed {self.batch_rows:,} rows at once" if self.batch_rows else ""
        head = "<tr><th>phase</th><th>ms</th><th></th><th></th></tr>"
        return f"<b>{html.escape(self._title() + batch)}</b><table>{head}{rows}</table>"
