"""Search for the least of the largest of several sums, row by row, with states pruned by a bundle of prices.

Rules
- A state is what the rows so far add up to. Every multiplier of the bundle bounds what may become of it; it is dropped
  when one of the bounds reaches the best known, or when another state is at most as large in every sum.
- When a layer grows past its width, new multipliers are made for a state in its middle, which most often drop many of
  its neighbours. What is still too much is cut off, the least bound of it remembered: so a search that cut nothing off
  is a proof, and any other says what it leaves open.
- The rows with the largest choices come first; the last rows fill in what little is left.
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
"""States that others are compared with, to drop what is at least as large in every sum."""
_LARGEST_BUNDLE: Final = 120
_ROUNDS: Final = 15
"""Rounds in which new multipliers are found."""
_EPSILON: Final = 32 * float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class LayerResult:
    """What a search came to: better picks, if any; the bundle it ended with; a bound on all that it left out."""

    picks: Int64[np.ndarray, " rows"] | None
    bundle: list[Multipliers]
    left_out: float


class LayeredSearch:
    """One search within a table for something better than `known`."""

    def __init__(self, table: MinimaxTable, bundle: list[Multipliers], known: float, width: int, tries: int) -> None:
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
        """The states to go on with, and the least bound of those cut off."""
        bounds = self._bounds(states, depth, self.bundle)
        alive = np.flatnonzero(bounds < self.known)
        alive = alive[_undominated(states[alive], bounds[alive])]
        for _ in range(self.tries if depth < self.order.size else 0):
            before = alive.size
            if before <= self.width:
                break
            middle = alive[np.argsort(bounds[alive], kind="stable")[before // 2]]
            self._add(states[middle], depth)
            bounds[alive] = np.maximum(bounds[alive], self._bounds(states[alive], depth, self.bundle[-1:]))
            alive = alive[bounds[alive] < self.known]
            if alive.size > 0.95 * before:
                break
        if alive.size <= self.width:
            return alive, math.inf
        first = alive[np.argsort(bounds[alive], kind="stable")]
        return first[: self.width], float(bounds[first[self.width]])

    def _add(self, state: Float64[np.ndarray, " sums"], depth: int) -> None:
        """New multipliers: those that say most of what may become of this state."""
        start = self.bundle[int(np.argmax([each @ state + left[depth] for each, left in self._pairs()]))]
        new = raised_multipliers(self.table, self.order[depth:], state, start, self.known, _ROUNDS)
        self.bundle = [*self.bundle, new]
        self.remaining.append(self._remaining(new))

    def _pairs(self) -> list[tuple[Multipliers, np.ndarray]]:
        return list(zip(self.bundle, self.remaining, strict=True))

    def _remaining(self, at: Multipliers) -> Float64[np.ndarray, " depths"]:
        """What the rows from each depth on add at least at these multipliers, less a margin for rounding."""
        least = self.table.total(at, self.order).min(axis=1)
        sums = np.append(np.cumsum(least[::-1])[::-1], 0.0)
        return sums - _EPSILON * (float(at @ np.abs(self.start)) + float(sums[0]))

    def _bounds(
        self, states: Float64[np.ndarray, "states sums"], depth: int, bundle: list[Multipliers]
    ) -> Float64[np.ndarray, " states"]:
        """The highest bound of each state by the last multipliers of the search."""
        left = np.array([each[depth] for each in self.remaining[-len(bundle) :]])
        bounds: np.ndarray = (states @ np.array(bundle).T + left).max(axis=1, initial=-math.inf)
        return bounds

    def _best(
        self, states: Float64[np.ndarray, "states sums"], back: list[tuple[np.ndarray, np.ndarray]]
    ) -> Int64[np.ndarray, " rows"] | None:
        """The picks of the best state that keeps the demands, if it is better than what is known."""
        domains = self.table.domains
        worst = np.where((states[:, domains:] <= 0).all(axis=1), states[:, :domains].max(axis=1), np.inf)
        index = int(worst.argmin())
        if not worst[index] < self.known:
            return None
        picks = self.base.copy()
        for row, (origin, column) in zip(self.order[::-1], back[::-1], strict=True):
            picks[row] = column[index]
            index = int(origin[index])
        return picks


def _ranges(table: MinimaxTable) -> Float64[np.ndarray, " sums"]:
    """How far each sum can vary, to compare them."""
    ranges: np.ndarray = np.maximum(table.cells.max(axis=2).sum(axis=1), 1e-300)
    return ranges


def _reduced(table: MinimaxTable, bundle: list[Multipliers], known: float) -> MinimaxTable:
    """The table without the cells that nothing better than `known` can use: their reduced cost is above the gap."""
    offered = table.offered
    for at in bundle:
        total = np.where(offered, table.total(at), np.inf)
        least = total.min(axis=1)
        if not np.isfinite(least).all():
            break
        allowed = float(at @ table.least)
        bound = float(least.sum()) + allowed
        margin = _EPSILON * (float(at @ np.abs(table.least)) + float(least.sum()))
        offered = offered & (total - least[:, None] <= known - bound + margin)
    return table.within(offered)


def _undominated(
    states: Float64[np.ndarray, "states sums"], bounds: Float64[np.ndarray, " states"]
) -> Bool[np.ndarray, " states"]:
    """Which states none of the best few is at least as good as in every sum; of equal ones the first stays."""
    stay = np.ones(len(states), dtype=bool)
    for champion in np.argsort(bounds, kind="stable")[:_CHAMPIONS].tolist():
        if stay[champion]:
            stay &= ~(states >= states[champion]).all(axis=1)
            stay[champion] = True
    return stay
