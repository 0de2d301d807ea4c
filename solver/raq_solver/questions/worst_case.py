"""Worst cases over domains: one file for several uses, the allocation whose worst domain loses least.

Rules
- Every domain has a loss table of its own, over the same tensors, types and sizes.
- Losses of domains are compared as ratios: the loss over the least loss that the domain could have at the same
  capacity under the same constraints. Nats of one text are not worth nats of another (a domain that is hard to predict
  would decide alone), and the ratio is the price that a user of one domain pays: the factor by which a file made for
  that domain alone would be better. Where some domain's best has loss 0 there is no ratio, and all are compared in
  nats, as `WorstCaseMeasure.NATS` always does.
- At any weights of the domains the weighted table is an ordinary problem, whose bound is a bound on the worst case. The
  outcome's weights and prices are such a certificate.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, unique

import numpy as np

from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.backends.minimax.search import least_worst
from raq_solver.constraints import Constraint, DistinctTypes, Monotone
from raq_solver.errors import Fault, raise_faults
from raq_solver.formulate import formulate
from raq_solver.knapsack import Knapsack, Limits, Linear, Termination
from raq_solver.losses import LossTable, LossUnit
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem, constraints_of
from raq_solver.solve import NO_LIMITS, solve


@unique
class WorstCaseMeasure(Enum):
    """The quantity that is compared between domains.

    >>> WorstCaseMeasure.RATIO.value
    'loss over the least loss of the domain at the same capacity'
    """

    RATIO = "loss over the least loss of the domain at the same capacity"
    NATS = "loss in nats per token"


@dataclass(frozen=True, eq=False)
class Domains:
    """The question: loss tables of several domains, by name; capacity and constraints as of a `Problem`.

    Raises InvalidInput with every fault: tables that differ in anything but losses, names given twice, and Monotone or
    DistinctTypes, which are not supported here.

    >>> sizes = [[272, 144]] * 2
    >>> math_ = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], sizes, [[0.0, 0.1], [0.0, 0.3]])
    >>> code = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], sizes, [[0.0, 0.3], [0.0, 0.1]])
    >>> Domains((("math", math_), ("code", code)), 450).measure.name
    'RATIO'
    """

    tables: tuple[tuple[str, LossTable], ...]
    capacity_bytes: int
    constraints: tuple[Constraint, ...] = ()
    measure: WorstCaseMeasure = WorstCaseMeasure.RATIO

    def __post_init__(self) -> None:
        raise_faults(_kind_faults(self))
        object.__setattr__(self, "tables", tuple((name, table) for name, table in self.tables))
        object.__setattr__(self, "constraints", constraints_of(self.constraints))
        raise_faults(_faults(self))
        self.problems()

    def problems(self) -> tuple[Problem, ...]:
        """The problem of each domain alone."""
        return tuple(Problem(table, self.capacity_bytes, self.constraints) for _, table in self.tables)

    def weighted(self, factors: Sequence[float], source: str = "") -> Problem:
        """The problem whose losses are the sum of the domains' losses, each times its factor."""
        first = self.tables[0][1]
        losses = np.zeros(first.losses.shape)
        for factor, (_, table) in zip(factors, self.tables, strict=True):
            losses += factor * np.where(first.offered, table.losses, 0.0)
        losses[~first.offered] = np.inf
        table = replace(first, losses=losses, source=source, unit=LossUnit.WEIGHTED_DOMAINS)
        return Problem(table, self.capacity_bytes, self.constraints)


@dataclass(frozen=True, slots=True)
class DomainOutcome:
    """The result for one domain.

    `ledger`: the account of the common allocation in its table. `best`: the outcome for this domain alone. `reference`:
    the loss that counts as 1, in the unit of its table. `weight`: its part of the certificate, from 0 to 1.

    >>> best = Outcome(Termination.INFEASIBLE, None, None, None, None, 288, 544, 0.0)
    >>> DomainOutcome("math", None, best, reference=1.0, weight=0.5).ratio is None
    True
    """

    name: str
    ledger: Ledger | None
    best: Outcome
    reference: float
    weight: float

    @property
    def ratio(self) -> float | None:
        """Loss over the least loss of the domain alone; infinite when that is 0; None without an allocation."""
        if self.ledger is None or self.best.ledger is None:
            return None
        loss, least = self.ledger.loss, self.best.ledger.loss
        if least > 0:
            return loss / least
        return 1.0 if loss == 0 else math.inf


@dataclass(frozen=True, slots=True)
class WorstCase:
    """The answer. `bound`: no allocation has a lower worst case (both in the measure); None without an allocation.

    `multiplier` and `constraint_multipliers` are prices as of an `Outcome`, for the weighted table of the certificate:
    the sum over domains of weight × loss / reference.

    >>> WorstCase(Termination.INFEASIBLE, None, (), None, None, 288, 544, 0.0).worst is None
    True
    """

    termination: Termination
    allocation: Allocation | None
    domains: tuple[DomainOutcome, ...]
    bound: float | None
    multiplier: float | None
    least_bytes: int
    most_bytes: int
    seconds: float
    constraint_multipliers: tuple[float, ...] = ()

    @property
    def worst(self) -> float | None:
        """The largest of the domains' losses, each over its reference."""
        losses = [each.ledger.loss / each.reference for each in self.domains if each.ledger is not None]
        return max(losses) if losses else None

    @property
    def gap(self) -> float | None:
        """Distance of the worst case from the bound, relative to itself; 0 when proven optimal."""
        if self.worst is None or self.bound is None:
            return None
        return max(0.0, self.worst - self.bound) / self.worst if self.worst > 0 else 0.0

    @property
    def factors(self) -> tuple[float, ...]:
        """The factor of each domain's losses in the weighted table of the certificate: weight / reference."""
        return tuple(each.weight / each.reference for each in self.domains)


