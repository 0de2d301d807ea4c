"""Plans: a problem and its outcome; everything else about a plan is derived from these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from raq_client.planning.build_problem import ProblemSpec
from raq_client.planning.predicted_kl import PredictedKl, predicted_kl
from raq_client.recipes.diff import Agreement, Exchange, convergence, exchange
from raq_client.solver_client.protocol import SolverClient
from raq_solver.allocation import Ledger
from raq_solver.constraints import Constraint
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Limits, Termination
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.questions.smallest_size import Smallest
from raq_solver.questions.worst_case import WorstCase
from raq_solver.solve import NO_LIMITS


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a group of constraints on `tensors` tensors.

    `loss` is the increase of the predicted loss, None if nothing fits even without them. `taken` are the additional
    bytes of these tensors compared with the plan without the group (negative: fewer), `rest` is the increase of the
    loss of all other tensors.
    """

    group: str
    tensors: int
    loss: float | None
    taken: int
    rest: float


@dataclass(frozen=True, eq=False)
class WorstCaseDetails:
    """The worst-case result for several domains.

    `elsewhere`: for each domain, its worst loss in files made for another single domain, relative to its own optimum.
    """

    found: WorstCase
    elsewhere: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """The outcome of a problem: the one of `spec`, or one derived from it (other losses, the smallest capacity).

    Only made by `make_plan`. `smallest` proves that no smaller size satisfies the `max_loss`. With `worst_case` the
    table is that of its proof (all domains, weighted), and the outcome's loss refers to it.
    """

    spec: ProblemSpec
    problem: Problem
    outcome: Outcome
    prices: tuple[Price, ...] = ()
    worst_case: WorstCaseDetails | None = None
    smallest: Smallest | None = None

    @property
    def table(self) -> LossTable:
        """The loss table of the problem."""
        return self.problem.table

    @property
    def profile(self) -> Profile:
        """The profile of the model. Raises InvalidInput for a plain problem, which has no model."""
        if self.spec.profile is None:
            raise InvalidInput(Fault("plan", "is of a plain problem: there is no model"))
        return self.spec.profile

    @property
    def budget_text(self) -> str:
        """The requested budget or loss as text."""
        request = self.spec.request
        if request.max_loss is not None:
            return f"a loss of at most {request.max_loss:g}"
        return f"{self.problem.capacity_bytes:,} bytes" if self.spec.budget is None else str(self.spec.budget)

    @cached_property
    def predicted(self) -> PredictedKl | None:
        """The predicted KL divergence with its interval; None without an allocation or levels by window.

        A worst case has losses for each domain instead.
        """
        found = self.outcome.allocation
        return None if found is None or self.worst_case is not None else predicted_kl(self.spec, found.types)

    @cached_property
    def exchange(self) -> Exchange | None:
        """The moves from the base to the allocation; None if one is missing."""
        base, found = self.spec.base, self.outcome.allocation
        if base is None or found is None:
            return None
        return exchange(base.allocation, found, self.table, self.problem.capacity_bytes)

    @property
    def on_host(self) -> Mapping[str, int]:
        """The bytes of each tensor kept on the host; empty without an allocation."""
        if self.outcome.ledger is None:
            return {}
        sizes = {entry.tensor: entry.size for entry in self.outcome.ledger.entries}
        return {name: sizes[name] for name in self.spec.on_host}

    @property
    def agreements(self) -> tuple[Agreement, ...]:
        """Whether importance ratio, measured sensitivity and base agree; empty without a base and a ratio."""
        base, ratios = self.spec.base, self.spec.ratios
        if base is None or ratios is None:
            return ()
        tensors, values = self.profile.tensors, self.profile.sensitivities
        return convergence(
            base.allocation,
            {tensor.name: tensor.weights for tensor in tensors},
            demote=ratios.demote,
            promote=ratios.promote,
            rated=[row.name for row in ratios.rows],
            sensitivities={tensors[row].name: float(values[row]) for row in np.flatnonzero(np.isfinite(values))},
        )


def solve_plan(spec: ProblemSpec, solver: SolverClient, limits: Limits = NO_LIMITS) -> Plan:
    """Solve the problem; with a `max_loss` in the request, find the smallest size that satisfies it.

    A plan's outcome may have no allocation; its termination and least bytes then give the reason. Raises
    LossNotReached if no allocation satisfies the `max_loss`.
    """
    if spec.request.max_loss is None:
        return make_plan(spec, spec.problem, solver.solve(spec.problem, limits), solver, limits)
    found = solver.smallest_size(spec.problem, spec.request.max_loss, limits)
    if found.ledger is None:
        raise LossNotReached(spec.request.max_loss, found.least_loss, found.termination)
    problem = replace(spec.problem, capacity_bytes=found.ledger.size)
    return make_plan(spec, problem, solver.solve(problem, limits), solver, limits, smallest=found)


class LossNotReached(InvalidInput):
    """No allocation satisfies the `max_loss`; `termination` states whether that is proven, `least` what can be had."""

    def __init__(self, most: float, least: float | None, termination: Termination, what: str | None = None) -> None:
        self.termination, self.least = termination, least
        reachable = "" if least is None else f"; the least that can be reached is {least:.6g}"
        super().__init__(Fault("", what or f"no allocation has a loss of at most {most:g}{reachable}"))


def make_plan(
    spec: ProblemSpec,
    problem: Problem,
    outcome: Outcome,
    solver: SolverClient,
    limits: Limits = NO_LIMITS,
    worst_case: WorstCaseDetails | None = None,
    smallest: Smallest | None = None,
) -> Plan:
    """The plan for a solved problem, with the prices of the spec's groups (none for a worst case)."""
    prices = () if worst_case is not None else _prices(spec, problem, outcome, solver, limits)
    return Plan(spec, problem, outcome, prices, worst_case, smallest)


def _prices(
    spec: ProblemSpec, problem: Problem, outcome: Outcome, solver: SolverClient, limits: Limits
) -> tuple[Price, ...]:
    """For each group of constraints, the loss with them minus the loss without them at the same capacity."""
    if outcome.ledger is None:
        return ()
    found = []
    for group, constraints in spec.groups.items():
        named = {name for one in constraints for name in one.tensors}
        if named:
            free = solver.solve(replace(problem, constraints=_less(problem.constraints, constraints)), limits).ledger
            found.append(_price(group, named, outcome.ledger, free))
    return tuple(found)


def _less(constraints: Sequence[Constraint], left_out: Sequence[Constraint]) -> tuple[Constraint, ...]:
    gone = {id(one) for one in left_out}
    return tuple(one for one in constraints if id(one) not in gone)


def _price(group: str, named: set[str], with_it: Ledger, without: Ledger | None) -> Price:
    if without is None:
        return Price(group, len(named), None, 0, 0.0)
    before = {entry.tensor: entry for entry in without.entries}
    pairs = [(entry, before[entry.tensor]) for entry in with_it.entries]
    taken = sum(now.size - was.size for now, was in pairs if now.tensor in named)
    rest = sum(now.loss - was.loss for now, was in pairs if now.tensor not in named)
    return Price(group, len(named), with_it.loss - without.loss, taken, rest)
