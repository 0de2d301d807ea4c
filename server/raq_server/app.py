"""The server as an object: configured, started, stopped; the command line is one of its users.

A thread of its own runs the event loop, so that tests and notebooks can have a server beside their own work.
"""

import asyncio
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from raq_proto.channel import channel_options
from raq_proto.v1 import profile_service_pb2, profile_service_pb2_grpc
from raq_server.backroom import Backroom, Memory
from raq_server.binding import OPTIONS, bind
from raq_server.calls import Guard
from raq_server.config import ServerConfig
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
    thread: threading.Thread

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no new calls, let running ones finish for the grace period, then end them."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stopping.set)
        self.thread.join()


def start_server(config: ServerConfig) -> RunningServer:
    """Start serving.

    Raises InvalidInput when the address can't be bound, a TLS file can't be read or the database does not answer.
    """
    started: Future[RunningServer] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(config, started)), name="raq server", daemon=True)
    thread.start()
    return started.result()


async def _serve(config: ServerConfig, started: "Future[RunningServer]") -> None:
    """Serve until told to stop; what keeps it from starting goes to whoever waits for the start."""
    try:
        parts = _Parts(config)
    except BaseException as error:  # noqa: BLE001  # told to the thread that waits
        started.set_exception(error)
        return
    try:
        address = bind(parts.server, config)
        await parts.open()
        stopping = asyncio.Event()
        page, page_address = None, None
        if config.metrics_address is not None:
            ready = lambda: not stopping.is_set()
            page, page_address = serve_page(config.metrics_address, parts.metrics.registry, ready)
    except BaseException as error:  # noqa: BLE001  # told to the thread that waits
        await parts.close(0)
        started.set_exception(error)
        return
    loop, thread = asyncio.get_running_loop(), threading.current_thread()
    started.set_result(RunningServer(address, page_address, parts.metrics, parts.pool, loop, stopping, thread))
    LOG.info("serving", extra={"fields": {"address": address, "metrics": page_address}})
    await stopping.wait()
    LOG.info("stopping", extra={"fields": {"grace_seconds": config.grace_seconds}})
    await parts.close(config.grace_seconds)
    if page is not None:
        await asyncio.to_thread(page.shutdown)
        page.server_close()
    LOG.info("stopped")


class _Parts:
    """Everything a server is made of."""

    def __init__(self, config: ServerConfig) -> None:
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
        calls = SolverCalls(self.pool, self.backroom, memory, self.metrics, sizes, config.idle_seconds)
        self.server.add_generic_rpc_handlers((calls.handler(),))
        profiles = ProfileServicer(self.backroom, config)
        profile_service_pb2_grpc.add_ProfileServiceServicer_to_server(profiles, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        names = SOLVER_SERVICE, PROFILE_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME
        reflection.enable_server_reflection(names, self.server)
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start everything."""
        await asyncio.to_thread(migrate, self.engine)
        await self.pool.open()
        await self.health.set(SOLVER_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self.health.set(PROFILE_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self.server.start()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self, grace_seconds: float) -> None:
        """Drain and end everything; also what was never opened."""
        if self._watching is not None:
            self._watching.cancel()
        await self.health.enter_graceful_shutdown()
        await self.server.stop(grace_seconds)
        await self.pool.close()
        await self.backroom.close()

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