def solve_worst_case(question: Domains, limits: Limits = NO_LIMITS) -> WorstCase:
    """Find the allocation within the capacity whose worst domain loses least, with proof.

    The optimum of each domain alone is found first; `limits` are of all searches together. Infeasible and stopped by a
    limit are outcomes, not errors.
    FEASIBLE also when the search, without a time limit, cut off more states than it may keep in memory.

    >>> sizes = [[272, 144]] * 2
    >>> math_ = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], sizes, [[0.0, 0.1], [0.0, 0.3]])
    >>> code = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], sizes, [[0.0, 0.2], [0.0, 0.1]])
    >>> found = solve_worst_case(Domains((("math", math_), ("code", code)), 450))
    >>> dict(found.allocation.types), found.worst  # code at twice the loss of a file of its own
    ({'a': 'Q4_K', 'b': 'Q8_0'}, 2.0)
    """
    start, limits = time.perf_counter(), limits.together()
    problems = question.problems()
    # Of the time left, each domain may take as much as every other and the common search.
    own = [solve(problem, limits.now(1 / (len(problems) + 1 - done))) for done, problem in enumerate(problems)]
    formulated = [formulate(problem) for problem in problems]
    first, decoder = formulated[0]
    most = max(each.most_bytes for _, each in formulated)
    stopped = [each for each in own if each.ledger is None]
    references = _references(question.measure, own)
    if stopped:
        named = _described(question, own, references, [0.0] * len(own), None)
        took = time.perf_counter() - start
        return WorstCase(stopped[0].termination, None, named, None, None, decoder.least_bytes, most, took)
    losses = np.array([each.losses / by for (each, _), by in zip(formulated, references, strict=True)])
    constraints = [Linear(np.arange(len(first.sizes)), first.sizes, first.capacity), *_linear(first)]
    solution = least_worst(losses, constraints, limits.now(), [decoder.picks(each.unwrap()[0]) for each in own])
    allocation = None if solution.picks is None else decoder.checked(solution.picks)[0]
    named = _described(question, own, references, solution.weights.tolist(), allocation)
    if allocation is None:
        took = time.perf_counter() - start
        return WorstCase(solution.termination, None, named, None, None, decoder.least_bytes, most, took)
    found = WorstCase(
        solution.termination,
        allocation,
        named,
        solution.bound,
        float(solution.prices[0]),
        decoder.least_bytes,
        most,
        time.perf_counter() - start,
        decoder.prices(solution.prices[1:].tolist()),
    )
    worst = found.worst
    assert worst is not None, "there is an allocation"
    # The search added the losses up in another order; a proven bound must equal the worst case to the last bit.
    proven = solution.termination is Termination.OPTIMAL
    return replace(found, bound=worst if proven else min(worst, solution.bound))


def _kind_faults(question: Domains) -> list[Fault]:
    """Arguments that are not of their type."""
    faults: list[Fault] = []
    if not isinstance(question.tables, list | tuple):
        faults.append(Fault("domains", f"are a {type(question.tables).__name__}; write (name, LossTable) pairs"))
    else:
        for number, each in enumerate(question.tables, start=1):
            match each:
                case (str(), LossTable()):
                    pass
                case _:
                    faults.append(Fault(f"domain {number}", "must be a pair of a name and a LossTable"))
    if not isinstance(question.measure, WorstCaseMeasure):
        faults.append(Fault("measure", f"is {question.measure!r}; must be a WorstCaseMeasure"))
    return faults


def _faults(question: Domains) -> list[Fault]:
    names = [name for name, _ in question.tables]
    if not names:
        return [Fault("domains", "there are none; give a loss table for each")]
    faults = [Fault(name, "names two domains") for name in dict.fromkeys(names) if names.count(name) > 1]
    first = question.tables[0][1]
    for name, table in question.tables[1:]:
        what = _difference(first, table)
        if what:
            faults.append(Fault(name, f"{what} as those of {names[0]}; profiles of one model with the same types do"))
    faults += [
        Fault(type(each).__name__, "can't be kept together with a worst case over domains; leave it out")
        for each in question.constraints
        if isinstance(each, Monotone | DistinctTypes)
    ]
    return faults


def _difference(first: LossTable, other: LossTable) -> str:
    if first.tensors != other.tensors:
        return "does not have the same tensors"
    if first.quant_types != other.quant_types:
        return "does not have the same quant types"
    if not np.array_equal(first.offered, other.offered):
        return "does not offer the same cells"
    same = np.array_equal(first.sizes[first.offered], other.sizes[first.offered])
    return "" if same and np.array_equal(first.weights, other.weights) else "does not have the same sizes"


def _references(measure: WorstCaseMeasure, own: Sequence[Outcome]) -> list[float]:
    """The loss of each domain that counts as 1."""
    best = [0.0 if each.ledger is None else each.ledger.loss for each in own]
    return [1.0] * len(best) if measure is WorstCaseMeasure.NATS or min(best) == 0 else best


def _linear(knapsack: Knapsack) -> list[Linear]:
    return [row for row in knapsack.side if isinstance(row, Linear)]


def _described(
    question: Domains,
    own: Sequence[Outcome],
    references: Sequence[float],
    weights: Sequence[float],
    allocation: Allocation | None,
) -> tuple[DomainOutcome, ...]:
    found = []
    for (name, table), best, reference, weight in zip(question.tables, own, references, weights, strict=True):
        ledger = None if allocation is None else account(allocation, table, question.capacity_bytes)
        found.append(DomainOutcome(name, ledger, best, reference, weight))
    return tuple(found)
