"""Nested ladders: several budgets whose allocations only promote tensors from one rung to the next.

A larger file then differs from a smaller one in promoted tensors only, so that steps can be shipped as patches.

Rules
- A rung gives every tensor at least the bytes that the rung below gives it.
- The joint optimum has the least sum of the rungs' losses. It is a knapsack of its own: a row's cells are its rising
  chains of types, one type for each rung; the lowest capacity is the knapsack's, the others are side rows.
- Raising the smallest optimum rung by rung, or lowering the largest, gives a ladder; when nesting costs nothing, one of
  them is the optimum. At each rung's own price of a byte every chain has a reduced cost; chains whose reduced cost
  exceeds the gap between the known ladder and the bound can't be part of a better one and are left out.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.backends import general, mckp
from raq_solver.errors import Fault, InvalidInput
from raq_solver.formulate import formulate
from raq_solver.knapsack import Knapsack, Limits, Linear, Termination, lagrangian
from raq_solver.problem import Problem
from raq_solver.solve import NO_LIMITS, solve

_ROUNDING: Final = 1e-12

_MOST_CHAINS: Final = 5000
"""Rising chains that one row may keep: the table of all rows has as many columns as the longest list."""
_MOST_CELLS: Final = 1 << 24
"""Cells of that table times rungs, of 8 bytes in each of several arrays."""


@dataclass(frozen=True, slots=True)
class LadderRung:
    """One budget of a ladder. `free_loss` is the least loss at this budget without nesting.

    >>> from raq_solver import LedgerEntry
    >>> ledger = Ledger((LedgerEntry("a", "Q4_K", 256, 144, 0.1),), 200)
    >>> LadderRung(200, Allocation({"a": "Q4_K"}), ledger, free_loss=0.1).price
    0.0
    """

    capacity_bytes: int
    allocation: Allocation
    ledger: Ledger
    free_loss: float

    @property
    def price(self) -> float:
        """Loss that nesting costs at this rung; not negative up to rounding."""
        return self.ledger.loss - self.free_loss


@dataclass(frozen=True, slots=True)
class Ladder:
    """A nested ladder, the smallest budget first.

    `bound`: no nested ladder has a lower sum of losses. `rungs` are empty when there is none.

    >>> Ladder(Termination.INFEASIBLE, (), None, seconds=0.0).loss
    0.0
    """

    termination: Termination
    rungs: tuple[LadderRung, ...]
    bound: float | None
    seconds: float

    @property
    def loss(self) -> float:
        """The sum of the rungs' losses."""
        return math.fsum(rung.ledger.loss for rung in self.rungs)

    @property
    def price(self) -> float:
        """The price of nesting: the sum of losses beyond that of the free optima."""
        return math.fsum(rung.price for rung in self.rungs)


def nested_ladder(problem: Problem, capacities: Sequence[int], limits: Limits = NO_LIMITS) -> Ladder:
    """The nested ladder of least summed loss over rising capacities; ignores the problem's own capacity.

    `limits` are of all searches together. FEASIBLE also where, without a time limit, more than 5000 chains of types are
    left for one tensor: the joint search, which would need too much memory, is left out then.

    Raises InvalidInput for fewer than two capacities, for capacities that do not rise, and for side constraints.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> ladder = nested_ladder(Problem(table, 0), [300, 450])
    >>> [dict(rung.allocation.types) for rung in ladder.rungs]
    [{'a': 'Q4_K', 'b': 'Q4_K'}, {'a': 'Q4_K', 'b': 'Q8_0'}]
    """
    start, limits = time.perf_counter(), limits.together()
    _check(problem, capacities)
    free = [solve(replace(problem, capacity_bytes=capacity), limits.now(_share(capacities))) for capacity in capacities]
    if free[0].ledger is None:
        return Ladder(free[0].termination, (), None, time.perf_counter() - start)
    knapsack, decoder = formulate(replace(problem, capacity_bytes=capacities[0]))
    free_bound = math.fsum(alone.bound or 0.0 for alone in free)
    nested = _nested(knapsack, capacities, free_bound, limits)
    rungs = []
    for columns, capacity, alone in zip(nested.columns, capacities, free, strict=True):
        allocation = decoder.allocation(columns)
        ledger = account(allocation, problem.table, capacity)
        rungs.append(LadderRung(capacity, allocation, ledger, alone.unwrap()[1].loss))
    proven = nested.loss <= nested.bound * (1 + _ROUNDING)
    termination = Termination.OPTIMAL if proven else Termination.FEASIBLE
    return Ladder(termination, tuple(rungs), nested.bound, time.perf_counter() - start)


