"""The problem and its solution as arrays, without names: what a backend sees.

A multiple-choice knapsack: choose one cell of every row, so that the sizes of the chosen cells add up to at most
the capacity and their losses to as little as possible. A cell with infinite loss can't be chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, unique

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.errors import Fault, InvalidInput


@unique
class Termination(Enum):
    """How a search ended; each value says what the caller may rely on."""

    OPTIMAL = "no allocation within the budget has a lower loss"
    FEASIBLE = "a limit stopped the search; the bound says how much better it could be"
    INFEASIBLE = "no allocation fits the budget and keeps every constraint"
    NO_SOLUTION_FOUND = "a limit stopped the search before any allocation was found"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a solver may use. `seconds` is wall time; None means no limit.

    Raises InvalidInput when seconds are negative or not a number.
    """

    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= 0:
            raise InvalidInput(Fault("limit", f"{self.seconds} seconds; must be at least 0"))


@dataclass(frozen=True, eq=False)
class Linear:
    """A side row: the coefficients of the cells chosen in `rows` add up to at most `capacity`."""

    rows: Int64[np.ndarray, " members"]
    coefficients: Int64[np.ndarray, "members types"]
    capacity: int


@dataclass(frozen=True, eq=False)
class Distinct:
    """A side row: the cells chosen in `rows` lie in at most `count` columns."""

    rows: Int64[np.ndarray, " members"]
    count: int


SideRow = Linear | Distinct
"""What is demanded of a choice besides its size."""


@dataclass(frozen=True, eq=False)
class Knapsack:
    """A multiple-choice knapsack. Sizes are bytes, losses nats per token, infinite where a cell is not allowed."""

    sizes: Int64[np.ndarray, "rows types"]
    losses: Float64[np.ndarray, "rows types"]
    capacity: int
    side: tuple[SideRow, ...] = ()

    def least_size(self) -> int:
        """Bytes of the smallest choice."""
        allowed = np.where(np.isfinite(self.losses), self.sizes, np.iinfo(np.int64).max)
        return int(allowed.min(axis=1).sum())


@dataclass(frozen=True, eq=False)
class KnapsackSolution:
    """What a backend claims.

    `picks` holds the chosen column of each row, or is None when there is none. `bound`: no choice has a lower loss.
    `multiplier` is the price of a byte (nats per token per byte) whose Lagrangian value anyone can recompute:
    sum over rows of min over cells of (loss + multiplier × size), less multiplier × capacity. `side_multipliers`, one
    for each side row, price its coefficients likewise; 0 where the bound does without the row.
    """

    picks: Int64[np.ndarray, " rows"] | None
    bound: float
    multiplier: float
    termination: Termination
    side_multipliers: tuple[float, ...] = ()


Backend = Callable[[Knapsack, Limits], KnapsackSolution]
"""A solver of knapsacks."""


def lagrangian(knapsack: Knapsack, multiplier: float, side_multipliers: tuple[float, ...] = ()) -> float:
    """A lower bound on every choice that fits: the Lagrangian value at these prices (each at least 0)."""
    priced = knapsack.losses + multiplier * knapsack.sizes
    paid = multiplier * knapsack.capacity
    for row, price in zip(knapsack.side, side_multipliers, strict=False):
        if isinstance(row, Linear) and price > 0:
            priced[row.rows] += price * row.coefficients
            paid += price * row.capacity
    return float(priced.min(axis=1).sum() - paid)
