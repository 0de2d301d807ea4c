"""Prices for several demands at once: the Lagrangian dual, maximised by cutting planes inside a moving box.

Rules
- A demand is a linear row; the capacity is the first. Its price is loss per unit of what it limits.
- The value at any prices is a lower bound on every choice that keeps all demands. So the search may stop anywhere.
- Prices are scaled by the range of their demand, which makes them losses: one box radius serves all.

Source: Marsten, Hogan and Blankenship, The boxstep method for large-scale optimization, Operations Research 23 (1975).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.knapsack import Linear

_MOST_ROUNDS: Final = 300
_CLOSE: Final = 1e-7


@dataclass(frozen=True, eq=False)
class Priced:
    """A table at prices. `reduced` is each cell's loss beyond the best of its row, prices included.

    `bound`: no choice that keeps the demands has a lower loss. `rounding`: how far off a reduced cost may be.
    """

    prices: Float64[np.ndarray, " demands"]
    bound: float
    reduced: Float64[np.ndarray, "rows types"]
    rounding: float


def priced(
    losses: Float64[np.ndarray, "rows types"], demands: Sequence[Linear], prices: Float64[np.ndarray, " demands"]
) -> Priced:
    """The table at these prices."""
    total, paid = totals(losses, demands, prices)
    least = total.min(axis=1, keepdims=True)
    largest = float(np.abs(total, where=np.isfinite(total), out=np.zeros(total.shape)).max())
    off = 4 * np.finfo(float).eps * (float(np.abs(least).sum()) + abs(paid))
    bound = math.fsum(least.ravel().tolist()) - paid - off
    return Priced(prices, bound, total - least, 16 * np.finfo(float).eps * largest)


def best_prices(
    losses: Float64[np.ndarray, "rows types"],
    demands: Sequence[Linear],
    start: Float64[np.ndarray, " demands"],
    deadline: float,
) -> Priced:
    """The table at prices whose bound is nearly the highest (to 1e-7), searched from `start`.

    Stops early when the bound exceeds every possible loss: then no choice keeps the demands.
    """
    finite = np.where(np.isfinite(losses), losses, 0.0)
    worst = float(finite.max(axis=1).sum())
    scale = np.array([_range(demand) for demand in demands])
    cuts = _Cuts(len(demands))
    centre = start * scale
    best, gradient = _value(losses, demands, centre, scale)
    cuts.add(centre, best, gradient)
    radius = first_radius = max(abs(best), 1e-3 * worst, 1e-300)
    for _ in range(_MOST_ROUNDS):
        if time.perf_counter() > deadline or best > worst * (1 + 1e-9):
            break
        point, predicted = cuts.highest(centre, radius)
        at_edge = bool((np.abs(point - centre) >= radius * (1 - 1e-9)).any())
        if predicted - best <= _CLOSE * max(abs(best), 1e-9 * worst):
            if not at_edge or radius >= first_radius:
                break
            radius = first_radius
            continue
        value, gradient = _value(losses, demands, point, scale)
        cuts.add(point, value, gradient)
        if at_edge and value >= best:
            radius *= 4
        elif value < best:
            radius /= 2
        if value > best:
            best, centre = value, point
    return priced(losses, demands, centre / scale)


class _Cuts:
    """The concave function from above: value + gradient × (point - there) at every point seen."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.rows: list[np.ndarray] = []
        self.right: list[float] = []

    def add(self, point: np.ndarray, value: float, gradient: np.ndarray) -> None:
        self.rows.append(np.append(-gradient, 1.0))
        self.right.append(value - float(gradient @ point))

    def highest(self, centre: np.ndarray, radius: float) -> tuple[np.ndarray, float]:
        """The point of the box where the cuts allow the highest value, and that value."""
        from scipy.optimize import linprog  # noqa: PLC0415 - heavy, and only this path needs it

        # In units of the box, which keeps the numbers of the linear program near one.
        lower, upper = np.maximum(centre - radius, 0.0), centre + radius
        matrix = np.array(self.rows)
        right = (np.array(self.right) - matrix[:, :-1] @ lower) / radius
        objective = np.append(np.zeros(self.dimensions), -1.0)
        bounds = [*((0.0, width) for width in ((upper - lower) / radius).tolist()), (None, None)]
        found = linprog(objective, A_ub=matrix, b_ub=right, bounds=bounds, method="highs")
        if found.x is None:
            return centre, -np.inf
        return lower + found.x[:-1] * radius, float(found.x[-1] * radius)


def totals(
    losses: np.ndarray, demands: Sequence[Linear], prices: Float64[np.ndarray, " demands"]
) -> tuple[Float64[np.ndarray, "rows types"], float]:
    """Each cell's loss with its prices, and what the demands' capacities are worth."""
    total, paid = losses.copy(), 0.0
    for demand, price in zip(demands, prices.tolist(), strict=True):
        if price > 0:
            total[demand.rows] += price * demand.coefficients
            paid += price * demand.capacity
    return total, paid


def _value(
    losses: np.ndarray, demands: Sequence[Linear], point: np.ndarray, scale: np.ndarray
) -> tuple[float, Float64[np.ndarray, " demands"]]:
    total, paid = totals(losses, demands, point / scale)
    picks = total.argmin(axis=1)
    value = float(total[np.arange(picks.size), picks].sum() - paid)
    return value, np.array([excess_of(demand, picks) for demand in demands]) / scale


def excess_of(demand: Linear, picks: Int64[np.ndarray, " rows"]) -> int:
    """How much the picks exceed the demand; at most 0 when they keep it."""
    taken = demand.coefficients[np.arange(demand.rows.size), picks[demand.rows]]
    return int(taken.sum()) - demand.capacity


def _range(demand: Linear) -> float:
    spread = demand.coefficients.max(axis=1) - demand.coefficients.min(axis=1)
    return float(max(1, int(spread.sum())))
