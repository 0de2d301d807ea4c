"""Outcomes: results of solves, which state what the caller may rely on even when there is no allocation."""

from dataclasses import dataclass

from raq_solver.allocation import Allocation, Ledger
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of solving a problem.

    Losses are in the unit of the table. `bound` and `multiplier` are None exactly when there is no allocation. `bound`
    is the proven least loss; `multiplier` (loss per byte) is the certificate that `verify` recomputes a bound from.
    `constraint_multipliers` belong to it: one price for each constraint of the problem, in loss per unit of capacity
    (bytes, tensors); 0 where the bound does without it; empty when the problem has no side constraints.
    `least_bytes` and `most_bytes` are the range of capacities that make a difference: below the first no allocation
    fits, above the second none is better. Both ignore side constraints.

    >>> from raq_solver import LossTable, Problem, solve
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> outcome = solve(Problem(table, 450))
    >>> outcome.ledger.loss, outcome.gap, outcome.least_bytes, outcome.most_bytes
    (0.1, 0.0, 288, 544)
    """

    termination: Termination
    allocation: Allocation | None
    ledger: Ledger | None
    bound: float | None
    multiplier: float | None
    least_bytes: int
    most_bytes: int
    seconds: float
    constraint_multipliers: tuple[float, ...] = ()

    @property
    def gap(self) -> float | None:
        """Distance of the loss from the bound, relative to the loss; 0 when proven optimal."""
        if self.ledger is None or self.bound is None:
            return None
        loss = self.ledger.loss
        return max(0.0, loss - self.bound) / loss if loss > 0 else 0.0

    def unwrap(self) -> tuple[Allocation, Ledger]:
        """The allocation and its ledger. Raises InvalidInput, with the way out, when there is none."""
        if self.allocation is None or self.ledger is None:
            way_out = f"the least that can be reached is {self.least_bytes:,} bytes"
            if self.termination is Termination.NO_SOLUTION_FOUND:
                way_out = "allow more time"
            raise InvalidInput(Fault("budget", f"{self.termination.value}; {way_out}"))
        return self.allocation, self.ledger
