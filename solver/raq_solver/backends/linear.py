"""Knapsacks with linear side rows: prices for the constraints, a core by reduced cost, and OR-Tools for the core.

Rules
- Constraints are linear rows, the capacity first.
- At good prices the fast path solves the priced table; where its picks keep the constraints they are a solution.
- Cells whose reduced cost exceeds the gap between solution and bound can't be part of anything better. The first
  core is smaller than that; its solution usually closes the gap so far that it is the proof already.
- Constraints that compare two rows only (Monotone) get no price: there may be hundreds. Only OR-Tools enforces them.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.backends.dual import Priced, best_prices, totals
from raq_solver.backends.mckp import TOLERANCE, Relaxed
from raq_solver.backends.ortools import CoreStatus, settle
from raq_solver.knapsack import Limits, Linear

_FIRST_CORE: Final = 2000
"""Cells beyond the best of each row that the first core may hold."""

PRICE_FACTORS: Final = (1.0, 1.0005, 1.002, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)
"""Factors on the prices of side rows, tried in turn for a solution: the higher the price, the less a row is used."""


@dataclass(frozen=True, eq=False)
class Best:
    """The best choice known, if any. `bound`: no choice that keeps the constraints has a lower loss."""

    picks: Int64[np.ndarray, " rows"] | None
    loss: float
    bound: float

    @property
    def proven(self) -> bool:
        """Whether no choice can be better; without picks, whether there is none."""
        return self.bound >= self.loss * (1 - TOLERANCE)


_REPAIR_SECONDS: Final = 2.0

NOTHING: Final = Best(None, math.inf, -math.inf)


def priced_constraints(constraints: Sequence[Linear]) -> list[int]:
    """The indices of the constraints that get a price."""
    return [index for index, each in enumerate(constraints) if index == 0 or (each.coefficients >= 0).all()]


def dual(
    losses: Float64[np.ndarray, "rows types"],
    constraints: Sequence[Linear],
    start: Float64[np.ndarray, " priced"],
    deadline: float,
) -> Priced:
    """Nearly the best prices for the constraints that get one."""
    return best_prices(losses, [constraints[index] for index in priced_constraints(constraints)], start, deadline)


def settle_linear(
    losses: Float64[np.ndarray, "rows types"], constraints: Sequence[Linear], at: Priced, known: Best, deadline: float
) -> Best:
    """The best choice that keeps the constraints and beats `known`; else `known`. `bound` is proven."""
    if at.bound >= known.loss * (1 - TOLERANCE) or impossible(losses, at):
        return replace(known, bound=known.loss)
    if len(constraints) == 1:
        return _settle_pure(losses, constraints[0], known, deadline)
    best = repaired(losses, constraints, at, known, deadline)
    if best.picks is None:
        best = _alike(losses, constraints, at, known, deadline)
    # Solve cores of growing width: at a width w a core without anything better proves that no choice has a loss below
    # min(best, bound + w), since each cell left out costs more than w. Done when w covers the gap, or all cells are in.
    offered = np.isfinite(losses)
    cells = len(losses) + _FIRST_CORE
    while True:
        gap, width = best.loss - at.bound, _width(at.reduced, cells)
        kept = offered & (at.reduced <= min(width, gap) + at.rounding)
        complete = width >= gap or bool((kept == offered).all())
        result = settle(losses, constraints, kept, best.picks, deadline)
        best = _better(losses, constraints, best, result.picks)
        if result.status in (CoreStatus.FEASIBLE, CoreStatus.UNKNOWN):
            # Time is up: the bound is the worse of what the library proved inside the core and the width outside.
            outside = math.inf if complete else at.bound + width
            return replace(best, bound=max(at.bound, min(result.bound, outside, best.loss)))
        if complete or best.loss - at.bound <= width:
            return replace(best, bound=best.loss)
        cells *= 4


def _settle_pure(losses: Float64[np.ndarray, "rows types"], capacity: Linear, known: Best, deadline: float) -> Best:
    limits = Limits(None if math.isinf(deadline) else max(0.0, deadline - time.perf_counter()))
    found = Relaxed(capacity.coefficients, losses).solve(capacity.capacity, limits)
    best = _better(losses, [capacity], known, found.picks)
    return replace(best, bound=min(found.bound, best.loss))


def repaired(
    losses: Float64[np.ndarray, "rows types"], constraints: Sequence[Linear], at: Priced, known: Best, deadline: float
) -> Best:
    """A solution of the priced table by the fast path, prices of side rows raised until they are kept; else `known`."""
    # The capacity is the knapsack's own, so it needs no price.
    side = at.prices.copy()
    side[0] = 0.0
    rows = [constraints[index] for index in priced_constraints(constraints)]
    for factor in PRICE_FACTORS if side.any() else (1.0,):
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        table = Relaxed(constraints[0].coefficients, totals(losses, rows, side * factor)[0])
        found = table.solve(constraints[0].capacity, Limits(min(left, _REPAIR_SECONDS)))
        better = _better(losses, constraints, known, found.picks)
        if better is not known:
            return better
    return known


def _alike(
    losses: Float64[np.ndarray, "rows types"], constraints: Sequence[Linear], at: Priced, known: Best, deadline: float
) -> Best:
    """A solution in which rows that are compared (Monotone) have the same type, so they are in order; else `known`.

    It is found at once by the fast path, where OR-Tools may need minutes for a first one.
    """
    which = priced_constraints(constraints)
    compared = [each.rows for index, each in enumerate(constraints) if index not in set(which)]
    if not compared:
        return known
    group = _joined(len(losses), compared)
    merged = np.zeros((int(group.max()) + 1, losses.shape[1]))
    np.add.at(merged, group, losses)
    if not np.isfinite(merged).any(axis=1).all():
        return known
    rows = [_of_groups(constraints[index], group) for index in which]
    found = repaired(merged, rows, at, NOTHING, deadline)
    return _better(losses, constraints, known, None if found.picks is None else found.picks[group])


def _joined(count: int, sets: Sequence[Int64[np.ndarray, " members"]]) -> Int64[np.ndarray, " rows"]:
    """The group of each row, where the rows of a set are in one group."""
    from scipy.sparse import coo_matrix  # noqa: PLC0415 - heavy, and only this path needs it
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    first = np.concatenate([np.full(each.size, each[0]) for each in sets if each.size])
    other = np.concatenate([each for each in sets if each.size])
    joined = coo_matrix((np.ones(first.size), (first, other)), shape=(count, count))
    groups: Int64[np.ndarray, " rows"] = connected_components(joined, directed=False)[1].astype(np.int64)
    return groups


def _of_groups(row: Linear, group: Int64[np.ndarray, " rows"]) -> Linear:
    """A constraint on rows as one on groups of rows."""
    members, where = np.unique(group[row.rows], return_inverse=True)
    coefficients = np.zeros((members.size, row.coefficients.shape[1]), dtype=np.int64)
    np.add.at(coefficients, where, row.coefficients)
    return Linear(members, coefficients, row.capacity)


def _better(
    losses: np.ndarray, constraints: Sequence[Linear], best: Best, picks: Int64[np.ndarray, " rows"] | None
) -> Best:
    """The picks, if they keep every constraint in whole numbers and beat the best; else the best."""
    if picks is None or any(each.excess(picks) > 0 for each in constraints):
        return best
    loss = math.fsum(losses[np.arange(picks.size), picks].tolist())
    return Best(picks, loss, best.bound) if loss < best.loss else best


def _width(reduced: Float64[np.ndarray, "rows types"], cells: int) -> float:
    """The reduced cost within which `cells` cells lie; infinite when there are no more."""
    costs = reduced[np.isfinite(reduced)]
    return float(np.partition(costs, cells)[cells]) if cells < costs.size else math.inf


def impossible(losses: Float64[np.ndarray, "rows types"], at: Priced) -> bool:
    """Whether the prices prove that no choice keeps the constraints: none has a loss as large as the bound."""
    return at.bound > float(np.where(np.isfinite(losses), losses, 0.0).max(axis=1).sum()) * (1 + 1e-9)
