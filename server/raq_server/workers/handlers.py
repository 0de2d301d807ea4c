"""What the solver service answers, as functions from a request's bytes to the bytes of its answers.

Rules
- These run in a worker process: they may take long, and may be killed at any point.
- What they need of the server (stored profiles, results known already) they ask the desk for.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from raq_proto import convert
from raq_proto.v1 import outcome_pb2, problem_pb2, solver_service_pb2
from raq_server.sizes import Sizes
from raq_solver.budget import Budget, TotalBytes
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.questions.audit import audit
from raq_solver.questions.explain import constraint_costs, explain_conflict, explain_tensor
from raq_solver.questions.ladder import nested_ladder
from raq_solver.questions.smallest_size import smallest_size
from raq_solver.questions.sweep import sweep
from raq_solver.questions.worst_case import solve_worst_case
from raq_solver.solve import NO_LIMITS, solve
from raq_solver.verify import verify

PROVEN: Final = (Termination.OPTIMAL, Termination.INFEASIBLE)
"""Answers that stay the same however often one asks; the others depend on the time there was."""

Request = TypeVar("Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of one answer; `proven`: the same request may be answered by them again."""

    content: bytes
    proven: bool


class Desk(Protocol):
    """What a job may ask the server for."""

    sizes: Sizes
    deadline: float | None
    """On `time.monotonic`; None: the caller waits for ever."""

    def profile(self, digest: str) -> Profile:
        """The stored profile of that digest. Raises UnknownProfile."""

    def known(self, digest: str) -> bytes | None:
        """The outcome message of the problem of that digest, when it was proven before."""

    def remember(self, digest: str, outcome: bytes) -> None:
        """Keep a proven outcome."""

    def observe(self, termination: str, seconds: float, gap: float | None) -> None:
        """Count a search."""


Job = Callable[[bytes, Desk], Iterator[Answer]]


