"""Every allocation of a small problem, judged by the plain words of each constraint: independent of the compiler."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

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
from raq_solver.problem import Problem


def feasible(problem: Problem) -> Iterator[tuple[dict[str, str], int, float]]:
    """All allocations that keep capacity and constraints, with size and loss."""
    table = problem.table
    offered = [[q for q, loss in enumerate(row) if math.isfinite(loss)] for row in table.losses]
    for columns in itertools.product(*offered):
        size = sum(int(table.sizes[t, q]) for t, q in enumerate(columns))
        if size <= problem.capacity_bytes and all(keeps(c, problem, columns) for c in problem.constraints):
            types = {name: table.quant_types[q] for name, q in zip(table.tensors, columns, strict=True)}
            yield types, size, math.fsum(float(table.losses[t, q]) for t, q in enumerate(columns))


def keeps(constraint: Constraint, problem: Problem, columns: tuple[int, ...]) -> bool:
    """Whether an allocation keeps a constraint."""
    table = problem.table
    rows = [table.tensors.index(name) for name in constraint.tensors]
    names = [table.quant_types[columns[row]] for row in rows]
    sizes = [int(table.sizes[row, columns[row]]) for row in rows]
    bits = [Fraction(8 * size, int(table.weights[row])) for size, row in zip(sizes, rows, strict=True)]
    match constraint:
        case Pin(quant_type=name):
            kept = all(given == name for given in names)
        case Exclude(quant_types=forbidden):
            kept = not set(names) & set(forbidden)
        case Tie():
            kept = len(set(names)) == 1
        case DistinctTypes(count=count):
            kept = len(set(names)) <= count
        case Region(capacity_bytes=capacity):
            kept = sum(sizes) <= capacity
        case ActiveBytes(shares=shares, capacity_bytes=capacity):
            kept = sum(share * size for share, size in zip(shares, sizes, strict=True)) <= capacity
        case Floor() | Ceiling() | AtMost() | Monotone():
            kept = keeps_bits(constraint, bits)
    return kept


def keeps_bits(constraint: Floor | Ceiling | AtMost | Monotone, bits: list[Fraction]) -> bool:
    """Whether bits per weight, in the order of the constraint's tensors, keep it."""
    match constraint:
        case Floor(bits=least):
            kept = all(given >= least for given in bits)
        case Ceiling(bits=most):
            kept = all(given <= most for given in bits)
        case AtMost(count=count, bits=most):
            kept = sum(given > most for given in bits) <= count
        case Monotone():
            kept = all(before <= after for before, after in pairwise(bits))
    return kept
