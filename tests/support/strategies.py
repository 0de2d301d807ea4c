"""Hypothesis strategies, one per domain type, shared by all property tests."""

from dataclasses import fields
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from raq_solver.constraints import (
    CONSTRAINT_KINDS,
    Constraint,
    DistinctTypes,
    Monotone,
    SideConstraint,
    Source,
)
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Distinct, Knapsack, Linear, SideRow
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.questions.worst_case import Domains, WorstCaseMeasure


@st.composite
def knapsacks(
    draw: st.DrawFn, *, most_rows: int = 6, most_types: int = 5, largest_size: int = 40, feasible: bool | None = None
) -> Knapsack:
    """Knapsacks with the shapes that are hard: a row that owns most of the bytes, few distinct sizes, losses that do
    not fall with size, zeros, many orders of magnitude, rows with one allowed cell, capacities met exactly."""
    rows = draw(st.integers(1, most_rows))
    types = draw(st.integers(1, most_types))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "few sizes", "same steps", "proportional", "one giant"]))
    sizes = rng.integers(1, largest_size + 1, (rows, types))
    if kind == "few sizes":
        sizes = rng.choice([3, 7, 21], (rows, types))
    if kind == "same steps":
        sizes = np.tile(rng.integers(1, 8) * np.arange(1, types + 1), (rows, 1))
    if kind == "proportional":
        sizes = np.outer(rng.integers(1, 6, rows), rng.integers(1, 8, types))
    if kind == "one giant":
        sizes[0] += rows * largest_size * np.arange(1, types + 1) // 3
    losses = _losses(draw, rng, sizes)
    losses[rng.random(losses.shape) < draw(st.sampled_from([0.0, 0.3]))] = np.inf
    for row in np.flatnonzero(~np.isfinite(losses).any(axis=1)):
        losses[row, rng.integers(types)] = rng.random()
    least = int(np.where(np.isfinite(losses), sizes, 1 << 40).min(axis=1).sum())
    most = int(np.where(np.isfinite(losses), sizes, 0).max(axis=1).sum())
    lowest = least if feasible else max(0, least - 3)
    capacity = draw(st.integers(lowest, most + 3)) if feasible is not False else max(0, least - 1)
    return Knapsack(sizes.astype(np.int64), losses, capacity)


