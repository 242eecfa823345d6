"""Results as text: the report of a run, the Markdown blocks of a page, and the figures as files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pred_server.errors import InvalidInput
from pred_server.lab import (
    experiments,
    figures,
    findings,
    machines,
    report_service,
    report_ways,
    stamps,
    stats,
    verdicts,
    words,
)
from pred_server.lab.claims import BASE, CLAIMS, SHORT_ARMS, SHORT_ROWS, stated
from pred_server.lab.experiments import Experiment
from pred_server.lab.study_figures import Drawn, best_rivals, encoding_or_transport, figures_of
from pred_server.lab.study_figures import machines as machines_figure
from pred_server.lab.ways import FLOORS

END = "<!-- end -->"


def bench(experiment: Experiment, out: Path, once: bool = False) -> None:
    """Run an experiment, write its calls to `out`, and print the report.

    With `once`, nothing is measured if `out` has the result already, of this machine and of the code as it is.
    """
    if once and _is_measured(experiment, out):
        print(f"{out}: measured already, here and with this code")
        return
    calls = experiments.run(experiment, out)
    print(text(calls))
    print(f"\n{len(calls):,} calls: {out}; to draw them: pred-server plot {out}")


def _is_measured(experiment: Experiment, out: Path) -> bool:
    """Tell whether a result differs from what `experiments.run` would write by its calls alone.

    Code that is not committed may have changed since, so its results count as those of other code.
    """
    if not out.exists():
        return False
    attrs = experiments.read(out).attrs
    now = stamps.stamp(experiment.seed, experiment.pinning) | {"command": attrs["stamp"]["command"]}
    return (
        attrs["stamp"] == now and attrs["experiment"] == experiment.described and not now["revision"].endswith("-dirty")
    )


def text(calls: pd.DataFrame) -> str:
    """Return the report of a result: medians, a sentence for each declared comparison, and every doubt."""
    experiment = calls.attrs["experiment"]
    names = [arm["name"] for arm in experiment["arms"] if arm["name"] in set(calls["arm"])]
    medians = stats.summary(calls).pivot(index="arm", columns="rows", values="p50_ms").loc[names].round(2)
    medians.columns = [f"{rows:,}" for rows in medians.columns]
    lines = ["median latency in ms, by rows in one call", medians.to_string(index_names=False, na_rep=""), ""]
    further = {
        "load": _load, "encodings": _two_by_two, "ways": report_ways.full, **report_service.FULL,
    }.get(experiment["varies"], _targets)  # fmt: skip
    if experiment["varies"] not in ("rows", "encodings", "ways", *report_service.FULL):
        rates = stats.throughput(calls).set_index("arm").loc[names].reset_index()
        lines += [rates.round(3).to_string(index=False), ""]
    if experiment["varies"] == "callers":
        lines += _callers(calls)
    else:
        lines += [words.sentence(row) for _, row in stats.declared(calls).iterrows()]
        lines += further(calls)
    return "\n".join([*lines, "", *(f"doubt: {doubt}" for doubt in stats.doubts(calls, stats.control(calls)))])


def plot(results: Sequence[Path], out: Path, pages: Sequence[Path] = ()) -> None:
    """Draw result files as PNGs into the folder `out`, and write their numbers into pages that have markers for them.

    The file NAME.parquet fills the blocks `NAME` and `NAME_short`; see `with_blocks`. Each claim of a short block
    that a further machine contradicts is printed.
    """
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        calls = experiments.read(result)
        if "call" not in calls:
            raise InvalidInput(f"{result} has no single calls: it is drawn with the published result above its folder")
        for name, figure in drawn(result, calls).items():
            path = out / f"{result.stem}_{name}.png"
            figures.write(figure, path)
            print(f"{path}: {figures.alt(figure)}")
        for page in pages:
            page.write_text(with_blocks(page.read_text(), result.stem, calls))
        for line in contradicted_claims(result, calls):
            print(f"to withdraw from the block {result.stem}_short: {line}")


def redraw(result: str, name: str = "") -> None:
    """Show the figures of a published result again in a notebook, or one of them: `redraw("rows_linear", "latency")`.

    Raises InvalidInput where there is no such result or figure.
    """
    found = figures_of(experiments.read(machines.RESULTS / f"{result}.parquet"))
    if name and name not in found:
        raise InvalidInput(f"{result} has no figure {name!r}; it has {', '.join(found)}")
    for key, figure in found.items():
        if name in ("", key):
            figures.show(figure)


def drawn(result: Path, calls: pd.DataFrame) -> Drawn:
    """Return the figures of a result file, and if there are further machines beside it, the one of their verdicts."""
    others = machines.verdicts_on(result, calls)
    return figures_of(calls) | ({} if others.empty else {"machines": machines_figure(others)})


def contradicted_claims(result: Path, calls: pd.DataFrame) -> list[str]:
    """Return a line for each comparison that a result's short block states and that a further machine contradicts."""
    others = machines.verdicts_on(result, calls)
    against = others[others["verdict"] == verdicts.CONTRADICTED]
    if against.empty:
        return []
    claims = CLAIMS[findings.study_of(calls)](calls)
    withdrawn = [row for row in against.itertuples() if (row.arm, row.base, row.rows) in claims]
    return [f"{verdicts.line(row)} ({row.machine})" for row in withdrawn]


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
    return [*FULL[findings.study_of(calls)](calls), "", f"<sub>{machine}, {libraries}.</sub>"]


