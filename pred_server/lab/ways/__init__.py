"""Every way to a prediction that can be measured, one file each.

    serve    our server: each encoding, unary or as a stream; or from a DataFrame, by our own client
    checkout our server as another checkout of this project has it
    article  the article's server, without gRPC's limit of 4 MiB
    rest     FastAPI and uvicorn, columns as JSON
    flight   Arrow Flight
    gateway  the HTTP gateway in Go, with our server behind it
    predict  in process: no server and no message
    echo     a gRPC server that sends the same bytes back
    tcp      a bare socket that carries the same bytes

The last three are floors: they do only a part of what a server does.
"""

import pandas as pd

from pred_server.lab.ways.article import Article
from pred_server.lab.ways.checkout import Checkout
from pred_server.lab.ways.echo import Echo
from pred_server.lab.ways.flight import Flight
from pred_server.lab.ways.gateway import Gateway
from pred_server.lab.ways.predict import Predict
from pred_server.lab.ways.rest import Rest
from pred_server.lab.ways.serve import Serve
from pred_server.lab.ways.tcp import Tcp
from pred_server.lab.ways.way import CARRIERS, FLOORS, Arm, Call, Grpc, Http, Reply, Target, Way, start_own

__all__ = [
    "CARRIERS", "FLOORS", "WAYS", "Arm", "Call", "Grpc", "Http", "Reply", "Target", "Way", "messages_of", "start_own",
]  # fmt: skip

ALL = (Serve(), Checkout(), Article(), Rest(), Flight(), Gateway(), Predict(), Echo(), Tcp())
WAYS: dict[str, Way] = {way.name: way for way in ALL}


def messages_of(arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
    """Return what one call of an arm sends. Raises InvalidInput where its encoding cannot carry the table."""
    return WAYS[arm.server].messages(arm, table)
