"""The whole problem: table, capacity, constraints. Checked once, all faults at once."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from raq_solver.allocation import Allocation
from raq_solver.constraint_cells import permitted, rows_of, violation
from raq_solver.constraint_checks import constraint_faults, contradictions, title
from raq_solver.constraints import Constraint, SideConstraint
from raq_solver.errors import Fault, raise_faults
from raq_solver.losses import LossTable


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that the answer depends on.

    `capacity_bytes` is for the tensor data of the whole file. A budget that can't be met is not a fault: it is
    found by solving. Raises InvalidInput with every fault of the constraints.
    """

    table: LossTable
    capacity_bytes: int
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        faults = [Fault("capacity", f"{self.capacity_bytes} bytes; must be at least 0")]
        faults = faults if self.capacity_bytes < 0 else []
        for number, constraint in enumerate(self.constraints, start=1):
            faults += constraint_faults(constraint, self.table, title(number, constraint))
        raise_faults(faults)
        raise_faults(contradictions(self.table, self.constraints, self.allowed()))

    @property
    def has_side_constraints(self) -> bool:
        """Whether constraints are left when those on single tensors and the ties have compiled away."""
        return any(isinstance(constraint, SideConstraint) for constraint in self.constraints)

    def allowed(self) -> Bool[np.ndarray, "tensors types"]:
        """The cells that the table offers and no constraint forbids by itself (ties, side constraints not regarded)."""
        allowed = self.table.offered.copy()
        for constraint in self.constraints:
            allowed[rows_of(constraint, self.table)] &= permitted(constraint, self.table)
        return allowed

    def violations(self, allocation: Allocation) -> list[Fault]:
        """The constraints that an allocation breaks, one fault each. All tensors must have a type of the table."""
        faults = []
        for number, constraint in enumerate(self.constraints, start=1):
            chosen = [self.table.column_of[allocation.types[name]] for name in constraint.tensors]
            what = violation(constraint, self.table, chosen)
            if what:
                faults.append(Fault(title(number, constraint), what))
        return faults

    def digest(self) -> str:
        """SHA-256 over a canonical form: equal digests mean the same problem."""
        state = hashlib.sha256(b"raq problem 1\0" + self.table.digest().encode())
        state.update(f"\0{self.capacity_bytes}\0".encode())
        for constraint in self.constraints:
            state.update(repr(constraint).encode() + b"\0")
        return state.hexdigest()
