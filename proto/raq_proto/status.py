"""Errors ⇄ gRPC statuses, with details that carry every fault.

The server converts errors to statuses, the client converts them back into the same exceptions. A fault travels as a
google.rpc.BadRequest field violation, the class of an error as google.rpc.ErrorInfo, and the time after which to try
again as google.rpc.RetryInfo.
"""

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from raq_proto.errors import NotPermitted, Overloaded, StoreFull, Unauthenticated, UnknownProfile
from raq_solver.errors import (
    BackendFailure,
    DeadlineExceeded,
    Fault,
    InvalidInput,
    LedgerMismatch,
    RaqError,
    ServiceError,
    ServiceUnavailable,
    UnknownQuantType,
    UnknownTensor,
)

DOMAIN: Final = "raq"
REQUEST_ID_KEY: Final = "raq-request-id"
"""Metadata key of a call's id, which client and server put into logs and error messages."""

CODES: Final[dict[type[RaqError], grpc.StatusCode]] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownProfile: grpc.StatusCode.NOT_FOUND,
    ServiceUnavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    NotPermitted: grpc.StatusCode.PERMISSION_DENIED,
    BackendFailure: grpc.StatusCode.INTERNAL,
    LedgerMismatch: grpc.StatusCode.INTERNAL,
}
"""The status code of each error; subclasses have their parent's."""

_TEXT_LIMIT: Final = 800
"""Bytes of a status' text, and of a fault's place and of what it says."""
_DETAILS_LIMIT: Final = 3600
"""Bytes of faults in one status: peers refuse more than 8 KiB of metadata (gRPC's default), and it travels in base64,
beside the text."""

_INPUT_ERRORS: Final = {kind.__name__: kind for kind in (InvalidInput, UnknownQuantType, UnknownTensor, UnknownProfile)}
_OTHER_ERRORS: Final = {
    kind.__name__: kind
    for kind in (
        ServiceUnavailable,
        DeadlineExceeded,
        StoreFull,
        Unauthenticated,
        NotPermitted,
        BackendFailure,
        LedgerMismatch,
    )
}


def status_of(error: RaqError) -> status_pb2.Status:
    """The status of an error, details included."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.UNKNOWN)
    details = [_packed(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))]
    if isinstance(error, InvalidInput):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=fault.where, description=fault.what)
            for fault in _fitting(error.faults)
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    if isinstance(error, Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(1000 * error.retry_seconds))
        details.append(_packed(retry))
    return status_pb2.Status(code=code.value[0], message=_beginning(str(error)), details=details)


def _beginning(text: str) -> str:
    """The beginning of a text that takes at most `_TEXT_LIMIT` bytes as gRPC sends it: all but plain ASCII as %XX."""
    left = _TEXT_LIMIT
    for end, character in enumerate(text):
        left -= 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode())
        if left < 0:
            return text[:end]
    return text


def _cut(text: str) -> str:
    return text[:_TEXT_LIMIT].encode()[:_TEXT_LIMIT].decode(errors="ignore")


def _fitting(faults: Sequence[Fault]) -> list[Fault]:
    """As many faults as fit into a status, then a fault that counts the rest."""
    fitting: list[Fault] = []
    left = _DETAILS_LIMIT
    for fault in faults:
        cut = Fault(_cut(fault.where), _cut(fault.what))
        left -= len(f"{cut.where}{cut.what}".encode()) + 8
        if left < 0 and fitting:
            return [*fitting, Fault("", f"and {len(faults) - len(fitting)} more")]
        fitting.append(cut)
    return fitting


def error_of(failure: grpc.RpcError, address: str) -> RaqError:
    """The error of a failed call to `address`. Errors of the service name the call's request id."""
    assert isinstance(failure, grpc.Call | grpc.aio.AioRpcError)
    code, text = failure.code(), failure.details() or ""
    reason, faults, retry_seconds = _details(failure)
    if reason in _INPUT_ERRORS or code is grpc.StatusCode.INVALID_ARGUMENT:
        return _INPUT_ERRORS.get(reason, InvalidInput)(faults or [Fault("request", text)])
    suffix = _request_id(failure)
    if reason == Overloaded.__name__:
        return Overloaded(text + suffix, retry_seconds)
    if reason in _OTHER_ERRORS:
        return _OTHER_ERRORS[reason](text + suffix)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceUnavailable(f"no raq server answers at {address} ({text}); is raq-server running there?")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{address} did not answer in time; allow more seconds{suffix}")
    return ServiceError(f"{address} failed: {code.name}: {text}{suffix}")


def _details(failure: "grpc.Call | grpc.aio.AioRpcError") -> tuple[str, list[Fault], float]:
    """The class of the error (empty if it is not raq's), its faults, and the seconds after which to try again."""
    reason, faults, retry_seconds = "", [], 0.0
    for packed in _packed_details(failure):
        info, request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if packed.Unpack(info) and info.domain == DOMAIN:
            reason = info.reason
        elif packed.Unpack(request):
            faults += [Fault(violation.field, violation.description) for violation in request.field_violations]
        elif packed.Unpack(retry):
            retry_seconds = retry.retry_delay.ToMilliseconds() / 1000
    return reason, faults, retry_seconds


def _packed_details(failure: "grpc.Call | grpc.aio.AioRpcError") -> list[any_pb2.Any]:
    for key, value in failure.trailing_metadata() or ():
        if key == rpc_status.GRPC_DETAILS_METADATA_KEY:
            return list(status_pb2.Status.FromString(value).details)
    return []


def _request_id(failure: "grpc.Call | grpc.aio.AioRpcError") -> str:
    found = dict(failure.trailing_metadata() or ()).get(REQUEST_ID_KEY)
    return f" [request {found}]" if found else ""


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
