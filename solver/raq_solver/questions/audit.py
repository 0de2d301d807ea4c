"""Audits of a given allocation: its size and loss, and the best allocation of the same bytes."""

from dataclasses import dataclass, replace

from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.errors import Fault
from raq_solver.knapsack import Limits
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.questions.sweep import Change, changes_between
from raq_solver.solve import NO_LIMITS, Solver, solve


@dataclass(frozen=True, slots=True)
class Audit:
    """The result of an audit.

    `ledger` is the account of the given allocation; its capacity is its own size. `broken` are constraints that it
    does not keep. `best` is the outcome of solving at its size, `changes` lead from the given allocation to it.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> found = audit(Problem(table, 0), Allocation({"a": "Q8_0", "b": "Q4_K"}))
    >>> found.ledger.loss, found.best.ledger.loss
    (0.3, 0.1)
    """

    ledger: Ledger
    broken: tuple[Fault, ...]
    best: Outcome
    changes: tuple[Change, ...]

    @property
    def excess(self) -> float | None:
        """Loss beyond the best allocation of the same bytes, relative to the best's loss.

        Negative when the given allocation breaks constraints that the best keeps; infinite when the best has loss 0;
        None when no allocation of these bytes keeps the constraints.
        """
        if self.best.ledger is None:
            return None
        least = self.best.ledger.loss
        if least > 0:
            return (self.ledger.loss - least) / least
        return 0.0 if self.ledger.loss == 0 else float("inf")


def audit(problem: Problem, allocation: Allocation, limits: Limits = NO_LIMITS, solver: Solver = solve) -> Audit:
    """Compare an allocation with the best one of its own size under the problem's constraints.

    Ignores the problem's capacity. Raises InvalidInput when the allocation does not fit the table.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> found = audit(Problem(table, 0), Allocation({"a": "Q8_0", "b": "Q4_K"}))
    >>> [change.tensor for change in found.changes]
    ['a', 'b']
    """
    ledger = account(allocation, problem.table, 0)
    ledger = replace(ledger, capacity=ledger.size)
    best = solver(replace(problem, capacity_bytes=ledger.size), limits)
    changes = changes_between(allocation, best.allocation) if best.allocation else ()
    return Audit(ledger, tuple(problem.violations(allocation)), best, changes)
