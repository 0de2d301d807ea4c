"""Frontiers: the optimum at every budget of a range, each point proven and yielded as soon as it is."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from raq_solver.allocation import Allocation
from raq_solver.arrays import whole_number
from raq_solver.backends.mckp import Relaxed
from raq_solver.errors import Fault, InvalidInput
from raq_solver.formulate import Decoder, formulate
from raq_solver.knapsack import KnapsackSolution, Limits, Termination
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.solve import NO_LIMITS, solve


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor with different quant types in two allocations.

    `capacity_bytes` is the swept capacity at which it changed; None where the allocations don't belong to a sweep.

    >>> Change("output.weight", "Q4_K", "Q6_K").after
    'Q6_K'
    """

    tensor: str
    before: str
    after: str
    capacity_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a frontier.

    `size` in bytes, `loss` and `bound` in the table's unit, `multiplier` (loss per byte) the worth of the next byte;
    all None when there is no allocation. `changes` are those from the previous point that had an allocation;
    empty for the first.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> point = next(sweep(Problem(table, 0), [450]))
    >>> point.size, point.loss, point.gap
    (416, 0.1, 0.0)
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
        """Distance of the loss from the bound, relative to the loss; 0 when proven optimal."""
        if self.loss is None or self.bound is None:
            return None
        return max(0.0, self.loss - self.bound) / self.loss if self.loss > 0 else 0.0


def spaced(first: int, last: int, points: int) -> tuple[int, ...]:
    """`points` capacities from `first` to `last`, both included, evenly spaced up to whole bytes.

    Raises InvalidInput for fewer than one point and for a range that runs backwards.

    >>> spaced(100, 200, 3)
    (100, 150, 200)
    """
    if points < 1 or last < first:
        what = f"{points} points from {first:,} to {last:,} bytes; needs at least one point and a rising range"
        raise InvalidInput(Fault("range of budgets", what))
    return tuple(first + (last - first) * index // max(1, points - 1) for index in range(points))


def sweep(problem: Problem, capacities: Iterable[int], limits: Limits = NO_LIMITS) -> Iterator[Point]:
    """The optimum of the problem at each capacity, in the order given; ignores the problem's own capacity.

    `limits` apply to each point. Hulls and merged slopes are computed once for all points. Raises InvalidInput for a
    capacity that is no whole number from 0 to 2^53.

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a", "b"), ("Q8_0", "Q4_K"), [256, 256], [[272, 144]] * 2, [[0.0, 0.1], [0.0, 0.3]])
    >>> [(point.capacity_bytes, point.loss) for point in sweep(Problem(table, 0), [300, 450, 600])]
    [(300, 0.4), (450, 0.1), (600, 0.0)]
    """
    at = _general(problem, limits) if problem.has_side_constraints else _pure(problem, limits)
    before: Allocation | None = None
    for capacity in capacities:
        point = at(whole_number(capacity, "capacity", "bytes", 0))
        if point.allocation is not None:
            if before is not None:
                point = replace(point, changes=changes_between(before, point.allocation))
            before = point.allocation
        yield point


def changes_between(before: Allocation, after: Allocation) -> tuple[Change, ...]:
    """The tensors whose quant type differs. Both must name the same tensors.

    >>> changes_between(Allocation({"a": "Q4_K", "b": "Q8_0"}), Allocation({"a": "Q8_0", "b": "Q8_0"}))
    (Change(tensor='a', before='Q4_K', after='Q8_0', capacity_bytes=None),)
    """
    return tuple(
        Change(tensor, was, after.types[tensor]) for tensor, was in before.types.items() if was != after.types[tensor]
    )


def knee(points: Sequence[Point]) -> Point | None:
    """The point where the frontier bends most: furthest below the line from its first to its last point.

    Both axes are scaled to 0..1, loss without a logarithm: past the knee, a byte buys less than the average byte did.
    None with fewer than three different points.
    Source: Satopää and others, Finding a "kneedle" in a haystack, 2011 (without its smoothing).

    >>> from raq_solver import LossTable
    >>> table = LossTable(("a",), ("Q8", "Q4", "Q2"), [256], [[272, 144, 84]], [[0.0, 0.1, 2.0]])
    >>> knee(list(sweep(Problem(table, 0), [100, 200, 300]))).size
    144
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
    # Formulating and the hulls do not depend on the capacity, so every point shares them.
    knapsack, decoder = formulate(problem)
    relaxed = Relaxed(knapsack.sizes, knapsack.losses)

    def at(capacity: int) -> Point:
        start = time.perf_counter()
        solution = relaxed.solve(capacity, limits.now())
        return _point(decoder, capacity, solution, start)

    return at


def _point(decoder: Decoder, capacity: int, solution: KnapsackSolution, start: float) -> Point:
    if solution.picks is None:
        seconds = time.perf_counter() - start
        return Point(capacity, solution.termination, None, None, None, None, None, (), seconds)
    table = decoder.problem.table
    columns = solution.picks[decoder.row_of_tensor]
    # Size and loss from the arrays: a ledger of every tensor would take longer than solving a point does.
    cells = np.arange(columns.size), columns
    loss = math.fsum(table.losses[cells].tolist())
    return Point(
        capacity,
        solution.termination,
        int(table.sizes[cells].sum()),
        loss,
        min(solution.bound, loss),
        solution.multiplier,
        decoder.allocation(solution.picks),
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
