"""A rival that tells the encoding from the transport: the messages that `serve` takes, over HTTP/1.1 in place of gRPC.

The body is a whole Request of our contract, the reply a whole Response, and our codecs read and write them. So each
encoding can be carried by both: what differs between `csv` over HTTP and `csv` over gRPC is the transport's, and what
differs between `csv` and `tensor` over HTTP is the encoding's.
"""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pandas as pd

from pred_server.generated.pred_pb2 import Request, Response
from pred_server.lab.ways.way import Caller, OverHttp, Target, request_of
from pred_server.lab.ways.web import PATH, LoopOrThread, Web
from pred_server.limits import Limits
from pred_server.model.model import Model
from pred_server.wire.codec import CODECS, codec_of


class Http(Web):
    name, wire = "http", OverHttp(PATH, "application/x-protobuf")

    def endpoint(self, model: Model) -> Callable[..., Any]:
        import fastapi

        predictor, limits = LoopOrThread(model), Limits()

        async def predict(request: fastapi.Request) -> fastapi.Response:
            message, response = Request.FromString(await request.body()), Response()
            codec = codec_of(message)
            rows, _ = codec.read_table(message, model.schema, limits)
            codec.write_result(await predictor.predict(rows), response)
            return fastapi.Response(response.SerializeToString(), media_type=self.wire.content_type)

        return predict

    def client(self, target: Target, stack: AsyncExitStack) -> Caller:
        post, encoding = self.post(target, stack), target.arm.encoding

        def predict(table: pd.DataFrame) -> Any:
            answer = post(content=request_of(table, encoding).SerializeToString())
            return CODECS[encoding].read_result(Response.FromString(answer.content), None).values

        return predict
