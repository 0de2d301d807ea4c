"""The server as an object: configure, start, stop. The command line is one of its users.

One thread runs the event loop of all servers of a process, so that tests and notebooks can run servers beside their
own work. gRPC has one queue of events for all event loops of a process, and loses some when loops come and go.
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
from raq_server.config import ServerConfig
from raq_server.limits import RequestLimits
from raq_server.listen import OPTIONS, bind
from raq_server.service.cache import LruCache
from raq_server.service.intake import Intake
from raq_server.service.interceptor import CallInterceptor
from raq_server.service.profile_service import ProfileService
from raq_server.service.singleflight import SingleFlight
from raq_server.service.solver_service import SERVICE, SolverService
from raq_server.service.tokens import Tokens
from raq_server.store.async_store import AsyncStore
from raq_server.store.database import Database, engine_of
from raq_server.store.migrations import migrate
from raq_server.telemetry.http import serve_metrics
from raq_server.telemetry.log import LOG
from raq_server.telemetry.metrics import Metrics
from raq_server.telemetry.tracing import no_spans, spans
from raq_server.workers.job import ProfileCache
from raq_server.workers.pool import Pool
from raq_solver.errors import ServiceError

SOLVER_SERVICE: Final = SERVICE.full_name
PROFILE_SERVICE: Final = profile_service_pb2.DESCRIPTOR.services_by_name["ProfileService"].full_name
_PING_SECONDS: Final = 2.0
_OTHERS_SECONDS: Final = 1.0
"""Longest time for a message to health or reflection to arrive whole. These need no token, so that one is received at a
time: strangers make the server hold one message, and each makes the others wait for this time at most."""
_OTHERS_BYTES: Final = 64 * 2**10
"""Largest message to them that is decoded."""
_LARGEST_KEPT: Final = 8 * 2**20
"""Bytes of the largest answers that are stored, and that are held while slow readers catch up."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers at `address`. A context manager: leaving it stops the server gracefully."""

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
        """Take no new calls, give running ones the grace period to finish, then end them."""
        self.loop.call_soon_threadsafe(self.stopping.set)
        self.stopped.result()


def start_server(config: ServerConfig) -> RunningServer:
    """Start serving.

    Raises InvalidInput if the address can't be bound, a TLS file can't be read or the database does not answer.
    """
    started: Future[tuple[_Parts, str]] = Future()
    running = asyncio.run_coroutine_threadsafe(_serve(config, started), _loop())
    either: tuple[Future[Any], ...] = (started, running)
    wait(either, return_when=FIRST_COMPLETED)
    if not started.done():
        running.result()
    parts, address = started.result()
    return RunningServer(address, parts.metrics_address, parts.metrics, parts.pool, _loop(), parts.stopping, running)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all servers, in its thread, until the process ends."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="raq server", daemon=True).start()
    return loop


async def _serve(config: ServerConfig, started: "Future[tuple[_Parts, str]]") -> None:
    """Serve until `stopping` is set."""
    parts = _Parts(config)
    try:
        address = bind(parts.server, config)
        await parts.open()
        LOG.info("serving", extra={"fields": {"address": address, "metrics": parts.metrics_address}})
        started.set_result((parts, address))
        await parts.stopping.wait()
        LOG.info("stopping", extra={"fields": {"grace_seconds": config.grace_seconds}})
    finally:
        await parts.close()
    LOG.info("stopped")


def _intakes(config: ServerConfig) -> tuple[Intake, Intake]:
    """The room for requests to our services, and for those to others."""
    largest, seconds, idle = config.message_limit_bytes, config.request_seconds, config.idle_seconds
    return (
        Intake(config.receive_limit_bytes, largest, seconds, idle, whole=config.profile_limit_bytes),
        Intake(largest, largest, seconds, min(idle, _OTHERS_SECONDS), accepted=_OTHERS_BYTES),
    )


class _Parts:
    """The parts of a server, connected."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.stopping = asyncio.Event()
        self.metrics = Metrics()
        self.engine = engine_of(config.database)
        database = Database(self.engine, config.store_limit_bytes)
        self.store = AsyncStore(database, self.metrics)
        self.pool = Pool(config.workers, config.queue, self.metrics)
        self.flights = SingleFlight(_LARGEST_KEPT, self.metrics)
        self.health = health.aio.HealthServicer()
        traced = spans() if config.tracing else no_spans
        interceptor = CallInterceptor(
            Tokens.of(config.tokens), config.calls_per_client, self.metrics, traced, *_intakes(config)
        )
        self.server = grpc.aio.server(
            interceptors=[interceptor],
            options=(*channel_options(config.message_limit_bytes), *OPTIONS),
        )
        cache = ProfileCache(database)
        solver = SolverService(
            self.pool,
            self.store,
            cache,
            LruCache(config.cache_bytes),
            self.flights,
            self.metrics,
            RequestLimits.of(config),
            config.idle_seconds,
            config.search_seconds,
        )
        self.server.add_generic_rpc_handlers((solver.handler(),))
        profiles = ProfileService(self.store, self.pool, cache, self.metrics, config)
        profile_service_pb2_grpc.add_ProfileServiceServicer_to_server(profiles, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = SOLVER_SERVICE, PROFILE_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME
        reflection.enable_server_reflection(names, self.server)
        self._watching: asyncio.Task[None] | None = None
        self._http: WSGIServer | None = None
        self.metrics_address: str | None = None

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
            self._http, self.metrics_address = serve_metrics(self._config.metrics_address, self.metrics.registry, ready)

    async def close(self) -> None:
        """Drain and end all parts, including those that were never opened."""
        if self._watching is None:
            await self.server.start()  # only a server that was started releases its port
        else:
            self._watching.cancel()
        await self.health.enter_graceful_shutdown()
        await self.server.stop(self._config.grace_seconds)
        await self.flights.close()
        await self.pool.close()
        await self.store.close()
        if self._http is not None:
            await asyncio.to_thread(self._http.shutdown)
            self._http.server_close()

    async def _watch(self) -> None:
        """Keep the health of ProfileService equal to whether the store answers."""
        states = health_pb2.HealthCheckResponse
        while True:
            try:
                await self.store.ask(self.store.database.ping)
                state = states.SERVING
            except ServiceError as error:
                state = states.NOT_SERVING
                LOG.warning("the store fails", extra={"fields": {"what": str(error), "cause": str(error.__cause__)}})
            await self.health.set(PROFILE_SERVICE, state)
            await asyncio.sleep(_PING_SECONDS)
