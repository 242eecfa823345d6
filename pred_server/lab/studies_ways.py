"""The declared experiment on which way to build: gRPC, a Unix socket, REST, a pipe, or ONNX Runtime in the Go process.

Every call is at its caller's hand: a table in, predictions out. From Go, the engine is told from the way: the same
graph is computed behind gRPC, too.
"""

from collections.abc import Sequence
from dataclasses import replace

from pred_server.lab.arms import ONNX, ROOMY, TRAINED, installed, onnx_flags, trained
from pred_server.lab.experiments import Experiment
from pred_server.lab.findings import callers_suffix
from pred_server.lab.findings_ways import GRPC, GRPC_ONNX, IN_PROCESS, MODELS, name_of
from pred_server.lab.ways import WAYS, Arm
from pred_server.wire.codec import CODECS

Flags = tuple[str, ...]
CALLERS = 16
LARGE, LARGEST = 10_000, 100_000  # a forest of 100 trees takes seconds for the latter


def ways(quick: bool = False) -> Experiment:
    """Latency by rows, 16 callers, CPU time, memory and start: four models from Go, two of them from Python, too."""
    models, sizes = (MODELS[:2], (1, 100)) if quick else (MODELS, (1, 100, LARGE, LARGEST))
    arms: list[Arm] = []
    pairs: list[tuple[str, str]] = []
    for model in models:
        rows = tuple(size for size in sizes if size < LARGEST) if model == "forest" else ()
        from_go = _from_go(model, rows)
        many = [
            replace(arm, name=arm.name + callers_suffix(CALLERS), rows=(1,), callers=CALLERS, calls=8 * CALLERS)
            for arm in from_go
        ]
        from_python = _from_python(model) if model in MODELS[:2] else []
        for some in (from_go, many, from_python):
            pairs += [(arm.name, some[0].name) for arm in some[1:]]
        names = {arm.name for arm in from_go}
        engines = tuple(name_of(model, way, "Go") for way in (IN_PROCESS, GRPC_ONNX))
        if set(engines) <= names:
            pairs.append((engines[0], engines[1]))
        arms += [*from_go, *many, *from_python]
    again = replace(arms[0], name=f"{arms[0].name}, again", process=1)
    return Experiment(
        (*arms, again),
        tuple(pairs),
        (again.name, arms[0].name),
        "ways",
        "linear",
        sizes,
        repetitions=2 if quick else 5,
        blocks=3 if quick else 2,
        calls=8 if quick else 20,
        most_rows=LARGEST,
        warmup=5,
        pin=False,
    )


def _from_go(model: str, rows: tuple[int, ...]) -> list[Arm]:
    """Return the ways of a program in Go that are there. The first is gRPC, with which the others are compared."""
    served = trained(model) if model in TRAINED else model
    there = {way.name for way in installed((WAYS[name] for name in ("rest", "inprocess")), quick=False)}
    ways: list[tuple[str, str, Flags]] = [(GRPC, "serve", ROOMY), ("Unix socket", "unix", ROOMY)]
    if onnx_flags(served):
        ways += [(GRPC_ONNX, "serve", (*ROOMY, *ONNX))]
    ways += [("REST", "rest", ())] if "rest" in there else []
    ways += [("pipe", "pipe", ())]
    ways += [(IN_PROCESS, "inprocess", ())] if "inprocess" in there else []
    return [
        Arm(name_of(model, way, "Go"), server, "auto", flags=flags, frame=True, model=served, rows=rows, generator="go")
        for way, server, flags in ways
    ]


def _from_python(model: str) -> list[Arm]:
    """Return the ways of a program in Python, with every encoding that can carry the model's table."""
    encodings: Sequence[str] = [name for name in CODECS if name != "tensor" or model == "linear"]
    ways: list[tuple[str, str, str, Flags]] = [(GRPC, "serve", "auto", ROOMY)]
    ways += [(f"{GRPC}, {name}", "serve", name, ROOMY) for name in encodings]
    ways += [("Unix socket", "unix", "auto", ROOMY)]
    ways += [("REST", "rest", "auto", ())] if not WAYS["rest"].missing() else []
    ways += [("pipe", "pipe", "auto", ()), (IN_PROCESS, "predict", "auto", ())]
    return [
        Arm(name_of(model, way, "Python"), server, encoding, flags=flags, frame=True, model=model)
        for way, server, encoding, flags in ways
    ]
