"""Prices for several constraints at once: the Lagrangian dual, maximised by cutting planes in a moving box.

Rules
- A constraint is a linear row; the capacity is the first. Its price is loss per unit of the quantity it limits.
- The value at any prices is a lower bound on every choice that keeps all constraints. So the search may stop anywhere.
- Prices are scaled by the range of their constraint, which makes them losses: one box radius serves all.

Source: Marsten, Hogan and Blankenship, The boxstep method for large-scale optimization, Operations Research 23 (1975).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_solver.knapsack import Linear

_MOST_ROUNDS: Final = 300
_CLOSE: Final = 1e-7


@dataclass(frozen=True, eq=False)
class Priced:
    """A table at prices. `reduced` is each cell's loss beyond the best of its row, prices included.

    `bound`: no choice that keeps the constraints has a lower loss. `rounding`: how far off a reduced cost may be.
    """

    prices: Float64[np.ndarray, " constraints"]
    bound: float
    reduced: Float64[np.ndarray, "rows types"]
    rounding: float


def priced(
    losses: Float64[np.ndarray, "rows types"],
    constraints: Sequence[Linear],
    prices: Float64[np.ndarray, " constraints"],
) -> Priced:
    """The table at these prices."""
    total, paid = totals(losses, constraints, prices)
    least = total.min(axis=1, keepdims=True)
    largest = float(np.abs(total, where=np.isfinite(total), out=np.zeros(total.shape)).max())
    # The bound is the difference of two large sums. It must err downwards only, since it is used as a proof.
    off = 4 * np.finfo(float).eps * (float(np.abs(least).sum()) + abs(paid))
    bound = math.fsum(least.ravel().tolist()) - paid - off
    return Priced(prices, bound, total - least, 16 * np.finfo(float).eps * largest)


def best_prices(
    losses: Float64[np.ndarray, "rows types"],
    constraints: Sequence[Linear],
    start: Float64[np.ndarray, " constraints"],
    deadline: float,
) -> Priced:
    """The table at prices whose bound is nearly the highest (to 1e-7), searched from `start`.

    Stops early when the bound exceeds every possible loss: then no choice keeps the constraints.
    """
    finite = np.where(np.isfinite(losses), losses, 0.0)
    worst = float(finite.max(axis=1).sum())
    scale = np.array([_range(each) for each in constraints])
    cuts = _Cuts()
    centre = start * scale
    best, gradient = _value(losses, constraints, centre, scale)
    cuts.add(centre, best, gradient)
    radius = first_radius = max(abs(best), 1e-3 * worst, 1e-300)
    for _ in range(_MOST_ROUNDS):
        if time.perf_counter() > deadline or best > worst * (1 + 1e-9):
            break
        point, predicted = cuts.highest(centre, radius)
        at_edge = bool((np.abs(point - centre) >= radius * (1 - 1e-9)).any())
        if predicted - best <= _CLOSE * max(abs(best), 1e-9 * worst):
            # No better point in the box. That is the end only if the box did not hold the search back: the dual is
            # concave, so an optimum inside of the box is the optimum everywhere.
            if not at_edge or radius >= first_radius:
                break
            radius = first_radius
            continue
        value, gradient = _value(losses, constraints, point, scale)
        cuts.add(point, value, gradient)
        # A good step to the edge: the optimum is further away. A bad step: the cuts are only reliable nearby.
        if at_edge and value >= best:
            radius *= 4
        elif value < best:
            radius /= 2
        if value > best:
            best, centre = value, point
    return priced(losses, constraints, centre / scale)


def highest_point(
    slopes: Float64[np.ndarray, "cuts dimensions"],
    offsets: Float64[np.ndarray, " cuts"],
    upper: Float64[np.ndarray, " dimensions"],
    shares: int = 0,
) -> tuple[Float64[np.ndarray, " dimensions"], float] | None:
    """The x at which the least of the cuts `slopes[i] · x + offsets[i]` is highest, and its value; None if SciPy fails.

    x lies between 0 and `upper`; the first `shares` of its numbers add up to 1. Both duals (here and in
    `minimax.lagrangian`) are maximised by it. Numbers should be near 1: scale them before.
    """
    from scipy.optimize import linprog  # noqa: PLC0415 - heavy, and only this path needs it

    dimensions = slopes.shape[1]
    # The unknowns are x and the value; the value is maximised, at most each of the cuts.
    objective = np.append(np.zeros(dimensions), -1.0)
    matrix = np.hstack([-slopes, np.ones((len(slopes), 1))])
    bounds = [*((0.0, most) for most in upper.tolist()), (None, None)]
    simplex = np.append(np.ones(shares), np.zeros(dimensions - shares + 1))[None] if shares else None
    equal = [1.0] if shares else None
    found = linprog(objective, A_ub=matrix, b_ub=offsets, A_eq=simplex, b_eq=equal, bounds=bounds, method="highs")
    return None if found.x is None else (found.x[:-1], float(found.x[-1]))


class _Cuts:
    """The concave function from above: value + gradient × (point - there) at every point evaluated so far."""

    def __init__(self) -> None:
        self.slopes: list[np.ndarray] = []
        self.offsets: list[float] = []

    def add(self, point: np.ndarray, value: float, gradient: np.ndarray) -> None:
        self.slopes.append(gradient)
        self.offsets.append(value - float(gradient @ point))

    def highest(self, centre: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
        """The point of the box where the cuts allow the highest value, and that value."""
        # In units of the box, which keeps the numbers of the linear program near one.
        lower, upper = np.maximum(centre - radius, 0.0), centre + radius
        slopes = np.array(self.slopes)
        offsets = (np.array(self.offsets) + slopes @ lower) / radius
        found = highest_point(slopes, offsets, (upper - lower) / radius)
        if found is None:
            return centre, -np.inf
        return lower + found[0] * radius, found[1] * radius


def totals(
    losses: np.ndarray, constraints: Sequence[Linear], prices: Float64[np.ndarray, " constraints"]
) -> tuple[Float64[np.ndarray, "rows types"], float]:
    """Each cell's loss with its prices, and the price of the constraints' capacities."""
    total, paid = losses.copy(), 0.0
    for each, price in zip(constraints, prices.tolist(), strict=True):
        if price > 0:
            total[each.rows] += price * each.coefficients
            paid += price * each.capacity
    return total, paid


def _value(
    losses: np.ndarray, constraints: Sequence[Linear], point: np.ndarray, scale: np.ndarray
) -> tuple[float, Float64[np.ndarray, " constraints"]]:
    """The dual's value at a point (prices times scale) and its gradient: the excess of each constraint."""
    total, paid = totals(losses, constraints, point / scale)
    picks = total.argmin(axis=1)
    value = float(total[np.arange(picks.size), picks].sum() - paid)
    return value, np.array([each.excess(picks) for each in constraints]) / scale


def _range(constraint: Linear) -> float:
    """The most by which the constraint's sum can differ between two choices; at least 1."""
    spread = constraint.coefficients.max(axis=1) - constraint.coefficients.min(axis=1)
    return float(max(1, int(spread.sum())))