def short(calls: pd.DataFrame) -> list[str]:
    """Return the short block of a result: a small table, or one or two sentences."""
    return SHORT[findings.study_of(calls)](calls)


def _rows(calls: pd.DataFrame) -> list[str]:
    compared, rivals = stats.declared(calls), findings.rivals(calls)
    sentences = [words.sentence(row) for _, row in rivals[rivals["rows"].isin(_ends(rivals))].iterrows()]
    floors = compared[compared["base"].str.contains(stats.SUM, regex=False)].sort_values("rows")
    over = ", ".join(f"{words.interval(row)} {words.at(row.rows)}" for row in floors.itertuples())
    sentences += [
        f"ours takes so many times as long as an echo of its bytes and `predict`: {over}",
        control_line(calls),
    ]
    return [*_at_hand(calls, calls.attrs["experiment"]["rows"]), "", *words.bullets(sentences), *_targets(calls)]


def _rows_short(calls: pd.DataFrame) -> list[str]:
    sizes, rivals = calls.attrs["experiment"]["rows"], findings.rivals(calls)
    shown = [rows for rows in SHORT_ROWS if rows in sizes]
    sentences = " ".join([f"{best_rivals(rivals)}.", *_targets_short(calls)])
    return [*_at_hand(calls, shown or _ends(rivals)), "", sentences]


def _ends(compared: pd.DataFrame) -> list[int]:
    return sorted({compared["rows"].min(), compared["rows"].max()})


def _at_hand(calls: pd.DataFrame, sizes: Sequence[int]) -> list[str]:
    """Return a table of median milliseconds, and how many times as long as ours a rival takes."""
    ratios = findings.rivals(calls).set_index(["arm", "rows"])["ratio"]
    notes = ratios.map(words.factor).map(" ({})".format).to_dict()
    shown = findings.at_hand(calls)
    is_floor = shown["server"].isin(FLOORS)
    arms, floors = (list(shown.loc[at, "arm"].unique()) for at in (~is_floor, is_floor))
    return _medians(shown, sizes, arms, notes, floors)


def _encodings(calls: pd.DataFrame) -> list[str]:
    compared = stats.declared(calls).query("base == @BASE")
    served = findings.echo_of(calls).removeprefix("echo of ")
    few = (compared["rows"] == compared["rows"].min()) & (compared["arm"] == served)
    many = compared["rows"] == compared["rows"].max()
    sentences = [words.sentence(row) for _, row in pd.concat([compared[many], compared[few]]).iterrows()]
    ratios = compared.set_index(["arm", "rows"])["ratio"].map(words.factor).map(" ({})".format).to_dict()
    table = _medians(calls, calls.attrs["experiment"]["rows"], [BASE, *compared["arm"].unique()], ratios)
    return [*table, *_two_by_two(calls), "", *words.bullets([*sentences, control_line(calls)])]


