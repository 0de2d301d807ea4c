"""Dynamic programming for the min-max knapsack, row by row, with states pruned by a bundle of multipliers.

Rules
- A state is the vector of sums over the rows so far. Every multiplier of the bundle bounds the worst sum of all its
  completions; a state is dropped when one of the bounds reaches the best known value, or when another state is at most
  as large in every sum.
- When a layer grows past its width, new multipliers are made for a state in its middle, which usually drop many of its
  neighbours. If the layer is still too wide, the states of highest bound are cut off and the least bound among them is
  kept: a search that cut nothing off is a proof, and for any other that bound is what it leaves open.
- Rows with the largest range come first; later rows then change little, so that bounds are sharp early.
"""

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends.mckp import TOLERANCE
from raq_solver.backends.minimax.lagrangian import MinimaxTable, Multipliers, raised_multipliers

_CHAMPIONS: Final = 16
"""States that all others are compared with, to drop those at least as large in every sum. Comparing all pairs would
cost more than it drops."""
_LARGEST_BUNDLE: Final = 120
_ROUNDS: Final = 15
"""Subgradient steps for new multipliers."""
_EPSILON: Final = 32 * float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class LayerResult:
    """The result of a search: better picks, if any; the bundle at its end; `left_out`, a bound on all it cut off."""

    picks: Int64[np.ndarray, " rows"] | None
    bundle: list[Multipliers]
    left_out: float