def answer_solve(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.Solve."""
    request = _read(solver_service_pb2.SolveRequest, content)
    desk.sizes.check_problem(request.problem)
    problem = convert.problem_from_proto(request.problem, desk.profile)
    outcome = _outcome(problem, request.limit_seconds, desk)
    yield _answer(solver_service_pb2.SolveResponse(outcome=outcome), outcome.termination)


def answer_batch(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.SolveBatch."""
    request = _read(solver_service_pb2.SolveBatchRequest, content)
    most = max((len(variant.constraints) for variant in request.variants), default=0)
    desk.sizes.check_problem(request.problem, budgets=len(request.variants), constraints=most)
    for index, problem in enumerate(convert.batch_from_proto(request, desk.profile)):
        outcome = _outcome(problem, request.limit_seconds, desk)
        yield _answer(solver_service_pb2.SolveBatchResponse(index=index, outcome=outcome), outcome.termination)


def answer_sweep(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.Sweep."""
    request = _read(solver_service_pb2.SweepRequest, content)
    desk.sizes.check_problem(request.problem, budgets=max(len(request.budgets), request.range.points))
    problem, capacities = convert.sweep_from_proto(request, desk.profile)
    points = sweep(problem, capacities, limits_of(request.limit_seconds, desk.deadline))
    for message in convert.points_to_proto(points):
        desk.observe(outcome_pb2.Termination.Name(message.termination), message.seconds, None)
        yield _answer(solver_service_pb2.SweepResponse(point=message), message.termination)


def answer_smallest(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.Smallest."""
    request = _read(solver_service_pb2.SmallestRequest, content)
    desk.sizes.check_problem(request.problem)
    problem = convert.problem_from_proto(request.problem, desk.profile)
    found = smallest_size(problem, request.most_loss, limits_of(request.limit_seconds, desk.deadline))
    message = convert.smallest_to_proto(found)
    desk.observe(outcome_pb2.Termination.Name(message.termination), found.seconds, None)
    yield _answer(solver_service_pb2.SmallestResponse(smallest=message), message.termination)


def answer_verify(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.Verify."""
    request = _read(solver_service_pb2.VerifyRequest, content)
    desk.sizes.check_problem(request.problem)
    problem = convert.problem_from_proto(request.problem, desk.profile)
    found = verify(problem, convert.outcome_from_proto(request.outcome))
    message = solver_service_pb2.VerifyResponse(verification=convert.verification_to_proto(found))
    yield Answer(message.SerializeToString(), proven=True)


def answer_tensor(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.ExplainTensor."""
    request = _read(solver_service_pb2.ExplainTensorRequest, content)
    problem, solver = _searched(request.problem, request.limit_seconds, desk)
    limits = limits_of(request.limit_seconds, desk.deadline)
    reasons = explain_tensor(problem, request.tensor, limits, solver)
    message = solver_service_pb2.ExplainTensorResponse(reasons=convert.reasons_to_proto(reasons))
    # The budgets at which the type changes come from a sweep that does not say whether a limit stopped it.
    yield Answer(message.SerializeToString(), proven=solver.proven and limits == NO_LIMITS)


def answer_costs(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.ExplainCosts."""
    request = _read(solver_service_pb2.ExplainCostsRequest, content)
    problem, solver = _searched(request.problem, request.limit_seconds, desk)
    costs = constraint_costs(problem, NO_LIMITS, solver)
    message = solver_service_pb2.ExplainCostsResponse(costs=convert.costs_to_proto(costs))
    yield Answer(message.SerializeToString(), proven=solver.proven)


def answer_conflict(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.ExplainConflict."""
    request = _read(solver_service_pb2.ExplainConflictRequest, content)
    problem, solver = _searched(request.problem, request.limit_seconds, desk)
    conflict = explain_conflict(problem, NO_LIMITS, solver)
    found = None if conflict is None else convert.conflict_to_proto(conflict)
    message = solver_service_pb2.ExplainConflictResponse(conflict=found)
    yield Answer(message.SerializeToString(), proven=solver.proven)


def answer_audit(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.Audit."""
    request = _read(solver_service_pb2.AuditRequest, content)
    problem, solver = _searched(request.problem, request.limit_seconds, desk, TotalBytes(0))
    found = audit(problem, convert.allocation_from_proto(request.allocation), NO_LIMITS, solver)
    message = solver_service_pb2.AuditResponse(audit=convert.audit_to_proto(found))
    yield Answer(message.SerializeToString(), proven=solver.proven)


def answer_ladder(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.Ladder."""
    request = _read(solver_service_pb2.LadderRequest, content)
    desk.sizes.check_problem(request.problem, budgets=len(request.budgets))
    problem, capacities = convert.ladder_request_from_proto(request, desk.profile)
    found = nested_ladder(problem, capacities, limits_of(request.limit_seconds, desk.deadline))
    message = convert.ladder_to_proto(found)
    desk.observe(outcome_pb2.Termination.Name(message.termination), found.seconds, None)
    yield _answer(solver_service_pb2.LadderResponse(ladder=message), message.termination)


def answer_worst_case(content: bytes, desk: Desk) -> Iterator[Answer]:
    """SolverService.WorstCase."""
    request = _read(solver_service_pb2.WorstCaseRequest, content)
    desk.sizes.check_domains(request)
    question = convert.domains_from_proto(request, desk.profile)
    found = solve_worst_case(question, limits_of(request.limit_seconds, desk.deadline))
    message = convert.worst_case_to_proto(found)
    desk.observe(found.termination.name, found.seconds, found.gap)
    yield _answer(solver_service_pb2.WorstCaseResponse(worst_case=message), message.termination)


JOBS: Final[Mapping[str, Job]] = MappingProxyType(
    {
        "Solve": answer_solve,
        "SolveBatch": answer_batch,
        "Sweep": answer_sweep,
        "Smallest": answer_smallest,
        "Verify": answer_verify,
        "ExplainTensor": answer_tensor,
        "ExplainCosts": answer_costs,
        "ExplainConflict": answer_conflict,
        "Audit": answer_audit,
        "Ladder": answer_ladder,
        "WorstCase": answer_worst_case,
    }
)
"""The methods of SolverService."""


def limits_of(asked_seconds: float, deadline: float | None) -> Limits:
    """The search's limit: what was asked for, but not beyond the deadline (on `time.monotonic`).

    Raises InvalidInput for a negative number and for none at all.
    """
    if not asked_seconds >= 0:
        raise InvalidInput(Fault("limit_seconds", f"is {asked_seconds}; must be at least 0 (0: no limit)"))
    known = [asked_seconds] if asked_seconds else []
    if deadline is not None:
        known.append(max(0.0, deadline - time.monotonic()))
    return Limits(min(known) if known else None)


class _Searches:
    """`solve` for questions that solve several times: each within what is left of the time."""

    def __init__(self, limit_seconds: float, desk: Desk) -> None:
        self._limit_seconds = limit_seconds
        self._desk = desk
        self.proven = True

    def __call__(self, problem: Problem, _limits: Limits) -> Outcome:
        outcome = solve(problem, limits_of(self._limit_seconds, self._desk.deadline))
        self._desk.observe(outcome.termination.name, outcome.seconds, outcome.gap)
        self.proven = self.proven and outcome.termination in PROVEN
        return outcome


def _searched(
    message: problem_pb2.Problem, limit_seconds: float, desk: Desk, budget: Budget | None = None
) -> tuple[Problem, _Searches]:
    """The problem, and what solves it; `budget` stands in for the message's own when that is missing."""
    desk.sizes.check_problem(message)
    problem = convert.problem_from_proto(message, desk.profile, budget)
    return problem, _Searches(limit_seconds, desk)


def _outcome(problem: Problem, limit_seconds: float, desk: Desk) -> outcome_pb2.Outcome:
    limits = limits_of(limit_seconds, desk.deadline)
    digest = problem.digest()
    known = desk.known(digest)
    if known is not None:
        return outcome_pb2.Outcome.FromString(known)
    outcome = solve(problem, limits)
    desk.observe(outcome.termination.name, outcome.seconds, outcome.gap)
    message = convert.outcome_to_proto(outcome)
    if outcome.termination in PROVEN:
        desk.remember(digest, message.SerializeToString())
    return message


def _answer(message: Message, termination: int) -> Answer:
    proven = termination in (outcome_pb2.TERMINATION_OPTIMAL, outcome_pb2.TERMINATION_INFEASIBLE)
    return Answer(message.SerializeToString(), proven)


def _read(kind: type[Request], content: bytes) -> Request:
    try:
        return kind.FromString(content)
    except DecodeError:
        raise InvalidInput(Fault("request", f"is not a {kind.DESCRIPTOR.full_name} message")) from None
