"""The client of the service for asyncio: each method a coroutine or an asynchronous iterator."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

import grpc

from raq_client.solver_client.connection import TRANSPORT_SECONDS, Connection, deadline_of, limit_seconds
from raq_proto import convert
from raq_proto.channel import CHUNK_BYTES
from raq_proto.convert import BudgetRange, PointReader, Variant
from raq_proto.question import Question, StoredProfile
from raq_proto.status import error_of
from raq_proto.v1 import (
    profile_pb2,
    profile_service_pb2,
    profile_service_pb2_grpc,
    solver_service_pb2,
    solver_service_pb2_grpc,
)
from raq_solver.allocation import Allocation
from raq_solver.budget import Budget
from raq_solver.errors import ServiceError
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.profile import Profile
from raq_solver.questions.audit import Audit
from raq_solver.questions.explain import Conflict, Costs, TensorReasons
from raq_solver.questions.ladder import Ladder
from raq_solver.questions.smallest_size import Smallest
from raq_solver.questions.sweep import Point
from raq_solver.questions.worst_case import Domains, WorstCase
from raq_solver.solve import NO_LIMITS
from raq_solver.verify import Verification

Response = TypeVar("Response")
Item = TypeVar("Item")


class AsyncClient:
    """A client of the service, made by `raq_client.connect_async`; a context manager that closes the channel.

    Raises the same errors as `LocalSolver`, UnknownProfile, and for failures of the service ServiceUnavailable,
    DeadlineExceeded, Overloaded, Unauthenticated, NotPermitted or ServiceError, with the call's request id.
    UNAVAILABLE is retried four times at growing intervals; a stream that breaks off is asked for again as long as each
    attempt gets further.
    Cancelling a call stops its search.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.address = connection.address
        credentials = connection.credentials
        self._channel = (
            grpc.aio.insecure_channel(connection.address, connection.options)
            if credentials is None
            else grpc.aio.secure_channel(connection.address, credentials, connection.options)
        )
        self._solver: solver_service_pb2_grpc.SolverServiceAsyncStub = solver_service_pb2_grpc.SolverServiceStub(
            self._channel
        )
        self._profiles: profile_service_pb2_grpc.ProfileServiceAsyncStub = profile_service_pb2_grpc.ProfileServiceStub(
            self._channel
        )

    async def solve(self, question: Question, limits: Limits = NO_LIMITS) -> Outcome:
        """Find the allocation of least loss that fits the budget."""
        request = solver_service_pb2.SolveRequest(limit_seconds=limit_seconds(limits))
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.Solve(
                request, timeout=deadline_of(limits), metadata=self._connection.metadata()
            )
        return convert.outcome_from_proto(response.outcome)

    def solve_batch(
        self, question: Question, variants: Sequence[Variant], limits: Limits = NO_LIMITS
    ) -> AsyncIterator[Outcome]:
        """The outcome of each variant, in order, as it is proven. `limits` hold for each."""
        request = convert.batch_to_proto(question, variants)
        request.limit_seconds = limit_seconds(limits)
        return self._resumed(
            lambda: self._solver.SolveBatch(request, metadata=self._connection.metadata()),
            lambda: lambda response: convert.outcome_from_proto(response.outcome),
        )

    def sweep(
        self, question: Question, budgets: Sequence[Budget] | BudgetRange, limits: Limits = NO_LIMITS
    ) -> AsyncIterator[Point]:
        """The optimum of each budget, in order, as it is proven; the question's own budget is ignored."""
        request = convert.sweep_to_proto(question, budgets)
        request.limit_seconds = limit_seconds(limits)
        return self._resumed(
            lambda: self._solver.Sweep(request, metadata=self._connection.metadata()),
            lambda: _point_of(PointReader()),
        )

    async def smallest_size(self, question: Question, most_loss: float, limits: Limits = NO_LIMITS) -> Smallest:
        """The smallest allocation whose loss is at most `most_loss` (nats per token) and that fits the budget."""
        request = solver_service_pb2.SmallestRequest(most_loss=most_loss, limit_seconds=limit_seconds(limits))
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.Smallest(request, metadata=self._connection.metadata())
        return convert.smallest_from_proto(response.smallest)

    async def verify(self, question: Question, outcome: Outcome) -> Verification:
        """Verify an outcome again, on the server."""
        request = solver_service_pb2.VerifyRequest(outcome=convert.outcome_to_proto(outcome))
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.Verify(
                request, timeout=TRANSPORT_SECONDS, metadata=self._connection.metadata()
            )
        return convert.verification_from_proto(response.verification)

    async def explain_tensor(self, question: Question, tensor: str, limits: Limits = NO_LIMITS) -> TensorReasons:
        """Why a tensor has its type, the cost of every other type, and the budgets at which its type changes."""
        request = solver_service_pb2.ExplainTensorRequest(tensor=tensor, limit_seconds=limit_seconds(limits))
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.ExplainTensor(request, metadata=self._connection.metadata())
        return convert.reasons_from_proto(response.reasons)

    async def constraint_costs(self, question: Question, limits: Limits = NO_LIMITS) -> Costs:
        """The cost in loss of each constraint, of each source of constraints, and of all together."""
        request = solver_service_pb2.ExplainCostsRequest(limit_seconds=limit_seconds(limits))
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.ExplainCosts(request, metadata=self._connection.metadata())
        return convert.costs_from_proto(response.costs)

    async def explain_conflict(self, question: Question, limits: Limits = NO_LIMITS) -> Conflict | None:
        """Why nothing fits; None if something does."""
        request = solver_service_pb2.ExplainConflictRequest(limit_seconds=limit_seconds(limits))
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.ExplainConflict(request, metadata=self._connection.metadata())
        return convert.conflict_from_proto(response.conflict) if response.HasField("conflict") else None

    async def audit(self, question: Question, allocation: Allocation, limits: Limits = NO_LIMITS) -> Audit:
        """Compare an allocation with the best one of its own size; the question's budget is ignored."""
        request = solver_service_pb2.AuditRequest(
            allocation=convert.allocation_to_proto(allocation),
            limit_seconds=limit_seconds(limits),
        )
        convert.problem_to_proto(question, request.problem)
        with self._our_errors():
            response = await self._solver.Audit(request, metadata=self._connection.metadata())
        return convert.audit_from_proto(response.audit)

    async def nested_ladder(self, question: Question, budgets: Sequence[Budget], limits: Limits = NO_LIMITS) -> Ladder:
        """The nested ladder of least total loss over rising budgets; the question's own budget is ignored."""
        request = convert.ladder_request_to_proto(question, budgets)
        request.limit_seconds = limit_seconds(limits)
        with self._our_errors():
            response = await self._solver.Ladder(request, metadata=self._connection.metadata())
        return convert.ladder_from_proto(response.ladder)

    async def solve_worst_case(self, question: Domains, limits: Limits = NO_LIMITS) -> WorstCase:
        """The allocation within the capacity with the smallest worst-domain loss."""
        request = convert.domains_to_proto(question)
        request.limit_seconds = limit_seconds(limits)
        with self._our_errors():
            response = await self._solver.WorstCase(request, metadata=self._connection.metadata())
        return convert.worst_case_from_proto(response.worst_case)

    async def put_profile(self, profile: Profile) -> StoredProfile:
        """Store a profile; questions can then refer to its digest. Storing it again does nothing."""
        with self._our_errors():
            response = await self._profiles.Put(_parts(profile), metadata=self._connection.metadata())
        return convert.stored_from_proto(response.info)

    async def profile(self, digest: str) -> Profile:
        """A stored profile. Raises UnknownProfile, and ServiceError if it does not arrive as it was stored."""
        request = profile_service_pb2.DownloadRequest(digest=digest)
        answers = self._resumed(
            lambda: self._profiles.Download(request, metadata=self._connection.metadata()),
            lambda: lambda response: response.chunk,
        )
        content = bytearray()
        async for chunk in answers:
            content += chunk
        found = convert.profile_from_proto(profile_pb2.Profile.FromString(bytes(content)))
        if found.digest() != digest:
            raise ServiceError(f"{self.address} sent another profile than {digest}")
        return found

    async def profiles(self) -> AsyncIterator[StoredProfile]:
        """All stored profiles, by digest."""
        request = profile_service_pb2.ListRequest()
        while True:
            with self._our_errors():
                response = await self._profiles.List(
                    request, timeout=TRANSPORT_SECONDS, metadata=self._connection.metadata()
                )
            for each in response.profiles:
                yield convert.stored_from_proto(each)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def delete_profile(self, digest: str) -> bool:
        """Remove a stored profile; False if there was none."""
        request = profile_service_pb2.DeleteRequest(digest=digest)
        with self._our_errors():
            response = await self._profiles.Delete(
                request, timeout=TRANSPORT_SECONDS, metadata=self._connection.metadata()
            )
        return response.deleted

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _resumed(
        self, ask: Callable[[], AsyncIterable[Response]], reading: Callable[[], Callable[[Response], Item]]
    ) -> AsyncIterator[Item]:
        """The answers of a stream. If it breaks off, it is asked for again from its start and what was read is passed
        over: gRPC itself tries again only before the first answer.

        `reading` makes a function that reads the responses of one attempt, in order.
        """
        taken = 0
        while True:
            number, read = 0, reading()
            try:
                async for response in ask():
                    item = read(response)
                    number += 1
                    if number > taken:
                        yield item
            except grpc.aio.AioRpcError as failure:
                if failure.code() is not grpc.StatusCode.UNAVAILABLE or number <= taken:
                    raise error_of(failure, self.address) from failure
                taken = number
            else:
                return

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure, self.address) from failure


def _parts(profile: Profile) -> Iterator[profile_service_pb2.PutRequest]:
    """The messages that store a profile: what comes, then its chunks."""
    content = convert.profile_to_proto(profile).SerializeToString()
    start = profile_service_pb2.PutStart(digest=profile.digest(), size_bytes=len(content))
    yield profile_service_pb2.PutRequest(start=start)
    for place in range(0, len(content), CHUNK_BYTES):
        yield profile_service_pb2.PutRequest(chunk=content[place : place + CHUNK_BYTES])


def _point_of(reader: PointReader) -> Callable[[solver_service_pb2.SweepResponse], Point]:
    return lambda response: reader.read(response.point)
