"""Lower convex hulls of all rows, merged by slope: the linear relaxation of every capacity at once.

Rules
- Losses here are excesses over the least loss of their row. All sums are of numbers that are not negative, small
  ones first, so they keep their relative accuracy when losses span many orders of magnitude.
- A row's chain starts at its smallest cell and takes the steepest step (most loss saved per byte) until nothing
  is saved. Slopes fall along a chain, so that any prefix of the merged steps is a prefix of every chain.

Source: Sinha and Zoltners, The multiple-choice knapsack problem, Operations Research 27 (1979).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True, eq=False)
class Steps:
    """Steps of several chains, steepest first.

    Step k takes `rows[k]` to the column `columns[k]`, which costs `sizes[k]` bytes and saves `savings[k]` of loss.
    """

    rows: Int64[np.ndarray, " steps"]
    columns: Int64[np.ndarray, " steps"]
    sizes: Int64[np.ndarray, " steps"]
    savings: Float64[np.ndarray, " steps"]
    slopes: Float64[np.ndarray, " steps"]

    def select(self, chosen: Bool[np.ndarray, " steps"]) -> "Steps":
        """The chosen steps, in the same order."""
        return Steps(
            self.rows[chosen],
            self.columns[chosen],
            self.sizes[chosen],
            self.savings[chosen],
            self.slopes[chosen],
        )

    def relaxation(self) -> "Relaxation":
        """The linear relaxation over these steps."""
        spent = np.zeros(self.sizes.size + 2, dtype=np.int64)
        np.cumsum(self.sizes, out=spent[1:-1])
        spent[-1] = spent[-2]
        left = np.zeros(self.sizes.size + 2)
        left[:-2] = self.savings[::-1].cumsum()[::-1]
        return Relaxation(spent, left, np.append(self.slopes, 0.0))


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Least excess loss as a function of the bytes beyond the smallest choice: convex, piecewise linear.

    After k steps `spent[k]` bytes are spent and `left[k]` of loss is left. One point more stands at the end of
    `spent` and `left`, so that k + 1 always exists.
    """

    spent: Int64[np.ndarray, " points"]
    left: Float64[np.ndarray, " points"]
    slopes: Float64[np.ndarray, " steps"]

    def whole_steps(self, room: np.ndarray) -> np.ndarray:
        """How many steps fit into so many bytes; -1 where the room is negative."""
        return np.searchsorted(self.spent[:-1], room, side="right") - 1

    def bound(self, steps: np.ndarray, room: np.ndarray) -> np.ndarray:
        """Least excess loss within the room when a part of the next step may be taken."""
        after = steps + 1
        bound: np.ndarray = self.left[after] + self.slopes[steps] * (self.spent[after] - room)
        return bound


def smallest(sizes: Int64[np.ndarray, "rows types"], excess: Float64[np.ndarray, "rows types"]) -> np.ndarray:
    """The column of each row's smallest cell; of several, the one of least loss."""
    allowed = np.where(np.isfinite(excess), sizes, np.iinfo(np.int64).max)
    candidates = np.where(allowed == allowed.min(axis=1, keepdims=True), excess, np.inf)
    columns: Int64[np.ndarray, " rows"] = candidates.argmin(axis=1)
    return columns


def lower_hulls(
    sizes: Int64[np.ndarray, "rows types"],
    excess: Float64[np.ndarray, "rows types"],
    start: Int64[np.ndarray, " rows"],
) -> Steps:
    """The merged chains of all rows from their columns `start`.

    All rows walk at once, one step a round; O(rows × types × longest chain).
    """
    index = np.arange(start.size)
    rows = np.flatnonzero(excess[index, start] > 0)
    current, size, loss = start[rows], sizes[rows], excess[rows]
    rounds: list[tuple[np.ndarray, ...]] = []
    while rows.size:
        index = np.arange(rows.size)
        grown = size - size[index, current][:, None]
        saved = loss[index, current][:, None] - loss
        slopes = np.divide(saved, grown, out=np.zeros_like(saved), where=(grown > 0) & (saved > 0))
        best = slopes.argmax(axis=1)
        steepest = slopes[index, best]
        rounds.append((rows, best, grown[index, best], saved[index, best], steepest))
        walking = steepest > 0
        if not walking.all():
            rounds[-1] = tuple(column[walking] for column in rounds[-1])
            rows, best, size, loss = rows[walking], best[walking], size[walking], loss[walking]
        current = best
    if not rounds:
        nothing = np.zeros(0, dtype=np.int64)
        return Steps(nothing, nothing, nothing, np.zeros(0), np.zeros(0))
    merged = Steps(*(np.concatenate(parts) for parts in zip(*rounds, strict=True)))
    return merged.select(np.argsort(-merged.slopes, kind="stable"))