@dataclass(frozen=True, eq=False)
class _Nested:
    """The columns of each rung, their summed loss, and a proven bound on it."""

    columns: Int64[np.ndarray, "rungs rows"]
    loss: float
    bound: float


def _nested(knapsack: Knapsack, capacities: Sequence[int], free_bound: float, limits: Limits) -> _Nested:
    """The best of raising, lowering and the joint search, which runs only when the others leave a gap to the bound."""
    ladders = _raised(knapsack, capacities, limits), _lowered(knapsack, capacities, limits)
    best = min(ladders, key=lambda nested: nested.loss)
    best = replace(best, bound=min(best.loss, free_bound))
    if best.loss <= free_bound * (1 + _ROUNDING):
        return best
    chains = _chains(knapsack, capacities, best.loss)
    if chains is None:
        return best
    solution = general.solve(_joint(knapsack, chains, capacities), limits.now())
    # A search that ended without a solution proves that no ladder beats the best known one.
    ended = solution.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
    if solution.picks is not None:
        columns = chains[np.arange(len(chains)), solution.picks].T
        found = _Nested(columns, _loss(knapsack, columns), 0.0)
        best = found if found.loss < best.loss else best
    bound = best.loss if ended else max(free_bound, solution.bound if math.isfinite(solution.bound) else 0.0)
    return replace(best, bound=min(best.loss, bound))


def _check(problem: Problem, capacities: Sequence[int]) -> None:
    faults = []
    if len(capacities) < 2:
        faults.append(Fault("ladder", f"{len(capacities)} budgets; a ladder needs at least two"))
    faults += [
        Fault("ladder", f"{after:,} bytes after {before:,}; budgets must rise")
        for before, after in pairwise(capacities)
        if after <= before
    ]
    if problem.has_side_constraints:
        faults.append(Fault("ladder", "can't be nested together with constraints that span tensors; leave them out"))
    if faults:
        raise InvalidInput(faults)


def _share(capacities: Sequence[int]) -> float:
    """The share of the time left for one search: three for each rung come before the joint search."""
    return 1 / (4 * len(capacities))


