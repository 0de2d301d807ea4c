"""`raq.v1.SolverService`: requests and answers stay bytes on the event loop.

Rules
- The key of a request is the digest of its bytes; it names the answers in the cache, in a running search and in the
  store, which are tried in this order. Only then is a job run.
- Only proven answers are cached and stored.
- On a database that several servers share, a request is claimed before it is searched for; others wait for its answer.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor

from raq_proto.v1 import solver_service_pb2
from raq_server.limits import RequestLimits
from raq_server.service.cache import LruCache
from raq_server.service.interceptor import CALL, Context
from raq_server.service.singleflight import Answers, SingleFlight
from raq_server.store.async_store import AsyncStore
from raq_server.telemetry.metrics import Metrics
from raq_server.workers.job import LARGE, Job, ProfileCache
from raq_server.workers.pool import Pool
from raq_solver.errors import DeadlineExceeded

SERVICE: Final = solver_service_pb2.DESCRIPTOR.services_by_name["SolverService"]
_MARGIN: Final = 0.05
"""Share of a call's remaining time that the server keeps, so that the best answer found still arrives in time."""
_LEAST_MARGIN_SECONDS: Final = 1.0
"""A search checks its time limit between steps, the longest of which take about this long."""


@dataclass(frozen=True, eq=False)
class SolverService:
    """The methods of SolverService."""

    pool: Pool
    store: AsyncStore
    profiles: ProfileCache
    cache: LruCache
    flights: SingleFlight
    metrics: Metrics
    limits: RequestLimits
    idle_seconds: float
    search_seconds: float

    def handler(self) -> grpc.GenericRpcHandler:
        """The handler to add to a server. Without serializers: bytes in, bytes out."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method.name: grpc.unary_stream_rpc_method_handler(self._many(method))
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler(self._one(method))
            for method in SERVICE.methods
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)

    def _one(self, method: MethodDescriptor) -> Any:
        async def run(request: bytes, context: Context) -> bytes:
            (answer,) = [answer async for answer in self._answers(method, request, context)]
            return answer

        return run

    def _many(self, method: MethodDescriptor) -> Any:
        async def run(request: bytes, context: Context) -> None:
            async with aclosing(self._answers(method, request, context)) as answers:
                async for answer in answers:
                    try:
                        async with asyncio.timeout(self.idle_seconds):
                            await context.write(answer)
                    except TimeoutError:
                        raise DeadlineExceeded("the answers were not read in time") from None

        return run

    async def _answers(self, method: MethodDescriptor, request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        # In a thread if large: hashing 64 MB takes 50 ms.
        key = _key(method, request) if len(request) < LARGE else await asyncio.to_thread(_key, method, request)
        kept = self.cache.get(key)
        self.metrics.cache.labels("memory", "miss" if kept is None else "hit").inc()
        _note_source("none" if kept is None else "memory")
        for answer in kept or ():
            yield answer
        if kept is not None:
            return
        until = self._until(context)
        shared = self.flights.join(key, until)
        if shared is not None:
            _note_source("joined")
        async with aclosing(shared or self._start(key, method, request, until)) as answers:
            async for answer in answers:
                yield answer

    def _until(self, context: Context) -> float:
        """When a search for this call must have ended, on `time.monotonic`."""
        remaining = cast("float | None", context.time_remaining())
        asked = self.search_seconds if remaining is None else search_seconds(max(0.0, remaining))
        return time.monotonic() + min(asked, self.search_seconds)

    def _start(self, key: bytes, method: MethodDescriptor, request: bytes, until: float) -> AsyncGenerator[bytes, None]:
        """Begin to answer a request that nobody else is waiting for: from the store, or by a job."""
        stored: tuple[bytes, ...] | None = None

        async def answers() -> Answers:
            nonlocal stored
            # A stream is not waited for on another server: its pace is that of its reader there.
            claimed = False
            if method.server_streaming:
                stored = await self.store.answers(key)
            else:
                stored, claimed = await self.store.answers_or_claim(key, until)
            if stored is not None:
                _note_source("store")
                for answer in stored:
                    yield answer, True
                return
            call = CALL.get()
            job = Job(
                method, request, until, self.limits, self.profiles, self.metrics, call.client, alone=call.is_local
            )
            try:
                async with aclosing(self.pool.answers(job)) as found:
                    async for each in found:
                        yield each.content, each.proven
            finally:
                if claimed:  # written together with the answers, which are kept right after this
                    self.store.release(key)

        def keep(proven: tuple[bytes, ...]) -> None:
            self.cache.put(key, proven)
            if stored is None:
                self.store.keep(key, proven)

        return self.flights.start(key, until, answers(), keep)


def search_seconds(remaining: float) -> float:
    """Seconds that a search gets of the time that its call has left: all but the margin, and at least half."""
    return remaining - min(remaining / 2, max(_LEAST_MARGIN_SECONDS, _MARGIN * remaining))


def _note_source(source: str) -> None:
    CALL.get().notes["cache"] = source


def _key(method: MethodDescriptor, request: bytes) -> bytes:
    state = hashlib.sha256(f"{method.name}\0".encode())
    state.update(request)
    return state.digest()
