"""The gRPC surface: decode, ask the model, encode; nothing else."""

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import grpc

from generated.pred_pb2 import Request, Response
from generated.pred_pb2_grpc import PredictionServicer
from pred_server.codecs import CODECS
from pred_server.errors import InvalidInput, ModelNotFound, PredServerError, ServerFault, clip
from pred_server.limits import Limits
from pred_server.model import Model
from pred_server.status import to_status

logger = logging.getLogger(__name__)

Metadata = dict[str, str]

# gRPC gives all metadata of a reply together 8 KiB, beyond which the other side may drop the call.
MAX_IGNORED_BYTES = 2_048


class PredictionService(PredictionServicer):
    """Answers with the model that the call's metadata names (`model-name`, `model-version`), or else with the first.

    The reply's initial metadata says what the text does not: `prediction-dtype`, and `ignored-columns`
    (percent-encoded, with commas between them) if the table has columns that the model does not know.
    """

    def __init__(self, models: Sequence[Model], limits: Limits):
        self._models = models
        self._limits = limits
        # One thread for all computing: OpenMP keeps a pool of threads for each thread that calls it.
        self._compute = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")

    async def Predict(self, request: Request | None, context: grpc.aio.ServicerContext[Request, Response]) -> Response:
        asked = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = clip(asked.get("x-request-id") or uuid.uuid4().hex, 128)
        start_ns, code = time.perf_counter_ns(), "OK"
        try:
            logger.debug("Predict request_id=%s accepted", request_id)
            if request is None:
                raise InvalidInput("the bytes sent are not a prediction.Request message")
            model = self._find(asked)
            response, metadata = await asyncio.get_running_loop().run_in_executor(
                self._compute, self._answer, model, request
            )
            await context.send_initial_metadata(tuple(metadata.items()))
            return response
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            known = error
            if not isinstance(error, PredServerError):
                logger.exception("request %s failed", request_id)
                known = ServerFault(f"the server failed; its log has the reason under request id {request_id}")
            assert isinstance(known, PredServerError)
            code = known.code
            status = to_status(known)
            await context.abort(status.code, status.details, status.trailing_metadata)
        finally:
            duration_ms = (time.perf_counter_ns() - start_ns) / 1e6
            logger.info("Predict request_id=%s code=%s duration_ms=%.3f", request_id, code, duration_ms)

    def _find(self, asked: Metadata) -> Model:
        name, version = asked.get("model-name"), asked.get("model-version")
        for model in self._models:
            if name in (None, model.name) and version in (None, model.version):
                return model
        there = ", ".join(f"{model.name} v{model.version}" for model in self._models)
        wanted = f"{clip('(any)' if name is None else name)} v{clip('(any)' if version is None else version)}"
        raise ModelNotFound(f"no model {wanted} here; there is {there}")

    def _answer(self, model: Model, request: Request) -> tuple[Response, Metadata]:
        codec = CODECS["csv"]
        table, ignored = codec.read_table(request, model.schema, self._limits.max_rows)
        response = Response()
        codec.write_result(model.predict_aligned(table), model.schema.target, response)
        metadata = {"prediction-dtype": model.schema.target.dtype}
        if ignored:
            metadata["ignored-columns"] = _within(MAX_IGNORED_BYTES, [quote(name, safe="") for name in ignored])
        return response, metadata


def _within(most: int, names: list[str]) -> str:
    """The names with commas between them, as many as fit; `...` stands for the rest."""
    text = ",".join(names)
    return text if len(text) <= most else (text[:most].rpartition(",")[0] + ",...").lstrip(",")
