"""Around every call: errors become a status with all faults, and one line goes to the log.

Rules
- Servicer methods hold no `try`. Our errors map through `raq_proto.status`; any other exception is a bug: it
  becomes INTERNAL with the request id, and its traceback goes to the log, never to the client.
"""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import grpc
from grpc_status import rpc_status

from raq_proto.status import REQUEST_ID_KEY, status_of
from raq_solver.errors import RaqError

LOG = logging.getLogger("raq_server")
OWN_METHODS = "/raq.v1."

Request = TypeVar("Request")
Response = TypeVar("Response")
Method = Callable[[Request, grpc.ServicerContext], Response]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ErrorsToStatus(grpc.ServerInterceptor):
    """Turns exceptions of our methods into statuses and logs every call."""

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Handler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of one of our unary methods."""
        handler = continuation(handler_call_details)
        name = handler_call_details.method
        if handler is None or not name.startswith(OWN_METHODS) or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            _guarded(handler.unary_unary, name),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _guarded(method: Method[Request, Response], name: str) -> Method[Request, Response]:
    def run(request: Request, context: grpc.ServicerContext) -> Response:
        start = time.perf_counter()
        request_id = _request_id(context)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        try:
            response = method(request, context)
        except RaqError as error:
            _log(name, request_id, start, type(error).__name__)
            status = rpc_status.to_status(status_of(error))
            # abort_with_status replaces the trailing metadata; the id has to ride along.
            context.abort_with_status(_with_metadata(status, request_id))
            raise  # not reached: abort raises
        except Exception:
            LOG.exception("%s failed, request %s", name, request_id)
            context.abort(grpc.StatusCode.INTERNAL, f"a bug in raq-server; request {request_id} is in its log")
            raise  # not reached: abort raises
        _log(name, request_id, start, "ok")
        return response

    return run


def _request_id(context: grpc.ServicerContext) -> str:
    given = dict(context.invocation_metadata()).get(REQUEST_ID_KEY)
    return given[:64] if isinstance(given, str) and given.isprintable() else uuid.uuid4().hex


def _with_metadata(status: grpc.Status, request_id: str) -> grpc.Status:
    metadata = (*status.trailing_metadata, (REQUEST_ID_KEY, request_id))
    return status._replace(trailing_metadata=metadata)  # type: ignore[attr-defined,no-any-return]


def _log(name: str, request_id: str, start: float, result: str) -> None:
    LOG.info("%s %s %.1f ms request %s", name, result, 1000 * (time.perf_counter() - start), request_id)
