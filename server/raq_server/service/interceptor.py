"""gRPC interceptor: authentication, calls per client, error statuses, metrics, tracing, one log line per call.

Rules
- Servicer methods have no `try` for errors. RaqError is mapped by `raq_proto.status`; any other exception is a bug: the
  client gets INTERNAL with the request id, and the traceback goes to the log only.
"""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
from grpc_status import rpc_status

from raq_proto.errors import Overloaded
from raq_proto.status import REQUEST_ID_KEY, status_of
from raq_server.service.tokens import Tokens
from raq_server.telemetry.log import LOG
from raq_server.telemetry.metrics import Metrics
from raq_server.telemetry.tracing import SetAttributes, Spans
from raq_server.workers.process import StatusError
from raq_solver.errors import RaqError

OWN_METHODS: Final = "/raq.v1."
_RETRY_SECONDS: Final = 1.0

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass
class Call:
    """A running call. `notes` are further fields of its log line."""

    method: str
    request_id: str
    client: str
    notes: dict[str, Any] = field(default_factory=dict)


CALL: Final[ContextVar[Call]] = ContextVar("raq call")
"""The call that the current task answers."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of our services."""

    def __init__(self, tokens: Tokens, calls_per_client: int, metrics: Metrics, spans: Spans) -> None:
        self._tokens = tokens
        self._most = calls_per_client
        self._metrics = metrics
        self._spans = spans
        self._running: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler of one of our methods."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(OWN_METHODS):
            return handler
        answer = self._wrapped(method, _inner(handler))
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        wrapped: Handler = make(answer, handler.request_deserializer, handler.response_serializer)
        return wrapped

    def _wrapped(self, method: str, inner: Any) -> Any:
        # Streaming methods write to the context and return nothing, so one wrapper serves all kinds.
        async def run(request: Any, context: Context) -> Any:
            metadata = {str(k): str(v) for k, v in context.invocation_metadata() or ()}
            with self._spans(method, metadata) as set_attributes:
                async with self._around(method, context, set_attributes):
                    return await inner(request, context)

        return run

    @asynccontextmanager
    async def _around(self, method: str, context: Context, set_attributes: SetAttributes) -> AsyncIterator[None]:
        call = Call(method, _request_id(context), "")
        CALL.set(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        start, code = time.perf_counter(), "OK"
        self._metrics.running.inc()
        try:
            call.client = self._admitted(method, context)
            try:
                yield
            finally:
                self._left(call.client)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except (RaqError, StatusError) as error:
            status: Any = rpc_status.to_status(error.status if isinstance(error, StatusError) else status_of(error))
            code = status.code.name
            call.notes["error"] = status.details[:500]
            await context.abort(status.code, status.details, _with_id(status.trailing_metadata, call))
        except Exception:  # noqa: BLE001  # a bug of ours: the client gets its request id only
            code = "INTERNAL"
            LOG.exception("bug", extra={"fields": {"request": call.request_id, "method": method}})
            what = f"a bug in raq-server; request {call.request_id} is in its log"
            await context.abort(grpc.StatusCode.INTERNAL, what, _with_id((), call))
        finally:
            self._metrics.running.dec()
            self._finished(call, code, time.perf_counter() - start)
            set_attributes(
                {"rpc.response.status_code": code, "raq.request_id": call.request_id, "raq.client": call.client}
            )

    def _admitted(self, method: str, context: Context) -> str:
        """The caller's name. Raises Unauthenticated, NotPermitted, Overloaded."""
        metadata = dict(context.invocation_metadata() or ())
        authorization = metadata.get("authorization")
        client = self._tokens.caller(method, authorization if isinstance(authorization, str) else None)
        client = client or _peer(context)
        if self._running[client] >= self._most:
            self._metrics.refused.labels("client").inc()
            what = f"{client} has {self._most} calls running, the most that one client may have"
            raise Overloaded(what, _RETRY_SECONDS)
        self._running[client] += 1
        return client

    def _left(self, client: str) -> None:
        self._running[client] -= 1
        if not self._running[client]:
            del self._running[client]

    def _finished(self, call: Call, code: str, seconds: float) -> None:
        self._metrics.calls.labels(call.method.rpartition("/")[2], code).observe(seconds)
        fields = {
            "method": call.method,
            "code": code,
            "request": call.request_id,
            "client": call.client,
            "milliseconds": round(1000 * seconds, 2),
        }
        LOG.info("call", extra={"fields": fields | call.notes})


def _inner(handler: "Handler") -> Any:
    return handler.unary_unary or handler.unary_stream or handler.stream_unary


def _request_id(context: Context) -> str:
    given = dict(context.invocation_metadata() or ()).get(REQUEST_ID_KEY)
    if isinstance(given, str) and 0 < len(given) <= 64 and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex


def _with_id(metadata: Any, call: Call) -> tuple[tuple[str, str | bytes], ...]:
    # abort replaces the trailing metadata, so the id has to be given again.
    return (*metadata, (REQUEST_ID_KEY, call.request_id))


def _peer(context: Context) -> str:
    names: Any = context.auth_context().get("x509_common_name")
    if names:
        return str(next(iter(names)), errors="replace")
    peer = context.peer()
    return "unix" if peer.startswith("unix:") else peer.rpartition(":")[0]
