"""The server as an object: configured, started, stopped; the command line is one of its users."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import BaseModel, ConfigDict, Field

from raq_proto.channel import CHANNEL_OPTIONS
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_server.interceptors import ErrorsToStatus
from raq_server.servicer import SolverServicer
from raq_solver.errors import Fault, InvalidInput

SERVICE_NAME = solver_service_pb2.DESCRIPTOR.services_by_name["SolverService"].full_name


class ServerConfig(BaseModel):
    """How to serve. `address` is HOST:PORT (port 0: any free one) or unix:PATH."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = "127.0.0.1:8433"
    workers: int = Field(default=4, ge=1, le=256, description="solves that run at the same time")
    queue: int = Field(default=64, ge=0, description="further calls that may wait; more are refused")
    grace_seconds: float = Field(default=10.0, ge=0, description="time that running calls get when the server stops")
    certificate: Path | None = Field(default=None, description="TLS certificate chain (PEM); needs private_key")
    private_key: Path | None = Field(default=None, description="TLS private key (PEM)")


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers at `address`. A context manager: leaving it stops gracefully."""

    server: grpc.Server
    health: health.HealthServicer
    address: str
    grace_seconds: float

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no new calls, let running ones finish for the grace period, then end them."""
        self.health.enter_graceful_shutdown()
        self.server.stop(self.grace_seconds).wait()

    def wait(self) -> None:
        """Block until the server has stopped."""
        self.server.wait_for_termination()


def start_server(config: ServerConfig) -> RunningServer:
    """Start serving.

    Raises InvalidInput when the address can't be bound or a TLS file can't be read.
    """
    server = grpc.server(
        ThreadPoolExecutor(config.workers, thread_name_prefix="raq"),
        interceptors=[ErrorsToStatus()],
        options=(*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)),
        maximum_concurrent_rpcs=config.workers + config.queue,
    )
    solver_service_pb2_grpc.add_SolverServiceServicer_to_server(SolverServicer(), server)
    states = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    for name in ("", SERVICE_NAME):
        states.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = _bind(server, config)
    server.start()
    return RunningServer(server, states, address, config.grace_seconds)


def _bind(server: grpc.Server, config: ServerConfig) -> str:
    credentials = _credentials(config)
    try:
        if credentials is None:
            port = server.add_insecure_port(config.address)
        else:
            port = server.add_secure_port(config.address, credentials)
    except RuntimeError as error:
        what = "can't be bound; is the port in use, or the address not of this machine?"
        raise InvalidInput(Fault(config.address, what)) from error
    return config.address if config.address.startswith("unix:") else f"{config.address.rpartition(':')[0]}:{port}"


def _credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    if config.certificate is None and config.private_key is None:
        return None
    if config.certificate is None or config.private_key is None:
        raise InvalidInput(Fault("TLS", "needs both a certificate and a private key"))
    pem = []
    for path in (config.private_key, config.certificate):
        try:
            pem.append(path.read_bytes())
        except OSError as error:
            raise InvalidInput(Fault(str(path), f"can't be read: {error.strerror}")) from error
    return grpc.ssl_server_credentials([(pem[0], pem[1])])
