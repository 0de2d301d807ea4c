"""Knapsacks with linear side rows: prices for all demands, a core by reduced cost, and OR-Tools for the core.

Rules
- At good prices the fast path solves the priced table; where its picks keep the side rows they are a solution.
- Cells whose reduced cost exceeds the gap between solution and bound can't be part of anything better. The first
  core is smaller than that; what it finds closes the gap so far that it is most often the proof already.
- Rows that compare two rows only (Monotone) get no price: there may be hundreds. OR-Tools regards them.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.backends.dual import Priced, best_prices, excess_of, totals
from raq_solver.backends.mckp import TOLERANCE, Relaxed
from raq_solver.backends.ortools import CoreStatus, settle
from raq_solver.knapsack import Limits, Linear

_FIRST_CORE: Final = 2000
"""Cells beyond the best of each row that the first core may hold."""

DEARER: Final = (1.0, 1.0005, 1.002, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)
"""Factors on the side prices when a solution is wanted: dearer rows are kept sooner."""


@dataclass(frozen=True, eq=False)
class Best:
    """The best choice known, if any, and what is proven: no choice that keeps the demands has a loss below `bound`."""

    picks: Int64[np.ndarray, " rows"] | None
    loss: float
    bound: float

    @property
    def proven(self) -> bool:
        """Whether nothing can be better, also when there is nothing."""
        return self.bound >= self.loss * (1 - TOLERANCE)


_REPAIR_SECONDS: Final = 2.0

NOTHING: Final = Best(None, math.inf, -math.inf)


def priced_demands(demands: Sequence[Linear]) -> list[int]:
    """Which demands get a price."""
    return [index for index, demand in enumerate(demands) if index == 0 or (demand.coefficients >= 0).all()]


def dual(
    losses: Float64[np.ndarray, "rows types"],
    demands: Sequence[Linear],
    start: Float64[np.ndarray, " priced"],
    deadline: float,
) -> Priced:
    """Good prices for the demands that get one."""
    return best_prices(losses, [demands[index] for index in priced_demands(demands)], start, deadline)


def settle_linear(
    losses: Float64[np.ndarray, "rows types"], demands: Sequence[Linear], at: Priced, known: Best, deadline: float
) -> Best:
    """The best choice that keeps the demands (the capacity first) and beats `known`; else `known`, with its proof."""
    if at.bound >= known.loss * (1 - TOLERANCE) or impossible(losses, at):
        return replace(known, bound=known.loss)
    if len(demands) == 1:
        return _settle_pure(losses, demands[0], known, deadline)
    best = repaired(losses, demands, at, known, deadline)
    offered = np.isfinite(losses)
    cells = len(losses) + _FIRST_CORE
    while True:
        gap, width = best.loss - at.bound, _width(at.reduced, cells)
        kept = offered & (at.reduced <= min(width, gap) + at.rounding)
        complete = width >= gap or bool((kept == offered).all())
        result = settle(losses, demands, kept, best.picks, max(0.0, deadline - time.perf_counter()))
        best = _better(losses, demands, best, result.picks)
        if result.status in (CoreStatus.FEASIBLE, CoreStatus.UNKNOWN):
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
    losses: Float64[np.ndarray, "rows types"], demands: Sequence[Linear], at: Priced, known: Best, deadline: float
) -> Best:
    """A solution by the fast path over the priced table, the side rows made dearer until they are kept."""
    side = at.prices.copy()
    side[0] = 0.0
    rows = [demands[index] for index in priced_demands(demands)]
    for factor in DEARER:
        left = deadline - time.perf_counter()
        if left <= 0:
            break
        table = Relaxed(demands[0].coefficients, totals(losses, rows, side * factor)[0])
        found = table.solve(demands[0].capacity, Limits(min(left, _REPAIR_SECONDS)))
        better = _better(losses, demands, known, found.picks)
        if better is not known:
            return better
    return known


def _better(
    losses: np.ndarray, demands: Sequence[Linear], best: Best, picks: Int64[np.ndarray, " rows"] | None
) -> Best:
    """The picks, if they keep every demand in whole numbers and beat the best; else the best."""
    if picks is None or any(excess_of(demand, picks) > 0 for demand in demands):
        return best
    loss = math.fsum(losses[np.arange(picks.size), picks].tolist())
    return Best(picks, loss, best.bound) if loss < best.loss else best


def _width(reduced: Float64[np.ndarray, "rows types"], cells: int) -> float:
    """The reduced cost within which so many cells lie; infinite when there are no more."""
    costs = reduced[np.isfinite(reduced)]
    return float(np.partition(costs, cells)[cells]) if cells < costs.size else math.inf


def impossible(losses: Float64[np.ndarray, "rows types"], at: Priced) -> bool:
    """Whether the prices prove that nothing keeps the demands: no choice has a loss as large as the bound."""
    return at.bound > float(np.where(np.isfinite(losses), losses, 0.0).max(axis=1).sum()) * (1 + 1e-9)
