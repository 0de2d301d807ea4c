"""gRPC interceptor: authentication, calls per client, error statuses, metrics, tracing, one log line per call.

Rules
- Servicer methods have no `try` for errors. RaqError is mapped by `raq_proto.status`; any other exception is a bug: the
  client gets INTERNAL with the request id, and the traceback goes to the log only.
- Every method reads its request here, as bytes, after its caller was admitted: gRPC would read and decode it before. So
  one guard serves all services, and limits hold before the first byte of a message.
"""

import asyncio
import inspect
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from raq_proto.errors import Overloaded
from raq_proto.status import REQUEST_ID_KEY, status_of
from raq_server.service.intake import Intake, Receiving
from raq_server.service.tokens import Tokens
from raq_server.telemetry.log import LOG
from raq_server.telemetry.metrics import Metrics
from raq_server.telemetry.tracing import SetAttributes, Spans
from raq_server.workers.process import StatusError
from raq_solver.errors import Fault, InvalidInput, RaqError

OWN_METHODS: Final = "/raq.v1."
_RETRY_SECONDS: Final = 1.0
_LOCAL: Final = frozenset({"unix", "ipv4:127.0.0.1", "ipv6:[::1]", "ipv6:%5B::1%5D"})
"""Names of clients that are this machine, where tokens and certificates do not name them."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass
class Call:
    """A running call. `notes` are further fields of its log line."""

    method: str
    request_id: str
    client: str
    is_local: bool = False
    """Whether the client is this machine, known by its address alone."""
    notes: dict[str, Any] = field(default_factory=dict)


CALL: Final[ContextVar[Call]] = ContextVar("raq call")
"""The call that the current task answers."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of our services; of others (health, reflection) it bounds what is received."""

    def __init__(
        self, tokens: Tokens, calls_per_client: int, metrics: Metrics, spans: Spans, intake: Intake, others: Intake
    ) -> None:
        self._tokens = tokens
        self._intake, self._others = intake, others
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
        if handler is None:
            return None
        method = handler_call_details.method
        run = self._guarded(method, handler) if method.startswith(OWN_METHODS) else self._bounded(handler)
        # As methods with a stream of requests: gRPC begins these before it reads a message.
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        wrapped: Handler = make(run, None, _serializer(handler))
        return wrapped

    def _guarded(self, method: str, handler: "Handler") -> Any:
        async def run(_: AsyncIterator[bytes], context: Context) -> Any:
            metadata = {str(k): str(v) for k, v in context.invocation_metadata() or ()}
            with self._spans(method, metadata) as set_attributes:
                async with (
                    self._around(method, context, set_attributes),
                    self._intake.call(CALL.get().client) as receiving,
                ):
                    return await _answered(handler, receiving, context)

        return run

    def _bounded(self, handler: "Handler") -> Any:
        async def run(_: AsyncIterator[bytes], context: Context) -> Any:
            try:
                with self._counted(f"other {_peer(context)}"):
                    async with self._others.call(_peer(context)) as receiving:
                        return await _answered(handler, receiving, context)
            except RaqError as error:
                _let_go(error)
                status: Any = rpc_status.to_status(status_of(error))
                await context.abort(status.code, status.details, status.trailing_metadata)

        return run

    @asynccontextmanager
    async def _around(self, method: str, context: Context, set_attributes: SetAttributes) -> AsyncIterator[None]:
        call = Call(method, _request_id(context), "")
        CALL.set(call)
        context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        start, code = time.perf_counter(), "OK"
        self._metrics.running.inc()
        try:
            call.client = self._caller(method, context)
            call.is_local = call.client in _LOCAL
            with self._counted(call.client):
                yield
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except (RaqError, StatusError) as error:
            status: Any = rpc_status.to_status(error.status if isinstance(error, StatusError) else status_of(error))
            code = status.code.name
            _let_go(error)
            call.notes["error"] = status.details[:500]
            await context.abort(status.code, status.details, _with_id(status.trailing_metadata, call))
        except Exception as error:  # a bug of ours: the client gets its request id only
            # The client left while an answer was being written: gRPC fails to send, maybe before it knows why.
            if context.done() or isinstance(error, grpc.aio.InternalError):
                code = "CANCELLED"
                raise asyncio.CancelledError from error
            code = "INTERNAL"
            LOG.exception("bug", extra={"fields": {"request": call.request_id, "method": method}})
            what = f"a bug in raq-server; request {call.request_id} is in its log"
            await context.abort(grpc.StatusCode.INTERNAL, what, _with_id((), call))
        finally:
            self._metrics.running.dec()
            seconds = time.perf_counter() - start
            self._metrics.calls.labels(call.method.rpartition("/")[2], code).observe(seconds)
            # After the answer is sent: writing the log's line would delay it.
            asyncio.get_running_loop().call_soon(_write_line, call, code, seconds)
            set_attributes(
                {"rpc.response.status_code": code, "raq.request_id": call.request_id, "raq.client": call.client}
            )

    def _caller(self, method: str, context: Context) -> str:
        """The caller's name. Raises Unauthenticated and NotPermitted."""
        metadata = dict(context.invocation_metadata() or ())
        authorization = metadata.get("authorization")
        client = self._tokens.caller(method, authorization if isinstance(authorization, str) else None)
        return client or _peer(context)

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        """Count a running call of a client. Raises Overloaded if it has too many."""
        if self._running[client] >= self._most:
            self._metrics.refused.labels("client").inc()
            what = f"{client} has {self._most} calls running, the most that one client may have"
            raise Overloaded(what, _RETRY_SECONDS)
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


