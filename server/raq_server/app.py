"""The server as an object: configured, started, stopped; the command line is one of its users.

One thread runs the event loop of all servers of this process, so that tests and notebooks can have servers beside
their own work. gRPC has one queue of events for all event loops of a process, and loses some when loops come and go.
"""

import asyncio
import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, Final, Self
from wsgiref.simple_server import WSGIServer

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from raq_proto.channel import channel_options
from raq_proto.v1 import profile_service_pb2, profile_service_pb2_grpc
from raq_server.backroom import Backroom, Memory
from raq_server.binding import OPTIONS, bind
from raq_server.calls import Guard
from raq_server.config import ServerConfig
from raq_server.flights import Flights
from raq_server.log import LOG
from raq_server.metrics import Metrics
from raq_server.metrics_page import serve_page
from raq_server.migrations import migrate
from raq_server.pool import Pool
from raq_server.profiles import ProfileServicer
from raq_server.sizes import Sizes
from raq_server.solving import SERVICE, SolverCalls
from raq_server.store import Store, engine_of
from raq_server.tokens import Tokens
from raq_server.tracing import no_spans, spans
from raq_solver.errors import ServiceUnavailable

SOLVER_SERVICE: Final = SERVICE.full_name
PROFILE_SERVICE: Final = profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"].full_name
_PING_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers at `address`. A context manager: leaving it stops gracefully."""

    address: str
    metrics_address: str | None
    metrics: Metrics
    pool: Pool
    loop: asyncio.AbstractEventLoop
    stopping: asyncio.Event
    stopped: "Future[None]"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no new calls, let running ones finish for the grace period, then end them."""
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.stopped.result()


def start_server(config: ServerConfig) -> RunningServer:
    """Start serving.

    Raises InvalidInput when the address can't be bound, a TLS file can't be read or the database does not answer.
    """
    started: Future[tuple[_Parts, str]] = Future()
    running = asyncio.run_coroutine_threadsafe(_serve(config, started), _loop())
    either: tuple[Future[Any], ...] = (started, running)
    wait(either, return_when=FIRST_COMPLETED)
    if not started.done():
        running.result()
    parts, address = started.result()
    return RunningServer(address, parts.page_address, parts.metrics, parts.pool, _loop(), parts.stopping, running)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all servers, in its thread, until the process ends."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="raq server", daemon=True).start()
    return loop


async def _serve(config: ServerConfig, started: "Future[tuple[_Parts, str]]") -> None:
    """Serve until told to stop."""
    parts = _Parts(config)
    try:
        address = bind(parts.server, config)
        await parts.open()
        LOG.info("serving", extra={"fields": {"address": address, "metrics": parts.page_address}})
        started.set_result((parts, address))
        await parts.stopping.wait()
        LOG.info("stopping", extra={"fields": {"grace_seconds": config.grace_seconds}})
    finally:
        await parts.close()
    LOG.info("stopped")


class _Parts:
    """Everything a server is made of."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.stopping = asyncio.Event()
        self.metrics = Metrics()
        self.engine = engine_of(config.database)
        self.backroom = Backroom(Store(self.engine), self.metrics)
        self.pool = Pool(config.workers, config.queue, self.metrics)
        self.health = health.aio.HealthServicer()
        traced = spans() if config.tracing else no_spans
        guard = Guard(Tokens.of(config.tokens), config.calls_per_client, self.metrics, traced)
        self.server = grpc.aio.server(
            interceptors=[guard],
            options=(*channel_options(config.message_limit_bytes), *OPTIONS),
        )
        memory, sizes = Memory(config.cache_bytes), Sizes.of(config)
        self.flights = Flights(memory, self.metrics)
        calls = SolverCalls(self.pool, self.backroom, memory, self.flights, self.metrics, sizes, config.idle_seconds)
        self.server.add_generic_rpc_handlers((calls.handler(),))
        profiles = ProfileServicer(self.backroom, config)
        profile_service_pb2_grpc.add_ProfileServiceServicer_to_server(profiles, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = SOLVER_SERVICE, PROFILE_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME
        reflection.enable_server_reflection(names, self.server)
        self._watching: asyncio.Task[None] | None = None
        self._page: WSGIServer | None = None
        self.page_address: str | None = None

    async def open(self) -> None:
        """Start everything."""
        await asyncio.to_thread(migrate, self.engine)
        await self.pool.open()
        await self.health.set(SOLVER_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self.health.set(PROFILE_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self.server.start()
        self._watching = asyncio.get_running_loop().create_task(self._watch())
        if self._config.metrics_address is not None:
            ready = lambda: not self.stopping.is_set()
            self._page, self.page_address = serve_page(self._config.metrics_address, self.metrics.registry, ready)

    async def close(self) -> None:
        """Drain and end everything; also what was never opened."""
        if self._watching is None:
            await self.server.start()  # only a server that was started lets go of its port
        else:
            self._watching.cancel()
        await self.health.enter_graceful_shutdown()
        await self.server.stop(self._config.grace_seconds)
        await self.flights.close()
        await self.pool.close()
        await self.backroom.close()
        if self._page is not None:
            await asyncio.to_thread(self._page.shutdown)
            self._page.server_close()

    async def _watch(self) -> None:
        """Say by the health of ProfileService whether the store answers."""
        states = health_pb2.HealthCheckResponse
        while True:
            try:
                await self.backroom.ask(self.backroom.store.ping)
                state = states.SERVING
            except ServiceUnavailable:
                state = states.NOT_SERVING
                LOG.warning("the store does not answer")
            await self.health.set(PROFILE_SERVICE, state)
            await asyncio.sleep(_PING_SECONDS)
