"""Results as text: the report of a run, the Markdown blocks of a page, and the figures as files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pred_server.lab import experiments, figures, findings, stats, words
from pred_server.lab.experiments import Experiment
from pred_server.lab.study_figures import figures_of

BASE = "the article's server"
SHORT_ROWS = (1, 1_000, 100_000, 1_000_000)
SHORT_ARMS = (BASE, "csv", "tensor", "streamed tensor", "REST (JSON)", "Arrow Flight")
END = "<!-- end -->"


def bench(experiment: Experiment, out: Path) -> None:
    """Run an experiment, write its calls to `out`, and print the report."""
    calls = experiments.run(experiment, out)
    print(text(calls))
    print(f"\n{len(calls):,} calls: {out}; to draw them: pred-server plot {out}")


def text(calls: pd.DataFrame) -> str:
    """Return the report of a result: medians, a sentence for each declared comparison, and every doubt."""
    experiment = calls.attrs["experiment"]
    names = [arm["name"] for arm in experiment["arms"] if arm["name"] in set(calls["arm"])]
    medians = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms").loc[names].round(2)
    medians.columns = [f"{rows:,}" for rows in medians.columns]
    lines = ["median latency in ms, by rows in one call", medians.to_string(index_names=False, na_rep=""), ""]
    if experiment["varies"] not in ("rows", "floor"):
        rates = stats.throughput(calls).set_index("arm").loc[names].reset_index()
        lines += [rates.round(3).to_string(index=False), ""]
    if experiment["varies"] == "floor":
        lines += cases_table(findings.cases(calls))
    elif experiment["varies"] == "callers":
        lines += _callers(calls)
    else:
        lines += [words.sentence(row) for _, row in stats.declared(calls).iterrows()]
        lines += _load(calls) if experiment["varies"] == "load" else []
    return "\n".join([*lines, "", *(f"doubt: {doubt}" for doubt in stats.doubts(calls, stats.control(calls)))])


def plot(results: Sequence[Path], out: Path, pages: Sequence[Path] = ()) -> None:
    """Draw result files as PNGs into the folder `out`, and write their numbers into pages that have markers for them.

    The file NAME.parquet fills the blocks `NAME` and `NAME_short`; see `with_blocks`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        calls = experiments.read(result)
        for name, figure in figures_of(calls).items():
            path = out / f"{result.stem}_{name}.png"
            figures.write(figure, path)
            print(f"{path}: {figures.alt(figure)}")
        for page in pages:
            page.write_text(with_blocks(page.read_text(), result.stem, calls))


def with_blocks(page: str, name: str, calls: pd.DataFrame) -> str:
    """Return a page with a result written between `<!-- name -->` (or `<!-- name_short -->`) and `<!-- end -->`.

    A page without such markers is returned as it is.
    """
    for begin, lines_of in {f"<!-- {name} -->\n": full, f"<!-- {name}_short -->\n": short}.items():
        if begin in page:
            head, rest = page.split(begin)
            page = "\n".join([f"{head}{begin}{chr(10).join(lines_of(calls))}", f"{END}{rest.split(END, 1)[1]}"])
    return page


def full(calls: pd.DataFrame) -> list[str]:
    """Return the block of a result in Markdown: its numbers, and where they were measured."""
    stamp = calls.attrs["stamp"]
    machine = f"{stamp['cpu']}, {stamp['cores']} cores, pinned: {stamp['pinning']}; Python {stamp['python']}"
    libraries = f"grpcio {stamp['grpcio']}, scikit-learn {stamp['scikit-learn']}; revision {stamp['revision']}"
    return [*FULL[calls.attrs["experiment"]["varies"]](calls), "", f"<sub>{machine}, {libraries}.</sub>"]


def short(calls: pd.DataFrame) -> list[str]:
    """Return the short block of a result: a small table, or one or two sentences."""
    return SHORT[calls.attrs["experiment"]["varies"]](calls)


