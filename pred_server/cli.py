"""The command line: `pred-server train · stubs · serve · predict · describe · bench · reproduce · plot`.

A command imports what it needs when it runs: the client's commands work without scikit-learn.
"""

import argparse
import io
import itertools
import os
import sys
from collections.abc import Callable
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, PredServerError
from pred_server.limits import SPLIT_ROWS, Limits, flag

STREAM_TIMEOUT_S = 3_600.0
ENCODINGS = ("csv", "columns", "tensor", "arrow")  # of `wire.codec.CODECS`, which takes a second to import


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for an error that one sentence explains, 2 for wrong usage."""
    args = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # labels may be of any script
    try:
        return args.run(args) or 0
    except PredServerError as error:
        print(f"pred-server: {error}", file=sys.stderr)
        for violation in getattr(error, "violations", ())[1:]:
            print(f"  {violation}", file=sys.stderr)
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
        print(f"pred-server: {error.strerror or error}", file=sys.stderr)
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


def _serve(args: argparse.Namespace) -> None:
    from pred_server.engines.threads import with_threads
    from pred_server.server import logs
    from pred_server.server.run import run
    from pred_server.store.loading import load

    logs.set_up(args.log_level, args.log_format)
    limits = Limits(**{limit.name: getattr(args, limit.name) for limit in fields(Limits)})
    models = [load(name, args.trust) for name in getattr(args, "model", ["flights"])]
    if args.engine == "onnx":
        from pred_server.engines.onnx import with_onnx

        models = [with_onnx(model) for model in models]
    models = [with_threads(model, *args.threads) for model in models]
    run(models, args.address, limits, expose_to_network=args.expose_to_network, timing=not args.no_timing)


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
    client = Client(args.address, timeout_s=args.timeout_s, model=args.model, encoding=args.encoding, retry=args.resume)
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


def _describe(args: argparse.Namespace) -> None:
    from pred_server.client.client import Client

    with Client(args.address, model=args.model, retry=False) as client:
        print(client.describe().text())


def _bench(args: argparse.Namespace) -> None:
    from pred_server.lab import report, studies

    experiment = studies.declared(args.varies, args.model, args.encodings, args.rows, args.quick)
    experiment = replace(experiment, seed=args.seed, pin=experiment.pin and not args.unpinned)
    report.bench(studies.against(experiment, args.against) if args.against else experiment, args.out, args.once)


def _reproduce(args: argparse.Namespace) -> int:
    from pred_server.lab.reproduce import command

    return command(**{name: value for name, value in vars(args).items() if name != "run"})


def _plot(args: argparse.Namespace) -> None:
    from pred_server.lab import report

    report.plot(args.results, args.out, args.page)


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {2**31 - 1}")
    return int(text)


def _threads(text: str) -> tuple[int, ...]:
    """Return what `with_threads` takes: the number of threads, and the rows of the smallest table for them."""
    if text == "auto":
        return ()
    n_threads, _, from_rows = text.partition(":")
    return _at_least_one(n_threads), _at_least_one(from_rows or str(SPLIT_ROWS))


def _seconds(text: str) -> float:
    return _number(text, 1e-9, "a number of seconds above 0")


def _delay(text: str) -> float:
    return _number(text, 0, "a number of seconds, 0 or more")


def _milliseconds(text: str) -> float:
    return _number(text, 0, "a number of milliseconds, 0 or more")


def _number(text: str, least: float, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not least <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


Argument = tuple[str, dict[str, Any]]


def _argument(name: str, help: str, **settings: Any) -> Argument:
    return name, {"help": help, **settings}


def _limit(limit: Field[Any]) -> Argument:
    of_unit = _milliseconds if limit.name.endswith("_ms") else _seconds if limit.default else _delay
    number = _at_least_one if isinstance(limit.default, int) else of_unit
    return _argument(flag(limit.name), limit.metadata["help"], type=number, default=limit.default)


ADDRESS = _argument("--address", "HOST:PORT of the server", default="127.0.0.1:50051")

# Each command: what runs it (and may return an exit code), what it does, its arguments.
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str, list[Argument]]] = {
    "train": (
        _train,
        "train the flights model, judge it, save it",
        [
            _argument("--out", "the model directory to write", type=Path, default=Path("models/flights")),
            _argument("--iterations", "boosting rounds", type=_at_least_one, default=200),
        ],
    ),
    "stubs": (
        _stubs,
        "generate the stubs from proto/ into generated/",
        [_argument("--out", "folder to hold generated/", type=Path, default=ROOT)],
    ),
    "serve": (
        _serve,
        "serve one or more models on one port",
        [
            _argument(
                "--model",
                "sum, linear, wide, flights, or a model directory; may be repeated (default: flights)",
                action="append",
                default=argparse.SUPPRESS,
            ),
            _argument("--address", "HOST:PORT; port 0 picks a free one", default="127.0.0.1:50051"),
            _argument("--engine", "what computes the predictions", default="sklearn", choices=["sklearn", "onnx"]),
            _argument(
                "--threads",
                "how many compute a large table, and how large is large; auto finds out at the start",
                type=_threads,
                default="auto",
                metavar="N:ROWS",
            ),
            _argument(
                "--trust",
                "a further type for model.skops; may be repeated",
                action="append",
                default=[],
                metavar="TYPE",
            ),
            _argument("--log-level", "to stderr", default="warning", choices=["debug", "info", "warning", "error"]),
            _argument("--log-format", "how a line of the log is written", default="text", choices=["text", "json"]),
            _argument("--no-timing", "leave server-timing out of the replies", action="store_true"),
            _argument(
                "--expose-to-network",
                "allow an address that others can reach, without encryption",
                action="store_true",
            ),
            *map(_limit, fields(Limits)),
        ],
    ),
    "predict": (
        _predict,
        "send a file of any size (CSV, Parquet, Arrow, JSON lines), print the predictions as CSV",
        [
            _argument("file", "its content says what it is; - reads standard input", metavar="FILE"),
            ADDRESS,
            _argument("--model", "ask for this model; else the server's first"),
            _argument("--encoding", "how the table travels", default="auto", choices=["auto", *ENCODINGS]),
            _argument("--output", "what to predict", default="labels", choices=["labels", "probabilities"]),
            _argument("--timing", "draw where the time went, on stderr", action="store_true"),
            _argument("--resume", "continue where a connection broke, once the server is back", action="store_true"),
            _argument("--timeout-s", "deadline in seconds", type=_seconds, default=STREAM_TIMEOUT_S),
        ],
    ),
    "describe": (
        _describe,
        "print what a server's model takes and gives",
        [ADDRESS, _argument("--model", "this model; else the server's first")],
    ),
    "bench": (
        _bench,
        "measure how fast it is, beside floors and other ways to serve the same model",
        [
            _argument(
                "--varies",
                "what is varied",
                choices=[
                    "rows",
                    "encodings",
                    "load",
                    "callers",
                    "chunks",
                    "ladder",
                    "parts",
                    "distance",
                    "enormous",
                    "beside",
                    "start",
                ],
                default="rows",
            ),
            _argument(
                "--model",
                "sum, linear, wide, flights, or a model directory, whose sample is sent",
                default="flights",
            ),
            _argument("--encodings", "(default: all)", nargs="+", default=[], choices=ENCODINGS),
            _argument("--rows", "rows in one call (default: a sweep)", nargs="+", type=_at_least_one, default=[]),
            _argument("--out", "where to write every call", type=Path, default=Path("latency.parquet")),
            _argument("--seed", "of the order, the rows and the arrivals", type=int, default=0),
            _argument("--against", "compare our server only with that of another checkout", type=Path),
            _argument("--quick", "two minutes in place of fifteen, and less sure", action="store_true"),
            _argument("--once", "leave a result alone that is of this code and experiment", action="store_true"),
            _argument("--unpinned", "let servers and generator share all cores", action="store_true"),
        ],
    ),
    "reproduce": (
        _reproduce,
        "run a result's experiment on this machine, and compare the verdicts; exit code 1 if one is contradicted",
        [
            _argument(
                "result",
                "a file that `bench` wrote (default: data/results/hand_linear.parquet)",
                type=Path,
                nargs="?",
                default=argparse.SUPPRESS,
                metavar="RESULT",
            ),
            _argument("--quick", "at most five minutes in place of an hour, and less sure", action="store_true"),
            _argument("--model", "another model than the result's: a name or a directory", default=argparse.SUPPRESS),
            _argument(
                "--rows",
                "only these of its rows in one call",
                type=_at_least_one,
                nargs="+",
                default=argparse.SUPPRESS,
            ),
            _argument(
                "--arms",
                "only comparisons among these arms",
                nargs="+",
                default=argparse.SUPPRESS,
                metavar="ARM",
            ),
            _argument("--out", "where to write every call", type=Path, default=Path("reproduced.parquet")),
            _argument(
                "--contribute",
                "write a small file about this machine into data/results/machines",
                action="store_true",
            ),
        ],
    ),
    "plot": (
        _plot,
        "draw what `bench` measured",
        [
            _argument("results", "files that `bench` wrote", type=Path, nargs="+", metavar="RESULTS"),
            _argument("--out", "folder for the figures", type=Path, default=Path()),
            _argument("--page", "pages with markers, to write the numbers between", type=Path, nargs="+", default=[]),
        ],
    ),
}


# The extra of pyproject.toml that a command needs beyond the client.
EXTRAS = {_train: "serve", _stubs: "notebooks", _serve: "serve", _bench: "bench", _reproduce: "bench", _plot: "lab"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pred-server", description="Serve a scikit-learn model over gRPC, ask it, and measure it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, help, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.set_defaults(run=run)
        for argument, settings in arguments:
            command.add_argument(argument, **settings)
    return parser
