"""The command line: `pred-server train · stubs · serve · predict · describe · bench · reproduce · capacity · plot`.

A command imports what it needs when it runs: the client's commands work without scikit-learn.
"""

import argparse
import io
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pred_server.arguments import (
    ADDRESS,
    PROTECTION,
    RAY,
    SERVE,
    Argument,
    above_zero,
    argument,
    at_least_one,
    seconds,
    whole,
)
from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, PredServerError
from pred_server.limits import Limits

STREAM_TIMEOUT_S = 3_600.0
ENCODINGS = ("csv", "columns", "tensor", "arrow")  # of `wire.codec.CODECS`, which takes a second to import
STUDIES = (
    *("rows", "encodings", "load", "callers", "chunks", "ladder"),
    *("parts", "distance", "enormous", "beside", "start", "ways", "capacity", "layers"),
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for an error that one sentence explains, 2 for wrong usage."""
    typed = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(typed, argparse.Namespace(typed=typed))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # labels may be of any script
    try:
        return args.run(args) or 0
    except PredServerError as error:
        # A supervisor reads what its workers print, and says it once for all.
        out = sys.stdout if getattr(args, "as_worker", False) else sys.stderr
        print(f"pred-server: {error}", file=out)
        for violation in getattr(error, "violations", ())[1:]:
            print(f"  {violation}", file=out)
        return 1
    except ModuleNotFoundError as error:
        extra = f"the extra [{EXTRAS[args.run]}]" if args.run in EXTRAS else "another extra"
        print(f"pred-server: this command needs the package {error.name}, which is in {extra}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"pred-server: {f'{error.filename}: ' * bool(error.filename)}{error.strerror or error}", file=sys.stderr)
        return 1


def _train(args: argparse.Namespace) -> None:
    from pred_server.tutorial.flights import train_flights

    scores = train_flights(args.out, args.iterations).scores
    print(f"mean absolute error on {scores['held_out_rows']:,} flights of days held out:")
    print(f"  {scores['mae_minutes']:6.2f} minutes  this model")
    print(f"  {scores['baseline_mae_minutes']:6.2f} minutes  baseline: {scores['baseline']}")
    print(f"saved in {args.out}")


def _stubs(args: argparse.Namespace) -> None:
    from pred_server.tutorial import stubs

    made = stubs.generate_python(args.out)
    try:
        made += stubs.generate_go(args.out)
    except stubs.GoMissing as error:
        if os.environ.get("CI"):
            raise
        print(f"no Go stubs: {str(error).splitlines()[0]}", file=sys.stderr)
    for path in made:
        print(path.relative_to(args.out))


def _serve(args: argparse.Namespace) -> int:
    from pred_server.server import logs

    logs.set_up(args.log_level, args.log_format, args.as_worker)
    if hasattr(args, "workers") and not args.as_worker:
        from pred_server.ops.workers import supervise  # which needs neither gRPC nor scikit-learn

        return supervise(args.typed, args.address, args.workers, args.spares, reuse_port=args.reuse_port)
    from pred_server.engines.plugged import with_engine
    from pred_server.ops.reload import Source
    from pred_server.ops.security import Security
    from pred_server.ops.signals import hold_hangups
    from pred_server.server.run import Operation, run
    from pred_server.store.loading import directory_of, load

    def source(name: str) -> Source:
        return Source(lambda: with_engine(load(name, args.trust), args.engine, args.threads), directory_of(name))

    sources = [source(name) for name in getattr(args, "model", ["flights"])]
    limits = Limits(**{limit.name: getattr(args, limit.name) for limit in fields(Limits)})
    operation = Operation(
        sources,
        args.reload,
        args.reuse_port,
        args.as_worker,
        Security(**{file.name: getattr(args, file.name) for file in fields(Security)}),
        not args.no_reflection,
        args.metrics,
        args.socket_mode,
    )
    hold_hangups()
    models = [source.load() for source in sources]
    run(models, args.address, limits, operation, expose_to_network=args.expose_to_network, timing=not args.no_timing)
    return 0


def _ray(args: argparse.Namespace) -> None:
    from pred_server.ops.ray_cluster import run

    run(**_given(args))


def _predict(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from pred_server.client.client import CHUNK_BYTES, Client
    from pred_server.client.files import Tables, read_tables
    from pred_server.client.results import to_csv
    from pred_server.wire.tables import count_bytes

    try:
        file = sys.stdin.buffer if args.file == "-" else Path(args.file).open("rb")  # noqa: SIM115 - closed below
        size = None if args.file == "-" else Path(args.file).stat().st_size
    except OSError as error:
        raise InvalidInput(f"cannot read {args.file}: {error.strerror}") from error
    # Broken calls are repeated only if asked for: a person who mistyped the address wants to know at once.
    client = Client(
        args.address,
        timeout_s=args.timeout_s,
        model=args.model,
        encoding=args.encoding,
        retry=args.resume,
        **_protection(args),
    )
    with file, client, tqdm(total=size, unit="B", unit_scale=True, delay=1, leave=False, disable=None) as bar:

        def tables() -> Tables:
            for table in read_tables(file, CHUNK_BYTES, args.file):
                bar.update(count_bytes(table))
                yield table

        drawn = tables()
        first = next(drawn)
        second = list(itertools.islice(drawn, 1))
        if second:
            stream = client.predict_stream(
                itertools.chain([first], second, drawn),
                output=args.output,
                resume=args.resume,
                timeout_s=args.timeout_s,
            )
            for number, predictions in enumerate(stream):
                sys.stdout.write(to_csv(predictions, header=number == 0))
            waterfall = stream.waterfall
        else:
            predictions = client.predict(first, output=args.output, stream=False)
            sys.stdout.write(to_csv(predictions))
            waterfall = predictions.waterfall
    if args.timing:
        print(waterfall.text(), file=sys.stderr)


def _protection(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a client needs for a server that is encrypted and closed."""
    from pred_server.client.security import TLS

    tls = TLS(args.tls_ca, args.tls_cert, args.tls_key, args.tls_name)
    return {"tls": tls if args.tls or tls != TLS() else None, "token": args.token_file}


def _describe(args: argparse.Namespace) -> None:
    from pred_server.client.client import Client

    with Client(args.address, model=args.model, retry=False, **_protection(args)) as client:
        print(client.describe().text())


def _bench(args: argparse.Namespace) -> None:
    from pred_server.lab import report, studies

    experiment = studies.declared(args.varies, args.model, args.encodings, args.rows, args.quick)
    experiment = replace(experiment, seed=args.seed, pin=experiment.pin and not args.unpinned)
    report.bench(studies.against(experiment, args.against) if args.against else experiment, args.out, args.once)


def _reproduce(args: argparse.Namespace) -> int:
    from pred_server.lab.reproduce import command

    return command(**_given(args))


def _capacity(args: argparse.Namespace) -> int:
    from pred_server.lab.capacity import command

    return command(**_given(args))


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name not in ("run", "typed")}


