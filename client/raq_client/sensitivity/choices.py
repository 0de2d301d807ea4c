"""The value of information: how much allocations would improve if a sensitivity were known exactly.

Theory. At a given price per byte, a tensor gets the type with the least sensitivity × error + price × bytes. If the
sensitivity is uncertain, the type chosen by its estimate may be wrong. The expected cost of that, over the distribution
of the sensitivity, is the value of knowing it (Howard, Information Value Theory, 1966). It is 0 if no likely value
changes the choice, however uncertain the sensitivity is. Prices are those at which the allocation made from the
estimates has each of the sizes that may be wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_client.sensitivity.fit import Fit
from raq_solver.problem import Problem
from raq_solver.profile import Profile

USUAL_BITS: Final = (3.0, 3.5, 4.0, 4.5, 5.0, 6.0)
"""Bits per weight considered if no sizes are given."""
_QUANTILES: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 31) for i in range(31)])
_HALVINGS: Final = 60
_LEAST: Final = 1e-6
"""Share of its doubt that an estimate counts as at least."""


@dataclass(frozen=True, eq=False)
class Choices:
    """The choices of an allocation: errors (infinite if not possible) and bytes of each tensor at each type.

    `capacities` are total bytes of these tensors for which allocations may be made.
    """

    names: tuple[str, ...]
    errors: Float64[np.ndarray, "tensors types"]
    sizes: Int64[np.ndarray, "tensors types"]
    capacities: tuple[int, ...]

    def worth_of_knowing(self, names: Sequence[str], fit: Fit) -> Float64[np.ndarray, " asked"]:
        """The expected loss from not knowing its sensitivity, for each of `names` (the tensors of `fit`).

        As a share of the predicted loss, summed over the capacities; 0 for tensors without a choice.
        """
        rows = {name: row for row, name in enumerate(self.names)}
        known = [index for index, name in enumerate(names) if name in rows]
        worth = np.zeros(len(names))
        if not known:
            return worth
        where = [rows[names[index]] for index in known]
        part = Choices(tuple(names[i] for i in known), self.errors[where], self.sizes[where], self.capacities)
        worth[known] = part._worth(fit.values[known], fit.errors[known])
        return worth

    def _worth(
        self, values: Float64[np.ndarray, " tensors"], doubts: Float64[np.ndarray, " tensors"]
    ) -> Float64[np.ndarray, " tensors"]:
        likely = _likely(values, doubts)
        index = np.arange(len(values))
        worth = np.zeros(len(values))
        for capacity in self.capacities:
            # At a fixed price the tensors are independent, so each one's regret is computed alone.
            price = self.price(values, capacity)
            picks = self._picks(values, price)
            losses = likely[:, :, None] * self.errors[:, None, :] + price * self.sizes[:, None, :]
            # Mean over the quantiles: what the type chosen now costs more than the best type for that sensitivity.
            lost = (losses[index, :, picks] - losses.min(axis=2)).mean(axis=1)
            whole = float((values * self.errors[index, picks]).sum())
            worth += lost / whole if whole > 0 else 0.0
        return worth

    def _picks(self, values: Float64[np.ndarray, " tensors"], price: float) -> Int64[np.ndarray, " tensors"]:
        costs = np.maximum(values, 1e-300)[:, None] * self.errors + price * self.sizes  # not 0: 0 × inf is NaN
        picks: np.ndarray = costs.argmin(axis=1)
        return picks

    def price(self, values: Float64[np.ndarray, " tensors"], capacity: int) -> float:
        """The least price of a byte at which the chosen types fit the capacity, by bisection."""
        index = np.arange(len(values))
        # One byte costs at most the whole loss of a tensor: at twice that every tensor takes its smallest type.
        low, high = 0.0, 2 * float((values[:, None] * np.where(np.isfinite(self.errors), self.errors, 0.0)).max())
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self.sizes[index, self._picks(values, middle)].sum() <= capacity
            low, high = (low, middle) if fits else (middle, high)
        return high


def choices_of(profile: Profile, problem: Problem | None = None, *, sizes: bool = False) -> Choices:
    """The choices that a profile offers, limited by the constraints of `problem`.

    With `sizes` the capacity is the problem's, less the tensors without a choice; else USUAL_BITS.
    """
    offered = np.isfinite(profile.relative_errors) if problem is None else problem.allowed()
    open_rows = np.flatnonzero(offered.sum(axis=1) > 1)
    names = tuple(profile.tensors[row].name for row in open_rows)
    errors = np.where(offered, profile.relative_errors, np.inf)[open_rows]
    weights = int(profile.weights[open_rows].sum())
    if problem is None or not sizes:
        capacities = tuple(int(bits * weights) // 8 for bits in USUAL_BITS)
    else:
        fixed = offered.sum(axis=1) == 1
        capacities = (problem.capacity_bytes - int(profile.sizes[fixed][offered[fixed]].sum()),)
    return Choices(names, errors, profile.sizes[open_rows], capacities)


def _likely(
    values: Float64[np.ndarray, " tensors"], doubts: Float64[np.ndarray, " tensors"]
) -> Float64[np.ndarray, "tensors quantiles"]:
    """Equally likely values of each sensitivity: quantiles of a log-normal distribution, as it can't be negative."""
    # Of an estimate far below its doubt only the doubt is known; the square of their ratio would be infinite.
    safe = np.maximum(values, np.maximum(_LEAST * doubts, 1e-300))
    spread = np.sqrt(np.log1p(np.square(doubts / safe)))
    # Minus spread² / 2, so that the mean of the log-normal is the estimate.
    likely: np.ndarray = safe[:, None] * np.exp(spread[:, None] * _QUANTILES - np.square(spread[:, None]) / 2)
    return likely
