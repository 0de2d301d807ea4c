"""The exact part: dynamic programming over the open rows, bounded by the linear relaxation of what is left.

Rules
- Rows are taken one at a time. A state is a choice for the rows taken so far: its bytes and its loss, the rows left
  counted at their smallest and at their best. Of two states the one that is larger and not better is dropped.
- A state lives as long as the relaxation of the rows left says that, within some capacity, it may still beat the best
  solution known there. Its whole steps give a solution, so that good solutions are met early.
- Now and then the rows left are cut down: a cell stays if some living state may use it, judged by its reduced cost.
- Several capacities share one search: a state lives if it may be of use to any of them.
- A layer that grows too large is split; its parts are searched one after the other, so that memory stays bounded.

Source: Pisinger, A minimal algorithm for the multiple-choice knapsack problem, EJOR 83 (1995), for cores and for
bounding states; the bound there is a line, here the whole relaxation.
"""

import time
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends.table import Kept, Table, keep

LARGEST_LAYER = 1 << 20
"""States above which a layer is split. Results do not depend on it."""

_ROWS_BETWEEN_CUTS: Final = 18
_FEWEST_ROWS_TO_CUT: Final = 12
_MOST_PRICES: Final = 8
# By measurement on the real instances; results do not depend on them.


@dataclass(frozen=True, eq=False)
class Layer:
    """States after some rows, by rising size, and how they came about.

    The rows of `table` from `depth` on are left. `origins` index the parent's states, `columns` are what `row` was
    given. `settled` are rows that were settled when the table was cut down. `bound` per capacity.
    """

    table: Table
    depth: int
    sizes: Int64[np.ndarray, " states"]
    losses: Float64[np.ndarray, " states"]
    bound: Float64[np.ndarray, " capacities"]
    row: int = -1
    columns: Int64[np.ndarray, " states"] | None = None
    origins: Int64[np.ndarray, " states"] | None = None
    parent: "Layer | None" = None
    settled: tuple[np.ndarray, np.ndarray] | None = None
    rows_since_cut: int = 0


@dataclass(frozen=True, eq=False)
class Find:
    """Where a solution was met: a state of a layer, its next row's column, then whole steps of the rows after."""

    layer: Layer
    state: int
    column: int
    steps: int


class Search:
    """One search over the open rows of a knapsack for one or several capacities.

    `best` holds per capacity the loss to beat, and after `run` the least loss; `finds` how it came about, None where
    nothing better was found. Solutions better by less than `tolerance` are not looked for.
    """

    def __init__(
        self,
        core: Kept,
        capacities: Int64[np.ndarray, " capacities"],
        best: Float64[np.ndarray, " capacities"],
        tolerance: Float64[np.ndarray, " capacities"],
    ) -> None:
        self.core, self.capacities, self.tolerance = core, capacities, tolerance
        self.best = best.copy()
        self.finds: list[Find | None] = [None] * capacities.size

    def run(self, deadline: float) -> Float64[np.ndarray, " capacities"] | None:
        """Search until all capacities are proven: None; or until the deadline (`time.perf_counter`): bounds."""
        sizes, losses = np.array([self.core.size]), np.array([self.core.loss])
        stack = [Layer(self.core.table, 0, sizes, losses, np.zeros(self.capacities.size))]
        while stack:
            if time.perf_counter() > deadline:
                bounds: np.ndarray = np.min([self.best, *(layer.bound for layer in stack)], axis=0)
                return bounds
            layer = self._cut(stack.pop())
            if layer.depth < layer.table.rows.size:
                stack += self._children(layer)
        return None

    def picks(self, found: Find, picks: Int64[np.ndarray, " rows"]) -> None:
        """Write a solution into the picks of all rows."""
        table, depth = found.layer.table, found.layer.depth
        picks[self.core.rows] = self.core.columns
        picks[table.rows] = table.columns[np.arange(table.rows.size), table.start]
        steps = table.steps_after(depth + 1)
        rows, cells = steps.rows[: found.steps], steps.columns[: found.steps]
        picks[table.rows[rows]] = table.columns[rows, cells]
        picks[table.rows[depth]] = found.column
        layer: Layer | None = found.layer
        state = found.state
        while layer is not None:
            if layer.settled is not None:
                picks[layer.settled[0]] = layer.settled[1]
            if layer.columns is not None and layer.origins is not None:
                picks[layer.row] = layer.columns[state]
                state = int(layer.origins[state])
            layer = layer.parent

    def _children(self, layer: Layer) -> list[Layer]:
        """The states one row further that may still lead to something better."""
        table, depth = layer.table, layer.depth
        cells = np.flatnonzero(np.isfinite(table.excess[depth]))
        columns, count = table.columns[depth, cells], layer.sizes.size
        sizes = (table.sizes[depth, cells][:, None] + layer.sizes).ravel()
        losses = (table.excess[depth, cells][:, None] + layer.losses).ravel()
        relaxation = table.relaxation_after(depth + 1)
        room = self.capacities[:, None] - sizes
        steps = relaxation.whole_steps(room)
        fits = steps >= 0
        reached = np.where(fits, losses + relaxation.left[steps], np.inf)
        for target, position in enumerate(reached.argmin(axis=1).tolist()):
            if reached[target, position] < self.best[target]:
                self.best[target] = reached[target, position]
                cell, state = divmod(position, count)
                self.finds[target] = Find(layer, state, int(columns[cell]), int(steps[target, position]))
        bounds = np.where(fits, losses + relaxation.bound(steps, room), np.inf)
        chosen = np.flatnonzero((bounds < (self.best - self.tolerance)[:, None]).any(axis=0))
        chosen = chosen[_undominated(sizes[chosen], losses[chosen])]
        if not chosen.size:
            return []
        cell, origins = np.divmod(chosen, count)
        child = Layer(
            table,
            depth + 1,
            sizes[chosen],
            losses[chosen],
            bounds[:, chosen].min(axis=1),
            int(table.rows[depth]),
            columns[cell],
            origins,
            layer,
            rows_since_cut=layer.rows_since_cut + 1,
        )
        return _split(child, bounds[:, chosen])

    def _cut(self, layer: Layer) -> Layer:
        """When it is time: the layer with only those cells of the rows left that some state may use."""
        table, depth = layer.table, layer.depth
        if layer.rows_since_cut < _ROWS_BETWEEN_CUTS or table.rows.size - depth < _FEWEST_ROWS_TO_CUT:
            return layer
        sizes, excess = table.sizes[depth:], table.excess[depth:]
        kept = _usable(sizes, excess, *_gaps(layer, self.capacities, self.best))
        cut = keep(table.rows[depth:], table.columns[depth:], sizes, excess, kept)
        return replace(
            layer,
            table=cut.table,
            depth=0,
            sizes=layer.sizes + cut.size,
            losses=layer.losses + cut.loss,
            columns=None,
            origins=None,
            parent=layer,
            settled=(cut.rows, cut.columns),
            rows_since_cut=0,
        )


