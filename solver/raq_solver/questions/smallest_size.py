"""The inverse problem: the smallest size whose predicted loss stays within a limit.

The least loss never rises with the capacity, so the answer is where it first falls to the limit. The relaxation
brackets it to about the size of one step; bisection with exact solves finds it in between.
"""

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from raq_solver.allocation import Allocation, Ledger
from raq_solver.backends.mckp import Relaxed
from raq_solver.errors import Fault, InvalidInput
from raq_solver.formulate import formulate
from raq_solver.knapsack import Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.solve import NO_LIMITS, solve

_ROUNDING: Final = 1e-12
"""A loss that exceeds the limit by less than this, relatively, keeps it: sums of floats are not more exact."""


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest size within a limit on the loss.

    OPTIMAL: no allocation with a loss of at most `most_loss` is smaller. FEASIBLE: time was up; none is smaller than
    `bound_bytes`. INFEASIBLE: no allocation within the problem's capacity keeps the limit. `least_loss` is the least
    loss that was found within the capacity.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> found = smallest_size(Problem(table, 600), most_loss=0.35)
    >>> found.ledger.size == found.bound_bytes
    True
    """

    termination: Termination
    most_loss: float
    allocation: Allocation | None
    ledger: Ledger | None
    bound_bytes: int
    least_loss: float | None
    seconds: float


def smallest_size(problem: Problem, most_loss: float, limits: Limits = NO_LIMITS) -> Smallest:
    """The smallest allocation that fits the capacity with a loss of at most `most_loss` (in the table's unit).

    Of equally small ones, that of least loss. Raises InvalidInput when the loss is negative or not a number.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> smallest_size(Problem(table, 600), most_loss=0.35).ledger.size
    416
    """
    if not most_loss >= 0:
        raise InvalidInput(Fault("loss", f"{most_loss}; must be at least 0"))
    start, limits = time.perf_counter(), limits.together()
    best = solve(problem, limits)
    if best.ledger is None:
        return Smallest(best.termination, most_loss, None, None, 0, None, best.seconds)
    limit = most_loss * (1 + _ROUNDING)
    if best.ledger.loss > limit:
        certain = best.bound is not None and best.bound > limit
        termination = Termination.INFEASIBLE if certain else Termination.NO_SOLUTION_FOUND
        return Smallest(termination, most_loss, None, None, 0, best.ledger.loss, time.perf_counter() - start)
    allocation, ledger, bound = _halved(problem, best, limit, limits)
    termination = Termination.OPTIMAL if bound == ledger.size else Termination.FEASIBLE
    seconds = time.perf_counter() - start
    return Smallest(termination, most_loss, allocation, ledger, bound, best.ledger.loss, seconds)


def _halved(problem: Problem, first: Outcome, limit: float, limits: Limits) -> tuple[Allocation, Ledger, int]:
    """The smallest allocation within the limit, and the proven least size."""
    allocation, ledger = first.unwrap()
    knapsack, decoder = formulate(problem)
    step = int(np.gcd.reduce((knapsack.sizes - knapsack.sizes[:, :1])[np.isfinite(knapsack.losses)]))
    relaxed = Relaxed(knapsack.sizes, knapsack.losses)
    bound = max(decoder.least_bytes, relaxed.least_capacity(limit))
    while bound < ledger.size and not limits.over:
        capacity = (bound + ledger.size - 1) // 2
        outcome = solve(replace(problem, capacity_bytes=capacity), limits)
        if outcome.ledger is not None and outcome.ledger.loss <= limit:
            allocation, ledger = outcome.unwrap()
        elif outcome.termination is Termination.INFEASIBLE or (outcome.bound is not None and outcome.bound > limit):
            # No allocation of this capacity keeps the loss. Sizes differ by multiples of `step`, so the bound is the
            # next possible size above the capacity.
            bound = ledger.size - (ledger.size - capacity - 1) // step * step
        else:
            break
    return allocation, ledger, bound
