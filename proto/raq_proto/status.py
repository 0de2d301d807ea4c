"""The one table between errors and gRPC status codes, and the details that carry every fault.

The server reads it forwards, the client backwards. A fault travels as a google.rpc.BadRequest field violation, the
class of an InvalidInput as google.rpc.ErrorInfo, so that the same exception comes out at the other end.
"""

from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

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
"""Metadata key under which client and server name one call, in logs and in error messages."""

CODES: Final[dict[type[RaqError], grpc.StatusCode]] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    ServiceUnavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    BackendFailure: grpc.StatusCode.INTERNAL,
    LedgerMismatch: grpc.StatusCode.INTERNAL,
}
"""The status code of each error; subclasses have their parent's."""

_INPUT_ERRORS: Final = {kind.__name__: kind for kind in (InvalidInput, UnknownQuantType, UnknownTensor)}


def status_of(error: RaqError) -> status_pb2.Status:
    """The status, details included, that tells a client of this error."""
    code = next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.UNKNOWN)
    details = [_packed(error_details_pb2.ErrorInfo(reason=type(error).__name__, domain=DOMAIN))]
    if isinstance(error, InvalidInput):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=fault.where, description=fault.what)
            for fault in error.faults
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    return status_pb2.Status(code=code.value[0], message=str(error), details=details)


def error_of(failure: grpc.RpcError, address: str) -> RaqError:
    """The error that a failed call to `address` stands for."""
    assert isinstance(failure, grpc.Call)
    code, text = failure.code(), failure.details() or ""
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return _input_error(failure, text)
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServiceUnavailable(f"no raq server answers at {address} ({text}); is raq-server running there?")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{address} did not answer in time; allow more seconds")
    return ServiceError(f"{address} failed: {code.name}: {text}")


def _input_error(failure: grpc.Call, text: str) -> InvalidInput:
    kind: type[InvalidInput] = InvalidInput
    faults: list[Fault] = []
    status = rpc_status.from_call(failure)
    for packed in status.details if status is not None else ():
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if packed.Unpack(info) and info.domain == DOMAIN:
            kind = _INPUT_ERRORS.get(info.reason, InvalidInput)
        elif packed.Unpack(request):
            faults += [Fault(violation.field, violation.description) for violation in request.field_violations]
    return kind(faults or [Fault("request", text)])


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