def _losses(draw: st.DrawFn, rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    kind = draw(st.sampled_from(["random", "falling", "proportional", "on a line", "whole numbers", "zeros", "wide"]))
    if kind == "falling":
        return rng.random(len(sizes))[:, None] * 0.5 ** (8.0 * sizes / sizes.max())
    if kind == "proportional":
        return (sizes.max(axis=1, keepdims=True) - sizes) * 0.125
    if kind == "on a line":  # up to rounding
        return 0.1 * (1 + sizes.max() - sizes) * rng.choice([1.0, 1e-9, 1e9])
    if kind in ("whole numbers", "zeros"):
        return rng.integers(0, 4 if kind == "whole numbers" else 1, sizes.shape).astype(float)
    if kind == "wide":
        return 10.0 ** rng.uniform(-12, 3, sizes.shape)
    return rng.random(sizes.shape)


def _linear(draw: st.DrawFn, rng: np.random.Generator, knapsack: Knapsack) -> Linear:
    """A region of some rows, or a limit on how many take more than so much."""
    rows = np.flatnonzero(rng.random(len(knapsack.sizes)) < 0.7)
    rows = rows if rows.size else np.array([0])
    coefficients = knapsack.sizes[rows]
    if draw(st.booleans()):
        coefficients = (coefficients > int(np.median(coefficients))).astype(np.int64)
    least, most = int(coefficients.min(axis=1).sum()), int(coefficients.max(axis=1).sum())
    return Linear(rows, coefficients, draw(st.integers(max(0, least - 1), most)))


def _falls(rng: np.random.Generator, knapsack: Knapsack) -> Linear:
    """Two rows of which the first may not be larger than the second."""
    rows = rng.permutation(len(knapsack.sizes))[:2]
    coefficients = knapsack.sizes[rows] * np.array([1, -1])[: rows.size, None]
    return Linear(rows, coefficients, 0 if rows.size == 2 else knapsack.capacity)


@st.composite
def knapsacks_with_side_rows(draw: st.DrawFn, *, most_rows: int = 5, most_types: int = 4) -> Knapsack:
    """Knapsacks with regions, counts, comparisons of two rows and limits on distinct columns; also infeasible ones."""
    plain = draw(knapsacks(most_rows=most_rows, most_types=most_types, feasible=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    side: list[SideRow] = [_linear(draw, rng, plain) for _ in range(draw(st.integers(0, 2)))]
    side += [_falls(rng, plain) for _ in range(draw(st.integers(0, 1)))]
    for _ in range(draw(st.integers(0, 2))):
        rows = np.flatnonzero(rng.random(len(plain.sizes)) < 0.8)
        side.append(Distinct(rows if rows.size else np.array([0]), draw(st.integers(1, 3))))
    return Knapsack(plain.sizes, plain.losses, plain.capacity, tuple(side))


@st.composite
def problems(draw: st.DrawFn, *, most_tensors: int = 6, most_types: int = 4, side: bool = False) -> Problem:
    """Problems with constraints of every kind that do not contradict each other; the capacity may be too small."""
    knapsack = draw(knapsacks(most_rows=most_tensors, most_types=most_types))
    tensors = tuple(f"blk.{row}.weight" for row in range(len(knapsack.sizes)))
    types = tuple(f"T{column}" for column in range(knapsack.sizes.shape[1]))
    weights = knapsack.sizes.max(axis=1)
    table = LossTable(tensors, types, weights, knapsack.sizes, knapsack.losses)
    kept: list[Constraint] = []
    for constraint in draw(st.lists(constraints(tensors, types, side=side), max_size=4)):
        try:
            Problem(table, knapsack.capacity, (*kept, constraint))
        except InvalidInput:
            continue
        kept.append(constraint)
    return Problem(table, knapsack.capacity, tuple(kept))


@st.composite
def constraints(draw: st.DrawFn, tensors: tuple[str, ...], types: tuple[str, ...], *, side: bool = False) -> Constraint:
    """Any constraint on some of these tensors; with `side` also those that stay beside the table."""
    chosen = tuple(draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=4, unique=True)))
    some_types = tuple(draw(st.lists(st.sampled_from(types), min_size=1, max_size=2, unique=True)))
    kinds = [made for made in CONSTRAINT_KINDS.values() if side or not issubclass(made, SideConstraint)]
    made: Any = draw(st.sampled_from(kinds))
    values = {
        "tensors": chosen,
        "source": draw(st.sampled_from(Source)),
        "reason": draw(st.sampled_from(["", "a reason"])),
        "quant_type": some_types[0],
        "quant_types": some_types,
        "bits": Fraction(draw(st.integers(1, 64)), 8),
        "count": draw(st.integers(1 if made is DistinctTypes else 0, 3)),
        "capacity_bytes": draw(st.integers(20, 400)),
        "shares": tuple(draw(st.sampled_from([Fraction(1), Fraction(1, 4), Fraction(3, 8)])) for _ in chosen),
    }
    found: Constraint = made(**{field.name: values[field.name] for field in fields(made)})
    return found


@st.composite
def domains(draw: st.DrawFn, *, most_tensors: int = 5, most_types: int = 4) -> Domains:
    """Questions over one to three domains: the tables of a problem with other losses, some of other magnitude."""
    problem = draw(problems(most_tensors=most_tensors, most_types=most_types, side=True))
    table = problem.table
    kept = tuple(each for each in problem.constraints if not isinstance(each, Monotone | DistinctTypes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tables = [("first", table)]
    for name in ("second", "third")[: draw(st.integers(0, 2))]:
        losses = _losses(draw, rng, table.sizes) * draw(st.sampled_from([1.0, 1.0, 1e-6, 1e4]))
        losses = np.where(table.offered, losses, np.inf)
        other = LossTable(table.tensors, table.quant_types, table.weights, table.sizes, losses)
        tables.append((name, other))
    return Domains(tuple(tables), problem.capacity_bytes, kept, draw(st.sampled_from(WorstCaseMeasure)))
