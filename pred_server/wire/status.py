"""Errors to gRPC statuses and back: the only such mapping.

The details follow google.rpc (https://google.aip.dev/193): BadRequest names the fields at fault, ErrorInfo gives a
reason that a program can read.
"""

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from pred_server import errors
from pred_server.errors import clip
from pred_server.limits import MAX_DETAIL_BYTES, MAX_ERROR_BYTES

DOMAIN = "pred-server"

_BY_CODE: dict[str, type[errors.PredServerError]] = {
    kind.code: kind
    for kind in (
        errors.InvalidInput,
        errors.ModelNotFound,
        errors.LimitExceeded,
        errors.DeadlineExceeded,
        errors.Unavailable,
        errors.Cancelled,
        errors.ServerFault,
    )
}


def to_status(error: errors.PredServerError) -> grpc.Status:
    """Return what a server answers: the code, the sentence and the fields at fault."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_clip_bytes(str(error)))
    if isinstance(error, errors.InvalidInput) and error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(field=clip(violation.field), description=violation.description)
            if bad_request.ByteSize() > MAX_DETAIL_BYTES:
                del bad_request.field_violations[-1]
        _pack(status, bad_request)
    if isinstance(error, errors.LimitExceeded):
        limit = {"limit": str(error.limit), "flag": error.flag} if error.flag else {}
        _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=limit))
    if isinstance(error, errors.ModelNotFound):
        _pack(status, error_details_pb2.ErrorInfo(reason="MODEL_NOT_FOUND", domain=DOMAIN, metadata=error.asked))
    answer: grpc.Status = rpc_status.to_status(status)
    return answer


def from_call(call: grpc.Call) -> errors.PredServerError:
    """Return the error that a client raises for a failed call, of this server or of any other."""
    code, message = call.code().name, call.details() or "no message"
    kind = _BY_CODE.get(code, errors.RemoteError)
    if code == "UNIMPLEMENTED":
        message = f"the server does not offer this call, as the article's does not ({message})"
    if kind is errors.RemoteError:
        return errors.RemoteError(message, code)
    if kind is errors.LimitExceeded:
        info = error_details_pb2.ErrorInfo()
        if not _unpack(call, info):  # gRPC's own refusal of a message that is too large
            return errors.LimitExceeded(message)
        exceeded = errors.LimitExceeded(message, info.reason)
        exceeded.flag, exceeded.limit = info.metadata["flag"], float(info.metadata["limit"] or "nan")
        return exceeded
    if kind is errors.InvalidInput:
        bad_request = error_details_pb2.BadRequest()
        _unpack(call, bad_request)
        violations = [errors.Violation(at.field, at.description) for at in bad_request.field_violations]
        return errors.InvalidInput(message, violations)
    if kind is errors.ModelNotFound:
        info = error_details_pb2.ErrorInfo()
        _unpack(call, info)
        return errors.ModelNotFound(message, dict(info.metadata))
    if kind is errors.Unavailable and "connect" in message:
        message = f"nobody answers at that address; is the server running there? ({message})"
    return kind(message)


def _clip_bytes(text: str) -> str:
    data = text.encode()
    return text if len(data) <= MAX_ERROR_BYTES else data[:MAX_ERROR_BYTES].decode(errors="ignore") + "…"


def _pack(status: status_pb2.Status, detail: error_details_pb2.BadRequest | error_details_pb2.ErrorInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _unpack(call: grpc.Call, detail: error_details_pb2.BadRequest | error_details_pb2.ErrorInfo) -> bool:
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # the details contradict the status: not from a server that follows google.rpc
        return False
    return status is not None and any(packed.Unpack(detail) for packed in status.details)
