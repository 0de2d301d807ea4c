"""Limits on the number of different types: branch and bound over which types may be used.

Rules
- A node has for each limit the columns that are open and those that are settled as used. At fixed prices every row
  takes its best open cell, which gives a bound. The regret of a column is the loss of its rows when it closes. Closing
  several columns costs at least the sum of their regrets, so the bound rises by the smallest regrets of as many columns
  as must still close.
- Prices are those of the best set found by closing columns greedily and exchanging them. Any prices give bounds.
- A node with no more open columns than allowed is a knapsack with linear rows only.
"""

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64

from raq_solver.backends.dual import Priced, totals
from raq_solver.backends.linear import NOTHING, Best, dual, impossible, priced_constraints, repaired, settle_linear
from raq_solver.knapsack import Distinct, Linear

_EXCHANGES: Final = 0.3
"""Share of the time for better sets of columns to start from: a first solution is to be found within it as well."""
_PRICES: Final = 0.5
"""Share of the time left for the prices of a leaf."""


@dataclass(frozen=True, eq=False)
class Node:
    """A part of the search: open and settled columns of each limit, and a bound on what lies in it.

    `at` are the prices of a leaf, where no more columns are open than allowed.
    """

    open: Bool[np.ndarray, "limits types"]
    used: Bool[np.ndarray, "limits types"]
    bound: float
    at: Priced | None = None


