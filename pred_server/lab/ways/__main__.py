"""Run one of the lab's own servers: `python -m pred_server.lab.ways --way echo`."""

import argparse

from pred_server.lab.ways import WAYS, Launch
from pred_server.limits import SPLIT_ROWS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.lab.ways", description=__doc__)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--model", default="flights", help="sum, linear, wide, flights, or a model directory")
    parser.add_argument(
        "--address", default="127.0.0.1:0", help="HOST:PORT; port 0 picks a free one; of the pipe a folder"
    )
    parser.add_argument(
        "--threads", default="", metavar="N:ROWS", help="how many predict a table of so many rows; else as is quickest"
    )
    parser.add_argument(
        "--option", nargs=2, action="append", default=[], metavar=("NAME", "NUMBER"), help="a gRPC option of the echo"
    )
    args = parser.parse_args()
    n_threads, _, from_rows = args.threads.partition(":")
    threads = (int(n_threads), int(from_rows or SPLIT_ROWS)) if n_threads else ()
    options = [(name, int(number)) for name, number in args.option]
    WAYS[args.way].run(Launch(args.address, args.model, options, threads))


if __name__ == "__main__":
    main()
