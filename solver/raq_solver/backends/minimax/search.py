"""The min-max knapsack: one choice for several loss tables, whose largest sum is as small as possible.

Rules
- At fixed weights of the tables the weighted table is an ordinary knapsack: the fast path solves it, which bounds the
  worst case from below and gives a choice. The best weights come from cutting planes (`lagrangian`).
- Choices at weights near the best, improved by exchanges, come close to the bound. The search by layers
  (`layered_search`) closes the rest of the gap, wider and wider until it is a proof.
- Constraints (linear rows, the capacity first) are sums like the losses. Rows that compare two rows only (Monotone) and
  limits on the number of types are not supported.
"""

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends.libraries import check_libraries
from raq_solver.backends.linear import PRICE_FACTORS
from raq_solver.backends.mckp import TOLERANCE, Relaxed
from raq_solver.backends.minimax.exchange import exchanged
from raq_solver.backends.minimax.lagrangian import Multipliers, best_multipliers, minimax_table
from raq_solver.backends.minimax.layered_search import LayeredSearch
from raq_solver.knapsack import Limits, Linear, Termination

_SEARCHES: Final = (
    (None, 200, 0),
    (400, 500, 2),
    (None, 1000, 2),
    (None, 4000, 4),
    (None, 16000, 4),
    (None, 64000, 4),
)
"""For each search: cells beyond the best of each row (None: all), most states of a layer, new multipliers for one.

A search of few cells is quick and often finds the optimum; only one of all cells can be a proof."""
_SHIFTS: Final = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)
"""Weights moved from one domain to another, to find other first choices near the best weights."""
_FAST_SECONDS: Final = 2.0


@dataclass(frozen=True, eq=False)
class WorstSolution:
    """The claim of a search: picks, the largest of their domains' losses, and a bound on that of all choices.

    `weights` and `prices` prove a bound (perhaps a lower one). `prices` belong to the constraints, in loss per unit of
    the quantity they limit.
    """

    termination: Termination
    picks: Int64[np.ndarray, " rows"] | None
    value: float
    bound: float
    weights: Float64[np.ndarray, " domains"]
    prices: Float64[np.ndarray, " constraints"]


def least_worst(
    losses: Float64[np.ndarray, "domains rows types"],
    constraints: Sequence[Linear],
    limits: Limits,
    known: Iterable[Int64[np.ndarray, " rows"]] = (),
) -> WorstSolution:
    """The choice whose largest domain's loss is least, keeping the constraints (the capacity first).

    Every row has an offered cell, and the smallest choice is within the capacity. `known` are choices to begin with.
    Deterministic without a time limit; FEASIBLE when the time is up, or when even the widest search leaves something
    out. Raises InvalidInput if SciPy is not installed.
    """
    check_libraries()
    deadline = time.perf_counter() + (math.inf if limits.seconds is None else limits.seconds)
    search = _Search(losses, constraints, deadline)
    for picks in known:
        search.take(picks)
    if not search.impossible:
        search.choose(deadline)
        for cells, width, tries in _SEARCHES:
            if search.proven or time.perf_counter() > deadline:
                break
            search.widen(cells, width, tries, deadline)
    return search.claim()


