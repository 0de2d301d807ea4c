"""Problems: a loss table, a capacity and constraints, checked once with all faults at once."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from raq_solver.allocation import Allocation
from raq_solver.arrays import whole_number
from raq_solver.constraints import Constraint, SideConstraint, tie_groups
from raq_solver.errors import HINTS, Fault, InvalidInput, raise_faults
from raq_solver.losses import LossTable


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that the answer depends on.

    `capacity_bytes` is for the tensor data of the whole file. A capacity that can't be met is not a fault: it is
    found by solving. Raises InvalidInput with every fault of the constraints and every contradiction between them.

    >>> from raq_solver import Pin, solve
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> problem = Problem(table, 450, (Pin(("a",), "Q8_0"),))
    >>> dict(solve(problem).unwrap()[0].types)
    {'a': 'Q8_0', 'b': 'Q4_K'}
    """

    table: LossTable
    capacity_bytes: int
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.table, LossTable):
            raise InvalidInput(Fault("table", f"is a {type(self.table).__name__}; must be a LossTable"))
        object.__setattr__(self, "capacity_bytes", whole_number(self.capacity_bytes, "capacity", "bytes", 0))
        object.__setattr__(self, "constraints", constraints_of(self.constraints))
        faults: list[Fault] = []
        for number, constraint in enumerate(self.constraints, start=1):
            faults += constraint.faults(self.table, title(number, constraint), HINTS - len(faults))
        raise_faults(faults)
        raise_faults(self._contradictions())

    @property
    def has_side_constraints(self) -> bool:
        """Whether constraints are left when those on single tensors and the ties have compiled away."""
        return any(isinstance(constraint, SideConstraint) for constraint in self.constraints)

    def allowed(self) -> Bool[np.ndarray, "tensors types"]:
        """The cells that the table offers and no constraint on single tensors forbids."""
        allowed = self.table.offered.copy()
        for constraint in self.constraints:
            allowed[constraint.rows(self.table)] &= constraint.permitted(self.table)
        return allowed

    def columns_of(self, allocation: Allocation) -> Int64[np.ndarray, " tensors"]:
        """The table column of each tensor's quant type. All tensors must have a type of the table."""
        column = self.table.column_of
        return np.array([column[allocation.types[name]] for name in self.table.tensors], dtype=np.int64)

    def violations(self, allocation: Allocation) -> list[Fault]:
        """The constraints that an allocation breaks, one fault each. All tensors must have a type of the table."""
        columns = self.columns_of(allocation)
        found = [(number, each, each.violation(self.table, columns)) for number, each in enumerate(self.constraints, 1)]
        return [Fault(title(number, constraint), what) for number, constraint, what in found if what]

    def digest(self) -> str:
        """SHA-256 over a canonical form: equal digests mean the same problem."""
        state = hashlib.sha256(b"raq problem 2\0" + self.table.digest().encode())
        state.update(f"\0{self.capacity_bytes}\0".encode())
        for constraint in self.constraints:
            state.update(constraint.canonical().encode() + b"\0")
        return state.hexdigest()

    def _contradictions(self) -> list[Fault]:
        """Tensors, and groups of tied tensors, that are left without a quant type, and by which constraints."""
        allowed = self.allowed()
        culprits = _Culprits(self)
        faults = [
            Fault(self.table.tensors[row], f"no quant type is left by {culprits.of([row])}")
            for row in np.flatnonzero(~allowed.any(axis=1)).tolist()
        ]
        for group in tie_groups(self.constraints):
            rows = [self.table.row_of[name] for name in group]
            # A member that has no type left by itself is a fault already.
            if allowed[rows].any(axis=1).all() and not allowed[rows].all(axis=0).any():
                what = f"the tied tensors have no quant type in common by {culprits.of(rows)}"
                faults.append(Fault(" = ".join(group), what))
        return faults


class _Culprits:
    """The constraints that forbid something that the table offers, by tensor; looked for when first asked."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def of(self, rows: list[int]) -> str:
        """Those of these rows, in words."""
        numbers = sorted({number for row in rows for number in self._by_row[row]})
        named = [title(number, self._problem.constraints[number - 1]) for number in numbers]
        return " and ".join(named) or "the table"

    @cached_property
    def _by_row(self) -> dict[int, list[int]]:
        offered = self._problem.table.offered
        found: dict[int, list[int]] = defaultdict(list)
        for number, constraint in enumerate(self._problem.constraints, start=1):
            rows = np.array(constraint.rows(self._problem.table))
            for row in rows[(offered[rows] & ~constraint.permitted(self._problem.table)).any(axis=1)].tolist():
                found[row].append(number)
        return found


def title(number: int, constraint: Constraint) -> str:
    """The name of a constraint in messages; numbers count from 1."""
    return f"constraint {number} ({type(constraint).__name__})"


def constraints_of(given: object) -> tuple[Constraint, ...]:
    """Constraints as a tuple. Raises InvalidInput for anything that is no constraint."""
    if not isinstance(given, list | tuple):
        raise InvalidInput(Fault("constraints", f"are a {type(given).__name__}; write a tuple of constraints"))
    raise_faults(
        [
            Fault(f"constraint {number}", f"is a {type(each).__name__}; must be a constraint such as Pin or Region")
            for number, each in enumerate(given, start=1)
            if not isinstance(each, Constraint)
        ]
    )
    return tuple(given)
