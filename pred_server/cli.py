"""The command line: `pred-server train · stubs · serve · predict · describe · bench · plot`.

A command imports what it needs when it runs: the client's commands work without scikit-learn.
"""

import argparse
import io
import itertools
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

from pred_server.checkout import ROOT
from pred_server.errors import InvalidInput, PredServerError
from pred_server.limits import Limits, flag

STREAM_TIMEOUT_S = 3_600.0
ENCODINGS = "csv, columns, tensor or arrow"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for an error that one sentence explains, 2 for wrong usage."""
    args = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # labels may be of any script
    try:
        args.run(args)
    except PredServerError as error:
        print(f"pred-server: {error}", file=sys.stderr)
        for violation in getattr(error, "violations", ())[1:]:
            print(f"  {violation}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"pred-server: this command needs the package {error.name}; README says what to install", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        print(f"pred-server: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _train(args: argparse.Namespace) -> None:
    from pred_server.model.flights import train_flights

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
    from pythonjsonlogger.json import JsonFormatter

    from pred_server.model.store import load
    from pred_server.server.run import run

    handler = logging.StreamHandler()
    names = "%(asctime)s %(levelname)s %(name)s %(message)s"
    handler.setFormatter(JsonFormatter(names) if args.log_format == "json" else logging.Formatter(names))
    logging.basicConfig(level=args.log_level.upper(), handlers=[handler])
    limits = Limits(**{limit.name: getattr(args, limit.name) for limit in fields(Limits)})
    models = [load(name, args.trust) for name in getattr(args, "model", ["flights"])]
    if args.engine == "onnx":
        from pred_server.engines.onnx import with_onnx

        models = [with_onnx(model) for model in models]
    run(models, args.address, limits, expose_to_network=args.expose_to_network, timing=not args.no_timing)


def _predict(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from pred_server.client.client import CHUNK_BYTES, Client
    from pred_server.client.results import to_csv
    from pred_server.wire.csv import split_records

    try:
        file = sys.stdin.buffer if args.file == "-" else Path(args.file).open("rb")  # noqa: SIM115 - closed below
        size = None if args.file == "-" else Path(args.file).stat().st_size
    except OSError as error:
        raise InvalidInput(f"cannot read {args.file}: {error.strerror}") from error
    # Broken calls are repeated only if asked for: a person who mistyped the address wants to know at once.
    client = Client(args.address, timeout_s=args.timeout_s, model=args.model, encoding=args.encoding, retry=args.resume)
    with file, client, tqdm(total=size, unit="B", unit_scale=True, delay=1, leave=False, disable=None) as bar:

        def pieces() -> Iterator[str]:
            for piece in split_records(file, CHUNK_BYTES, args.file):
                bar.update(len(piece))
                yield piece

        drawn = pieces()
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
    from pred_server.lab import bench

    experiment = bench.declared(args.varies, args.model, args.encodings, args.rows, args.quick)
    bench.bench(replace(experiment, seed=args.seed, pin=experiment.pin and not args.unpinned), args.out)


def _plot(args: argparse.Namespace) -> None:
    from pred_server.lab import bench

    bench.plot(args.results, args.out, args.readme)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pred-server", description="Serve a scikit-learn model over gRPC, ask it, and measure it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        added.set_defaults(run=run)
        return added

    train = command("train", _train, "train the flights model, judge it, save it")
    train.add_argument("--out", type=Path, default=Path("models/flights"), help="the model directory to write")
    train.add_argument("--iterations", type=_at_least_one, default=200, help="boosting rounds")

    make_stubs = command("stubs", _stubs, "generate the stubs from proto/ into generated/")
    make_stubs.add_argument("--out", type=Path, default=ROOT, help="folder to hold generated/")

    serve = command("serve", _serve, "serve one or more models on one port")
    serve.add_argument(
        "--model",
        action="append",
        default=argparse.SUPPRESS,
        help="sum, linear, flights, or a model directory; may be repeated (default: flights)",
    )
    serve.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT; port 0 picks a free one")
    serve.add_argument("--engine", default="sklearn", choices=["sklearn", "onnx"], help="what computes the predictions")
    serve.add_argument("--trust", action="append", default=[], metavar="TYPE", help="a further type for model.skops")
    serve.add_argument(
        "--log-level", default="warning", choices=["debug", "info", "warning", "error"], help="to stderr"
    )
    serve.add_argument(
        "--log-format", default="text", choices=["text", "json"], help="how a line of the log is written"
    )
    serve.add_argument("--no-timing", action="store_true", help="leave server-timing out of the replies")
    serve.add_argument(
        "--expose-to-network", action="store_true", help="allow an address that others can reach, without encryption"
    )
    for limit in fields(Limits):
        of_unit = _milliseconds if limit.name.endswith("_ms") else _seconds
        number = _at_least_one if isinstance(limit.default, int) else of_unit
        serve.add_argument(flag(limit.name), type=number, default=limit.default, help=limit.metadata["help"])

    predict = command("predict", _predict, "send a CSV file of any size, print the predictions as CSV")
    predict.add_argument("file", metavar="FILE.csv", help="a header and rows; - reads standard input")
    predict.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT of the server")
    predict.add_argument("--model", help="ask for this model; else the server's first")
    predict.add_argument("--encoding", default="csv", help=f"how the table travels: {ENCODINGS}")
    predict.add_argument("--output", default="labels", choices=["labels", "probabilities"], help="what to predict")
    predict.add_argument("--timing", action="store_true", help="draw where the time went, on stderr")
    predict.add_argument(
        "--resume", action="store_true", help="go on where a connection broke, once the server is back"
    )
    predict.add_argument("--timeout-s", type=_seconds, default=STREAM_TIMEOUT_S, help="deadline in seconds")

    describe = command("describe", _describe, "print what a server's model takes and gives")
    describe.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT of the server")
    describe.add_argument("--model", help="this model; else the server's first")

    bench = command("bench", _bench, "measure how fast it is, beside floors and other ways to serve the same model")
    bench.add_argument(
        "--varies", choices=["rows", "load", "chunks", "ladder", "floor"], default="rows", help="what is varied"
    )
    bench.add_argument(
        "--model", default="flights", help="sum, linear, flights, or a model directory, whose sample is sent"
    )
    bench.add_argument("--encodings", nargs="+", default=[], help=f"{ENCODINGS} (default: all)")
    bench.add_argument("--rows", nargs="+", type=_at_least_one, default=[], help="rows in one call (default: a sweep)")
    bench.add_argument("--out", type=Path, default=Path("latency.parquet"), help="where to write every call")
    bench.add_argument("--seed", type=int, default=0, help="of the order, the rows and the arrivals")
    bench.add_argument("--quick", action="store_true", help="two minutes in place of fifteen, and less sure")
    bench.add_argument("--unpinned", action="store_true", help="let servers and generator share all cores")

    plot = command("plot", _plot, "draw what `bench` measured")
    plot.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="files that `bench` wrote")
    plot.add_argument("--out", type=Path, default=Path(), help="folder for the figures")
    plot.add_argument("--readme", type=Path, help="a page with markers, to write the numbers between them")
    return parser


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {2**31 - 1}")
    return int(text)


def _seconds(text: str) -> float:
    return _number(text, 1e-9, "a number of seconds above 0")


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
