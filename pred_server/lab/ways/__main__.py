"""Run one of the lab's own servers: `python -m pred_server.lab.ways --way echo`."""

import argparse

from pred_server.lab.ways import WAYS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pred_server.lab.ways", description=__doc__)
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--model", default="flights", help="sum, linear, wide, flights, or a model directory")
    parser.add_argument("--address", default="127.0.0.1:0", help="HOST:PORT; port 0 picks a free one")
    parser.add_argument(
        "--option", nargs=2, action="append", default=[], metavar=("NAME", "NUMBER"), help="a gRPC option of the echo"
    )
    args = parser.parse_args()
    WAYS[args.way].run(args.address, args.model, [(name, int(number)) for name, number in args.option])


if __name__ == "__main__":
    main()
