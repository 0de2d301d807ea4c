"""The exact part: dynamic programming over the core, bounded by the linear relaxation of what is left.

Rules
- Rows are taken one at a time, those with the largest sizes first. A state is a choice for the rows taken so far:
  its bytes and its excess loss. Of two states the one that is larger and not better is dropped (dominance).
- A state lives as long as the relaxation of the rows left says that, within some capacity, it may still beat the best
  solution known there. Its whole steps give a solution, so that good solutions are met early.
- Several capacities share one search: a state lives if it may be of use to any of them.
- A layer that grows too large is split; its parts are searched one after the other, so that memory stays bounded.

Source: Pisinger, A minimal algorithm for the multiple-choice knapsack problem, EJOR 83 (1995), for cores and for
bounding states; the bound there is a line, here the whole relaxation.
"""

import time
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.backends.hulls import Relaxation, Steps, lower_hulls, smallest

TOLERANCE = 1e-12
"""Solutions that differ by less than this, relative to their excess loss, count as equally good: sums of a few
thousand floats are not more exact."""

LARGEST_LAYER = 1 << 20
"""States above which a layer is split. Results do not depend on it."""


@dataclass(eq=False)
class Layer:
    """States after some rows, sorted by size, and how they came about: `origins` index the parent's states."""

    depth: int
    sizes: Int64[np.ndarray, " states"]
    losses: Float64[np.ndarray, " states"]
    bounds: Float64[np.ndarray, " capacities"]
    parent: "Layer | None" = None
    origins: Int64[np.ndarray, " states"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    columns: Int64[np.ndarray, " states"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def pick(self, positions: np.ndarray, bounds: np.ndarray) -> "Layer":
        """The same layer with some of its states."""
        return Layer(
            self.depth,
            self.sizes[positions],
            self.losses[positions],
            bounds,
            self.parent,
            self.origins[positions],
            self.columns[positions],
        )


@dataclass(frozen=True, eq=False)
class Find:
    """Where a solution was met: a state's origin and column in the row before `depth`, then whole steps."""

    parent: Layer
    origin: int
    column: int
    steps: int


class Search:
    """One search over the rows of a core.

    `excess` is relative to the least loss of each core row. `best` holds per capacity the loss to beat, and after
    `run` the least loss; `finds` how it came about, None where nothing better was found. `bounds` are proven.
    """

    def __init__(
        self,
        sizes: Int64[np.ndarray, "rows types"],
        excess: Float64[np.ndarray, "rows types"],
        capacities: Int64[np.ndarray, " capacities"],
        best: Float64[np.ndarray, " capacities"],
        tolerance: Float64[np.ndarray, " capacities"],
    ) -> None:
        self.sizes, self.excess, self.capacities = sizes, excess, capacities
        self.best, self.tolerance = best.copy(), tolerance
        self.bounds = best.copy()
        self.finds: list[Find | None] = [None] * capacities.size
        self.start = smallest(sizes, excess)
        self.steps = lower_hulls(sizes, excess, self.start)
        least = sizes[np.arange(self.start.size), self.start]
        self.least_after = np.append(least[::-1].cumsum()[::-1], 0)
        self.relaxations: dict[int, Relaxation] = {}

    def run(self, deadline: float) -> bool:
        """Search until all capacities are proven, or the deadline (of `time.perf_counter`); whether proven."""
        stack = [Layer(0, np.zeros(1, dtype=np.int64), np.zeros(1), np.zeros(self.capacities.size))]
        while stack:
            if time.perf_counter() > deadline:
                self.bounds = np.minimum(self.best, np.min([layer.bounds for layer in stack], axis=0))
                return False
            layer = stack.pop()
            if layer.depth < len(self.sizes):
                stack += self._children(layer)
        self.bounds = self.best
        return True

    def picks(self, found: Find) -> Int64[np.ndarray, " rows"]:
        """The column of every core row in a solution."""
        depth = found.parent.depth
        picks = self.start.copy()
        steps = self._steps_after(depth + 1)
        picks[steps.rows[: found.steps]] = steps.columns[: found.steps]
        picks[depth] = found.column
        layer, origin = found.parent, found.origin
        while layer.parent is not None:
            picks[layer.depth - 1] = layer.columns[origin]
            layer, origin = layer.parent, int(layer.origins[origin])
        return picks

    def _steps_after(self, depth: int) -> Steps:
        return self.steps.select(self.steps.rows >= depth)

    def _relaxation(self, depth: int) -> Relaxation:
        if depth not in self.relaxations:
            self.relaxations[depth] = self._steps_after(depth).relaxation()
        return self.relaxations[depth]

    def _children(self, layer: Layer) -> list[Layer]:
        """The states one row further that may still lead to something better."""
        depth = layer.depth
        columns = np.flatnonzero(np.isfinite(self.excess[depth]))
        count = layer.sizes.size
        sizes = (self.sizes[depth, columns][:, None] + layer.sizes).ravel()
        losses = (self.excess[depth, columns][:, None] + layer.losses).ravel()
        relaxation = self._relaxation(depth + 1)
        room = (self.capacities - self.least_after[depth + 1])[:, None] - sizes
        steps = relaxation.whole_steps(room)
        fits = steps >= 0
        reached = np.where(fits, losses + relaxation.left[steps], np.inf)
        for target, position in enumerate(reached.argmin(axis=1)):
            if reached[target, position] < self.best[target]:
                self.best[target] = reached[target, position]
                column, origin = divmod(int(position), count)
                self.finds[target] = Find(layer, origin, int(columns[column]), int(steps[target, position]))
        bounds = np.where(fits, losses + relaxation.bound(steps, room), np.inf)
        alive = (bounds < (self.best - self.tolerance)[:, None]).any(axis=0)
        chosen = np.flatnonzero(alive)
        chosen = chosen[_undominated(sizes[chosen], losses[chosen])]
        if not chosen.size:
            return []
        column, origin = np.divmod(chosen, count)
        bounds = bounds[:, chosen]
        child = Layer(depth + 1, sizes[chosen], losses[chosen], bounds.min(axis=1), layer, origin, columns[column])
        return _split(child, bounds)


def _undominated(sizes: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Positions of the states that no smaller or equal state matches in loss, by rising size."""
    order = np.argsort(sizes, kind="stable")
    sizes, losses = sizes[order], losses[order]
    kept = np.ones(sizes.size, dtype=bool)
    kept[1:] = losses[1:] < np.minimum.accumulate(losses)[:-1]
    order, sizes = order[kept], sizes[kept]
    last = np.ones(sizes.size, dtype=bool)
    last[:-1] = sizes[1:] != sizes[:-1]
    return order[last]


def _split(layer: Layer, bounds: Float64[np.ndarray, "capacities states"]) -> list[Layer]:
    """The layer, or its halves with the more promising one last, which the search takes first."""
    if layer.sizes.size <= LARGEST_LAYER:
        return [layer]
    promise = bounds.min(axis=0)
    order = np.argsort(promise, kind="stable")
    halves = np.sort(order[order.size // 2 :]), np.sort(order[: order.size // 2])
    return [layer.pick(half, bounds[:, half].min(axis=1)) for half in halves]