def _write_line(call: Call, code: str, seconds: float) -> None:
    fields = {
        "method": call.method,
        "code": code,
        "request": call.request_id,
        "client": call.client,
        "milliseconds": round(1000 * seconds, 2),
    }
    LOG.info("call", extra={"fields": fields | call.notes})


class _Messages:
    """The messages of a call's request, read one by one.

    gRPC's own iterator holds each message until the next is asked for, and after a call that is refused until the
    collector of cycles comes by: 24 messages of 56 MiB to health, 960 MiB.
    """

    def __init__(self, context: Context) -> None:
        self._context: Any = context

    def __aiter__(self) -> "_Messages":
        return self

    async def __anext__(self) -> bytes:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return bytes(message)


async def _answered(handler: "Handler", receiving: Receiving, context: Context) -> Any:
    """Run a handler on the request that is received."""
    parts = _Messages(context)
    inner: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if handler.request_streaming:
        request: Any = (_decoded(handler, part) async for part in receiving.all(parts))
    else:
        content = await receiving.one(parts)
        if content is None:
            raise InvalidInput(Fault("request", "is missing"))
        request = _decoded(handler, content)
    found = inner(request, context)
    if not inspect.isasyncgen(found):
        return await found
    async for answer in found:
        await context.write(answer)
    return None


def _let_go(error: BaseException) -> None:
    """Free what the frames of an error hold, which may be a request of megabytes.

    gRPC keeps the error of a refused call, and so its frames, until the collector of cycles comes by.
    """
    traceback.clear_frames(error.__traceback__)


def _decoded(handler: "Handler", content: bytes) -> Any:
    """The message of a request; its bytes for handlers that take bytes. Raises InvalidInput if it is none."""
    decode: Any = handler.request_deserializer
    if decode is None:
        return content
    try:
        return decode(content)
    except DecodeError:
        raise InvalidInput(Fault("request", "is not a message of the kind that this method takes")) from None


def _serializer(handler: "Handler") -> Any:
    """The handler's serializer; answers that are bytes already pass."""
    encode: Any = handler.response_serializer
    return None if encode is None else lambda answer: answer if isinstance(answer, bytes) else encode(answer)


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
