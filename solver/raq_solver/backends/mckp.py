"""The fast path: the pure multiple-choice knapsack, exactly and with proof.

The merged hulls give the linear relaxation of every capacity: a bound, the price of a byte, and a rounded solution.
Cells whose reduced cost exceeds the gap between the two can't be part of anything better; the rows that keep a
choice are the core, and the search (bindings_native/src/knapsack) settles it.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends import _knapsack
from raq_solver.backends.hulls import hulls_of
from raq_solver.knapsack import Knapsack, KnapsackSolution, Limits, Termination

TOLERANCE: Final = 1e-12
"""Solutions that differ by less than this, relative to their excess loss, count as equally good: sums of a few
thousand floats are not more exact."""

LARGEST_LAYER = 1 << 18
"""States of the search, some forty bytes each, above which it goes on with the most promising ones first."""


def solve(knapsack: Knapsack, limits: Limits) -> KnapsackSolution:
    """The optimum of a knapsack, or the best found when the time is up. Deterministic without a time limit."""
    return Relaxed(knapsack.sizes, knapsack.losses).solve(knapsack.capacity, limits)


@dataclass(frozen=True, eq=False)
class Root:
    """What the relaxation says of one capacity: picks rounded down, loss and bound (as excess), price of a byte."""

    picks: Int64[np.ndarray, " rows"]
    loss: float
    bound: float
    multiplier: float


class Relaxed:
    """A table with its merged hulls, from which any capacity is solved."""

    def __init__(self, sizes: Int64[np.ndarray, "rows types"], losses: Float64[np.ndarray, "rows types"]) -> None:
        self.sizes = np.ascontiguousarray(sizes, dtype=np.int64)
        self.least = losses.min(axis=1)
        self.least_loss = math.fsum(self.least.tolist())
        self.excess = np.ascontiguousarray(losses - self.least[:, None])
        self.rows = np.arange(self.least.size)
        self.hulls = hulls_of(self.sizes, self.excess)
        self.least_size = int(self.sizes[self.rows, self.hulls.start].sum())

    def solve(self, capacity: int, limits: Limits) -> KnapsackSolution:
        """The optimum of one capacity."""
        if capacity < self.least_size:
            return KnapsackSolution(None, math.inf, 0.0, Termination.INFEASIBLE)
        start = time.perf_counter()
        root = self._root(capacity)
        if root.bound >= root.loss * (1 - TOLERANCE):
            return self._solution(root, root.picks, None)
        picks, bound = _knapsack.search(
            self.sizes,
            self.excess,
            self._kept(root),
            capacity=capacity,
            best=root.loss,
            tolerance=TOLERANCE * root.loss,
            seconds=math.inf if limits.seconds is None else limits.seconds - (time.perf_counter() - start),
            largest_layer=LARGEST_LAYER,
        )
        bound = None if bound is None else max(root.bound, bound)
        return self._solution(root, root.picks if picks is None else picks, bound)

    def least_capacity(self, loss: float) -> int:
        """A capacity below which the relaxation, and so every choice, has a larger loss; 0 where that is rounding."""
        excess = (loss - self.least_loss) + 1e-9 * loss
        steps = int(np.searchsorted(-self.hulls.left[:-1], -excess))
        if steps in (0, self.hulls.slopes.size):
            return 0
        missing = (self.hulls.left[steps - 1] - excess) / self.hulls.slopes[steps - 1]
        return self.least_size + int(self.hulls.spent[steps - 1]) + int(missing)

    def _root(self, capacity: int) -> Root:
        room = capacity - self.least_size
        steps = self.hulls.whole_steps(room)
        picks = self.hulls.start.copy()
        picks[self.hulls.rows[:steps]] = self.hulls.columns[:steps]
        picks = self._filled(picks, room - int(self.hulls.spent[steps]))
        loss = float(self.excess[self.rows, picks].sum())
        bound = self.hulls.bound(room)
        return Root(picks, loss, min(bound, loss), float(self.hulls.slopes[steps]))

    def _filled(self, picks: Int64[np.ndarray, " rows"], slack: int) -> Int64[np.ndarray, " rows"]:
        """The picks after single changes that fit into the slack, the one that saves most first."""
        grown = self.sizes - self.sizes[self.rows, picks][:, None]
        change = self.excess - self.excess[self.rows, picks][:, None]
        while True:
            row, column = divmod(int(np.where(grown <= slack, change, 0.0).argmin()), change.shape[1])
            if grown[row, column] > slack or change[row, column] >= 0:
                return picks
            slack -= int(grown[row, column])
            picks[row] = column
            grown[row] -= grown[row, column]
            change[row] = self.excess[row] - self.excess[row, column]

    def _kept(self, root: Root) -> Bool[np.ndarray, "rows types"]:
        """The cells that something better than the root's picks may use: reduced cost within the gap."""
        reduced = self.excess + root.multiplier * self.sizes
        least = reduced.min(axis=1, keepdims=True)
        # Rounding: a reduced cost is the difference of two sums that may be much larger than the gap.
        margin = 8 * np.finfo(float).eps * least
        kept: Bool[np.ndarray, "rows types"] = reduced <= least + (root.loss - root.bound) + margin
        return kept

    def _solution(self, root: Root, picks: Int64[np.ndarray, " rows"], bound: float | None) -> KnapsackSolution:
        """A claim; `bound` as excess loss, None when proven optimal."""
        if bound is None:
            loss = math.fsum((self.least + self.excess[self.rows, picks]).tolist())
            return KnapsackSolution(picks, loss, root.multiplier, Termination.OPTIMAL)
        return KnapsackSolution(picks, self.least_loss + bound, root.multiplier, Termination.FEASIBLE)
