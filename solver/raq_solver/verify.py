"""Verification of an outcome in O(tensors × types), independent of the search that found it.

Rules
- Everything is recomputed from the problem: size in whole numbers, loss, constraints, and the Lagrangian bound from
  the outcome's multiplier.
- The bound is computed as a gap below the allocation's own loss: a sum of numbers that are not negative, so that no
  digits are lost when the price of the capacity is much larger than the loss.
- The multiplier alone rarely closes the gap, because whole tensors do not fill a capacity to the byte. The rest of the
  gap is reported; that no better allocation lies in it depends on the search (or on solving again).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from raq_solver.allocation import Ledger, account
from raq_solver.constraints import tie_groups
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Linear, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem

_ROUNDING = 1e-9
"""Losses that differ by no more than this, relatively, count as the same number."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of verifying an outcome. `faults` is empty when every claim that can be checked holds.

    `size` and `loss` are recomputed, None without an allocation. `certified_bound` is the bound that the multiplier
    alone proves: no allocation that keeps all constraints and fits the capacity has a lower loss.
    `certified_infeasible`: the smallest choice of all is larger than the capacity.

    >>> from raq_solver import LossTable, solve
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> problem = Problem(table, 450)
    >>> found = verify(problem, solve(problem))
    >>> found.holds, found.size, found.loss
    (True, 416, 0.1)
    """

    termination: Termination
    faults: tuple[Fault, ...]
    size: int | None
    loss: float | None
    certified_bound: float | None
    certified_infeasible: bool = False

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def certified_gap(self) -> float | None:
        """Largest distance from the least possible loss by the certificate alone, relative to the loss."""
        if self.loss is None or self.certified_bound is None:
            return None
        return max(0.0, self.loss - self.certified_bound) / self.loss if self.loss > 0 else 0.0

    @property
    def proven_by_certificate(self) -> bool:
        """Whether the certificate alone proves the claim: an optimum to within rounding (1e-9), or infeasibility."""
        optimal = self.certified_gap is not None and self.certified_gap <= _ROUNDING
        return self.holds and (optimal or self.certified_infeasible)

    def __str__(self) -> str:
        if self.faults:
            return "does not hold: " + "; ".join(str(fault) for fault in self.faults)
        if self.proven_by_certificate:
            return "holds, proven by the certificate alone: " + self.termination.value
        if self.certified_gap is None:
            return f"nothing contradicts it, but it rests on the search: {self.termination.value}"
        return (
            f"holds: the certificate alone proves that no allocation is better by more than {self.certified_gap:.3g} "
            "of the loss; that none lies in between rests on the search"
        )


def verify(problem: Problem, outcome: Outcome) -> Verification:
    """Verify an outcome of the problem: size, loss, capacity, constraints and bound.

    >>> from dataclasses import replace
    >>> from raq_solver import LossTable, solve
    >>> problem = Problem(LossTable(("a",), ("Q8_0", "Q4_K"), [256], [[272, 144]], [[0.0, 0.1]]), 272)
    >>> outcome = solve(problem)
    >>> verify(problem, outcome).proven_by_certificate
    True
    >>> print(verify(problem, replace(outcome, bound=0.5)))
    does not hold: bound: 0.5; the allocation's own loss is 0.0
    """
    if outcome.allocation is None or outcome.ledger is None:
        return _verify_empty(problem, outcome)
    try:
        ledger = account(outcome.allocation, problem.table, problem.capacity_bytes)
    except InvalidInput as error:
        return Verification(outcome.termination, error.faults, None, None, None)
    faults = [*problem.violations(outcome.allocation), *_ledger_faults(ledger, outcome.ledger)]
    faults += termination_faults(outcome.termination, found=True)
    prices = (outcome.multiplier, *outcome.constraint_multipliers)
    if not all(price is not None and 0 <= price < math.inf for price in prices):
        faults.append(Fault("multiplier", f"{prices}; must be numbers of at least 0"))
        return Verification(outcome.termination, tuple(faults), ledger.size, ledger.loss, None)
    bound = ledger.loss - _lagrangian_gap(problem, outcome)
    faults += _bound_faults(outcome, ledger)
    return Verification(outcome.termination, tuple(faults), ledger.size, ledger.loss, bound)


def termination_faults(claimed: Termination, *, found: bool) -> list[Fault]:
    """The fault of an outcome that claims an allocation and has none, or the reverse."""
    if (claimed in (Termination.OPTIMAL, Termination.FEASIBLE)) == found:
        return []
    return [Fault("outcome", f"{claimed.name} {'with' if found else 'without'} an allocation")]


def _lagrangian_gap(problem: Problem, outcome: Outcome) -> float:
    """The savings that groups of tied tensors could still make at these prices, plus the price of unused capacity.

    Infinite for prices so large that nothing can be computed with them.
    """
    table = problem.table
    chosen = problem.columns_of(outcome.unwrap()[0])
    index = np.arange(chosen.size)
    multiplier = outcome.multiplier or 0.0
    sizes = table.sizes[index, chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        saved = multiplier * (sizes[:, None] - table.sizes)
        unused = [multiplier * (problem.capacity_bytes - int(sizes.sum()))]
        for constraint, price in zip(problem.constraints, outcome.constraint_multipliers, strict=False):
            for row in constraint.side_rows(table) if price > 0 else []:
                if isinstance(row, Linear):
                    taken = row.coefficients[np.arange(row.rows.size), chosen[row.rows]]
                    saved[row.rows] += price * (taken[:, None] - row.coefficients)
                    unused.append(-price * row.excess(chosen))
        saved += table.losses[index, chosen][:, None] - np.where(problem.allowed(), table.losses, np.inf)
        groups = _groups(problem)
        in_group = np.zeros((groups.max() + 1, saved.shape[1]))
        np.add.at(in_group, groups, saved)
    terms = [*in_group.max(axis=1).tolist(), *unused]
    return math.fsum(terms) if math.isfinite(sum(terms)) else math.inf


def _groups(problem: Problem) -> Int64[np.ndarray, " tensors"]:
    """A number for each tensor, the same for tied ones."""
    number = {name: index for index, name in enumerate(problem.table.tensors)}
    groups = np.arange(len(number))
    for group in tie_groups(problem.constraints):
        groups[[number[name] for name in group]] = number[group[0]]
    return np.unique(groups, return_inverse=True)[1]


def _ledger_faults(recomputed: Ledger, claimed: Ledger) -> list[Fault]:
    faults = []
    if recomputed.entries != claimed.entries:
        wrong = [a.tensor for a, b in zip(recomputed.entries, claimed.entries, strict=False) if a != b]
        where = ", ".join(wrong) or f"{len(claimed.entries)} entries for {len(recomputed.entries)} tensors"
        faults.append(Fault("ledger", f"differs from the table: {where}"))
    if claimed.capacity != recomputed.capacity:
        faults.append(Fault("ledger", f"capacity {claimed.capacity}; the problem's is {recomputed.capacity}"))
    if recomputed.slack < 0:
        faults.append(Fault("capacity", f"{recomputed.size} bytes; the capacity is {recomputed.capacity}"))
    return faults


def _bound_faults(outcome: Outcome, ledger: Ledger) -> list[Fault]:
    claimed, loss = outcome.bound, ledger.loss
    faults = []
    if claimed is None or not claimed <= loss * (1 + _ROUNDING):
        faults.append(Fault("bound", f"{claimed}; the allocation's own loss is {loss}"))
    elif outcome.termination is Termination.OPTIMAL and loss - claimed > loss * _ROUNDING:
        faults.append(Fault("bound", f"{claimed} leaves a gap to the loss {loss}, but the claim is an optimum"))
    return faults


def _verify_empty(problem: Problem, outcome: Outcome) -> Verification:
    """Verify an outcome without an allocation: the smallest choice, side constraints ignored, must be too large."""
    table, group = problem.table, _groups(problem)
    shape = (int(group.max()) + 1, len(table.quant_types))
    sizes, blocked = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    np.add.at(sizes, group, table.sizes)
    np.logical_or.at(blocked, group, ~problem.allowed())
    least = int(np.where(blocked, np.iinfo(np.int64).max, sizes).min(axis=1).sum())
    faults = termination_faults(outcome.termination, found=False)
    infeasible = outcome.termination is Termination.INFEASIBLE
    if infeasible and least <= problem.capacity_bytes and not problem.has_side_constraints:
        faults.append(Fault("outcome", f"claimed infeasible, but {least} bytes are possible"))
    certified = infeasible and least > problem.capacity_bytes
    return Verification(outcome.termination, tuple(faults), None, None, None, certified)
