"""Check an outcome without trusting who found it: in O(tensors × types), with nothing of a search.

Rules
- Everything is recomputed from the problem: size in whole numbers, loss, constraints, and the Lagrangian bound from
  the outcome's multiplier.
- The bound is reckoned as a gap below the allocation's own loss: a sum of numbers that are not negative, so that no
  digits are lost when the price of the capacity is much larger than the loss.
- The multiplier alone rarely closes the gap: whole tensors do not fill a capacity to the byte. What it leaves open
  is reported; that nothing lies in it rests on the search (or on solving again).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.allocation import Allocation, Ledger, account
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem, tie_groups

_ROUNDING = 1e-9
"""Losses that differ by no more than this, relatively, count as the same number."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check found. `faults` is empty when everything claimed that can be checked holds.

    `size` and `loss` are recomputed, None without an allocation. `certified_bound` is what the multiplier alone
    proves: no allocation that keeps all constraints and fits the capacity has a lower loss.
    """

    termination: Termination
    faults: tuple[Fault, ...]
    size: int | None
    loss: float | None
    certified_bound: float | None

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not self.faults

    @property
    def certified_gap(self) -> float | None:
        """How far the loss may be from the least possible by the certificate alone, relative to the loss."""
        if self.loss is None or self.certified_bound is None:
            return None
        return max(0.0, self.loss - self.certified_bound) / self.loss if self.loss > 0 else 0.0

    @property
    def proven_by_certificate(self) -> bool:
        """Whether the certificate alone proves the optimum, to within rounding (1e-9)."""
        return self.holds and self.certified_gap is not None and self.certified_gap <= _ROUNDING

    def __str__(self) -> str:
        if self.faults:
            return "does not hold: " + "; ".join(str(fault) for fault in self.faults)
        if self.certified_gap is None:
            return f"holds: {self.termination.value}"
        if self.proven_by_certificate:
            return "holds: the multiplier alone proves the optimum"
        return (
            f"holds: the multiplier alone proves that no allocation is better by more than {self.certified_gap:.3g} "
            "of the loss; that none lies in between rests on the search"
        )


def verify(problem: Problem, outcome: Outcome) -> Verification:
    """Recheck an outcome of the problem: size, loss, capacity, constraints and bound."""
    if outcome.allocation is None or outcome.ledger is None:
        return Verification(outcome.termination, tuple(_empty_faults(problem, outcome)), None, None, None)
    try:
        ledger = account(outcome.allocation, problem.table, problem.capacity_bytes)
    except InvalidInput as error:
        return Verification(outcome.termination, error.faults, None, None, None)
    faults = [*problem.violations(outcome.allocation), *_ledger_faults(ledger, outcome.ledger)]
    multiplier = outcome.multiplier
    if multiplier is None or not 0 <= multiplier < math.inf:
        faults.append(Fault("multiplier", f"{multiplier}; must be a number of at least 0"))
        return Verification(outcome.termination, tuple(faults), ledger.size, ledger.loss, None)
    bound = ledger.loss - _lagrangian_gap(problem, outcome.allocation, multiplier) - multiplier * ledger.slack
    faults += _bound_faults(outcome, ledger, bound)
    return Verification(outcome.termination, tuple(faults), ledger.size, ledger.loss, bound)


def _lagrangian_gap(problem: Problem, allocation: Allocation, multiplier: float) -> float:
    """How much each group of tied tensors could still save at this price of a byte, added up."""
    table = problem.table
    column = {name: index for index, name in enumerate(table.quant_types)}
    chosen = np.array([column[allocation.types[name]] for name in table.tensors])
    index = np.arange(len(chosen))
    losses = np.where(problem.allowed(), table.losses, np.inf)
    saved = table.losses[index, chosen][:, None] - losses
    spared = table.sizes[index, chosen][:, None] - table.sizes
    group = _groups(problem)
    group_saved = np.zeros((group.max() + 1, saved.shape[1]))
    group_spared = np.zeros(group_saved.shape)
    np.add.at(group_saved, group, saved)
    np.add.at(group_spared, group, spared)
    gains: Float64[np.ndarray, " groups"] = (group_saved + multiplier * group_spared).max(axis=1)
    return math.fsum(gains.tolist())


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


def _bound_faults(outcome: Outcome, ledger: Ledger, certified: float) -> list[Fault]:
    claimed, loss = outcome.bound, ledger.loss
    faults = []
    if claimed is None or not claimed <= loss * (1 + _ROUNDING):
        faults.append(Fault("bound", f"{claimed}; the allocation's own loss is {loss}"))
    elif outcome.termination is Termination.OPTIMAL and loss - claimed > loss * _ROUNDING:
        faults.append(Fault("bound", f"{claimed} leaves a gap to the loss {loss}, but the claim is an optimum"))
    if certified > loss * (1 + _ROUNDING):
        faults.append(Fault("multiplier", f"proves {certified}, more than the loss {loss}: a fault of this check"))
    return faults


def _empty_faults(problem: Problem, outcome: Outcome) -> list[Fault]:
    """Faults of an outcome without an allocation: only a capacity below the smallest choice is infeasible."""
    if outcome.termination is Termination.NO_SOLUTION_FOUND:
        return []
    if outcome.termination is not Termination.INFEASIBLE:
        return [Fault("outcome", f"{outcome.termination.name} without an allocation")]
    table, group = problem.table, _groups(problem)
    shape = (int(group.max()) + 1, len(table.quant_types))
    sizes, blocked = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    np.add.at(sizes, group, table.sizes)
    np.logical_or.at(blocked, group, ~problem.allowed())
    least = int(np.where(blocked, np.iinfo(np.int64).max, sizes).min(axis=1).sum())
    if least <= problem.capacity_bytes:
        return [Fault("outcome", f"claimed infeasible, but {least} bytes are possible")]
    return []