class _Search:
    """The state of the search: the incumbent and its worst loss, a bound, and the bundle of multipliers."""

    def __init__(
        self, losses: Float64[np.ndarray, "domains rows types"], constraints: Sequence[Linear], deadline: float
    ) -> None:
        self.losses, self.constraints = losses, constraints
        self.table = minimax_table(losses, constraints)
        of_domains = slice(0, self.table.domains)
        # No choice is worse than this: the value before an incumbent is known, and the test for infeasibility.
        most = self.table.least[of_domains] + self.table.cells[of_domains].max(axis=2).sum(axis=1)
        worst = float(most.max()) * (1 + 1e-9) + 1e-300
        start = self._start()
        self.root, highest = best_multipliers(self.table, start, deadline)
        self.impossible = highest > worst
        self.bundle = [self.root]
        self.picks: Int64[np.ndarray, " rows"] | None = None
        # The bound errs downwards: it was added up in another order than losses are.
        self.value, self.bound = worst, min(highest * (1 - TOLERANCE), worst)

    @property
    def proven(self) -> bool:
        """Whether no choice can be better than the incumbent; without an incumbent, whether there is no choice."""
        return self.impossible or self.bound >= self.value * (1 - TOLERANCE)

    def choose(self, deadline: float) -> None:
        """Find incumbents: solve the weighted knapsack near the best weights, raising side prices until all hold."""
        for weights in self._near():
            for factor in PRICE_FACTORS if len(self.constraints) > 1 else PRICE_FACTORS[:1]:
                if time.perf_counter() > deadline:
                    return
                if self._weighted(weights, factor):
                    break
        self._exchange(deadline)

    def widen(self, cells: int | None, width: int, tries: int, deadline: float) -> None:
        """One search by layers, among `cells` cells beyond the best of each row, with `width` states in a layer."""
        table = self.table if cells is None else self.table.within(self._cheapest(cells))
        known = self.value
        found = LayeredSearch(table, self.bundle, known, width, tries).run(deadline)
        self.bundle = found.bundle
        if found.picks is not None:
            self.take(found.picks)
            self._exchange(deadline)
        # A search of some cells proves nothing about the others.
        if cells is None:
            self.bound = max(self.bound, min(self.value, found.left_out))

    def claim(self) -> WorstSolution:
        """The solution: the incumbent, if any, and the proven bound."""
        domains = self.table.domains
        weights, prices = self.root[:domains], self.root[domains:] / self.table.units[domains:]
        if self.picks is None:
            ended = Termination.INFEASIBLE if self.proven else Termination.NO_SOLUTION_FOUND
            return WorstSolution(ended, None, math.inf, math.inf, weights, prices)
        ended = Termination.OPTIMAL if self.proven else Termination.FEASIBLE
        bound = self.value if self.proven else min(self.bound, self.value)
        return WorstSolution(ended, self.picks, self.value, bound, weights, prices)

    def _start(self) -> Multipliers:
        """Equal weights, and the price of a byte that the fast path finds for them."""
        domains = self.table.domains
        at = np.append(np.full(domains, 1 / domains), np.zeros(len(self.constraints)))
        capacity = self.constraints[0]
        # Without time the fast path only rounds its relaxation, but that is where the price comes from.
        found = Relaxed(capacity.coefficients, self.table.total(at)).solve(capacity.capacity, Limits(0.0))
        at[domains] = found.multiplier * self.table.units[domains]
        return at

    def _near(self) -> Iterator[Float64[np.ndarray, " domains"]]:
        """The best weights, then weights near them."""
        best = self.root[: self.table.domains]
        yield best
        for size, (taker, giver) in itertools.product(_SHIFTS, itertools.permutations(range(best.size), 2)):
            weights = best.copy()
            weights[[taker, giver]] += size, -size
            weights = np.maximum(weights, 0.0)
            yield weights / weights.sum()

    def _weighted(self, weights: Float64[np.ndarray, " domains"], factor: float) -> bool:
        """Solve the knapsack at these weights, side prices times a factor; whether its optimum keeps the constraints.

        Updates the bound, and the incumbent where the optimum is better.
        """
        domains = self.table.domains
        # The price of the capacity is 0 here: the knapsack has the capacity itself, which bounds better.
        at = np.concatenate([weights, [0.0], self.root[domains + 1 :] * factor])
        capacity = self.constraints[0]
        found = Relaxed(capacity.coefficients, self.table.total(at)).solve(capacity.capacity, Limits(_FAST_SECONDS))
        if found.picks is None:
            return False
        bound = (found.bound + float(at @ self.table.least)) * (1 - TOLERANCE)
        self.bound = max(self.bound, min(bound, self.value))
        return self.take(found.picks)

    def take(self, picks: Int64[np.ndarray, " rows"]) -> bool:
        """Whether picks keep the constraints in whole numbers; then the incumbent, if they are better."""
        if any(each.excess(picks) > 0 for each in self.constraints):
            return False
        value = max(math.fsum(table[np.arange(picks.size), picks].tolist()) for table in self.losses)
        if value < self.value:
            self.picks, self.value = picks, value
        return True

    def _exchange(self, deadline: float) -> None:
        """Improve the incumbent by one- and two-row exchanges until none helps."""
        while self.picks is not None and time.perf_counter() < deadline:
            known, better = self.value, exchanged(self.table, self.picks, self.root)
            if better is None or not self.take(better) or self.value >= known * (1 - TOLERANCE):
                break

    def _cheapest(self, cells: int) -> Bool[np.ndarray, "rows types"]:
        """The best cell of each row and `cells` more, those of least reduced cost at the root's multipliers."""
        total = self.table.total(self.root)
        reduced = total - total.min(axis=1, keepdims=True)
        costs = reduced[np.isfinite(reduced)]
        count = min(len(total) + cells, costs.size - 1)
        kept: Bool[np.ndarray, "rows types"] = reduced <= np.partition(costs, count)[count]
        return kept