def _rows(calls: pd.DataFrame) -> list[str]:
    compared = stats.declared(calls).query("base == @BASE")
    served = findings.echo_of(calls).removeprefix("echo of ")
    few = (compared["rows"] == compared["rows"].min()) & (compared["arm"] == served)
    many = compared["rows"] == compared["rows"].max()
    sentences = [words.sentence(row) for _, row in pd.concat([compared[many], compared[few]]).iterrows()]
    ratios = compared.set_index(["arm", "rows"])["ratio"].map(" ({:.2g})".format).to_dict()
    table = _medians(calls, calls.attrs["experiment"]["rows"], [BASE, *compared["arm"].unique()], ratios)
    return [*table, "", *words.bullets([*sentences, _control(calls)])]


def _medians(calls: pd.DataFrame, sizes: Sequence[int], arms: Sequence[str], notes: dict[Any, str]) -> list[str]:
    """Return a table of median milliseconds by arm and rows, with the notes of some, and the floors at its end."""
    p50_ms = stats.summary(calls).set_index(["arm", "rows"])["p50_ms"].map(words.number).to_dict()
    floors = {arm: f"{arm} (floor)" for arm in ("in process", findings.echo_of(calls))}
    lines = []
    for arm in (*arms, *floors):
        cells = [p50_ms.get((arm, rows), "") + notes.get((arm, rows), "") for rows in sizes]
        lines.append([floors.get(arm, arm), *cells])
    return words.table(["rows", *(f"{rows:,}" for rows in sizes)], lines)


def _rows_short(calls: pd.DataFrame) -> list[str]:
    """Return a small table and a sentence if the sizes of the table were measured, else a sentence for two sizes."""
    sizes = calls.attrs["experiment"]["rows"]
    if set(SHORT_ROWS) <= set(sizes):
        arms = [arm for arm in SHORT_ARMS if arm in set(calls["arm"])]
        compared = stats.declared(calls).query("base == @BASE and rows == rows.max()")
        fastest = words.sentence(compared.sort_values("ratio").iloc[0])
        return [*_medians(calls, SHORT_ROWS, arms, {}), "", f"{words.capital(fastest)}."]
    sentences, model = [], calls.attrs["experiment"]["model"]
    for rows in (min(sizes), max(sizes)):
        p50_ms = calls[calls["rows"] == rows].groupby("arm")["latency_ms"].median()
        ours = p50_ms.filter(calls.loc[calls["server"] == "serve", "arm"].unique())
        fastest, base, alone = (words.duration(ms) for ms in (ours.min(), p50_ms[BASE], p50_ms["in process"]))
        call = f"`{model}` model, {words.at(rows)}: a call takes {fastest} (ours, `{ours.idxmin()}`) or {base} ({BASE})"
        sentences.append(f"{call}; `predict` in process takes {alone}")
    return words.bullets(sentences)


def _control(calls: pd.DataFrame) -> str:
    again, once = stats.control(calls) or ("", "")
    ratios = [words.interval(row) for row in stats.ratio(calls, again, once).itertuples()]
    sizes = ", from few rows to many" if len(ratios) > 1 else ""
    return f"the control, `{once}` against itself, reads{sizes}: {', '.join(ratios)}"


def _titles(calls: pd.DataFrame) -> list[str]:
    return words.bullets(figure.get_suptitle().replace("\n", " ") for figure in figures_of(calls).values())


def _chunks(calls: pd.DataFrame) -> list[str]:
    tuned = stats.declared(calls).query("base == 'echo'")
    return [*_titles(calls), *words.bullets(words.sentence(row) for _, row in tuned.iterrows())]


def _load_short(calls: pd.DataFrame) -> list[str]:
    points = findings.load_points(calls)
    step, rates = findings.shared_step(points), " and ".join(findings.rates_in_words(points))
    p99_ms = points[points["step"] == step].set_index("server")["p99_ms"]
    servers = " and ".join(f"{words.duration(ms)} ({server})" for server, ms in p99_ms.items())
    load = f"{step:,.0f}/s" if "share" not in calls or not calls["share"].any() else f"{step:.0%} of what each can do"
    return [f"One process keeps up with these loads: {rates}. At {load}, 99 % of calls end within {servers}."]


