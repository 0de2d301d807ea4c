"""Requests about several budgets (batches, frontiers, ladders) and allocations ⇄ messages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from raq_proto.convert.constraint import constraint_to_proto, constraints_from_proto
from raq_proto.convert.numbers import budget_from_proto, budget_to_proto
from raq_proto.convert.problem import nothing_stored, problem_from_proto, problem_to_proto
from raq_proto.question import Question, Stored
from raq_proto.v1 import outcome_pb2, problem_pb2, solver_service_pb2
from raq_solver.allocation import Allocation
from raq_solver.budget import Budget, TotalBytes
from raq_solver.constraints import Constraint
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.make_problem import capacity_in
from raq_solver.problem import Problem
from raq_solver.questions.sweep import spaced

_ANY_BUDGET = TotalBytes(0)


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of a problem: a budget in place of the problem's own (None: its own), constraints beside its own."""

    budget: Budget | None = None
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, slots=True)
class BudgetRange:
    """`points` budgets from the first to the last, both included, evenly spaced up to whole bytes."""

    first: Budget
    last: Budget
    points: int


def batch_to_proto(question: Question, variants: Sequence[Variant]) -> solver_service_pb2.SolveBatchRequest:
    """A question and its variants to message."""
    messages = []
    for variant in variants:
        message = solver_service_pb2.Variant(constraints=[constraint_to_proto(each) for each in variant.constraints])
        if variant.budget is not None:
            message.budget.CopyFrom(budget_to_proto(variant.budget))
        messages.append(message)
    request = solver_service_pb2.SolveBatchRequest(variants=messages)
    problem_to_proto(question, request.problem)
    return request


def batch_from_proto(
    message: solver_service_pb2.SolveBatchRequest, stored: Stored = nothing_stored
) -> Iterator[Problem]:
    """Message to the problems of its variants, one by one. Faults of messages are raised before the first."""
    base = problem_from_proto(message.problem, stored, _ANY_BUDGET)
    faults: list[Fault] = []
    read = [_variant(each, message.problem, number, faults) for number, each in enumerate(message.variants, start=1)]
    raise_faults(faults)
    return (_varied(base, variant, number) for number, variant in enumerate(read, start=1))


def _variant(
    message: solver_service_pb2.Variant, problem: problem_pb2.Problem, number: int, faults: list[Fault]
) -> Variant:
    own: list[Fault] = []
    constraints = constraints_from_proto(message.constraints, own)
    budget = None
    try:
        if message.HasField("budget") or not problem.HasField("budget"):
            budget = budget_from_proto(message.budget)
    except InvalidInput as error:
        own += error.faults
    faults += [Fault(f"variant {number}: {fault.where}", fault.what) for fault in own]
    return Variant(budget, constraints)


def _varied(base: Problem, variant: Variant, number: int) -> Problem:
    try:
        capacity = base.capacity_bytes if variant.budget is None else capacity_in(base.table, variant.budget)
        return replace(base, capacity_bytes=capacity, constraints=(*base.constraints, *variant.constraints))
    except InvalidInput as error:
        raise InvalidInput(Fault(f"variant {number}: {each.where}", each.what) for each in error.faults) from None


def sweep_to_proto(question: Question, budgets: Sequence[Budget] | BudgetRange) -> solver_service_pb2.SweepRequest:
    """A question and its budgets to message."""
    message = solver_service_pb2.SweepRequest()
    problem_to_proto(question, message.problem)
    if isinstance(budgets, BudgetRange):
        message.range.first.CopyFrom(budget_to_proto(budgets.first))
        message.range.last.CopyFrom(budget_to_proto(budgets.last))
        message.range.points = budgets.points
    else:
        message.budgets.extend(map(budget_to_proto, budgets))
    return message


def sweep_from_proto(
    message: solver_service_pb2.SweepRequest, stored: Stored = nothing_stored
) -> tuple[Problem, tuple[int, ...]]:
    """Message to the problem and its capacities in bytes."""
    problem = problem_from_proto(message.problem, stored, _ANY_BUDGET)
    if message.HasField("range") == bool(message.budgets):
        raise InvalidInput(Fault("budgets", "say either a list of budgets or a range"))
    if message.HasField("range"):
        first = capacity_in(problem.table, budget_from_proto(message.range.first, "range.first"))
        last = capacity_in(problem.table, budget_from_proto(message.range.last, "range.last"))
        return problem, spaced(first, last, message.range.points)
    return problem, _capacities(problem, message.budgets)


def ladder_request_to_proto(question: Question, budgets: Sequence[Budget]) -> solver_service_pb2.LadderRequest:
    """A question and the budgets of its rungs to message."""
    request = solver_service_pb2.LadderRequest(budgets=map(budget_to_proto, budgets))
    problem_to_proto(question, request.problem)
    return request


def ladder_request_from_proto(
    message: solver_service_pb2.LadderRequest, stored: Stored = nothing_stored
) -> tuple[Problem, tuple[int, ...]]:
    """Message to the problem and the capacities of its rungs in bytes."""
    problem = problem_from_proto(message.problem, stored, _ANY_BUDGET)
    return problem, _capacities(problem, message.budgets)


def allocation_to_proto(allocation: Allocation) -> list[outcome_pb2.Assignment]:
    """Allocation to messages, in its order."""
    return [outcome_pb2.Assignment(tensor=tensor, quant_type=name) for tensor, name in allocation.types.items()]


def allocation_from_proto(messages: Iterable[outcome_pb2.Assignment]) -> Allocation:
    """Messages to allocation. Raises InvalidInput for tensors that are named twice."""
    types: dict[str, str] = {}
    faults = []
    for message in messages:
        if message.tensor in types:
            faults.append(Fault(message.tensor, "is named twice in the allocation"))
        types[message.tensor] = message.quant_type
    raise_faults(faults)
    return Allocation(types)


def _capacities(problem: Problem, budgets: Iterable[problem_pb2.Budget]) -> tuple[int, ...]:
    read = (budget_from_proto(each, f"budget {number}") for number, each in enumerate(budgets, start=1))
    return tuple(capacity_in(problem.table, budget) for budget in read)