def _gaps(layer: Layer, capacities: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some prices of a byte, and how far below the loss to beat the bounds of all states lie at one of them."""
    sizes, excess = layer.table.sizes[layer.depth :], layer.table.excess[layer.depth :]
    relaxation = layer.table.relaxation_after(layer.depth)
    room = capacities[:, None] - layer.sizes
    steps = relaxation.whole_steps(room)
    slopes = relaxation.slopes[np.maximum(steps, 0)]
    prices = np.unique(slopes[steps >= 0])
    if prices.size > _MOST_PRICES:
        prices = prices[np.linspace(0, prices.size - 1, _MOST_PRICES).round().astype(np.int64)]
    nearest = np.searchsorted((prices[1:] + prices[:-1]) / 2, slopes)
    rest = (excess + prices[:, None, None] * sizes).min(axis=2).sum(axis=1)
    paid = prices[nearest] * room
    gaps = best[:, None] - layer.losses - rest[nearest] + paid
    gaps += 8 * np.finfo(float).eps * (layer.losses + rest[nearest] + np.abs(paid))
    widest = np.full(prices.size, -np.inf)
    np.maximum.at(widest, nearest[steps >= 0], gaps[steps >= 0])
    return prices, widest


def _usable(
    sizes: np.ndarray, excess: np.ndarray, prices: np.ndarray, gaps: np.ndarray
) -> Bool[np.ndarray, "rows cells"]:
    """The cells whose reduced cost is within the gap at some price; the best cell at any price always is."""
    priced = excess + prices[:, None, None] * sizes
    least = priced.min(axis=2, keepdims=True)
    margin = 8 * np.finfo(float).eps * least
    usable: np.ndarray = (priced <= least + np.maximum(gaps, 0)[:, None, None] + margin).any(axis=0)
    return usable


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
    if layer.sizes.size <= LARGEST_LAYER or layer.columns is None or layer.origins is None:
        return [layer]
    order = np.argsort(bounds.min(axis=0), kind="stable")
    halves = np.sort(order[order.size // 2 :]), np.sort(order[: order.size // 2])
    return [
        replace(
            layer,
            sizes=layer.sizes[half],
            losses=layer.losses[half],
            bound=bounds[:, half].min(axis=1),
            columns=layer.columns[half],
            origins=layer.origins[half],
        )
        for half in halves
    ]
