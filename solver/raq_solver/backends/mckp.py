"""The fast path: the pure multiple-choice knapsack, exactly and with proof.

The merged hulls give the linear relaxation of every capacity: a bound, the price of a byte, and a rounded solution.
Cells whose reduced cost exceeds the gap between the two can't be part of anything better; the rows that keep a
choice are the core, and the search settles it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends.hulls import lower_hulls, smallest
from raq_solver.backends.search import Search
from raq_solver.backends.table import keep
from raq_solver.knapsack import Knapsack, KnapsackSolution, Limits, Termination

TOLERANCE: Final = 1e-12
"""Solutions that differ by less than this, relative to their excess loss, count as equally good: sums of a few
thousand floats are not more exact."""


def solve(knapsack: Knapsack, limits: Limits) -> KnapsackSolution:
    """The optimum of a knapsack, or the best found when the time is up. Deterministic without a time limit."""
    return Relaxed(knapsack.sizes, knapsack.losses).solve([knapsack.capacity], limits)[0]


@dataclass(frozen=True, eq=False)
class Root:
    """What the relaxation says of one capacity: picks rounded down, loss and bound (as excess), price of a byte."""

    capacity: int
    picks: Int64[np.ndarray, " rows"]
    loss: float
    bound: float
    multiplier: float


class Relaxed:
    """A table with its merged hulls, from which any capacity is solved."""

    def __init__(self, sizes: Int64[np.ndarray, "rows types"], losses: Float64[np.ndarray, "rows types"]) -> None:
        self.sizes = sizes
        self.least = losses.min(axis=1)
        self.least_loss = math.fsum(self.least.tolist())
        self.excess = losses - self.least[:, None]
        self.rows = np.arange(self.least.size)
        self.columns = np.broadcast_to(np.arange(sizes.shape[1]), sizes.shape)
        self.start = smallest(sizes, self.excess)
        self.steps = lower_hulls(sizes, self.excess, self.start)
        self.relaxation = self.steps.relaxation()
        self.least_size = int(sizes[self.rows, self.start].sum())

    def solve(self, capacities: Sequence[int], limits: Limits) -> list[KnapsackSolution]:
        """The optimum of each capacity. They share one search, which pays when they lie close together."""
        deadline = time.perf_counter() + (math.inf if limits.seconds is None else limits.seconds)
        feasible = sorted({capacity for capacity in capacities if capacity >= self.least_size})
        found = self._settle([self._root(capacity) for capacity in feasible], deadline)
        solutions = dict(zip(feasible, found, strict=True))
        infeasible = KnapsackSolution(None, math.inf, 0.0, Termination.INFEASIBLE)
        return [solutions.get(capacity, infeasible) for capacity in capacities]

    def least_capacity(self, loss: float) -> int:
        """A capacity below which the relaxation, and so every choice, has a larger loss; 0 where that is rounding."""
        excess = (loss - self.least_loss) + 1e-9 * loss
        steps = int(np.searchsorted(-self.relaxation.left[:-1], -excess))
        if steps in (0, self.relaxation.slopes.size):
            return 0
        missing = (self.relaxation.left[steps - 1] - excess) / self.relaxation.slopes[steps - 1]
        return self.least_size + int(self.relaxation.spent[steps - 1]) + int(missing)

    def _root(self, capacity: int) -> Root:
        room = np.array([capacity - self.least_size])
        whole = self.relaxation.whole_steps(room)
        steps = int(whole[0])
        picks = self.start.copy()
        picks[self.steps.rows[:steps]] = self.steps.columns[:steps]
        picks = self._filled(picks, int(room[0] - self.relaxation.spent[steps]))
        loss = float(self.excess[self.rows, picks].sum())
        bound = float(self.relaxation.bound(whole, room)[0])
        return Root(capacity, picks, loss, min(bound, loss), float(self.relaxation.slopes[steps]))

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

    def _settle(self, roots: list[Root], deadline: float) -> list[KnapsackSolution]:
        """The exact solution of every root."""
        open_roots = [root for root in roots if root.bound < root.loss * (1 - TOLERANCE)]
        settled = {root.capacity: self._solution(root, root.picks, None) for root in roots}
        if open_roots:
            kept = np.logical_or.reduce([self._kept(root) for root in open_roots])
            core = keep(self.rows, self.columns, self.sizes, self.excess, kept)
            losses = np.array([root.loss for root in open_roots])
            capacities = np.array([root.capacity for root in open_roots])
            search = Search(core, capacities, losses, TOLERANCE * losses)
            bounds = search.run(deadline)
            for target, root in enumerate(open_roots):
                picks, found = root.picks.copy(), search.finds[target]
                if found is not None:
                    search.picks(found, picks)
                bound = None if bounds is None else max(root.bound, float(bounds[target]))
                settled[root.capacity] = self._solution(root, picks, bound)
        return [settled[root.capacity] for root in roots]

    def _solution(self, root: Root, picks: Int64[np.ndarray, " rows"], bound: float | None) -> KnapsackSolution:
        """A claim; `bound` as excess loss, None when proven optimal."""
        if bound is None:
            loss = math.fsum((self.least + self.excess[self.rows, picks]).tolist())
            return KnapsackSolution(picks, loss, root.multiplier, Termination.OPTIMAL)
        return KnapsackSolution(picks, self.least_loss + bound, root.multiplier, Termination.FEASIBLE)
