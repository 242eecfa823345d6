"""Errors to gRPC statuses and back: the only such mapping.

The details follow google.rpc (https://google.aip.dev/193): BadRequest names the fields at fault, ErrorInfo gives a
reason that a program can read.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from pred_server import errors
from pred_server.errors import clip
from pred_server.limits import MAX_DETAIL_BYTES, MAX_ERROR_BYTES

DOMAIN = "pred-server"
# Why no connection could be made: a sentence for each of gRPC's words. Where it has others, nobody answers.
UNREACHED = {
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not to be trusted: it has expired, or is of another CA",
    "Hostname Verification": "the server's certificate is for another name than that of the address",
    "WRONG_VERSION_NUMBER": "the server at that address is not encrypted",
    "Socket closed": "the server hangs up: if it is encrypted, give tls; if it asks for a certificate, give one",
}
SCHEMA_CHANGED = "SCHEMA_CHANGED"

_BY_CODE: dict[str, type[errors.PredServerError]] = {
    error.code: error
    for error in (
        errors.InvalidInput,
        errors.ModelNotFound,
        errors.Unauthenticated,
        errors.LimitExceeded,
        errors.SchemaChanged,
        errors.DeadlineExceeded,
        errors.Unavailable,
        errors.Cancelled,
        errors.ServerFault,
    )
}


def to_status(error: errors.PredServerError) -> grpc.Status:
    """Return what a server answers: the code, the sentence, the fields at fault and the reason."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_clip_bytes(str(error)))
    if isinstance(error, errors.InvalidInput) and error.violations:
        bad_request = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad_request.field_violations.add(field=clip(violation.field), description=violation.description)
            if bad_request.ByteSize() > MAX_DETAIL_BYTES:
                del bad_request.field_violations[-1]
        status.details.add().Pack(bad_request)
    if isinstance(error, errors.LimitExceeded):
        limit = {"limit": str(error.limit), "flag": error.flag} if error.flag else {}
        status.details.add().Pack(ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=limit))
    if isinstance(error, errors.SchemaChanged):
        status.details.add().Pack(ErrorInfo(reason=SCHEMA_CHANGED, domain=DOMAIN))
    if isinstance(error, errors.ModelNotFound):
        status.details.add().Pack(ErrorInfo(reason="MODEL_NOT_FOUND", domain=DOMAIN, metadata=error.asked))
    answer: grpc.Status = rpc_status.to_status(status)
    return answer


def from_call(call: grpc.Call) -> errors.PredServerError:
    """Return the error that a client raises for a failed call, of this server or of any other."""
    code, message = call.code().name, call.details() or "no message"
    bad_request, info = error_details_pb2.BadRequest(), ErrorInfo()
    for detail in _details(call):
        _ = detail.Unpack(bad_request) or detail.Unpack(info)
    match _BY_CODE.get(code):
        case errors.InvalidInput:
            violations = [errors.Violation(at.field, at.description) for at in bad_request.field_violations]
            return errors.InvalidInput(message, violations)
        case errors.LimitExceeded:  # without a reason it is gRPC's own refusal of a message that is too large
            exceeded = errors.LimitExceeded(message, info.reason or "TOO_LARGE")
            limit = dict(info.metadata)
            exceeded.flag, exceeded.limit = limit.get("flag", ""), float(limit["limit"]) if "limit" in limit else None
            return exceeded
        case errors.ModelNotFound:
            return errors.ModelNotFound(message, dict(info.metadata))
        case errors.SchemaChanged if info.reason != SCHEMA_CHANGED:  # another server means something else by it
            return errors.RemoteError(message, code)
        case errors.Unavailable if "connect" in message:
            known = (why for words, why in UNREACHED.items() if words in message)
            why = next(known, "nobody answers at that address; is the server running there?")
            return errors.Unavailable(f"{why} ({message})")
        case None:
            if code == "UNIMPLEMENTED":
                message = f"the server does not offer this call, as the article's does not ({message})"
            return errors.RemoteError(message, code)
        case error:
            return error(message)


def _details(call: grpc.Call) -> Iterable[any_pb2.Any]:
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # the details contradict the status: not from a server that follows google.rpc
        return ()
    return status.details if status else ()


def _clip_bytes(text: str) -> str:
    data = text.encode()
    return text if len(data) <= MAX_ERROR_BYTES else data[:MAX_ERROR_BYTES].decode(errors="ignore") + "…"