def _plot(args: argparse.Namespace) -> None:
    from pred_server.lab import report

    report.plot(args.results, args.out, args.page)


NEEDED: dict[str, Any] = {"required": True, "default": argparse.SUPPRESS}

# Each command: what runs it (and may return an exit code), what it does, its arguments.
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str, list[Argument]]] = {
    "train": (
        _train,
        "train the flights model, judge it, save it",
        [
            argument("--out", "the model directory to write", type=Path, default=Path("models/flights")),
            argument("--iterations", "boosting rounds", type=at_least_one, default=200),
        ],
    ),
    "stubs": (
        _stubs,
        "generate the stubs from proto/ into generated/",
        [argument("--out", "folder to hold generated/", type=Path, default=ROOT)],
    ),
    "serve": (_serve, "serve one or more models on one port, or one socket", SERVE),
    "ray": (_ray, "serve the same with replicas of Ray Serve: more than one process, or machine", RAY),
    "predict": (
        _predict,
        "send a file of any size (CSV, Parquet, Arrow, JSON lines), print the predictions as CSV",
        [
            argument("file", "its content says what it is; - reads standard input", metavar="FILE"),
            ADDRESS,
            argument("--model", "ask for this model; else the server's first"),
            argument("--encoding", "how the table travels", default="auto", choices=["auto", *ENCODINGS]),
            argument("--output", "what to predict", default="labels", choices=["labels", "probabilities"]),
            argument("--timing", "draw where the time went, on stderr", action="store_true"),
            argument("--resume", "continue where a connection broke, once the server is back", action="store_true"),
            argument("--timeout-s", "deadline in seconds", type=seconds, default=STREAM_TIMEOUT_S),
            *PROTECTION,
        ],
    ),
    "describe": (
        _describe,
        "print what a server's model takes and gives",
        [ADDRESS, argument("--model", "this model; else the server's first"), *PROTECTION],
    ),
    "bench": (
        _bench,
        "measure how fast it is, beside floors and other ways to serve the same model",
        [
            argument("--varies", "what is varied", choices=STUDIES, default="rows"),
            argument(
                "--model",
                "sum, linear, wide, flights, or a model directory, whose sample is sent",
                default="flights",
            ),
            argument("--encodings", "(default: all)", nargs="+", default=[], choices=ENCODINGS),
            argument("--rows", "rows in one call (default: a sweep)", nargs="+", type=at_least_one, default=[]),
            argument("--out", "where to write every call", type=Path, default=Path("latency.parquet")),
            argument("--seed", "of the order, the rows and the arrivals", type=whole, default=0),
            argument("--against", "compare our server only with that of another checkout", type=Path),
            argument("--quick", "two minutes in place of fifteen, and less sure", action="store_true"),
            argument("--once", "leave a result alone that is of this code and experiment", action="store_true"),
            argument("--unpinned", "let servers and generator share all cores", action="store_true"),
        ],
    ),
    "reproduce": (
        _reproduce,
        "run a result's experiment on this machine, and compare the verdicts; exit code 1 if one is contradicted",
        [
            argument(
                "result",
                "a file that `bench` wrote (default: data/results/hand_linear.parquet)",
                type=Path,
                nargs="?",
                default=ROOT / "data/results/hand_linear.parquet",  # no SUPPRESS, which `type` would take for a path
                metavar="RESULT",
            ),
            argument("--quick", "at most five minutes in place of an hour, and less sure", action="store_true"),
            argument("--model", "another model than the result's: a name or a directory", default=argparse.SUPPRESS),
            argument(
                "--rows",
                "only these of its rows in one call",
                type=at_least_one,
                nargs="+",
                default=argparse.SUPPRESS,
            ),
            argument(
                "--arms",
                "only comparisons among these arms",
                nargs="+",
                default=argparse.SUPPRESS,
                metavar="ARM",
            ),
            argument("--out", "where to write every call", type=Path, default=Path("reproduced.parquet")),
            argument("--contribute", "write a file about this machine into data/results/machines", action="store_true"),
        ],
    ),
    "capacity": (
        _capacity,
        "say how many workers a load needs, by a simulation; exit code 1 if no number of them is enough",
        [
            argument("result", "a file that `bench` wrote", type=Path, metavar="RESULT"),
            argument("--rate", "calls that come in a second", type=above_zero, dest="rate_per_s", **NEEDED),
            argument("--p99-ms", "milliseconds in which 99 of 100 shall end", type=above_zero, **NEEDED),
            argument("--model", "which one, if the result has several", default=argparse.SUPPRESS),
            argument("--rows", "rows in one call", type=at_least_one, default=1),
            argument("--cores", "of all workers (else one each)", type=at_least_one, default=argparse.SUPPRESS),
            argument("--clients", "how many callers spread calls over workers", type=at_least_one, default=1),
            argument("--most-workers", "try no more", type=at_least_one, default=64),
            argument("--seed", "of the simulation", type=whole, default=0),
        ],
    ),
    "plot": (
        _plot,
        "draw what `bench` measured",
        [
            argument("results", "files that `bench` wrote", type=Path, nargs="+", metavar="RESULTS"),
            argument("--out", "folder for the figures", type=Path, default=Path()),
            argument("--page", "pages with markers, to write the numbers between", type=Path, nargs="+", default=[]),
        ],
    ),
}


# The extra of pyproject.toml that a command needs beyond the client.
EXTRAS = {
    _train: "serve", _stubs: "notebooks", _serve: "serve", _ray: "ray", _bench: "bench", _reproduce: "bench",
    _capacity: "lab", _plot: "lab",
}  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pred-server", description="Serve a scikit-learn model over gRPC, ask it, and measure it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command_name, (run, help, arguments) in COMMANDS.items():
        command = commands.add_parser(command_name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.set_defaults(run=run)
        for name, settings in arguments:
            command.add_argument(name, **settings)
    return parser