class LayeredSearch:
    """One search within a table for something better than `known`."""

    def __init__(self, table: MinimaxTable, bundle: list[Multipliers], known: float, width: int, tries: int) -> None:
        # The first multipliers are the best of the whole table; of the others the newest are the most useful.
        self.bundle = bundle[:1] + bundle[1:][-_LARGEST_BUNDLE:]
        self.known = known * (1 - TOLERANCE)
        self.width, self.tries = width, tries
        self.table = _reduced(table, self.bundle, self.known)
        count = self.table.offered.sum(axis=1)
        self.empty = not count.all()
        core = np.flatnonzero(count > 1)
        spread = (np.where(self.table.offered, table.cells, 0.0).max(axis=2) / _ranges(table)[:, None]).sum(axis=0)
        self.order = core[np.argsort(-spread[core], kind="stable")]
        self.base: Int64[np.ndarray, " rows"] = self.table.offered.argmax(axis=1)
        fixed = np.flatnonzero(count == 1)
        # Rows with one offered cell have no choice: their sums are part of the first state.
        self.start = table.least + table.cells[:, fixed, self.base[fixed]].sum(axis=1)
        self.remaining = [self._remaining(each) for each in self.bundle]

    def run(self, deadline: float) -> LayerResult:
        """Search until done, or until the time is up."""
        if self.empty:
            return LayerResult(None, self.bundle, math.inf)
        states, left_out = self.start[None], math.inf
        back: list[tuple[np.ndarray, np.ndarray]] = []
        for depth, row in enumerate(self.order.tolist(), start=1):
            columns = np.flatnonzero(self.table.offered[row])
            # Every state with every column. `back` holds, for each layer, where a state came from and its column.
            states = (states[:, None] + self.table.cells[:, row, columns].T).reshape(-1, states.shape[1])
            origin, column = np.divmod(np.arange(len(states)), columns.size)
            alive, cut = self._alive(states, depth)
            left_out = min(left_out, cut)
            if not alive.size or time.perf_counter() > deadline:
                return LayerResult(None, self.bundle, -math.inf if alive.size else left_out)
            states = states[alive]
            back.append((origin[alive], columns[column[alive]]))
        return LayerResult(self._best(states, back), self.bundle, left_out)

    def _alive(
        self, states: Float64[np.ndarray, "states sums"], depth: int
    ) -> tuple[Int64[np.ndarray, " alive"], float]:
        """The states to continue with, and the least bound of those cut off."""
        bounds = self._bounds(states, depth, self.bundle)
        alive = np.flatnonzero(bounds < self.known)
        alive = alive[_undominated(states[alive], bounds[alive])]
        # In the last layer nothing is left to bound, so new multipliers would not help.
        for _ in range(self.tries if depth < self.order.size else 0):
            before = alive.size
            if before <= self.width:
                break
            # The median by bound: multipliers made for it are good for many states on both sides.
            middle = alive[np.argsort(bounds[alive], kind="stable")[before // 2]]
            self._add(states[middle], depth)
            bounds[alive] = np.maximum(bounds[alive], self._bounds(states[alive], depth, self.bundle[-1:]))
            alive = alive[bounds[alive] < self.known]
            if alive.size > 0.95 * before:
                break  # new multipliers no longer pay
        if alive.size <= self.width:
            return alive, math.inf
        first = alive[np.argsort(bounds[alive], kind="stable")]
        return first[: self.width], float(bounds[first[self.width]])

    def _add(self, state: Float64[np.ndarray, " sums"], depth: int) -> None:
        """New multipliers, nearly the best for the completions of this state, from the best of the bundle."""
        start = self.bundle[int(np.argmax([each @ state + left[depth] for each, left in self._pairs()]))]
        new = raised_multipliers(self.table, self.order[depth:], state, start, self.known, _ROUNDS)
        self.bundle = [*self.bundle, new]
        self.remaining.append(self._remaining(new))

    def _pairs(self) -> list[tuple[Multipliers, np.ndarray]]:
        return list(zip(self.bundle, self.remaining, strict=True))

    def _remaining(self, at: Multipliers) -> Float64[np.ndarray, " depths"]:
        """The least that the rows from each depth on add at these multipliers, less a margin for rounding."""
        least = self.table.total(at, self.order).min(axis=1)
        sums = np.append(np.cumsum(least[::-1])[::-1], 0.0)
        return sums - _EPSILON * (float(at @ np.abs(self.start)) + float(sums[0]))

    def _bounds(
        self, states: Float64[np.ndarray, "states sums"], depth: int, bundle: list[Multipliers]
    ) -> Float64[np.ndarray, " states"]:
        """The highest bound of each state by these multipliers, which are the last of the search's bundle."""
        left = np.array([each[depth] for each in self.remaining[-len(bundle) :]])
        bounds: np.ndarray = (states @ np.array(bundle).T + left).max(axis=1, initial=-math.inf)
        return bounds

    def _best(
        self, states: Float64[np.ndarray, "states sums"], back: list[tuple[np.ndarray, np.ndarray]]
    ) -> Int64[np.ndarray, " rows"] | None:
        """The picks of the best state that keeps the constraints, if it is better than the best known."""
        domains = self.table.domains
        worst = np.where((states[:, domains:] <= 0).all(axis=1), states[:, :domains].max(axis=1), np.inf)
        index = int(worst.argmin())
        if not worst[index] < self.known:
            return None
        # From the last layer back to the first, along the origins of the best state.
        picks = self.base.copy()
        for row, (origin, column) in zip(self.order[::-1], back[::-1], strict=True):
            picks[row] = column[index]
            index = int(origin[index])
        return picks


def _ranges(table: MinimaxTable) -> Float64[np.ndarray, " sums"]:
    """The largest value that each sum can reach, to compare rows by."""
    ranges: np.ndarray = np.maximum(table.cells.max(axis=2).sum(axis=1), 1e-300)
    return ranges


def _reduced(table: MinimaxTable, bundle: list[Multipliers], known: float) -> MinimaxTable:
    """The table without the cells that no choice better than `known` uses: their reduced cost is above the gap."""
    offered = table.offered
    for at in bundle:
        total = np.where(offered, table.total(at), np.inf)
        least = total.min(axis=1)
        if not np.isfinite(least).all():
            break  # some row has no cell left: nothing better exists
        allowed = float(at @ table.least)
        bound = float(least.sum()) + allowed
        margin = _EPSILON * (float(at @ np.abs(table.least)) + float(least.sum()))
        offered = offered & (total - least[:, None] <= known - bound + margin)
    return table.within(offered)


def _undominated(
    states: Float64[np.ndarray, "states sums"], bounds: Float64[np.ndarray, " states"]
) -> Bool[np.ndarray, " states"]:
    """The states that none of the best few dominates (is at most as large in every sum); the first of equal ones."""
    stay = np.ones(len(states), dtype=bool)
    for champion in np.argsort(bounds, kind="stable")[:_CHAMPIONS].tolist():
        if stay[champion]:
            stay &= ~(states >= states[champion]).all(axis=1)
            stay[champion] = True
    return stay
