"""What a constraint means for a table: which cells it permits, what it adds up, whether an allocation keeps it.

Rules
- Bits per weight are compared as whole numbers, never as floats.
- Tensors and types are given by their indices; names have been checked (`faults`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
from jaxtyping import Bool, Int64

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
from raq_solver.losses import LossTable


@dataclass(frozen=True, eq=False)
class Sum:
    """A demand that chosen cells add up to at most `capacity`: `coefficients` of the constraint's tensors."""

    coefficients: Int64[np.ndarray, "tensors types"]
    capacity: int


def rows_of(constraint: Constraint, table: LossTable) -> list[int]:
    """The table rows of a constraint's tensors, in its order."""
    row = table.row_of
    return [row[name] for name in constraint.tensors]


def permitted(constraint: Constraint, table: LossTable) -> Bool[np.ndarray, "tensors types"]:
    """The cells of its tensors that a constraint does not forbid by itself."""
    rows = rows_of(constraint, table)
    cells = np.ones((len(rows), len(table.quant_types)), dtype=bool)
    match constraint:
        case Pin(quant_type=name):
            cells[:] = False
            cells[:, table.column_of[name]] = True
        case Floor(bits=bits):
            cells = ~_below(table, rows, bits)
        case Ceiling(bits=bits):
            cells = ~_above(table, rows, bits)
        case Exclude(quant_types=names):
            cells[:, [table.column_of[name] for name in names]] = False
        case _:
            pass
    return cells


def sums(constraint: Constraint, table: LossTable) -> list[Sum]:
    """The sums that a side constraint limits; none for DistinctTypes and for constraints that compile away."""
    rows = rows_of(constraint, table)
    match constraint:
        case AtMost(count=count, bits=bits):
            return [Sum(_above(table, rows, bits).astype(np.int64), count)]
        case Region(capacity_bytes=capacity):
            return [Sum(table.sizes[rows], capacity)]
        case ActiveBytes(shares=shares, capacity_bytes=capacity):
            common = lcm(*(share.denominator for share in shares))
            factors = np.array([int(share * common) for share in shares], dtype=np.int64)
            return [Sum(table.sizes[rows] * factors[:, None], capacity * common)]
        case Monotone():
            return _rises(table, rows)
        case _:
            return []


def violation(constraint: Constraint, table: LossTable, chosen: Sequence[int]) -> str:
    """What an allocation does against a constraint, in words; empty when it is kept.

    `chosen` holds the column of each of the constraint's tensors.
    """
    names = [table.quant_types[column] for column in chosen]
    given = [f"{tensor} is {name}" for tensor, name in zip(constraint.tensors, names, strict=True)]
    index = np.arange(len(chosen))
    match constraint:
        case Tie():
            return ", ".join(given) if len(set(chosen)) > 1 else ""
        case DistinctTypes(count=count):
            kinds = list(dict.fromkeys(names))
            return f"{len(kinds)} quant types: {', '.join(kinds)}" if len(kinds) > count else ""
        case AtMost() | Region() | ActiveBytes() | Monotone():
            totals = [(int(s.coefficients[index, list(chosen)].sum()), s.capacity) for s in sums(constraint, table)]
            broken = [f"{total:,} where {most:,} are allowed" for total, most in totals if total > most]
            return ("bits per weight fall" if isinstance(constraint, Monotone) else broken[0]) if broken else ""
        case _:
            cells = permitted(constraint, table)[index, list(chosen)]
            return ", ".join(words for words, kept in zip(given, cells, strict=True) if not kept)


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


def _bits(table: LossTable, rows: list[int]) -> np.ndarray:
    # Python's whole numbers: bits times a denominator may pass 2^63.
    return 8 * table.sizes[rows].astype(object)


def _below(table: LossTable, rows: list[int], bits: Fraction) -> Bool[np.ndarray, "tensors types"]:
    below = _bits(table, rows) * bits.denominator < bits.numerator * table.weights[rows, None].astype(object)
    return below.astype(bool)


def _above(table: LossTable, rows: list[int], bits: Fraction) -> Bool[np.ndarray, "tensors types"]:
    above = _bits(table, rows) * bits.denominator > bits.numerator * table.weights[rows, None].astype(object)
    return above.astype(bool)


def _rises(table: LossTable, rows: list[int]) -> list[Sum]:
    """Bits per weight as ranks, so that neighbours of any shape compare in small numbers: rank - next rank <= 0."""
    bits = [[Fraction(int(size), int(table.weights[row])) for size in table.sizes[row]] for row in rows]
    rank: Mapping[Fraction, int] = {
        value: index for index, value in enumerate(sorted({b for row in bits for b in row}))
    }
    ranks = np.array([[rank[value] for value in row] for row in bits], dtype=np.int64)
    falls = []
    for first in range(len(rows) - 1):
        coefficients = np.zeros_like(ranks)
        coefficients[first], coefficients[first + 1] = ranks[first], -ranks[first + 1]
        falls.append(Sum(coefficients, 0))
    return falls
