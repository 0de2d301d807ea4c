"""The fast path: the pure multiple-choice knapsack, exactly and with proof.

The merged hulls give the linear relaxation of every capacity: a bound, the price of a byte, and a rounded solution.
Cells whose reduced cost exceeds the gap between bound and solution can't be part of anything better; the rows that keep
a choice are the core, which the native search (bindings_native/src/knapsack) solves. Excess loss is loss beyond the
least of the row: sums of numbers that are not negative lose no digits.
"""

import math
import time
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends import _knapsack
from raq_solver.knapsack import Knapsack, KnapsackSolution, Limits, Termination

TOLERANCE: Final = 1e-12
"""Solutions that differ by less than this, relative to their excess loss, count as equally good: sums of a few
thousand floats are not more exact."""

LARGEST_LAYER = 1 << 18
"""States of a layer, of some forty bytes each, above which the search continues with the most promising part first."""


def solve(knapsack: Knapsack, limits: Limits) -> KnapsackSolution:
    """The optimum of a knapsack, or the best choice found when the time is up. Deterministic without a time limit."""
    return Relaxed(knapsack.sizes, knapsack.losses).solve(knapsack.capacity, limits)


@dataclass(frozen=True, eq=False)
class Hulls:
    """Least excess loss as a function of the bytes beyond the smallest choice: convex, piecewise linear.

    The merged lower convex hulls of all rows. `start` is the column of each row's smallest cell. Step k, steepest
    first, takes `rows[k]` to `columns[k]`. After k steps `spent[k]` bytes are spent and the excess loss is `left[k]`;
    both have one more point at the end, so that k + 1 always exists. `slopes` are loss per byte, 0 after the last step.
    """

    start: Int64[np.ndarray, " all_rows"]
    rows: Int64[np.ndarray, " steps"]
    columns: Int64[np.ndarray, " steps"]
    spent: Int64[np.ndarray, " steps+2"]
    left: Float64[np.ndarray, " steps+2"]
    slopes: Float64[np.ndarray, " steps+1"]

    @classmethod
    def of(cls, sizes: Int64[np.ndarray, "rows types"], excess: Float64[np.ndarray, "rows types"]) -> Self:
        """The merged hulls of a table; infinite excess where there is no cell."""
        return cls(*_knapsack.merged_hulls(sizes, excess))

    def whole_steps(self, spare: int) -> int:
        """The number of steps that fit into `spare` bytes, which must not be negative."""
        return int(np.searchsorted(self.spent[:-1], spare, side="right")) - 1

    def bound(self, spare: int) -> float:
        """Least excess loss within `spare` bytes when a part of the next step may be taken."""
        steps = self.whole_steps(spare)
        return float(self.left[steps + 1] + self.slopes[steps] * (self.spent[steps + 1] - spare))


@dataclass(frozen=True, eq=False)
class Root:
    """The relaxation of one capacity: picks rounded down, loss and bound (as excess), price of a byte."""

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
        self.hulls = Hulls.of(self.sizes, self.excess)
        self.least_size = int(self.sizes[self.rows, self.hulls.start].sum())

    def solve(self, capacity: int, limits: Limits) -> KnapsackSolution:
        """The optimum of one capacity. Raises what `limits.check` raises."""
        if limits.check is not None:
            limits.check()
        if capacity < self.least_size:
            return KnapsackSolution(None, math.inf, 0.0, Termination.INFEASIBLE)
        start = time.perf_counter()
        root = self._root(capacity)
        # Often the rounded relaxation meets its own bound, and no search is needed.
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
            check=limits.check,
        )
        bound = None if bound is None else max(root.bound, bound)
        return self._solution(root, root.picks if picks is None else picks, bound)

    def least_capacity(self, loss: float) -> int:
        """A capacity below which the relaxation, and so every choice, has a larger loss; 0 where none is certain."""
        # Generous by 1e-9: a bracket that is a little too low costs a few more steps, one too high would be wrong.
        excess = (loss - self.least_loss) + 1e-9 * loss
        steps = int(np.searchsorted(-self.hulls.left[:-1], -excess))
        if steps in (0, self.hulls.slopes.size):
            return 0
        missing = (self.hulls.left[steps - 1] - excess) / self.hulls.slopes[steps - 1]
        return self.least_size + int(self.hulls.spent[steps - 1]) + int(missing)

    def _root(self, capacity: int) -> Root:
        """All whole steps of the merged hulls that fit, then single changes in the bytes left over."""
        spare = capacity - self.least_size
        steps = self.hulls.whole_steps(spare)
        picks = self.hulls.start.copy()
        picks[self.hulls.rows[:steps]] = self.hulls.columns[:steps]
        picks = self._filled(picks, spare - int(self.hulls.spent[steps]))
        loss = float(self.excess[self.rows, picks].sum())
        bound = self.hulls.bound(spare)
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
        # A reduced cost is the difference of two sums that may be much larger than the gap: allow for their rounding.
        margin = 8 * np.finfo(float).eps * least
        kept: Bool[np.ndarray, "rows types"] = reduced <= least + (root.loss - root.bound) + margin
        return kept

    def _solution(self, root: Root, picks: Int64[np.ndarray, " rows"], bound: float | None) -> KnapsackSolution:
        """A claim; `bound` as excess loss, None when proven optimal."""
        if bound is None:
            loss = math.fsum((self.least + self.excess[self.rows, picks]).tolist())
            return KnapsackSolution(picks, loss, root.multiplier, Termination.OPTIMAL)
        return KnapsackSolution(picks, self.least_loss + bound, root.multiplier, Termination.FEASIBLE)
