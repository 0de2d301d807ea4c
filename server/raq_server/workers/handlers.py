"""The slow methods as functions from a request to the messages of its answers: those of SolverService, and Put.

Rules
- They run in a thread of the server or in a process of their own, and may take long.
- In a thread, `Desk.check` ends them; in a process, killing it does.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from google.protobuf.message import DecodeError, Message

from raq_proto import convert
from raq_proto.v1 import outcome_pb2, problem_pb2, profile_pb2, solver_service_pb2
from raq_server.limits import RequestLimits
from raq_server.workers.profiles import canonical, packed
from raq_solver.budget import Budget, TotalBytes
from raq_solver.constraints import CONSTRAINT_KINDS, SideConstraint
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
from raq_solver.solve import solve
from raq_solver.verify import verify

PROVEN: Final = (Termination.OPTIMAL, Termination.INFEASIBLE)
"""How a search ended whose answer is final; other answers depend on the time that there was."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of one answer; if `proven`, they answer every later request of the same bytes too."""

    content: bytes
    proven: bool


class Desk(Protocol):
    """What a handler may use of the server."""

    limits: RequestLimits
    deadline: float | None
    """On `time.monotonic`; None: the caller waits without limit."""

    def profile(self, digest: str) -> Profile:
        """The stored profile of that digest. Raises UnknownProfile."""

    def observe(self, termination: str, seconds: float, gap: float | None) -> None:
        """Count a finished search."""

    def check(self) -> None:
        """Raises if the request was cancelled."""


