"""Solving: the allocation of least loss within a capacity."""

import time
from collections.abc import Callable

from raq_solver.backends import general
from raq_solver.formulate import formulate
from raq_solver.knapsack import Backend, KnapsackSolution, Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem

NO_LIMITS = Limits()

Solver = Callable[[Problem, Limits], Outcome]
"""A function that solves problems: `solve` in this process, or the method of a client of the service."""


def solve(problem: Problem, limits: Limits = NO_LIMITS, backend: Backend = general.solve) -> Outcome:
    """Find the allocation of least loss that fits the problem's capacity, with proof.

    Infeasible and stopped by a limit are outcomes, not errors. Deterministic without a time limit.
    Raises BackendFailure if the backend breaks.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> allocation, ledger = solve(Problem(table, capacity_bytes=450)).unwrap()
    >>> dict(allocation.types), ledger.size, ledger.loss
    ({'a': 'Q4_K', 'b': 'Q8_0'}, 416, 0.1)
    """
    start, limits = time.perf_counter(), limits.together()
    knapsack, decoder = formulate(problem)
    if decoder.least_bytes > knapsack.capacity:
        solution = KnapsackSolution(None, float("inf"), 0.0, Termination.INFEASIBLE)
    else:
        solution = backend(knapsack, limits.now())  # formulating thousands of side rows took a while too
    return decoder.outcome(solution, time.perf_counter() - start)
