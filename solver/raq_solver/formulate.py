"""From a problem with names to a knapsack of arrays, and back.

Rules
- Pins, floors, ceilings and exclusions clear cells; each group of tied tensors becomes one row, whose sizes and
  losses are the sums over its tensors. The other constraints become side rows.
- The way back trusts no backend: the ledger is recomputed from the table in whole numbers, every constraint checked.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.constraints import tie_groups
from raq_solver.errors import BackendFailure
from raq_solver.knapsack import Distinct, Knapsack, KnapsackSolution, Linear, SideRow
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem


@dataclass(frozen=True, eq=False)
class Decoder:
    """The inverse half of formulating. `row_of_tensor` is the knapsack row that each tensor went into.

    `least_bytes` and `most_bytes` are those of an `Outcome`. `side_owners` holds, for each side row, the index of its
    constraint.
    """

    problem: Problem
    row_of_tensor: Int64[np.ndarray, " tensors"]
    least_bytes: int
    most_bytes: int
    side_owners: tuple[int, ...] = ()

    def allocation(self, picks: Int64[np.ndarray, " rows"]) -> Allocation:
        """The allocation of a choice: the picked column of each knapsack row."""
        table = self.problem.table
        names = [table.quant_types[column] for column in picks[self.row_of_tensor].tolist()]
        return Allocation(dict(zip(table.tensors, names, strict=True)))

    def picks(self, allocation: Allocation) -> Int64[np.ndarray, " rows"]:
        """The choice that makes an allocation in which tied tensors have one type: the inverse of `allocation`."""
        picks = np.zeros(int(self.row_of_tensor.max()) + 1, dtype=np.int64)
        picks[self.row_of_tensor] = self.problem.columns_of(allocation)
        return picks

    def checked(self, picks: Int64[np.ndarray, " rows"]) -> tuple[Allocation, Ledger]:
        """The allocation of the picks and its ledger.

        Raises BackendFailure if it exceeds the capacity or breaks a constraint, which no backend may claim.
        """
        allocation = self.allocation(picks)
        ledger = account(allocation, self.problem.table, self.problem.capacity_bytes)
        if ledger.slack < 0:
            raise BackendFailure(f"the backend's allocation has {ledger.size} bytes, capacity {ledger.capacity}")
        broken = self.problem.violations(allocation)
        if broken:
            raise BackendFailure("the backend's allocation breaks " + "; ".join(map(str, broken)))
        return allocation, ledger

    def outcome(self, solution: KnapsackSolution, seconds: float) -> Outcome:
        """The outcome of a backend's solution. Raises BackendFailure as `checked` does."""
        if solution.picks is None:
            return Outcome(solution.termination, None, None, None, None, self.least_bytes, self.most_bytes, seconds)
        allocation, ledger = self.checked(solution.picks)
        return Outcome(
            solution.termination,
            allocation,
            ledger,
            min(solution.bound, ledger.loss),
            solution.multiplier,
            self.least_bytes,
            self.most_bytes,
            seconds,
            self.prices(solution.side_multipliers),
        )

    def prices(self, side_multipliers: Sequence[float]) -> tuple[float, ...]:
        """The price of each constraint from those of its side rows; empty without side rows.

        A constraint with several rows (Monotone) gets 0: one price can't stand for several.
        """
        if not self.side_owners:
            return ()
        prices, rows = [0.0] * len(self.problem.constraints), Counter(self.side_owners)
        for owner, price in zip(self.side_owners, side_multipliers, strict=True):
            if rows[owner] == 1:
                prices[owner] = price
        return tuple(prices)


def formulate(problem: Problem) -> tuple[Knapsack, Decoder]:
    """The knapsack of a problem, and the way back."""
    table = problem.table
    allowed = problem.allowed()
    row_of_tensor = _rows(problem)
    shape = (int(row_of_tensor.max()) + 1, len(table.quant_types))
    sizes = np.zeros(shape, dtype=np.int64)
    losses = np.zeros(shape)
    # Cells that can't be chosen may hold any size: sums of theirs would leave 64 bits.
    np.add.at(sizes, row_of_tensor, np.where(allowed, table.sizes, 0))
    np.add.at(losses, row_of_tensor, np.where(allowed, table.losses, np.inf))
    owned = [(owner, row) for owner, each in enumerate(problem.constraints) for row in each.side_rows(table)]
    side = tuple(_merged(row, row_of_tensor, allowed) for _, row in owned)
    knapsack = Knapsack(sizes, losses, problem.capacity_bytes, side)
    owners = tuple(owner for owner, _ in owned)
    return knapsack, Decoder(problem, row_of_tensor, knapsack.least_size(), _most_bytes(knapsack), owners)


def _merged(
    side_row: SideRow, row_of_tensor: Int64[np.ndarray, " tensors"], allowed: Bool[np.ndarray, "tensors types"]
) -> SideRow:
    """A side row over tensors as one over knapsack rows: coefficients of tied tensors add up in their common row."""
    rows, where = np.unique(row_of_tensor[side_row.rows], return_inverse=True)
    if isinstance(side_row, Distinct):
        return Distinct(rows, side_row.count)
    coefficients = np.zeros((rows.size, side_row.coefficients.shape[1]), dtype=np.int64)
    np.add.at(coefficients, where, np.where(allowed[side_row.rows], side_row.coefficients, 0))
    # Rows that count nothing at any type would only slow the backends down.
    used = coefficients.any(axis=1)
    return Linear(rows[used], coefficients[used], side_row.capacity)


def _rows(problem: Problem) -> Int64[np.ndarray, " tensors"]:
    """The knapsack row of each tensor: in file order, tied tensors in the row of the first of them."""
    names = problem.table.tensors
    leader = {name: group[0] for group in tie_groups(problem.constraints) for name in group}
    row: dict[str, int] = {}
    for name in names:
        row.setdefault(leader.get(name, name), len(row))
    return np.array([row[leader.get(name, name)] for name in names], dtype=np.int64)


def _most_bytes(knapsack: Knapsack) -> int:
    """Bytes of the smallest choice among those of least loss: a larger capacity buys nothing."""
    least_loss = knapsack.losses.min(axis=1, keepdims=True)
    best = np.where(knapsack.losses == least_loss, knapsack.sizes, np.iinfo(np.int64).max)
    return int(best.min(axis=1).sum())
