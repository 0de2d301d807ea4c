"""The frontier: the optimum of every budget of a range, each point proven, handed out as it is proven."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raq_solver.allocation import Allocation
from raq_solver.backends.mckp import Relaxed
from raq_solver.errors import Fault, InvalidInput
from raq_solver.formulate import Decoder, formulate
from raq_solver.knapsack import KnapsackSolution, Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.solve import NO_LIMITS, solve


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor that has another quant type than in the point before."""

    tensor: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a frontier.

    `size` in bytes, `loss` and `bound` in nats per token, `multiplier` (nats per token per byte) what the next byte
    is worth; all None when there is no allocation. `changes` from the point before that had an allocation; empty for
    the first.
    """

    capacity_bytes: int
    termination: Termination
    size: int | None
    loss: float | None
    bound: float | None
    multiplier: float | None
    allocation: Allocation | None
    changes: tuple[Change, ...]
    seconds: float

    @property
    def gap(self) -> float | None:
        """How far the loss is from the bound, relative to the loss; 0 when proven optimal."""
        if self.loss is None or self.bound is None:
            return None
        return max(0.0, self.loss - self.bound) / self.loss if self.loss > 0 else 0.0


def spaced(first: int, last: int, points: int) -> tuple[int, ...]:
    """So many capacities from `first` to `last`, both included, evenly spaced up to whole bytes.

    Raises InvalidInput when there are no points or the range runs backwards.
    """
    if points < 1 or last < first:
        what = f"{points} points from {first:,} to {last:,} bytes; needs at least one point and a rising range"
        raise InvalidInput(Fault("range of budgets", what))
    return tuple(first + (last - first) * index // max(1, points - 1) for index in range(points))


def sweep(problem: Problem, capacities: Iterable[int], limits: Limits = NO_LIMITS) -> Iterator[Point]:
    """The optimum of the problem at each capacity, in the order given; the problem's own capacity is not regarded.

    `limits` hold for each point. Hulls and merged slopes are reckoned once for all points.
    """
    at = _general(problem, limits) if problem.has_side_constraints else _pure(problem, limits)
    before: Allocation | None = None
    for capacity in capacities:
        point = at(capacity)
        if point.allocation is not None:
            if before is not None:
                point = replace(point, changes=changes_between(before, point.allocation))
            before = point.allocation
        yield point


def changes_between(before: Allocation, after: Allocation) -> tuple[Change, ...]:
    """The tensors whose quant type differs. Both must name the same tensors."""
    return tuple(
        Change(tensor, was, after.types[tensor]) for tensor, was in before.types.items() if was != after.types[tensor]
    )


def knee(points: Sequence[Point]) -> Point | None:
    """The point where the frontier bends most: furthest below the line from its first to its last point.

    Both axes scaled to 0..1, loss not as a logarithm: past the knee, a byte buys less than the average byte did.
    None with fewer than three different points.
    Source: Satopää and others, Finding a "kneedle" in a haystack, 2011 (without its smoothing).
    """
    known = {(point.size, point.loss): point for point in points if point.size is not None and point.loss is not None}
    distinct = sorted((size, loss, point) for (size, loss), point in known.items())
    if len(distinct) < 3:
        return None
    (size, loss, _), (last_size, last_loss, _) = distinct[0], distinct[-1]
    if last_size == size or loss <= last_loss:
        return None

    def below(entry: tuple[int, float, Point]) -> float:
        return (loss - entry[1]) / (loss - last_loss) - (entry[0] - size) / (last_size - size)

    return max(distinct, key=below)[2]


def _pure(problem: Problem, limits: Limits) -> Callable[[int], Point]:
    knapsack, decoder = formulate(problem)
    relaxed = Relaxed(knapsack.sizes, knapsack.losses)

    def at(capacity: int) -> Point:
        start = time.perf_counter()
        solution = relaxed.solve(capacity, limits)
        return _point(decoder, capacity, solution, start)

    return at


def _point(decoder: Decoder, capacity: int, solution: KnapsackSolution, start: float) -> Point:
    if solution.picks is None:
        seconds = time.perf_counter() - start
        return Point(capacity, solution.termination, None, None, None, None, None, (), seconds)
    table = decoder.problem.table
    columns = solution.picks[decoder.row_of_tensor]
    cells = np.arange(columns.size), columns
    allocation = Allocation(dict(zip(table.tensors, map(table.quant_types.__getitem__, columns), strict=True)))
    loss = math.fsum(table.losses[cells].tolist())
    return Point(
        capacity,
        solution.termination,
        int(table.sizes[cells].sum()),
        loss,
        min(solution.bound, loss),
        solution.multiplier,
        allocation,
        (),
        time.perf_counter() - start,
    )


def _general(problem: Problem, limits: Limits) -> Callable[[int], Point]:
    def at(capacity: int) -> Point:
        return _from_outcome(capacity, solve(replace(problem, capacity_bytes=capacity), limits))

    return at


def _from_outcome(capacity: int, outcome: Outcome) -> Point:
    ledger = outcome.ledger
    return Point(
        capacity,
        outcome.termination,
        ledger.size if ledger else None,
        ledger.loss if ledger else None,
        outcome.bound,
        outcome.multiplier,
        outcome.allocation,
        (),
        outcome.seconds,
    )
