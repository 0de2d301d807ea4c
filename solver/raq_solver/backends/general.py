"""The general path: knapsacks with side rows. Without side rows it is the fast path."""

import math
import time

import numpy as np

from raq_solver.backends import mckp
from raq_solver.backends.dual import Priced
from raq_solver.backends.libraries import check_libraries
from raq_solver.backends.linear import NOTHING, Best, dual, impossible, priced_constraints, settle_linear
from raq_solver.backends.type_sets import TypeSets
from raq_solver.knapsack import Distinct, Knapsack, KnapsackSolution, Limits, Linear, Termination


def solve(knapsack: Knapsack, limits: Limits) -> KnapsackSolution:
    """The optimum of a knapsack with its side rows, or the best choice found when the time is up.

    Deterministic without a time limit. Raises BackendFailure if OR-Tools fails,
    InvalidInput if it is not installed and there are side rows.
    """
    if not knapsack.side:
        return mckp.solve(knapsack, limits)
    check_libraries()
    deadline = time.perf_counter() + (math.inf if limits.seconds is None else limits.seconds)
    rows = np.arange(len(knapsack.sizes))
    linear = [row for row in knapsack.side if isinstance(row, Linear)]
    constraints = [Linear(rows, knapsack.sizes, knapsack.capacity), *linear]
    distinct = [row for row in knapsack.side if isinstance(row, Distinct)]
    root = dual(knapsack.losses, constraints, np.zeros(len(priced_constraints(constraints))), deadline)
    if impossible(knapsack.losses, root):
        return KnapsackSolution(None, math.inf, 0.0, Termination.INFEASIBLE)
    if distinct:
        best = TypeSets(knapsack.losses, constraints, distinct, root, deadline).run()
    else:
        best = settle_linear(knapsack.losses, constraints, root, NOTHING, deadline)
    return _claim(knapsack, best, root, constraints)


def _claim(knapsack: Knapsack, best: Best, root: Priced, constraints: list[Linear]) -> KnapsackSolution:
    """The solution with the prices of the capacity and of each side row; 0 for rows that have none."""
    which = priced_constraints(constraints)
    prices = dict(zip((id(constraints[index]) for index in which), root.prices.tolist(), strict=True))
    side = tuple(prices.get(id(row), 0.0) for row in knapsack.side)
    multiplier = float(root.prices[0])
    bound = max(best.bound, root.bound) if best.picks is not None else best.bound
    if best.picks is None:
        termination = Termination.INFEASIBLE if best.proven else Termination.NO_SOLUTION_FOUND
        return KnapsackSolution(None, math.inf, 0.0, termination)
    termination = Termination.OPTIMAL if best.proven else Termination.FEASIBLE
    return KnapsackSolution(best.picks, min(bound, best.loss), multiplier, termination, side)
