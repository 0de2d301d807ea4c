"""What can be wrong with a constraint: every fault at once, each naming the constraint and the way out."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Bool

from raq_solver.constraint_cells import permitted, rows_of, tie_groups
from raq_solver.constraints import (
    ActiveBytes,
    AtMost,
    Ceiling,
    Constraint,
    DistinctTypes,
    Exclude,
    Floor,
    Monotone,
    Pin,
    Region,
    Tie,
)
from raq_solver.errors import Fault, near_misses
from raq_solver.losses import LossTable


def title(number: int, constraint: Constraint) -> str:
    """How messages call a constraint; numbers count from 1."""
    return f"constraint {number} ({type(constraint).__name__})"


def constraint_faults(constraint: Constraint, table: LossTable, where: str) -> list[Fault]:
    """What is wrong with one constraint by itself."""
    faults = [
        Fault(where, f"no tensor named {name}{near_misses(name, table.tensors)}")
        for name in _unknown(constraint.tensors, table.row_of)
    ]
    faults += [
        Fault(where, f"names {name} {count} times") for name, count in Counter(constraint.tensors).items() if count > 1
    ]
    if not constraint.tensors:
        faults.append(Fault(where, "names no tensor"))
    return faults + [Fault(where, what) for what in _own_faults(constraint, table)]


def contradictions(
    table: LossTable, constraints: Sequence[Constraint], allowed: Bool[np.ndarray, "tensors types"]
) -> list[Fault]:
    """Tensors, and groups of tied tensors, that are left without a quant type, and by which constraints."""
    faults = [
        Fault(table.tensors[row], f"no quant type is left by {_culprits(table, constraints, [row])}")
        for row in np.flatnonzero(~allowed.any(axis=1)).tolist()
    ]
    for group in tie_groups(constraints):
        rows = [table.row_of[name] for name in group]
        if allowed[rows].any(axis=1).all() and not allowed[rows].all(axis=0).any():
            culprits = _culprits(table, constraints, rows)
            faults.append(Fault(" = ".join(group), f"the tied tensors have no quant type in common by {culprits}"))
    return faults


def _culprits(table: LossTable, constraints: Sequence[Constraint], rows: list[int]) -> str:
    """The constraints that forbid something that the table offers to these tensors."""
    culprits = []
    for number, constraint in enumerate(constraints, start=1):
        at = {row: position for position, row in enumerate(rows_of(constraint, table))}
        cells = permitted(constraint, table)
        if any(row in at and (table.offered[row] & ~cells[at[row]]).any() for row in rows):
            culprits.append(title(number, constraint))
    return " and ".join(culprits) or "the table"


def _own_faults(constraint: Constraint, table: LossTable) -> list[str]:
    faults: list[str] = []
    match constraint:
        case Pin(quant_type=name):
            faults = _type_faults((name,), table)
        case Exclude(quant_types=names):
            faults = _type_faults(names, table) if names else ["names no quant type"]
        case Floor(bits=bits) | Ceiling(bits=bits):
            faults = _bits_faults(bits, table)
        case AtMost(count=count, bits=bits):
            faults = _bits_faults(bits, table) + ([f"{count} tensors; must be at least 0"] if count < 0 else [])
        case DistinctTypes(count=count):
            faults = [f"{count} quant types; must be at least 1"] if count < 1 else []
        case Region(capacity_bytes=capacity):
            faults = _capacity_faults(capacity)
        case ActiveBytes(shares=shares, capacity_bytes=capacity):
            faults = _capacity_faults(capacity) + _share_faults(constraint.tensors, shares)
        case Monotone():
            faults = _weights_faults(table)
        case Tie():
            pass
    return faults


def _bits_faults(bits: Fraction, table: LossTable) -> list[str]:
    return ([f"{bits} bits; must be more than 0"] if bits <= 0 else []) + _weights_faults(table)


def _weights_faults(table: LossTable) -> list[str]:
    return [] if table.total_weights else ["needs the number of weights of every tensor"]


def _capacity_faults(capacity: int) -> list[str]:
    return [f"{capacity} bytes; must be at least 0"] if capacity < 0 else []


def _share_faults(tensors: Sequence[str], shares: Sequence[Fraction]) -> list[str]:
    if len(shares) != len(tensors):
        return [f"{len(shares)} shares for {len(tensors)} tensors"]
    wrong = [f"{name} {share}" for name, share in zip(tensors, shares, strict=True) if not 0 <= share <= 1]
    return [f"a share lies between 0 and 1, not so {', '.join(wrong)}"] if wrong else []


def _type_faults(names: Iterable[str], table: LossTable) -> list[str]:
    known = ", ".join(table.quant_types)
    return [f"{name} is not among the quant types {known}" for name in _unknown(names, table.column_of)]


def _unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    known = set(known)
    return [name for name in dict.fromkeys(names) if name not in known]