def _two_by_two(calls: pd.DataFrame) -> list[str]:
    """Return a table of what encoding and transport make, with an empty line before it; nothing if not measured."""
    found = findings.two_by_two(calls)
    if found.empty:
        return []
    cells = {(row.change, row.rows): words.difference(row) for row in found.itertuples()}
    sizes = sorted(found["rows"].unique())
    lines = [[change, *(cells.get((change, rows), "") for rows in sizes)] for change in found["change"].unique()]
    return ["", *words.table(["rows", *(f"{rows:,}" for rows in sizes)], lines)]


def _medians(
    calls: pd.DataFrame, sizes: Sequence[int], arms: Sequence[str], notes: dict[Any, str], below: Sequence[str] = ()
) -> list[str]:
    """Return a table of median milliseconds by arm and rows, with the notes of some, and the floors at its end."""
    p50_ms = stats.summary(calls).set_index(["arm", "rows"])["p50_ms"].map(words.number).to_dict()
    floors = {arm: f"{arm} (floor)" for arm in below or ("in process", findings.echo_of(calls))}
    lines = []
    for arm in (*arms, *floors):
        cells = [p50_ms.get((arm, rows), "") + notes.get((arm, rows), "") for rows in sizes]
        lines.append([floors.get(arm, arm), *cells])
    return words.table(["rows", *(f"{rows:,}" for rows in sizes)], lines)


def _encodings_short(calls: pd.DataFrame) -> list[str]:
    """Return a small table and a sentence if the sizes of the table were measured, else a sentence for two sizes."""
    sizes = calls.attrs["experiment"]["rows"]
    if set(SHORT_ROWS) <= set(sizes):
        arms = [arm for arm in SHORT_ARMS if arm in set(calls["arm"])]
        compared = stats.declared(calls).query("base == @BASE and rows == rows.max()")
        said, found = [words.sentence(compared.sort_values("ratio").iloc[0])], findings.two_by_two(calls)
        said += [] if found.empty else [encoding_or_transport(found)]
        return [*_medians(calls, SHORT_ROWS, arms, {}), "", " ".join(f"{words.capital(text)}." for text in said)]
    sentences, model = [], calls.attrs["experiment"]["model"]
    for rows in (min(sizes), max(sizes)):
        p50_ms = calls[calls["rows"] == rows].groupby("arm")["latency_ms"].median()
        ours = p50_ms.filter(calls.loc[calls["server"] == "serve", "arm"].unique())
        fastest, base, alone = (words.duration(ms) for ms in (ours.min(), p50_ms[BASE], p50_ms["in process"]))
        call = f"`{model}` model, {words.at(rows)}: a call takes {fastest} (ours, `{ours.idxmin()}`) or {base} ({BASE})"
        sentences.append(f"{call}; `predict` in process takes {alone}")
    return words.bullets(sentences)


def control_line(calls: pd.DataFrame) -> str:
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
    process = f"One process with `{calls.attrs['experiment']['model']}`"
    return [f"{process} keeps up with these loads: {rates}. At {load}, 99 % of calls end within {servers}."]