def _chains(
    knapsack: Knapsack, capacities: Sequence[int], known: float
) -> Int64[np.ndarray, "rows chains rungs"] | None:
    """The rising chains of columns of each row that a better ladder may use, padded with copies of the first chain.

    None when there are too many.
    """
    reduced, bound, scale = _reduced(knapsack, capacities)
    # Both gap and reduced costs are differences of sums as large as the scale, and as inexact.
    gap = max(0.0, known - bound) + 1e-12 * (known + scale)
    allowed = min(_MOST_CHAINS, _MOST_CELLS // (len(knapsack.sizes) * len(capacities)))
    of_row = []
    for row, (sizes, losses) in enumerate(zip(knapsack.sizes, knapsack.losses, strict=True)):
        chains = _rising(_undominated(sizes, losses), reduced[:, row], gap, allowed)
        if chains is None:
            return None
        of_row.append(chains)
    most = max(len(chains) for chains in of_row)
    return np.array([chains + [chains[0]] * (most - len(chains)) for chains in of_row], dtype=np.int64)


def _reduced(
    knapsack: Knapsack, capacities: Sequence[int]
) -> tuple[Float64[np.ndarray, "rungs rows types"], float, float]:
    """Reduced costs at each rung's own price of a byte, the sum of the rungs' bounds, and the magnitude of the sums."""
    reduced, bound, scale = [], 0.0, 0.0
    for capacity in capacities:
        alone = Knapsack(knapsack.sizes, knapsack.losses, capacity)
        price = mckp.solve(alone, Limits(0.0)).multiplier  # that of the relaxation, which needs no search
        total = knapsack.losses + price * knapsack.sizes
        reduced.append(total - total.min(axis=1, keepdims=True))
        bound += lagrangian(alone, price)
        scale += price * capacity + float(total.min(axis=1).sum())
    return np.array(reduced), bound, scale


def _raised(knapsack: Knapsack, capacities: Sequence[int], limits: Limits) -> _Nested:
    """The ladder whose rungs are each the best that only raise the rung below, from the smallest up."""
    rows = np.arange(len(knapsack.sizes))
    losses = knapsack.losses
    columns: list[np.ndarray] = []
    for capacity in capacities:
        picks = mckp.solve(Knapsack(knapsack.sizes, losses, capacity), limits.now(_share(capacities))).picks
        assert picks is not None, "the rung below fits a rung of more bytes"
        columns.append(picks)
        # From here on only cells of at least these bytes; always from the full table, since bounds only rise.
        losses = np.where(knapsack.sizes >= knapsack.sizes[rows, picks][:, None], losses, np.inf)
    return _Nested(np.array(columns), _loss(knapsack, np.array(columns)), 0.0)


def _lowered(knapsack: Knapsack, capacities: Sequence[int], limits: Limits) -> _Nested:
    """The ladder whose rungs are each the best that only lower the rung above, from the largest down.

    The smallest cells are never excluded, so that some choice always fits.
    """
    rows = np.arange(len(knapsack.sizes))
    losses = knapsack.losses
    columns: list[np.ndarray] = []
    for capacity in reversed(capacities):
        picks = mckp.solve(Knapsack(knapsack.sizes, losses, capacity), limits.now(_share(capacities))).picks
        assert picks is not None, "the smallest cells fit the smallest budget"
        columns.insert(0, picks)
        losses = np.where(knapsack.sizes <= knapsack.sizes[rows, picks][:, None], losses, np.inf)
    return _Nested(np.array(columns), _loss(knapsack, np.array(columns)), 0.0)


def _loss(knapsack: Knapsack, columns: Int64[np.ndarray, "rungs rows"]) -> float:
    return math.fsum(knapsack.losses[np.arange(columns.shape[1]), columns].ravel().tolist())


def _rising(
    columns: list[int], reduced: Float64[np.ndarray, "rungs types"], gap: float, most: int
) -> list[tuple[int, ...]] | None:
    """The chains that take one of the columns at each rung, in their order, with a summed reduced cost within the gap.

    None when there are more than `most`.
    """
    costs = reduced[:, columns]
    # The least that the rungs from each on cost when none takes a column before each: so no beginning is a dead end.
    rest = np.zeros((len(costs) + 1, len(columns)))
    for level in reversed(range(len(costs))):
        rest[level] = np.minimum.accumulate((costs[level] + rest[level + 1])[::-1])[::-1]
    chains: list[tuple[tuple[int, ...], int, float]] = [((), 0, 0.0)]
    for level, cost in enumerate(costs):
        chains = [
            ((*chain, columns[place]), place, spent + float(cost[place]))
            for chain, first, spent in chains
            for place in range(first, len(columns))
            if spent + cost[place] + rest[level + 1, place] <= gap
        ]
        if len(chains) > most:
            return None
    return [chain for chain, _, _ in chains]


def _undominated(sizes: Int64[np.ndarray, " types"], losses: Float64[np.ndarray, " types"]) -> list[int]:
    """The columns that are not dominated, by rising size and falling loss."""
    kept: list[int] = []
    for column in np.lexsort((losses, sizes)).tolist():
        if math.isfinite(losses[column]) and (not kept or losses[column] < losses[kept[-1]]):
            kept.append(column)
    return kept


def _joint(knapsack: Knapsack, chains: Int64[np.ndarray, "rows chains rungs"], capacities: Sequence[int]) -> Knapsack:
    """The knapsack over chains: losses of all rungs add up, each rung's bytes stay within its capacity."""
    rows = np.arange(len(chains))
    losses = knapsack.losses[rows[:, None, None], chains].sum(axis=2)
    sizes = [knapsack.sizes[rows[:, None], chains[:, :, level]] for level in range(len(capacities))]
    side = tuple(Linear(rows, size, capacity) for size, capacity in zip(sizes[1:], capacities[1:], strict=True))
    return Knapsack(sizes[0], losses, capacities[0], side)