def answer_solve(request: solver_service_pb2.SolveRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.Solve."""
    desk.limits.check_problem(request.problem)
    problem = convert.problem_from_proto(request.problem, desk.profile)
    answer = solver_service_pb2.SolveResponse()
    _put_outcome(answer.outcome, problem, request.limit_seconds, desk)
    yield _answer(answer, answer.outcome.termination)


def answer_batch(request: solver_service_pb2.SolveBatchRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.SolveBatch."""
    most = max((len(variant.constraints) for variant in request.variants), default=0)
    desk.limits.check_problem(request.problem, budgets=len(request.variants), constraints=most)
    for index, problem in enumerate(convert.batch_from_proto(request, desk.profile)):
        answer = solver_service_pb2.SolveBatchResponse(index=index)
        _put_outcome(answer.outcome, problem, request.limit_seconds, desk)
        yield _answer(answer, answer.outcome.termination)


def answer_sweep(request: solver_service_pb2.SweepRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.Sweep."""
    desk.limits.check_problem(request.problem, budgets=max(len(request.budgets), request.range.points))
    problem, capacities = convert.sweep_from_proto(request, desk.profile)
    points = sweep(problem, capacities, limits_of(request.limit_seconds, desk))
    for message in convert.points_to_proto(points):
        desk.observe(outcome_pb2.Termination.Name(message.termination), message.seconds, None)
        yield _answer(solver_service_pb2.SweepResponse(point=message), message.termination)


def answer_smallest(request: solver_service_pb2.SmallestRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.Smallest."""
    desk.limits.check_problem(request.problem)
    problem = convert.problem_from_proto(request.problem, desk.profile)
    found = smallest_size(problem, request.most_loss, limits_of(request.limit_seconds, desk))
    message = convert.smallest_to_proto(found)
    desk.observe(outcome_pb2.Termination.Name(message.termination), found.seconds, None)
    yield _answer(solver_service_pb2.SmallestResponse(smallest=message), message.termination)


def answer_verify(request: solver_service_pb2.VerifyRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.Verify."""
    desk.limits.check_problem(request.problem)
    problem = convert.problem_from_proto(request.problem, desk.profile)
    found = verify(problem, convert.outcome_from_proto(request.outcome))
    message = solver_service_pb2.VerifyResponse(verification=convert.verification_to_proto(found))
    yield Answer(message.SerializeToString(), proven=True)


def answer_tensor(request: solver_service_pb2.ExplainTensorRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.ExplainTensor."""
    problem, limits, solver = _searched(request.problem, request.limit_seconds, desk)
    together = limits.together()
    reasons = explain_tensor(problem, request.tensor, limits, solver)
    message = solver_service_pb2.ExplainTensorResponse(reasons=convert.reasons_to_proto(reasons))
    # The budgets at which the type changes come from a sweep, which does not report whether a limit stopped it.
    yield Answer(message.SerializeToString(), proven=solver.proven and not together.over)


def answer_costs(request: solver_service_pb2.ExplainCostsRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.ExplainCosts."""
    problem, limits, solver = _searched(request.problem, request.limit_seconds, desk)
    costs = constraint_costs(problem, limits, solver)
    message = solver_service_pb2.ExplainCostsResponse(costs=convert.costs_to_proto(costs))
    yield Answer(message.SerializeToString(), proven=solver.proven)


def answer_conflict(request: solver_service_pb2.ExplainConflictRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.ExplainConflict."""
    problem, limits, solver = _searched(request.problem, request.limit_seconds, desk)
    conflict = explain_conflict(problem, limits, solver)
    found = None if conflict is None else convert.conflict_to_proto(conflict)
    message = solver_service_pb2.ExplainConflictResponse(conflict=found)
    yield Answer(message.SerializeToString(), proven=solver.proven)


def answer_audit(request: solver_service_pb2.AuditRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.Audit."""
    problem, limits, solver = _searched(request.problem, request.limit_seconds, desk, TotalBytes(0))
    found = audit(problem, convert.allocation_from_proto(request.allocation), limits, solver)
    message = solver_service_pb2.AuditResponse(audit=convert.audit_to_proto(found))
    yield Answer(message.SerializeToString(), proven=solver.proven)


def answer_ladder(request: solver_service_pb2.LadderRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.Ladder."""
    desk.limits.check_problem(request.problem, budgets=len(request.budgets))
    problem, capacities = convert.ladder_request_from_proto(request, desk.profile)
    found = nested_ladder(problem, capacities, limits_of(request.limit_seconds, desk))
    message = convert.ladder_to_proto(found)
    desk.observe(outcome_pb2.Termination.Name(message.termination), found.seconds, None)
    yield _answer(solver_service_pb2.LadderResponse(ladder=message), message.termination)


def answer_worst_case(request: solver_service_pb2.WorstCaseRequest, desk: Desk) -> Iterator[Answer]:
    """SolverService.WorstCase."""
    desk.limits.check_domains(request)
    question = convert.domains_from_proto(request, desk.profile)
    found = solve_worst_case(question, limits_of(request.limit_seconds, desk))
    message = convert.worst_case_to_proto(found)
    desk.observe(found.termination.name, found.seconds, found.gap)
    yield _answer(solver_service_pb2.WorstCaseResponse(worst_case=message), message.termination)


def answer_put(profile: profile_pb2.Profile, desk: Desk) -> Iterator[Answer]:
    """The part of ProfileService.Put that is slow for large profiles: the description and the canonical message."""
    yield Answer(packed(*canonical(profile, desk.limits)), proven=True)


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the services: the type of its requests, and what answers them."""

    request: type[Message]
    handler: Callable[[Any, Desk], Iterator[Answer]]


METHODS: Final[Mapping[str, Method]] = MappingProxyType(
    {
        "Solve": Method(solver_service_pb2.SolveRequest, answer_solve),
        "SolveBatch": Method(solver_service_pb2.SolveBatchRequest, answer_batch),
        "Sweep": Method(solver_service_pb2.SweepRequest, answer_sweep),
        "Smallest": Method(solver_service_pb2.SmallestRequest, answer_smallest),
        "Verify": Method(solver_service_pb2.VerifyRequest, answer_verify),
        "ExplainTensor": Method(solver_service_pb2.ExplainTensorRequest, answer_tensor),
        "ExplainCosts": Method(solver_service_pb2.ExplainCostsRequest, answer_costs),
        "ExplainConflict": Method(solver_service_pb2.ExplainConflictRequest, answer_conflict),
        "Audit": Method(solver_service_pb2.AuditRequest, answer_audit),
        "Ladder": Method(solver_service_pb2.LadderRequest, answer_ladder),
        "WorstCase": Method(solver_service_pb2.WorstCaseRequest, answer_worst_case),
        "Put": Method(profile_pb2.Profile, answer_put),
    }
)
"""The methods by name."""
_GENERAL: Final = frozenset({"Ladder", "WorstCase"})
"""Methods that may use OR-Tools whatever the request."""
_SIDE: Final = frozenset(kind for kind, made in CONSTRAINT_KINDS.items() if issubclass(made, SideConstraint))
"""The kinds of constraints for which OR-Tools is used."""


def read(method: str, content: bytes) -> Any:
    """The request message. Raises InvalidInput if the content is not one."""
    kind = METHODS[method].request
    try:
        return kind.FromString(content)
    except DecodeError:
        raise InvalidInput(Fault("request", f"is not a {kind.DESCRIPTOR.full_name} message")) from None


def answers(method: str, request: Any, desk: Desk) -> Iterator[Answer]:
    """The answers to a request, each found when it is asked for. Raises RaqError."""
    return METHODS[method].handler(request, desk)


def needs_process(method: str, request: Any) -> bool:
    """Whether a request may need OR-Tools, which can only be ended together with its process."""
    if method in _GENERAL:
        return True
    variants: Iterable[Any] = request.variants if method == "SolveBatch" else ()
    return any(
        constraint.WhichOneof("kind") in _SIDE
        for holder in (request.problem, *variants)
        for constraint in holder.constraints
    )


def limits_of(asked_seconds: float, desk: Desk) -> Limits:
    """The limits of each search: the seconds asked for (0: no limit), and the deadline of the call.

    Raises InvalidInput for negative seconds and NaN.
    """
    if not asked_seconds >= 0:
        raise InvalidInput(Fault("limit_seconds", f"is {asked_seconds}; must be at least 0 (0: no limit)"))
    return Limits(asked_seconds or None, desk.check, desk.deadline)


class _Searches:
    """`solve` for questions that solve several times, each search observed."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.proven = True

    def __call__(self, problem: Problem, limits: Limits) -> Outcome:
        outcome = solve(problem, limits)
        self._desk.observe(outcome.termination.name, outcome.seconds, outcome.gap)
        self.proven = self.proven and outcome.termination in PROVEN
        return outcome


def _searched(
    message: problem_pb2.Problem, limit_seconds: float, desk: Desk, budget: Budget | None = None
) -> tuple[Problem, Limits, _Searches]:
    """The problem, its limits and its solver; `budget` is used if the message has none."""
    desk.limits.check_problem(message)
    problem = convert.problem_from_proto(message, desk.profile, budget)
    return problem, limits_of(limit_seconds, desk), _Searches(desk)


def _put_outcome(message: outcome_pb2.Outcome, problem: Problem, limit_seconds: float, desk: Desk) -> None:
    outcome = solve(problem, limits_of(limit_seconds, desk))
    desk.observe(outcome.termination.name, outcome.seconds, outcome.gap)
    convert.outcome_to_proto(outcome, message)


def _answer(message: Message, termination: int) -> Answer:
    proven = termination in (outcome_pb2.TERMINATION_OPTIMAL, outcome_pb2.TERMINATION_INFEASIBLE)
    return Answer(message.SerializeToString(), proven)
