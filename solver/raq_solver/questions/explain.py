"""Explanations: the alternatives of a tensor, the cost of constraints, the conflict of an infeasible problem.

Every number comes from solving again with something changed, so it is exact, not a first-order estimate; where a limit
stops a search it is that of the best allocation found.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from raq_solver.constraints import Constraint, Pin, Source, tie_groups
from raq_solver.errors import Fault, UnknownTensor, near_misses
from raq_solver.knapsack import Limits, Termination
from raq_solver.make_problem import capacity_in
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.questions.sweep import Change, spaced, sweep
from raq_solver.solve import NO_LIMITS, Solver, solve

_FLIP_POINTS: Final = 64
"""Capacities that are swept for changes of a tensor's type."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """A quant type forced on a tensor: the least loss then, and its rise over the optimum; None when infeasible.

    >>> Alternative("Q6_K", loss=0.25, rise=0.05).rise
    0.05
    """

    quant_type: str
    loss: float | None
    rise: float | None


@dataclass(frozen=True, slots=True)
class TensorReasons:
    """The reasons for a tensor's type.

    `alternatives` are all other types it may have, the least rise first; the first is the runner-up. `flips` are the
    changes of its type over evenly spaced capacities.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> reasons = explain_tensor(Problem(table, 450), "a")
    >>> reasons.chosen, reasons.runner_up.quant_type
    ('Q4_K', 'Q8_0')
    """

    tensor: str
    chosen: str
    alternatives: tuple[Alternative, ...]
    flips: tuple[Change, ...]

    @property
    def runner_up(self) -> Alternative | None:
        """The alternative that costs least, if any is feasible."""
        return next((other for other in self.alternatives if other.loss is not None), None)


@dataclass(frozen=True, slots=True)
class ConstraintCost:
    """The cost of one constraint: the loss saved when it alone is dropped; None when a limit left it unknown.

    `number` is its place among the problem's constraints, counted from 1.

    >>> ConstraintCost(1, Pin(("a",), "Q8_0"), 0.2).cost
    0.2
    """

    number: int
    constraint: Constraint
    cost: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a problem's constraints. `by_source`: the loss saved when all constraints of a source are dropped.

    `total`: the loss saved when all are dropped. Where a limit left it unknown, a source is missing and the total is 0.
    `byte_price` is the worth of one more byte of capacity, in loss per byte.

    >>> Costs((), {Source.USER: 0.2}, 0.2, 1e-9).by_source[Source.USER]
    0.2
    """

    constraints: tuple[ConstraintCost, ...]
    by_source: dict[Source, float]
    total: float
    byte_price: float


@dataclass(frozen=True, slots=True)
class Conflict:
    """The cause of infeasibility: a minimal set of constraints that, with the capacity, can't be kept together.

    Dropping any one of them makes the others feasible. Empty: the capacity alone is too small. Numbers count the
    problem's constraints from 1. `nearest_capacity_bytes` is the least capacity at which all constraints can be kept;
    None when none is enough (side constraints contradict each other).

    >>> Conflict((), nearest_capacity_bytes=288).nearest_capacity_bytes
    288
    """

    constraints: tuple[tuple[int, Constraint], ...]
    nearest_capacity_bytes: int | None


def explain_tensor(problem: Problem, tensor: str, limits: Limits = NO_LIMITS, solver: Solver = solve) -> TensorReasons:
    """The chosen type of a tensor, what every other would cost, and the capacities at which its type changes.

    Raises UnknownTensor, and InvalidInput when the problem is infeasible.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> explain_tensor(Problem(table, 450), "b").alternatives
    (Alternative(quant_type='Q4_K', loss=0.3, rise=0.19999999999999998),)
    """
    if tensor not in problem.table.row_of:
        known = near_misses(tensor, problem.table.tensors)
        raise UnknownTensor(Fault(tensor, f"not a tensor of the problem{known}"))
    outcome = solver(problem, limits)
    allocation, ledger = outcome.unwrap()
    chosen = allocation.types[tensor]
    tied = next((group for group in tie_groups(problem.constraints) if tensor in group), (tensor,))
    rows = [problem.table.row_of[name] for name in tied]
    allowed = np.logical_and.reduce(problem.allowed()[rows]).tolist()
    others = [name for name, may in zip(problem.table.quant_types, allowed, strict=True) if may and name != chosen]
    alternatives = [_forced(problem, tensor, name, ledger.loss, limits, solver) for name in others]
    alternatives.sort(key=lambda other: (other.loss is None, other.loss))
    return TensorReasons(tensor, chosen, tuple(alternatives), _flips(problem, tensor, outcome, limits))


