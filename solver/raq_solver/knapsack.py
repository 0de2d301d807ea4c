"""The problem and its solution as arrays, without names: the interface of the backends.

A multiple-choice knapsack: choose one cell of every row, so that the sizes of the chosen cells add up to at most
the capacity and their losses to as little as possible. A cell with infinite loss can't be chosen.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, unique

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.arrays import Kind, as_array, whole_number
from raq_solver.errors import Fault, InvalidInput, raise_faults


@unique
class Termination(Enum):
    """How a search ended; each value states what the caller may rely on.

    >>> Termination.OPTIMAL.value
    'no allocation within the budget has a lower loss'
    """

    OPTIMAL = "no allocation within the budget has a lower loss"
    FEASIBLE = "a limit stopped the search; the bound says how much better it could be"
    INFEASIBLE = "no allocation fits the budget and keeps every constraint"
    NO_SOLUTION_FOUND = "a limit stopped the search before any allocation was found"


@dataclass(frozen=True, slots=True)
class Limits:
    """The resources that a solver may use; None means no limit.

    `seconds` is the wall time of each search. `deadline`, on `time.monotonic`, ends all searches together.

    `check` is called before and about 50 times a second during a search on the fast path; what it raises ends the
    search, which is how another thread cancels it. The general path (OR-Tools) does not call it.

    Raises InvalidInput when seconds are negative or not a number.

    >>> Limits(seconds=1.5).seconds
    1.5
    """

    seconds: float | None = None
    check: Callable[[], None] | None = field(default=None, compare=False)
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= 0:
            raise InvalidInput(Fault("limit", f"{self.seconds} seconds; must be at least 0"))

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def together(self) -> "Limits":
        """The limits of several searches that may take `seconds` together, from now on: these as a deadline."""
        if self.seconds is None:
            return self
        end = time.monotonic() + self.seconds
        return replace(self, seconds=None, deadline=end if self.deadline is None else min(end, self.deadline))

    def now(self, share: float = 1.0) -> "Limits":
        """The limits of one search that begins now: as seconds, at most this share of the time until the deadline."""
        if self.deadline is None:
            return self
        left = share * max(0.0, self.deadline - time.monotonic())
        return replace(self, seconds=left if self.seconds is None else min(left, self.seconds), deadline=None)


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear side row: the coefficients of the cells chosen in `rows` add up to at most `capacity`.

    Raises InvalidInput for anything but whole numbers and for shapes that do not fit.
    """

    rows: Int64[np.ndarray, " members"]
    coefficients: Int64[np.ndarray, "members types"]
    capacity: int

    def __post_init__(self) -> None:
        _convert(self, rows=np.int64, coefficients=np.int64)
        object.__setattr__(self, "capacity", whole_number(self.capacity, "capacity of a side row", "units"))
        if self.rows.ndim != 1 or self.coefficients.ndim != 2 or len(self.coefficients) != self.rows.size:
            what = f"rows have shape {self.rows.shape}, coefficients {self.coefficients.shape}"
            raise InvalidInput(Fault("side row", f"{what}; there must be one row of coefficients for each row"))

    def excess(self, picks: Int64[np.ndarray, " all_rows"]) -> int:
        """How much the chosen cells exceed the capacity; at most 0 when they keep it."""
        taken = self.coefficients[np.arange(self.rows.size), picks[self.rows]]
        return int(taken.sum()) - self.capacity


@dataclass(frozen=True, eq=False)
class Distinct:
    """A side row: the cells chosen in `rows` lie in at most `count` columns.

    Raises InvalidInput for anything but whole numbers.
    """

    rows: Int64[np.ndarray, " members"]
    count: int

    def __post_init__(self) -> None:
        _convert(self, rows=np.int64)
        object.__setattr__(self, "count", whole_number(self.count, "count of a side row", "columns"))


SideRow = Linear | Distinct
"""A condition on the choice besides its size."""


@dataclass(frozen=True, eq=False)
class Knapsack:
    """A multiple-choice knapsack. Sizes are bytes, losses of any unit, infinite where a cell is not allowed.

    Arrays are taken as they are, lists converted; neither is written to. Raises InvalidInput for anything but numbers
    and for shapes that do not fit.
    """

    sizes: Int64[np.ndarray, "rows types"]
    losses: Float64[np.ndarray, "rows types"]
    capacity: int
    side: tuple[SideRow, ...] = ()

    def __post_init__(self) -> None:
        _convert(self, sizes=np.int64, losses=np.float64)
        object.__setattr__(self, "capacity", whole_number(self.capacity, "capacity", "bytes"))
        raise_faults(self._faults())

    def _faults(self) -> list[Fault]:
        shape = self.sizes.shape
        if len(shape) != 2 or not all(shape) or self.losses.shape != shape:
            what = f"sizes have shape {shape}, losses {self.losses.shape}; both must be [rows, types] and not empty"
            return [Fault("knapsack", what)]
        faults = []
        for number, row in enumerate(self.side, start=1):
            if not isinstance(row, SideRow):
                faults.append(Fault(f"side row {number}", f"{row!r} is neither Linear nor Distinct"))
            elif row.rows.size and not 0 <= row.rows.min() <= row.rows.max() < shape[0]:
                faults.append(Fault(f"side row {number}", f"names a row outside of 0 to {shape[0] - 1}"))
            elif isinstance(row, Linear) and row.coefficients.shape[1] != shape[1]:
                faults.append(Fault(f"side row {number}", f"{row.coefficients.shape[1]} columns; must be {shape[1]}"))
        return faults

    def least_size(self) -> int:
        """Bytes of the smallest choice."""
        allowed = np.where(np.isfinite(self.losses), self.sizes, np.iinfo(np.int64).max)
        return int(allowed.min(axis=1).sum())


@dataclass(frozen=True, eq=False)
class KnapsackSolution:
    """The claim of a backend.

    `picks` holds the chosen column of each row, or is None when there is none. `bound`: no choice has a lower loss.
    `multiplier` is the price of a byte (loss per byte) whose Lagrangian value anyone can recompute:
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


def _convert(target: object, **kinds: Kind) -> None:
    """Replace fields of a frozen dataclass by arrays of these kinds."""
    for name, kind in kinds.items():
        object.__setattr__(target, name, as_array(getattr(target, name), kind, name))


def lagrangian(knapsack: Knapsack, multiplier: float, side_multipliers: tuple[float, ...] = ()) -> float:
    """A lower bound on every choice that fits: the Lagrangian value at these prices (each at least 0)."""
    priced = knapsack.losses + multiplier * knapsack.sizes
    paid = multiplier * knapsack.capacity
    for row, price in zip(knapsack.side, side_multipliers, strict=False):
        if isinstance(row, Linear) and price > 0:
            priced[row.rows] += price * row.coefficients
            paid += price * row.capacity
    return float(priced.min(axis=1).sum() - paid)
