"""The problem and its solution as arrays, without names: what a backend sees.

A multiple-choice knapsack: choose one cell of every row, so that the sizes of the chosen cells add up to at most
the capacity and their losses to as little as possible. A cell with infinite loss can't be chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique

import numpy as np
from jaxtyping import Float64, Int64


@unique
class Termination(Enum):
    """How a search ended; each value says what the caller may rely on."""

    OPTIMAL = "no allocation within the budget has a lower loss"
    FEASIBLE = "a limit stopped the search; the bound says how much better it could be"
    INFEASIBLE = "even the smallest types do not fit the budget"
    NO_SOLUTION_FOUND = "a limit stopped the search before any allocation was found"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a solver may use. `seconds` is wall time; None means no limit."""

    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Knapsack:
    """A multiple-choice knapsack. Sizes are bytes, losses nats per token, infinite where a cell is not allowed."""

    sizes: Int64[np.ndarray, "rows types"]
    losses: Float64[np.ndarray, "rows types"]
    capacity: int

    def least_size(self) -> int:
        """Bytes of the smallest choice."""
        allowed = np.where(np.isfinite(self.losses), self.sizes, np.iinfo(np.int64).max)
        return int(allowed.min(axis=1).sum())


@dataclass(frozen=True, eq=False)
class KnapsackSolution:
    """What a backend claims.

    `picks` holds the chosen column of each row, or is None when there is none. `bound`: no choice has a lower loss.
    `multiplier` is the price of a byte (nats per token per byte) whose Lagrangian value anyone can recompute:
    sum over rows of min over cells of (loss + multiplier × size), less multiplier × capacity.
    """

    picks: Int64[np.ndarray, " rows"] | None
    bound: float
    multiplier: float
    termination: Termination


Backend = Callable[[Knapsack, Limits], KnapsackSolution]
"""A solver of knapsacks."""


def lagrangian(knapsack: Knapsack, multiplier: float) -> float:
    """A lower bound on every choice that fits: the Lagrangian value at this price of a byte (at least 0)."""
    priced = knapsack.losses + multiplier * knapsack.sizes
    return float(priced.min(axis=1).sum() - multiplier * knapsack.capacity)
