"""Measure what the README shows and draw it: what `make plots` runs. Takes minutes; let the machine rest meanwhile."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from pred_server.background import serve
from pred_server.lab import experiments, plots, stats
from pred_server.model import FLIGHTS, ROOT, load

FLOOR = "in process (floor)"
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.lab.publish", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where results/ and figures/ are")
    parser.add_argument("--blocks", type=int, default=20)
    args = parser.parse_args()
    flights = pd.read_parquet(FLIGHTS).drop(columns="arr_delay")
    with serve("flights") as ours, serve("flights", module="pred_server.article") as article:
        arms: dict[str, experiments.Caller] = {
            "article server": article.client().predict,
            "pred-server serve": ours.client().predict,
            "pred-server serve, again": ours.client().predict,
            FLOOR: load("flights").predict,
        }
        calls = experiments.latency_by_rows(arms, flights, blocks=args.blocks, seed=SEED)
    results, figures = args.data / "results", args.data / "figures"
    results.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)

    stamp = experiments.stamp(SEED)
    summary = stats.summary(calls)
    ratios = {
        "serve_to_article": stats.ratio(calls, "pred-server serve", "article server"),
        "serve_to_floor": stats.ratio(calls, "pred-server serve", FLOOR),
        "serve_to_itself": stats.ratio(calls, "pred-server serve, again", "pred-server serve"),
    }
    found = {name: table.to_dict("records") for name, table in ratios.items()}
    document = {"stamp": stamp, "summary": summary.to_dict("records"), "ratios": found}
    text = json.dumps(document, indent=1).replace("NaN", "null")
    (results / "latency_by_rows.json").write_text(text + "\n")
    if args.data == ROOT / "data":
        readme = ROOT / "README.md"
        readme.write_text(with_figures(readme.read_text(), json.loads(text)))
    shown = summary[summary["arm"] != "pred-server serve, again"]
    first, last = found["serve_to_floor"][0], found["serve_to_floor"][-1]
    heading = (
        f"A call takes {first['ratio']:.1f} times as long as its prediction for {first['rows']} row, "
        f"{last['ratio']:.1f} times for {last['rows']:,}"
    )
    plots.latency_by_rows(shown, FLOOR, heading, stamp).savefig(figures / "latency_by_rows.png", dpi=120)
    print(summary.to_string(index=False))
    for name, table in ratios.items():
        print(f"\n{name}\n{table.to_string(index=False)}")


def with_figures(readme: str, document: dict[str, Any]) -> str:
    """The README with the table of a result file between its markers."""
    names = {
        "serve_to_floor": "`serve` ÷ prediction in process",
        "serve_to_article": "`serve` ÷ article's server",
        "serve_to_itself": "`serve` ÷ itself (A/A)",
    }
    p50_ms = {entry["rows"]: entry["p50_ms"] for entry in document["summary"] if entry["arm"] == "pred-server serve"}
    lines = ["| rows in a call | `serve`, p50 | " + " | ".join(names.values()) + " |", "|---|---|---|---|---|"]
    for index, (rows, latency_ms) in enumerate(p50_ms.items()):
        ratios = [document["ratios"][name][index] for name in names]
        cells = [f"{each['ratio']:.2f} ({each['low']:.2f} to {each['high']:.2f})" for each in ratios]
        lines.append(f"| {rows:,} | {latency_ms:.1f} ms | " + " | ".join(cells) + " |")
    begin, end = "<!-- latency_by_rows -->\n", "<!-- end -->"
    head, rest = readme.split(begin)
    return head + begin + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1]


if __name__ == "__main__":
    main()
