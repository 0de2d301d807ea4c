"""Other ways to solve the same knapsack, for comparison: general MIP solvers, and the method of llama.cpp's unmerged
`--target-bpw` (bisection of a Lagrangian multiplier, then a greedy fill)."""

from itertools import pairwise

import numpy as np

from raq_solver.knapsack import Knapsack

# HiGHS stops at an absolute gap of 1e-6, which the scale of the objective makes meaningless.
_OBJECTIVE = 1e6


def by_highs(knapsack: Knapsack, seconds: float) -> tuple[float, bool]:
    """scipy.optimize.milp (HiGHS), gap 0, objective scaled: loss found (infinite if none), and whether proven."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    rows, columns = np.nonzero(np.isfinite(knapsack.losses))
    losses, sizes = knapsack.losses[rows, columns], knapsack.sizes[rows, columns]
    unit = int(np.gcd.reduce(sizes))
    scale = _OBJECTIVE / losses.max()
    one = csr_array((np.ones(rows.size), (rows, np.arange(rows.size))))
    fits = LinearConstraint((sizes // unit).astype(float)[None, :], -np.inf, knapsack.capacity // unit)
    found = milp(
        losses * scale,
        integrality=np.ones(rows.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one, 1, 1), fits],
        options={"mip_rel_gap": 0.0, "time_limit": seconds},
    )
    return (np.inf if found.x is None else found.fun / scale), found.status == 0


def by_cp_sat(knapsack: Knapsack, seconds: float, workers: int = 2) -> tuple[float, bool]:
    """OR-Tools CP-SAT on whole-number losses: loss found (infinite if none), and whether proven."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    rows, columns = np.nonzero(np.isfinite(knapsack.losses))
    sizes, losses = knapsack.sizes[rows, columns], knapsack.losses[rows, columns]
    unit = int(np.gcd.reduce(sizes))
    scale = 1e13 / knapsack.losses.max(axis=1, where=np.isfinite(knapsack.losses), initial=0.0).sum()
    cells = [model.new_bool_var("") for _ in rows]
    edges = np.searchsorted(rows, np.arange(len(knapsack.losses) + 1)).tolist()
    for first, last in pairwise(edges):
        model.add_exactly_one(cells[first:last])
    expression = cp_model.LinearExpr.weighted_sum
    model.add(expression(cells, (sizes // unit).tolist()) <= knapsack.capacity // unit)
    model.minimize(expression(cells, np.rint(losses * scale).astype(np.int64).tolist()))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    known = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    return (solver.objective_value / scale if known else np.inf), status == cp_model.OPTIMAL


def by_bisection(knapsack: Knapsack) -> float:
    """Bisection of the price of a byte, then single changes that save most loss per byte while they fit."""
    index = np.arange(len(knapsack.losses))
    low, high = 0.0, 1.0
    while _size(knapsack, _picks(knapsack, high)) > knapsack.capacity:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        fits = _size(knapsack, _picks(knapsack, middle)) <= knapsack.capacity
        low, high = (low, middle) if fits else (middle, high)
    picks = _picks(knapsack, high)
    while True:
        grown = knapsack.sizes - knapsack.sizes[index, picks][:, None]
        saved = knapsack.losses[index, picks][:, None] - knapsack.losses
        slack = knapsack.capacity - _size(knapsack, picks)
        rate = np.where((saved > 0) & (grown <= slack), saved / np.maximum(grown, 1), 0.0)
        row, column = divmod(int(rate.argmax()), rate.shape[1])
        if rate[row, column] <= 0:
            return float(knapsack.losses[index, picks].sum())
        picks[row] = column


def _picks(knapsack: Knapsack, price: float) -> np.ndarray:
    return (knapsack.losses + price * knapsack.sizes).argmin(axis=1)


def _size(knapsack: Knapsack, picks: np.ndarray) -> int:
    return int(knapsack.sizes[np.arange(picks.size), picks].sum())
