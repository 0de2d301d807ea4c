"""`raq.v1.SolverService`: requests stay bytes in this process; a worker reads and answers them."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, cast

import grpc
from google.rpc import status_pb2

from raq_proto.v1 import solver_service_pb2
from raq_server.backroom import Backroom, Memory
from raq_server.calls import CALL, Context, Refused
from raq_server.flights import Answers, Flights
from raq_server.frames import Tag, job_head
from raq_server.metrics import Metrics
from raq_server.pool import Pool
from raq_server.processes import Worker
from raq_server.sizes import Sizes
from raq_solver.errors import DeadlineExceeded, ServiceUnavailable

SERVICE: Final = solver_service_pb2.DESCRIPTOR.services_by_name["SolverService"]
_MARGIN: Final = 0.05
"""Share of a call's remaining time that the server keeps, so that it still answers with the best it has."""
_LEAST_MARGIN_SECONDS: Final = 1.0
"""A search looks at the clock between its steps, of which the longest take about this long."""
_DIGEST: Final = 64
_LARGE: Final = 2**20


@dataclass(frozen=True, eq=False)
class SolverCalls:
    """Answers the calls of SolverService from memory, by a search that runs already, or by a worker."""

    pool: Pool
    backroom: Backroom
    memory: Memory
    flights: Flights
    metrics: Metrics
    sizes: Sizes
    idle_seconds: float

    def handler(self) -> grpc.GenericRpcHandler:
        """What to add to a server. Without serializers: bytes in, bytes out."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            method.name: grpc.unary_stream_rpc_method_handler(self._many(method.name))
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler(self._one(method.name))
            for method in SERVICE.methods
        }
        return grpc.method_handlers_generic_handler(SERVICE.full_name, methods)

    def _one(self, method: str) -> Any:
        async def run(request: bytes, context: Context) -> bytes:
            (answer,) = [answer async for answer in self._answers(method, request, context)]
            return answer

        return run

    def _many(self, method: str) -> Any:
        async def run(request: bytes, context: Context) -> None:
            async with aclosing(self._answers(method, request, context)) as answers:
                async for answer in answers:
                    try:
                        async with asyncio.timeout(self.idle_seconds):
                            await context.write(answer)
                    except TimeoutError:
                        raise DeadlineExceeded("the answers were not read in time") from None

        return run

    async def _answers(self, method: str, request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        # In a thread: a request of 64 MB takes long enough to be felt by others.
        key = _key(method, request) if len(request) < _LARGE else await asyncio.to_thread(_key, method, request)
        kept = self.memory.get(key)
        self.metrics.cache.labels("memory", "miss" if kept is None else "hit").inc()
        CALL.get().notes["cache"] = "memory" if kept is not None else "none"
        for answer in kept or ():
            yield answer
        if kept is not None:
            return
        until = _until(context)
        shared = self.flights.join(key, until)
        if shared is not None:
            CALL.get().notes["cache"] = "joined"
        async with aclosing(shared or self.flights.start(key, until, self._search(method, request, until))) as answers:
            async for answer in answers:
                yield answer

    async def _search(self, method: str, request: bytes, until: float | None) -> Answers:
        """The answers of a worker, when there is one, and whether each is proven."""
        async with self.pool.worker() as worker, aclosing(self._worked(worker, method, request, until)) as answers:
            async for answer in answers:
                yield answer

    async def _worked(self, worker: Worker, method: str, request: bytes, until: float | None) -> Answers:
        seconds = None if until is None else max(0.0, until - time.monotonic())
        header = {"method": method, "seconds": seconds, "sizes": self.sizes.model_dump()}
        await worker.send(Tag.JOB, job_head(header), request)
        failure: ServiceUnavailable | None = None
        while True:
            tag, content = await worker.receive()
            match tag:
                case Tag.PROVEN | Tag.ANSWER:
                    yield content, tag is Tag.PROVEN
                    await worker.send(Tag.NEXT)
                case Tag.PROFILE:
                    failure = await self._give_profile(worker, content.decode(), held=False)
                case Tag.PROFILE_HELD:
                    failure = await self._give_profile(worker, content.decode(), held=True)
                case Tag.END:
                    return
                case Tag.ERROR:
                    raise failure or Refused(status_pb2.Status.FromString(content))
                case Tag.BUG:
                    raise RuntimeError(content.decode())
                case _:
                    await self._serve_desk(worker, tag, content)

    async def _give_profile(self, worker: Worker, digest: str, *, held: bool) -> ServiceUnavailable | None:
        """Give the worker a profile, or to one that holds it the word that it is still stored; what kept the store
        from answering, if something did.
        """
        failure, found, store = None, None, self.backroom.store
        try:
            if held:
                found = b"" if await self.backroom.ask(lambda: store.use_profile(digest)) else None
            else:
                found = await self.backroom.ask(lambda: store.profile(digest))
        except ServiceUnavailable as error:
            failure = error
        await _give(worker, found)
        return failure

    async def _serve_desk(self, worker: Worker, tag: Tag, content: bytes) -> None:
        match tag:
            case Tag.KNOWN:
                found = await self.backroom.known(content.decode())
                CALL.get().notes["cache"] = "store" if found else "none"
                await _give(worker, found)
            case Tag.REMEMBER:
                self.backroom.remember(content[:_DIGEST].decode(), content[_DIGEST:])
            case Tag.OBSERVE:
                observed = json.loads(content)
                self.metrics.solves.labels(observed["termination"]).observe(observed["seconds"])
                if observed["gap"] is not None:
                    self.metrics.gap.observe(observed["gap"])
            case _:
                raise AssertionError(f"a worker sent {tag}")


def search_seconds(remaining: float) -> float:
    """Seconds that a search gets of the time that is left to its call: all but the margin, and at least half."""
    return remaining - min(remaining / 2, max(_LEAST_MARGIN_SECONDS, _MARGIN * remaining))


def _until(context: Context) -> float | None:
    """When a search for this call must have ended, on `time.monotonic`; None: the call has no deadline."""
    remaining = cast("float | None", context.time_remaining())
    return None if remaining is None else time.monotonic() + search_seconds(max(0.0, remaining))


def _key(method: str, request: bytes) -> bytes:
    state = hashlib.sha256(f"{method}\0".encode())
    state.update(request)
    return state.digest()


async def _give(worker: Worker, found: bytes | None) -> None:
    await (worker.send(Tag.MISSING) if found is None else worker.send(Tag.GIVEN, found))