def _load(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, loop in findings.loops(calls).iterrows():
        closed, even, opened = (words.duration(loop[name]) for name in ("closed_ms", "even_ms", "open_ms"))
        lines.append(
            f"{loop['server']}, medians: {closed} in a closed loop of one caller, {even} in an open loop at "
            f"{loop['share']:.0%} of the capacity whose calls come evenly, {opened} where they come at random. The "
            "first step is what a pause costs (threads sleep, caches cool), the second what meeting other calls costs"
        )
    return [*_titles(calls), *words.bullets(lines)]


def _callers(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, row in findings.rates(calls).iterrows():
        rate = f"{row['ratio']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        cpu = f"{row['cpu']:.3g} [{row['cpu_low']:.3g}, {row['cpu_high']:.3g}]"
        lines.append([row["base"], row["arm"], rate, cpu, row["doubt"]])
    return words.table(["the first", "the second", "calls a second, first ÷ second", "CPU, second ÷ first", ""], lines)


def _callers_short(calls: pd.DataFrame) -> list[str]:
    found = findings.rates(calls).query("doubt == ''")
    rates = (f"{row.ratio:.3g} (`{row.base}` ÷ `{row.arm}`)" for row in found.itertuples())
    return [f"Calls a second, from many callers with a row each: {'; '.join(rates)}."]


def _ladder_short(calls: pd.DataFrame) -> list[str]:
    sentences = []
    for rows, callers in findings.ladders(calls):
        steps = findings.steps_at(calls, rows, callers)
        largest, ends = steps.iloc[1:-2].sort_values("factor").iloc[-1], steps.iloc[-1]
        where = f"{words.at(rows)} and {callers} caller{'s' if callers > 1 else ''}"
        gain = f"ours with all steps is {words.factor(ends['factor'])} times as fast as the article's server"
        sentences.append(
            f"{where} {gain}; the largest step is {largest['step']} ({words.factor(largest['factor'])} times)"
        )
    return words.bullets(sentences)


def _parts(calls: pd.DataFrame) -> list[str]:
    compared = stats.declared(calls)
    compared = compared[[pair != stats.control(calls) for pair in zip(compared["arm"], compared["base"], strict=True)]]
    return words.bullets([*(words.sentence(row) for _, row in compared.iterrows()), _control(calls)])


def _floor(calls: pd.DataFrame) -> list[str]:
    return [*cases_table(findings.cases(calls)), "", *words.bullets([_control(calls)])]


def cases_table(cases: pd.DataFrame) -> list[str]:
    """Return the outcomes of `findings.cases` as lines of a Markdown table."""
    lines = []
    for _, case in cases.iterrows():
        verdict = case["doubt"] or ("met" if case["margin"] >= 1 else "missed")
        numbers = f"{case['ratio']:.3g} [{case['low']:.3g}, {case['high']:.3g}]"
        lines.append([case["case"], case["target"], numbers, verdict])
    return words.table(["case", "target", "measured, 95 % interval", ""], lines)


def _floor_short(calls: pd.DataFrame) -> list[str]:
    cases = findings.cases(calls)
    missed = cases[cases["margin"] < 1]
    names = "; ".join(f"{case.case} ({case.ratio:.3g}, target {case.target})" for case in missed.itertuples())
    return [f"{len(cases) - len(missed)} of {len(cases)} targets are met. Missed: {names or 'none'}."]


Lines = Callable[[pd.DataFrame], list[str]]
FULL: dict[str, Lines] = {
    "rows": _rows,
    "load": _load,
    "callers": _callers,
    "chunks": _chunks,
    "ladder": _titles,
    "parts": _parts,
    "floor": _floor,
}
SHORT: dict[str, Lines] = {
    "rows": _rows_short, "load": _load_short, "chunks": _titles, "ladder": _ladder_short, "parts": _parts,
    "floor": _floor_short, "callers": _callers_short,
}  # fmt: skip
