"""Verification of a worst case over domains, independent of the search that found it.

Rules
- Each domain's own best is an outcome of its own, and verified as one.
- The weights make one table of all domains. Its Lagrangian value at the prices is a bound on the worst case of every
  allocation that keeps the constraints: the largest of some numbers is never below their weighted mean.
"""

import math

from raq_solver.allocation import account
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.outcome import Outcome
from raq_solver.questions.worst_case import Domains, WorstCase, WorstCaseMeasure
from raq_solver.verify import Verification, termination_faults, verify

_ROUNDING = 1e-9


def verify_worst_case(question: Domains, outcome: WorstCase) -> Verification:
    """Verify a worst case: every domain's own best and account, capacity, constraints, and the bound by the weights.

    `loss` and `certified_bound` of the result are worst cases, in the question's measure.

    >>> from raq_solver import LossTable, solve_worst_case
    >>> sizes = [[272, 144]] * 2
    >>> math_ = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], sizes, [[0.0, 0.1], [0.0, 0.3]])
    >>> code = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], sizes, [[0.0, 0.2], [0.0, 0.2]])
    >>> question = Domains((("math", math_), ("code", code)), 450)
    >>> verify_worst_case(question, solve_worst_case(question)).holds
    True
    """
    names, given = [name for name, _ in question.tables], [each.name for each in outcome.domains]
    if given != names:
        fault = Fault("domains", f"the outcome is of {', '.join(given) or 'none'}, the question of {', '.join(names)}")
        return Verification(outcome.termination, (fault,), None, None, None)
    faults = _own_faults(question, outcome)
    faults += termination_faults(outcome.termination, found=outcome.allocation is not None)
    fitting = [each.name for each in outcome.domains if each.best.allocation is not None]
    if outcome.termination is Termination.INFEASIBLE and fitting:
        faults.append(Fault("outcome", f"claimed infeasible, but the best of {fitting[0]} alone fits"))
    if outcome.allocation is None or faults:
        return Verification(outcome.termination, tuple(faults), None, None, None)
    faults = _weight_faults(outcome)
    losses = []
    for (name, table), domain in zip(question.tables, outcome.domains, strict=True):
        try:
            ledger = account(outcome.allocation, table, question.capacity_bytes)
        except InvalidInput as error:
            return Verification(outcome.termination, (*faults, *error.faults), None, None, None)
        losses.append(ledger.loss / domain.reference)
        if ledger != domain.ledger:
            faults.append(Fault(f"{name}: ledger", "differs from the table"))
    if faults:
        return Verification(outcome.termination, tuple(faults), ledger.size, max(losses), None)
    weighted = _weighted(question, outcome)
    faults += [*weighted.faults, *_bound_faults(outcome, max(losses))]
    return Verification(outcome.termination, tuple(faults), ledger.size, max(losses), weighted.certified_bound)


def _own_faults(question: Domains, outcome: WorstCase) -> list[Fault]:
    """Faults of the domains' own optima and of their references."""
    faults, least = [], []
    for problem, domain in zip(question.problems(), outcome.domains, strict=True):
        own = verify(problem, domain.best)
        faults += [Fault(f"{domain.name}: own best: {fault.where}", fault.what) for fault in own.faults]
        least.append(own.loss or 0.0)
    nats = question.measure is WorstCaseMeasure.NATS or min(least) == 0
    for loss, domain in zip(least, outcome.domains, strict=True):
        if not math.isclose(domain.reference, 1.0 if nats else loss, rel_tol=_ROUNDING):
            faults.append(Fault(f"{domain.name}: reference", f"{domain.reference}; must be {1.0 if nats else loss}"))
    return faults


def _weight_faults(outcome: WorstCase) -> list[Fault]:
    weights = [each.weight for each in outcome.domains]
    if all(0 <= weight <= 1 + _ROUNDING for weight in weights) and math.isclose(sum(weights), 1.0, rel_tol=_ROUNDING):
        return []
    return [Fault("weights", f"{weights}; must be at least 0 and add up to 1")]


def _weighted(question: Domains, outcome: WorstCase) -> Verification:
    """The verification of the allocation as an outcome of the weighted problem."""
    assert outcome.allocation is not None, "there is one"
    problem = question.weighted(outcome.factors)
    ledger = account(outcome.allocation, problem.table, question.capacity_bytes)
    claimed = Outcome(
        Termination.FEASIBLE,
        outcome.allocation,
        ledger,
        0.0,
        outcome.multiplier,
        outcome.least_bytes,
        outcome.most_bytes,
        0.0,
        outcome.constraint_multipliers,
    )
    return verify(problem, claimed)


def _bound_faults(outcome: WorstCase, worst: float) -> list[Fault]:
    claimed = outcome.bound
    if claimed is None or not claimed <= worst * (1 + _ROUNDING):
        return [Fault("bound", f"{claimed}; the allocation's own worst case is {worst}")]
    if outcome.termination is Termination.OPTIMAL and worst - claimed > worst * _ROUNDING:
        return [Fault("bound", f"{claimed} leaves a gap to {worst}, but the claim is an optimum")]
    return []
