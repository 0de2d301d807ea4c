"""From a problem with names to a knapsack of arrays, and the way back.

Rules
- Pins, floors, ceilings and exclusions clear cells; each group of tied tensors becomes one row, whose sizes and
  losses are the sums over its tensors. What is left are side rows.
- The way back trusts nothing: the ledger is recomputed from the table in whole numbers.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from raq_solver.allocation import Allocation, account
from raq_solver.constraint_cells import rows_of, sums, tie_groups
from raq_solver.constraints import DistinctTypes
from raq_solver.errors import BackendFailure
from raq_solver.knapsack import Distinct, Knapsack, KnapsackSolution, Linear, SideRow
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem


@dataclass(frozen=True, eq=False)
class Decoder:
    """The inverse half of formulating: knows which knapsack row each tensor went into."""

    problem: Problem
    row_of_tensor: Int64[np.ndarray, " tensors"]
    least_bytes: int
    most_bytes: int
    side_owners: tuple[int, ...] = ()

    def outcome(self, solution: KnapsackSolution, seconds: float) -> Outcome:
        """The outcome of a backend's solution.

        Raises BackendFailure if the picks do not fit the capacity, which no backend may claim.
        """
        if solution.picks is None:
            return Outcome(solution.termination, None, None, None, None, self.least_bytes, self.most_bytes, seconds)
        table = self.problem.table
        columns = solution.picks[self.row_of_tensor]
        chosen = {name: table.quant_types[column] for name, column in zip(table.tensors, columns, strict=True)}
        allocation = Allocation(chosen)
        ledger = account(allocation, table, self.problem.capacity_bytes)
        if ledger.slack < 0:
            raise BackendFailure(f"the backend's allocation has {ledger.size} bytes, capacity {ledger.capacity}")
        broken = self.problem.violations(allocation)
        if broken:
            raise BackendFailure("the backend's allocation breaks " + "; ".join(map(str, broken)))
        return Outcome(
            solution.termination,
            allocation,
            ledger,
            min(solution.bound, ledger.loss),
            solution.multiplier,
            self.least_bytes,
            self.most_bytes,
            seconds,
            self._prices(solution),
        )

    def _prices(self, solution: KnapsackSolution) -> tuple[float, ...]:
        """The multipliers of the side rows by constraint. One that has several rows (Monotone) is not priced."""
        if not self.side_owners:
            return ()
        prices = [0.0] * len(self.problem.constraints)
        for owner, price in zip(self.side_owners, solution.side_multipliers, strict=True):
            if self.side_owners.count(owner) == 1:
                prices[owner] = price
        return tuple(prices)


def formulate(problem: Problem) -> tuple[Knapsack, Decoder]:
    """The pure knapsack of a problem, and the way back."""
    table = problem.table
    allowed = problem.allowed()
    row_of_tensor = _rows(problem)
    rows = int(row_of_tensor.max()) + 1
    shape = (rows, len(table.quant_types))
    sizes = np.zeros(shape, dtype=np.int64)
    losses = np.zeros(shape)
    np.add.at(sizes, row_of_tensor, table.sizes)
    np.add.at(losses, row_of_tensor, np.where(allowed, table.losses, np.inf))
    side, owners = side_rows(problem, row_of_tensor)
    knapsack = Knapsack(sizes, losses, problem.capacity_bytes, side)
    return knapsack, Decoder(problem, row_of_tensor, knapsack.least_size(), _most_bytes(knapsack), tuple(owners))


def side_rows(problem: Problem, row_of_tensor: Int64[np.ndarray, " tensors"]) -> tuple[tuple[SideRow, ...], list[int]]:
    """The side rows of a problem, and the index of the constraint that each comes from.

    Coefficients of tied tensors add up in their common row.
    """
    rows: list[SideRow] = []
    owners: list[int] = []
    for number, constraint in enumerate(problem.constraints):
        tensors = row_of_tensor[rows_of(constraint, problem.table)]
        distinct, where = np.unique(tensors, return_inverse=True)
        if isinstance(constraint, DistinctTypes):
            rows.append(Distinct(distinct, constraint.count))
            owners.append(number)
        for demand in sums(constraint, problem.table):
            coefficients = np.zeros((distinct.size, demand.coefficients.shape[1]), dtype=np.int64)
            np.add.at(coefficients, where, demand.coefficients)
            used = coefficients.any(axis=1)
            rows.append(Linear(distinct[used], coefficients[used], demand.capacity))
            owners.append(number)
    return tuple(rows), owners


def _rows(problem: Problem) -> Int64[np.ndarray, " tensors"]:
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