def constraint_costs(problem: Problem, limits: Limits = NO_LIMITS, solver: Solver = solve) -> Costs:
    """The cost in loss of each constraint, of each source of constraints, and of all of them.

    Raises InvalidInput when the problem is infeasible.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> constraint_costs(Problem(table, 450, (Pin(("b",), "Q4_K"),))).total
    0.19999999999999998
    """
    outcome = solver(problem, limits)
    loss = outcome.unwrap()[1].loss

    def saved(dropped: Iterable[int]) -> float | None:
        relaxed = solver(_without(problem, set(dropped)), limits).ledger
        # Without some constraints the allocation still keeps the others, so that nothing worse is the best known.
        return None if relaxed is None else max(0.0, loss - relaxed.loss)

    numbers = range(len(problem.constraints))
    sources = {constraint.source for constraint in problem.constraints}
    of_sources = {s: saved(n for n in numbers if problem.constraints[n].source is s) for s in Source if s in sources}
    return Costs(
        tuple(ConstraintCost(n + 1, problem.constraints[n], saved([n])) for n in numbers),
        {source: cost for source, cost in of_sources.items() if cost is not None},
        saved(numbers) or 0.0,
        outcome.multiplier or 0.0,
    )


def explain_conflict(problem: Problem, limits: Limits = NO_LIMITS, solver: Solver = solve) -> Conflict | None:
    """A minimal conflicting set of constraints and the nearest feasible capacity; None when the problem is feasible.

    A constraint is dropped for good when the rest is infeasible without it (deletion filter), so the set is minimal,
    though another minimal set may exist. Where limits stop searches, constraints that could be dropped may remain, and
    the capacity may be larger than needed. Raises InvalidInput if a limit leaves open whether the problem is feasible.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> conflict = explain_conflict(Problem(table, 300, (Pin(("a", "b"), "Q8_0"),)))
    >>> [number for number, _ in conflict.constraints], conflict.nearest_capacity_bytes
    ([1], 544)
    """
    outcome = solver(problem, limits)
    if outcome.termination is not Termination.INFEASIBLE:
        outcome.unwrap()
        return None
    dropped: set[int] = set()
    for number in range(len(problem.constraints)):
        trial = _without(problem, dropped | {number})
        if solver(trial, limits).termination is Termination.INFEASIBLE:
            dropped.add(number)
    core = [(n + 1, c) for n, c in enumerate(problem.constraints) if n not in dropped]
    return Conflict(tuple(core), nearest_capacity(problem, limits, solver))


def nearest_capacity(problem: Problem, limits: Limits = NO_LIMITS, solver: Solver = solve) -> int | None:
    """The least capacity at which the problem is feasible; None when no capacity is enough.

    Raises InvalidInput if a limit leaves open whether one is.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> nearest_capacity(Problem(table, 0))
    288
    """
    if not problem.has_side_constraints:
        return solver(problem, limits).least_bytes
    top = solver(replace(problem, capacity_bytes=capacity_in(problem.table, None)), limits)
    if top.termination is Termination.INFEASIBLE:
        return None
    # Bisection: something fits at `high`, the size of an allocation, and nothing that is known at `low`.
    low, high = top.least_bytes - 1, top.unwrap()[1].size
    while high - low > 1:
        middle = (low + high) // 2
        ledger = solver(replace(problem, capacity_bytes=middle), limits).ledger
        low, high = (middle, high) if ledger is None else (low, ledger.size)
    return high


def _forced(problem: Problem, tensor: str, quant_type: str, loss: float, limits: Limits, solver: Solver) -> Alternative:
    pinned = replace(problem, constraints=(*problem.constraints, Pin((tensor,), quant_type)))
    outcome = solver(pinned, limits)
    if outcome.ledger is None:
        return Alternative(quant_type, None, None)
    return Alternative(quant_type, outcome.ledger.loss, outcome.ledger.loss - loss)


def _flips(problem: Problem, tensor: str, outcome: Outcome, limits: Limits) -> tuple[Change, ...]:
    """Changes of the tensor's type over evenly spaced capacities, from the least to the most that matters."""
    budgets = spaced(outcome.least_bytes, max(outcome.least_bytes, outcome.most_bytes), _FLIP_POINTS)
    flips = []
    before = None
    for point in sweep(problem, budgets, limits):
        if point.allocation is None:
            continue
        now = point.allocation.types[tensor]
        if before is not None and now != before:
            flips.append(Change(tensor, before, now, point.capacity_bytes))
        before = now
    return tuple(flips)


def _without(problem: Problem, dropped: set[int]) -> Problem:
    kept = tuple(constraint for number, constraint in enumerate(problem.constraints) if number not in dropped)
    return replace(problem, constraints=kept)
