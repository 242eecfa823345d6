"""Ask a server for predictions: a table in, a pandas Series out."""

import warnings
from typing import Self
from urllib.parse import unquote

import grpc
import pandas as pd

from generated.pred_pb2 import Request, Response
from generated.pred_pb2_grpc import PredictionStub
from pred_server.codecs import CODECS
from pred_server.errors import InvalidInput, ServerFault, Unavailable
from pred_server.limits import Limits
from pred_server.status import from_call

DEFAULT_TIMEOUT_S = 30.0


class Client:
    """A connection to a prediction server; keep one and use it for every call. It may be shared by threads.

    Parameters
    ----------
    target : HOST:PORT of this project's server, or of any that speaks the contract (the article's, say)
    timeout_s : deadline of each call in seconds, unless the call gives its own
    model, version : the model to ask for; without them, the server's first
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        model: str | None = None,
        version: str | None = None,
        limits: Limits = Limits(),
    ):
        self.target = target
        self.timeout_s = timeout_s
        asked = (("model-name", model), ("model-version", version))
        for key, value in asked:
            if value is not None and not (value.isascii() and value.isprintable()):
                raise InvalidInput(f"{key} {value!r}: a model's name and version are plain ASCII")
        self._metadata = tuple((key, value) for key, value in asked if value is not None)
        self._channel = grpc.insecure_channel(
            target,
            options=(
                ("grpc.enable_http_proxy", 0),  # or a proxy from the environment would be asked even for 127.0.0.1
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", limits.max_message_bytes),
            ),
        )
        self._stub = PredictionStub(self._channel)

    def predict(self, table: pd.DataFrame, *, timeout_s: float | None = None) -> pd.Series:
        """Return one prediction for each row, with the table's index, named after the model's target.

        Parameters
        ----------
        table : DataFrame of shape (n_rows, n_columns), n_rows >= 1, columns in any order
        timeout_s : deadline in seconds of this call

        Raises
        ------
        InvalidInput, ModelNotFound, LimitExceeded, DeadlineExceeded, Unavailable, Cancelled, ServerFault, RemoteError
            As `pred_server.errors` describes them. The connection can be used again after any of them.
        """
        if not isinstance(table, pd.DataFrame):
            raise InvalidInput(f"a table is a pandas DataFrame, not a {type(table).__name__}")
        codec = CODECS["csv"]
        request = Request()
        codec.write_table(table, request)
        response, metadata = self.call(request, timeout_s=timeout_s)
        if "ignored-columns" in metadata:
            names = ", ".join(unquote(name) for name in metadata["ignored-columns"].split(","))
            warnings.warn(f"the model does not know these columns and ignored them: {names}", stacklevel=2)
        result = codec.read_result(response, metadata.get("prediction-dtype"))
        if len(result) != len(table):
            raise ServerFault(f"{len(table)} rows were sent and {len(result)} predictions came back")
        return result.set_axis(table.index)

    def call(self, request: Request, *, timeout_s: float | None = None) -> tuple[Response, dict[str, str]]:
        """Send a request as it is; return the response and its initial metadata. Raises as `predict` does."""
        try:
            response, call = self._stub.Predict.with_call(
                request, timeout=self.timeout_s if timeout_s is None else timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            raise from_call(error) from None
        except ValueError as error:
            raise Unavailable("this client is closed") from error
        return response, {key: value for key, value in call.initial_metadata() if isinstance(value, str)}

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r}, timeout_s={self.timeout_s:g})"
