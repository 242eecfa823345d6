"""The declared experiments with many callers: all their calls come from the generator in Go."""

from collections.abc import Sequence
from dataclasses import replace

from pred_server.lab.arms import ROOMY, trained
from pred_server.lab.experiments import MANY_CALLERS, Experiment
from pred_server.lab.findings import CLOSED, EVEN, callers_suffix
from pred_server.lab.native import LOADGEN
from pred_server.lab.ways import WAYS, Arm

CALLERS, CROWD = 16, 32
MODELS = ("linear", "boosting", "forest")
MOST_CALLS = 600  # in half of a block of rising load: a result keeps every call, and must stay small
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
# What `capacity` reads service times from, beside a caller who waits for each answer: several of them, whose calls
# become batches, and calls that come evenly after pauses, which make a server slower.
CROWDS, PAUSED = (4, MANY_CALLERS), (0.05, 0.2)
JUDGED = (0.3, 0.6, 0.8)  # shares of the capacity at which its predictions are judged


def callers(quick: bool = False) -> Experiment:
    """One row from each of 16 callers, three models, every rival that takes ready bytes; and CPU beside the echo.

    What is compared is the rate, and what the server's processes compute for a call: see `findings.rates`.
    """
    calls = CALLERS * (6 if quick else 20)
    arms, compare = [], []
    for model in MODELS:
        named = model if model == "linear" else trained(model)
        ours = Arm(
            f"ours, {model}", encoding="tensor", flags=ROOMY, model=named, callers=CALLERS, calls=calls, generator="go"
        )
        rivals = [
            replace(ours, name=f"{way.title}, {model}", server=way.name, encoding="csv", flags=())
            for way in WAYS.values()
            if way.title and way.wire
        ]
        arms += [ours, *rivals]
        compare += [(rival.name, ours.name) for rival in rivals]
    crowd = replace(arms[0], name=arms[0].name + callers_suffix(CROWD), callers=CROWD)
    echo = replace(crowd, name="echo" + callers_suffix(CROWD), server="echo", flags=())
    again = replace(arms[0], name=f"{arms[0].name}, again", process=1)
    return Experiment(
        (*arms, again, crowd, echo),
        (*compare, (crowd.name, echo.name)),
        (again.name, arms[0].name),
        "callers",
        "linear",
        (1,),
        blocks=3 if quick else 5,
        warmup=50,
    )


def load(model: str, served: Sequence[Arm], stream: Arm, rows: tuple[int, ...], quick: bool) -> Experiment:
    """Response time as the load rises beyond what a server can do: direct, and as JSON through the gateway.

    Loads are shares of each way's own capacity, which is found first. Beside them stand one caller that waits for each
    answer, and an open loop whose calls come evenly and so do not meet: they tell why the medians of loops differ.

    Beyond the capacity the queue grows as long as calls come. Response times there say that it grows, and no more.
    """
    direct = next((arm for arm in served if arm.encoding == "columns"), served[0])
    direct = replace(direct, name=direct.encoding, generator="go")
    bases = [direct, replace(direct, name="JSON, gateway", server="gateway", encoding="json")]
    shares = (0.2, 0.8, 1.2) if quick else SHARES
    loads = [[replace(base, name=f"{base.name}, {share:.0%}", share=share) for share in shares] for base in bases]
    closed = [replace(base, name=f"{base.name}, {CLOSED}") for base in bases]
    even = [
        replace(arms[0], name=f"{base.name}, {EVEN}", arrivals="constant")
        for base, arms in zip(bases, loads, strict=True)
    ]
    again = replace(loads[0][0], name=f"{loads[0][0].name}, again", process=1)
    pairs = list(zip(loads[1], loads[0], strict=True))
    for first, caller, evenly in zip((arms[0] for arms in loads), closed, even, strict=True):
        pairs += [(first, evenly), (evenly, caller)]
    return Experiment(
        (*loads[0], *loads[1], *closed, *even, again),
        tuple((arm.name, base.name) for arm, base in pairs),
        (again.name, loads[0][0].name),
        "load",
        model,
        rows or (1,),
        blocks=3,
        calls=100 if quick else 500,
        most_rows=MOST_CALLS * max(rows, default=1),
        seconds=0.5 if quick else 3.0,
        warmup=50,
    )


def service_times(base: Arm, calls: int) -> list[Arm]:
    """Return the arms which tell what the server of an arm needs for calls, alone and together, after pauses or not.

    In a half of a block each of the callers makes so many calls; a lone caller makes four times as many.
    """
    generator = "go" if LOADGEN.exists() else "python"
    lone = replace(base, name=f"{base.name}, {CLOSED}", generator=generator, calls=4 * calls)
    crowds = [
        replace(lone, name=base.name + callers_suffix(callers), callers=callers, calls=callers * calls)
        for callers in CROWDS
    ]
    paused = [
        replace(lone, name=f"{base.name}, {share:.0%}, {EVEN}", share=share, arrivals="constant", calls=0)
        for share in PAUSED
    ]
    return [lone, *crowds, *paused]


def capacity(quick: bool = False) -> Experiment:
    """Three models, each with what `capacity` reads service times from, and with the loads that it then predicts.

    A server is started anew for each repetition, so the ranges of what is measured include what a start changes.
    """
    arms, pairs = [], []
    for model in ("linear", "flights", "boosting"):
        named = trained(model) if model == "boosting" else model
        base = Arm(model, encoding="columns" if model == "flights" else "tensor", flags=ROOMY, model=named, rows=(1,))
        lone, *others = service_times(base, 4 if quick else 16)
        judged = [replace(base, name=f"{model}, {share:.0%}", share=share, generator="go") for share in JUDGED]
        arms += [replace(lone, rows=()), *others, *judged]
        # All that is compared, directly or by way of others, takes its turns close in time.
        pairs += [(arm.name, lone.name) for arm in (*others, *judged)]
    again = replace(arms[0], name=f"{arms[0].name}, again", process=1, rows=(1,))
    return Experiment(
        (*arms, again),
        tuple(pairs),
        (again.name, arms[0].name),
        "capacity",
        "linear",
        (1, 10, 100),
        repetitions=5,
        blocks=1 if quick else 3,
        seconds=0.5 if quick else 0.9,  # of a second, the calls fill the 4 MiB of a file
        warmup=50,
    )
