"""The whole problem: table, capacity, constraints. Checked once, all faults at once."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from raq_solver.allocation import Allocation
from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Tie
from raq_solver.errors import Fault, near_misses, raise_faults
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
            faults += _constraint_faults(constraint, self.table, f"constraint {number}")
        raise_faults(faults)
        raise_faults(_contradictions(self))

    def allowed(self) -> Bool[np.ndarray, "tensors types"]:
        """The cells that the table offers and no constraint forbids (ties not regarded)."""
        allowed = self.table.offered
        row = {name: index for index, name in enumerate(self.table.tensors)}
        column = {name: index for index, name in enumerate(self.table.quant_types)}
        for constraint in self.constraints:
            rows = [row[name] for name in constraint.tensors]
            allowed[rows] &= _permitted(constraint, self.table, rows, column)
        return allowed

    def violations(self, allocation: Allocation) -> list[Fault]:
        """The constraints that an allocation breaks, one fault each. All tensors must have a known type."""
        faults = []
        row = {name: index for index, name in enumerate(self.table.tensors)}
        column = {name: index for index, name in enumerate(self.table.quant_types)}
        for number, constraint in enumerate(self.constraints, start=1):
            rows = [row[name] for name in constraint.tensors]
            chosen = [allocation.types[name] for name in constraint.tensors]
            permitted = _permitted(constraint, self.table, rows, column)
            broken = [
                f"{name} is {quant_type}"
                for name, quant_type, cells in zip(constraint.tensors, chosen, permitted, strict=True)
                if not cells[column[quant_type]]
            ]
            if isinstance(constraint, Tie) and len(set(chosen)) > 1:
                broken = [
                    f"{name} is {quant_type}" for name, quant_type in zip(constraint.tensors, chosen, strict=True)
                ]
            if broken:
                faults.append(Fault(f"constraint {number} ({type(constraint).__name__})", ", ".join(broken)))
        return faults

    def digest(self) -> str:
        """SHA-256 over a canonical form: equal digests mean the same problem."""
        state = hashlib.sha256(b"raq problem 1\0" + self.table.digest().encode())
        state.update(f"\0{self.capacity_bytes}\0".encode())
        for constraint in self.constraints:
            state.update(repr(constraint).encode() + b"\0")
        return state.hexdigest()


def _permitted(
    constraint: Constraint, table: LossTable, rows: list[int], column: dict[str, int]
) -> Bool[np.ndarray, "rows types"]:
    permitted = np.ones((len(rows), len(table.quant_types)), dtype=bool)
    match constraint:
        case Pin(quant_type=name):
            permitted[:] = False
            permitted[:, column[name]] = True
        case Floor(bits=bits):
            permitted = _bits(table, rows) * bits.denominator >= bits.numerator * _weights(table, rows)
        case Ceiling(bits=bits):
            permitted = _bits(table, rows) * bits.denominator <= bits.numerator * _weights(table, rows)
        case Exclude(quant_types=names):
            permitted[:, [column[name] for name in names]] = False
        case Tie():
            pass
    return permitted


def _bits(table: LossTable, rows: list[int]) -> np.ndarray:
    # Python's whole numbers: bits times a denominator may pass 2^63.
    return 8 * table.sizes[rows].astype(object)


def _weights(table: LossTable, rows: list[int]) -> np.ndarray:
    return table.weights[rows, None].astype(object)


def _constraint_faults(constraint: Constraint, table: LossTable, where: str) -> list[Fault]:
    where = f"{where} ({type(constraint).__name__})"
    faults = [
        Fault(where, f"no tensor named {name}{near_misses(name, table.tensors)}")
        for name in _unknown(constraint.tensors, table.tensors)
    ]
    if not constraint.tensors:
        faults.append(Fault(where, "names no tensor"))
    match constraint:
        case Pin(quant_type=name):
            faults += _type_faults((name,), table, where)
        case Exclude(quant_types=names):
            faults += _type_faults(names, table, where)
        case Floor(bits=bits) | Ceiling(bits=bits):
            if bits <= 0:
                faults.append(Fault(where, f"{bits} bits; must be more than 0"))
            if max(abs(bits.numerator), bits.denominator) >= 2**63:
                faults.append(Fault(where, "bits have more digits than a message can carry"))
            if table.total_weights == 0:
                faults.append(Fault(where, "needs the number of weights of every tensor"))
        case Tie(tensors=names):
            if len(set(names)) != len(names):
                faults.append(Fault(where, "names a tensor twice"))
    return faults


def _type_faults(names: Iterable[str], table: LossTable, where: str) -> list[Fault]:
    return [
        Fault(where, f"{name} is not among the quant types {', '.join(table.quant_types)}")
        for name in _unknown(names, table.quant_types)
    ]


def _unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    known = set(known)
    return [name for name in dict.fromkeys(names) if name not in known]


def _contradictions(problem: Problem) -> list[Fault]:
    allowed = problem.allowed()
    faults = [
        Fault(problem.table.tensors[t], "its constraints leave no quant type")
        for t in np.flatnonzero(~allowed.any(axis=1))
    ]
    row = {name: index for index, name in enumerate(problem.table.tensors)}
    for group in tie_groups(problem.constraints):
        rows = [row[name] for name in group]
        if allowed[rows].any(axis=1).all() and not allowed[rows].all(axis=0).any():
            faults.append(Fault(" = ".join(group), "tied tensors have no quant type in common"))
    return faults


def tie_groups(constraints: Iterable[Constraint]) -> list[tuple[str, ...]]:
    """The groups that share one type: ties that overlap are one group."""
    group_of: dict[str, list[str]] = {}
    for constraint in constraints:
        if not isinstance(constraint, Tie):
            continue
        merged = list(dict.fromkeys(m for name in constraint.tensors for m in group_of.get(name, [name])))
        for name in merged:
            group_of[name] = merged
    distinct = {id(group): tuple(group) for group in group_of.values()}
    return list(distinct.values())
