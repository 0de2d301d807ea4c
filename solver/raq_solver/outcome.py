"""What came of a solve: a value that says what may be relied on, also when there is no allocation."""

from dataclasses import dataclass

from raq_solver.allocation import Allocation, Ledger
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of solving a problem.

    `bound` and `multiplier` are None exactly when there is no allocation. `bound` is the proven least loss;
    `multiplier` (nats per token per byte) is the certificate that `verify` recomputes a bound from.
    `constraint_multipliers` belong to it: one price for each constraint of the problem, in loss per unit of what it
    limits (bytes, tensors); 0 where the bound does without it; empty when the problem has no side constraints.
    `least_bytes` and `most_bytes` say which capacities make a difference: below the first nothing fits, above the
    second nothing gets better (side constraints not regarded).
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
        """How far the loss is from the bound, relative to the loss; 0 when proven optimal."""
        if self.ledger is None or self.bound is None:
            return None
        loss = self.ledger.loss
        return max(0.0, loss - self.bound) / loss if loss > 0 else 0.0

    def unwrap(self) -> tuple[Allocation, Ledger]:
        """The allocation and its ledger. Raises InvalidInput, with the way out, when there is none."""
        if self.allocation is None or self.ledger is None:
            what = f"{self.termination.value}; the least that can be reached is {self.least_bytes:,} bytes"
            raise InvalidInput(Fault("budget", what))
        return self.allocation, self.ledger