def _load(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, loop in findings.loops(calls).iterrows():
        closed, even, opened = (words.duration(loop[name]) for name in ("closed_ms", "even_ms", "open_ms"))
        lines.append(
            f"{loop['server']}, medians: {closed} in a closed loop of one caller, {even} in an open loop at "
            f"{loop['share']:.0%} of the capacity whose calls come evenly, {opened} where they come at random. The "
            "first step is what a pause costs (threads sleep, caches cool), the second what meeting other calls costs"
        )
    return [*_titles(calls), *words.bullets([*lines, *report_service.cpu(calls)])]


def _callers(calls: pd.DataFrame) -> list[str]:
    lines = []
    for _, row in findings.rates(calls).iterrows():
        rate, cpu = (_numbers(*row[names]) for names in (["ratio", "low", "high"], ["cpu", "cpu_low", "cpu_high"]))
        lines.append([row["base"], row["arm"], rate, cpu, row["doubt"]])
    header = ["the first", "the second", "calls a second, first ÷ second", "CPU, second ÷ first", ""]
    return [*words.table(header, lines), *_targets(calls)]


def _callers_short(calls: pd.DataFrame) -> list[str]:
    found = findings.rates(calls).query("doubt == ''")
    lines = []
    # A pair is of one model: its name stands behind both, and need not be said of the second.
    for base, pairs in found.groupby("base", sort=False):
        _, comma, model = str(base).partition(",")
        others = zip(pairs["ratio"], pairs["arm"].str.removesuffix(comma + model), strict=True)
        rates = (f"{ratio:.3g} × {words.named(other)}" for ratio, other in others)
        lines.append(f"{words.named(str(base))}: {'; '.join(rates)}")
    title = "Calls a second from many callers with a row each, as multiples of others':"
    return [title, "", *words.bullets(lines), "", *_targets_short(calls)]


def _ladder_short(calls: pd.DataFrame) -> list[str]:
    sentences = []
    for rows, callers in findings.ladders(calls):
        largest, ends = stated(findings.steps_at(calls, rows, callers))
        where = f"{words.at(rows)} and {callers} caller{'s' if callers > 1 else ''}"
        gain = f"ours with all steps is {words.factor(ends['factor'])} times as fast as the article's server"
        sentences.append(
            f"{where} {gain}; the largest step is {largest['step']} ({words.factor(largest['factor'])} times)"
        )
    return words.bullets(sentences)


def _parts(calls: pd.DataFrame) -> list[str]:
    compared = stats.declared(calls)
    compared = compared[[pair != stats.control(calls) for pair in zip(compared["arm"], compared["base"], strict=True)]]
    return words.bullets([*(words.sentence(row) for _, row in compared.iterrows()), control_line(calls)])


def _targets(calls: pd.DataFrame) -> list[str]:
    cases = findings.cases(calls)
    return [] if cases.empty else ["", *cases_table(cases)]


def cases_table(cases: pd.DataFrame) -> list[str]:
    """Return the outcomes of `findings.cases` as lines of a Markdown table."""
    lines = [
        [
            case["case"],
            case["target"],
            f"{case['written']} [{case['low']:.3g}, {case['high']:.3g}]",
            case["doubt"] or ("met" if case["margin"] >= 1 else "missed"),
        ]
        for _, case in cases.iterrows()
    ]
    return words.table(["case", "target", "measured, 95 % interval", ""], lines)


def _numbers(value: float, low: float, high: float) -> str:
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def _targets_short(calls: pd.DataFrame) -> list[str]:
    """Return how many targets are met and which are missed, in a sentence; nothing if none was set."""
    cases = findings.cases(calls)
    if cases.empty:
        return []
    missed = cases[cases["margin"] < 1]
    names = "; ".join(f"{case.case} ({case.written}, target {case.target})" for case in missed.itertuples())
    return [f"{len(cases) - len(missed)} of {len(cases)} targets are met. Missed: {names or 'none'}."]


def _service(calls: pd.DataFrame) -> list[str]:
    """Return the block of a study in `studies_service`, and its control."""
    return [*report_service.FULL[findings.study_of(calls)](calls), "", *words.bullets([control_line(calls)])]


def _ways(calls: pd.DataFrame) -> list[str]:
    return [*report_ways.full(calls), *words.bullets([control_line(calls)])]


Lines = Callable[[pd.DataFrame], list[str]]
FULL: dict[str, Lines] = {
    "rows": _rows,
    "encodings": _encodings,
    "load": _load,
    "callers": _callers,
    "chunks": _chunks,
    "ladder": _titles,
    "parts": _parts,
    "ways": _ways,
    **dict.fromkeys(report_service.FULL, _service),
}
SHORT: dict[str, Lines] = {
    "rows": _rows_short, "encodings": _encodings_short, "load": _load_short, "chunks": _titles, "ladder": _ladder_short,
    "parts": _parts, "callers": _callers_short, "ways": report_ways.short,
    **report_service.SHORT,
}  # fmt: skip
