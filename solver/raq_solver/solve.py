"""The one verb of this package: find the allocation of least loss."""

import time
from collections.abc import Callable

from raq_solver.backends import general
from raq_solver.formulate import formulate
from raq_solver.knapsack import Backend, KnapsackSolution, Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem

NO_LIMITS = Limits()

Solver = Callable[[Problem, Limits], Outcome]
"""What solves a problem: `solve` in this process, or a client of the service."""


def solve(problem: Problem, limits: Limits = NO_LIMITS, backend: Backend = general.solve) -> Outcome:
    """Find the allocation of least loss that fits the problem's capacity, with proof.

    Infeasible and stopped by a limit are outcomes, not errors. Deterministic.
    Raises BackendFailure if the backend breaks.
    """
    start = time.perf_counter()
    knapsack, decoder = formulate(problem)
    if decoder.least_bytes > knapsack.capacity:
        solution = KnapsackSolution(None, float("inf"), 0.0, Termination.INFEASIBLE)
    else:
        solution = backend(knapsack, limits)
    return decoder.outcome(solution, time.perf_counter() - start)
