"""Solving by a server: the same call as `raq_solver.solve`, so that nothing below it knows which one runs."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import grpc

from raq_proto.channel import CHANNEL_OPTIONS
from raq_proto.convert import outcome_from_proto, problem_to_proto
from raq_proto.status import REQUEST_ID_KEY, error_of
from raq_proto.v1 import solver_service_pb2, solver_service_pb2_grpc
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem

TRANSPORT_SECONDS: Final = 30.0
"""Time that sending, queueing and answering may take beside the search itself."""


class RemoteSolver:
    """Solves problems by the service at `address` (HOST:PORT or unix:PATH).

    Raises what solving in this process would raise, and ServiceUnavailable, DeadlineExceeded or ServiceError for
    what a service adds. A context manager; leaving it closes the channel.
    """

    def __init__(self, address: str, *, root_certificates: bytes | None = None) -> None:
        self.address = address
        if root_certificates is None:
            self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(root_certificates)
            self._channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self._stub = solver_service_pb2_grpc.SolverServiceStub(self._channel)

    def __call__(self, problem: Problem, limits: Limits) -> Outcome:
        """Find the allocation of least loss that fits the problem's capacity."""
        request = solver_service_pb2.SolveRequest(problem=problem_to_proto(problem), limit_seconds=limits.seconds or 0)
        deadline = None if limits.seconds is None else limits.seconds + TRANSPORT_SECONDS
        with _our_errors(self.address):
            response = self._stub.Solve(request, timeout=deadline, metadata=((REQUEST_ID_KEY, uuid.uuid4().hex),))
        return outcome_from_proto(response.outcome)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _our_errors(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as failure:
        raise error_of(failure, address) from failure
