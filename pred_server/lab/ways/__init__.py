"""Every way to a prediction that can be measured, one file each.

    serve          our server: by our own client, or from ready bytes in each encoding, whole or as a stream
    unix           the same over a Unix socket
    tls            the same, encrypted
    tls_token      the same, encrypted and closed by a token
    checkout       our server as another checkout of this project has it
    article        the article's server, without gRPC's limit of 4 MiB
    rest           FastAPI with orjson and NumPy
    rest_pydantic  FastAPI with pydantic and pandas
    http           the messages of `serve`, in each encoding, over HTTP/1.1
    flight         Arrow Flight
    kserve         KServe's Python server
    mlserver       MLServer
    ray            our server behind Ray Serve's proxy
    gateway        the HTTP gateway in Go, with our server behind it
    pipe           a Python process over two pipes: no server, and one call at a time
    inprocess      ONNX Runtime in the caller's own process, in Go
    predict        in process: no server and no message
    echo           a gRPC server that sends the same bytes back
    tcp            a bare socket that carries the same bytes

The last three are floors: they do only a part of what a server does. `web` and `open_inference` are no ways: they hold
what several rivals share.
"""

import pandas as pd

from pred_server.lab.ways.article import Article
from pred_server.lab.ways.checkout import Checkout
from pred_server.lab.ways.echo import Echo
from pred_server.lab.ways.flight import Flight
from pred_server.lab.ways.gateway import Gateway
from pred_server.lab.ways.http import Http
from pred_server.lab.ways.inprocess import InProcess
from pred_server.lab.ways.kserve import KServe
from pred_server.lab.ways.mlserver import MLServer
from pred_server.lab.ways.pipe import Pipe
from pred_server.lab.ways.predict import Predict
from pred_server.lab.ways.ray import Ray
from pred_server.lab.ways.rest import Rest
from pred_server.lab.ways.rest_pydantic import RestPydantic
from pred_server.lab.ways.serve import Serve
from pred_server.lab.ways.tcp import Tcp
from pred_server.lab.ways.tls import Tls, TlsToken
from pred_server.lab.ways.unix import Unix
from pred_server.lab.ways.way import (
    CARRIERS,
    FLOORS,
    Arm,
    Call,
    Launch,
    OverGrpc,
    OverHttp,
    Reply,
    Target,
    Way,
    request_of,
    start_distance,
    start_own,
)  # fmt: skip

__all__ = [
    "CARRIERS", "FLOORS", "RIVALS", "WAYS", "Arm", "Call", "Launch", "OverGrpc", "OverHttp", "Reply", "Target", "Way",
    "messages_of", "start_distance", "start_own",
]  # fmt: skip

RIVALS: tuple[Way, ...] = (Rest(), RestPydantic(), Flight(), KServe(), MLServer())
ALL = (
    Serve(), Unix(), Tls(), TlsToken(), Checkout(), Article(), Http(), *RIVALS, Ray(), Gateway(), Pipe(), InProcess(),
    Predict(), Echo(), Tcp(),
)  # fmt: skip
WAYS: dict[str, Way] = {way.name: way for way in ALL}


def messages_of(arm: Arm, table: pd.DataFrame) -> tuple[bytes, ...]:
    """Return what one call of an arm sends. Raises InvalidInput where its encoding cannot carry the table."""
    if arm.frame and arm.generator == "go":
        return (request_of(table, "columns").SerializeToString(),)
    return (table.to_parquet(),) if arm.frame else WAYS[arm.server].messages(arm, table)
