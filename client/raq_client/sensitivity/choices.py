"""What knowing a sensitivity is worth to the allocations that will be made from it.

Theory. At a price of a byte, a tensor gets the type with the least sensitivity × error + price × bytes. Where the
sensitivity is uncertain, the type chosen by its estimate may be the wrong one. What that costs on average, over all
the sensitivity may be, is the value of knowing it (Howard, Information Value Theory, 1966): nothing where no likely
value crosses the point at which the choice changes, however uncertain it is. Prices are those at which the estimates
spend each of the sizes that somebody may ask for.
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
"""Bits per weight that are looked at when nobody says which are wanted."""
_QUANTILES: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 31) for i in range(31)])
_HALVINGS: Final = 60


@dataclass(frozen=True, eq=False)
class Choices:
    """What an allocation may choose from: errors (infinite where not possible) and bytes of each tensor at each type.

    `capacities` are the bytes of all these tensors that allocations may be asked for.
    """

    names: tuple[str, ...]
    errors: Float64[np.ndarray, "tensors types"]
    sizes: Int64[np.ndarray, "tensors types"]
    capacities: tuple[int, ...]

    def worth_of_knowing(self, names: Sequence[str], fit: Fit) -> Float64[np.ndarray, " asked"]:
        """For each of `names`, to which `fit` belongs, the expected loss of not knowing its sensitivity.

        In shares of the predicted loss, summed over the capacities; 0 for tensors without a choice.
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
            price = self.price(values, capacity)
            picks = self._picks(values, price)
            losses = likely[:, :, None] * self.errors[:, None, :] + price * self.sizes[:, None, :]
            lost = (losses[index, :, picks] - losses.min(axis=2)).mean(axis=1)
            whole = float((values * self.errors[index, picks]).sum())
            worth += lost / whole if whole > 0 else 0.0
        return worth

    def _picks(self, values: Float64[np.ndarray, " tensors"], price: float) -> Int64[np.ndarray, " tensors"]:
        costs = np.maximum(values, 1e-300)[:, None] * self.errors + price * self.sizes
        picks: np.ndarray = costs.argmin(axis=1)
        return picks

    def price(self, values: Float64[np.ndarray, " tensors"], capacity: int) -> float:
        """The least price of a byte at which what is chosen fits, by bisection."""
        index = np.arange(len(values))
        low, high = 0.0, 2 * float((values[:, None] * np.where(np.isfinite(self.errors), self.errors, 0.0)).max())
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            fits = self.sizes[index, self._picks(values, middle)].sum() <= capacity
            low, high = (low, middle) if fits else (middle, high)
        return high


def choices_of(profile: Profile, problem: Problem | None = None, *, sizes: bool = False) -> Choices:
    """What a profile offers where there is a choice, under the constraints of a problem posed of it.

    With `sizes` the problem's capacity, which counts all tensors of the model, is the one asked for; else usual sizes.
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
    """What each sensitivity may be, equally likely: log-normal, as it can't be negative."""
    safe = np.maximum(values, 1e-300)
    spread = np.sqrt(np.log1p(np.square(doubts / safe)))
    likely: np.ndarray = safe[:, None] * np.exp(spread[:, None] * _QUANTILES - np.square(spread[:, None]) / 2)
    return likely