class TypeSets:
    """The search for the best sets of columns."""

    def __init__(
        self,
        losses: Float64[np.ndarray, "rows types"],
        constraints: Sequence[Linear],
        limits: Sequence[Distinct],
        root: Priced,
        deadline: float,
    ) -> None:
        self.losses, self.constraints, self.limits = losses, constraints, limits
        self.deadline = deadline
        self.prices = root.prices
        self.rows = [constraints[index] for index in priced_constraints(constraints)]
        self.total, self.paid = totals(losses, self.rows, root.prices)
        self.root = Node(
            np.ones((len(limits), losses.shape[1]), dtype=bool),
            np.zeros((len(limits), losses.shape[1]), dtype=bool),
            0.0,
        )

    def run(self) -> Best:
        """The best choice that keeps all constraints and limits, with a bound on every other."""
        # A good set of columns first: its solution prunes the search, and its prices give sharper bounds than the
        # root's, which were made for all columns.
        start = self._exchanged(self._greedy(), self._after(_EXCHANGES))
        best = NOTHING
        for leaf in self._leaf(start):
            if leaf.at is not None:
                best = repaired(self._masked(self.losses, leaf), self.constraints, leaf.at, NOTHING, self.deadline)
                self.total, self.paid = totals(self.losses, self.rows, leaf.at.prices)
        # Best bound first. The counter breaks ties, since nodes don't compare.
        count = itertools.count()
        heap = [(self.root.bound, next(count), self.root)]
        missed = math.inf
        while heap and time.perf_counter() < self.deadline:
            bound, _, node = heapq.heappop(heap)
            if bound >= best.loss:
                heap.clear()  # all others have bounds at least as high
            elif node.at is not None:
                best = settle_linear(self._masked(self.losses, node), self.constraints, node.at, best, self.deadline)
                missed = min(missed, best.bound)  # a leaf that ran out of time leaves its bound open
            else:
                for child in self._children(node) if self._excess(node).any() else self._leaf(node):
                    if child.bound < best.loss:
                        heapq.heappush(heap, (child.bound, next(count), child))
        return replace(best, bound=min(best.loss, missed, *(bound for bound, _, _ in heap)))

    def _after(self, share: float) -> float:
        """When a share of the time that is left will have passed; the rest is for what follows."""
        now = time.perf_counter()
        return now + share * (self.deadline - now)

    def _leaf(self, node: Node) -> list[Node]:
        """The node with prices of its own; empty when no choice in it keeps the constraints."""
        losses = self._masked(self.losses, node)
        if not np.isfinite(losses).any(axis=1).all():
            return []
        at = dual(losses, self.constraints, self.prices, self._after(_PRICES))
        return [] if impossible(losses, at) else [replace(node, at=at, bound=max(node.bound, at.bound))]

    def _children(self, node: Node) -> list[Node]:
        """The node with one more column settled as used, and the node with that column closed.

        The column of largest regret: closing it raises the bound most, so that branch is pruned soonest.
        """
        _, regrets = self._value(node)
        limit = int(self._excess(node).argmax())
        free = np.flatnonzero(node.open[limit] & ~node.used[limit])
        column = int(free[regrets[limit, free].argmax()])
        used = node.used.copy()
        used[limit, column] = True
        kept = node.open.copy()
        if used[limit].sum() == self.limits[limit].count:
            kept[limit] = used[limit]  # the limit is reached: all other columns close
        closed = node.open.copy()
        closed[limit, column] = False
        return [self._bounded(Node(kept, used, node.bound)), self._bounded(Node(closed, node.used, node.bound))]

    def _bounded(self, node: Node) -> Node:
        """The node with the bound of its open columns and of the columns that must still close."""
        value, regrets = self._value(node)
        extra = [0.0]
        for limit, excess in enumerate(self._excess(node).tolist()):
            free = node.open[limit] & ~node.used[limit]
            extra.append(float(np.sort(regrets[limit, free])[:excess].sum()))
        return replace(node, bound=max(node.bound, value + max(extra)))

    def _excess(self, node: Node) -> np.ndarray:
        """How many columns must still close, for each limit."""
        counts = np.array([limit.count for limit in self.limits])
        excess: np.ndarray = np.maximum(node.open.sum(axis=1) - counts, 0)
        return excess

    def _masked(self, table: Float64[np.ndarray, "rows types"], node: Node) -> Float64[np.ndarray, "rows types"]:
        masked = table.copy()
        for limit, columns in zip(self.limits, node.open, strict=True):
            masked[np.ix_(limit.rows, np.flatnonzero(~columns))] = np.inf
        return masked

    def _value(self, node: Node) -> tuple[float, Float64[np.ndarray, "limits types"]]:
        """The bound at the search's prices, and the regret of every column.

        A row's regret counts for the column of its best cell alone, so that regrets of several columns add up.
        """
        table = self._masked(self.total, node)
        two = np.partition(table, min(1, table.shape[1] - 1), axis=1)[:, :2]
        best = table.argmin(axis=1)
        regrets = np.zeros(node.open.shape)
        if not np.isfinite(two[:, 0]).all():
            return math.inf, regrets
        second = two[:, 1] - two[:, 0] if table.shape[1] > 1 else np.full(len(table), np.inf)
        for number, limit in enumerate(self.limits):
            np.add.at(regrets[number], best[limit.rows], second[limit.rows])
        rounding = 4 * np.finfo(float).eps * (float(np.abs(two[:, 0]).sum()) + self.paid)
        return float(two[:, 0].sum() - self.paid) - rounding, regrets

    def _greedy(self) -> Node:
        """Close the column of least regret until all limits are kept.

        Limits that have no row in common close one at the same time: there may be a thousand.
        """
        node = self.root
        while (excess := self._excess(node)).any():
            regrets, opened = self._value(node)[1], node.open.copy()
            touched = np.zeros(len(self.losses), dtype=bool)
            for limit in np.argsort(-excess, kind="stable")[: np.count_nonzero(excess)].tolist():
                rows = self.limits[limit].rows
                if touched[rows].any():
                    continue
                touched[rows] = True
                columns = np.flatnonzero(node.open[limit])
                opened[limit, columns[regrets[limit, columns].argmin()]] = False
            node = replace(node, open=opened)
        return node

    def _exchanged(self, node: Node, until: float) -> Node:
        """Exchange an open column for a closed one as long as that lowers the bound at the search's prices."""
        value = self._value(node)[0]
        for limit in range(len(self.limits)):
            improved = True
            while improved and time.perf_counter() < until:
                improved = False
                opened, closed = np.flatnonzero(node.open[limit]).tolist(), np.flatnonzero(~node.open[limit]).tolist()
                for old, new in itertools.product(opened, closed):
                    if time.perf_counter() > until:
                        break
                    candidate = node.open.copy()
                    candidate[limit, [old, new]] = False, True
                    other = replace(node, open=candidate)
                    reached = self._value(other)[0]
                    if reached < value * (1 - 1e-9):
                        node, value, improved = other, reached, True
                        break
        return node
