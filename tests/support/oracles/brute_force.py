"""Every choice tried: slow, plain, independent."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from raq_solver.knapsack import Distinct, Knapsack, SideRow


def choices(knapsack: Knapsack) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """All choices with their size and loss, whether they fit or not."""
    rows = [np.flatnonzero(np.isfinite(row)) for row in knapsack.losses]
    for picks in itertools.product(*rows):
        size = sum(int(knapsack.sizes[row, column]) for row, column in enumerate(picks))
        loss = math.fsum(float(knapsack.losses[row, column]) for row, column in enumerate(picks))
        yield tuple(int(column) for column in picks), size, loss


def keeps(row: SideRow, picks: tuple[int, ...]) -> bool:
    """Whether a choice keeps a side row."""
    if isinstance(row, Distinct):
        return len({picks[member] for member in row.rows}) <= row.count
    total = sum(int(row.coefficients[place, picks[member]]) for place, member in enumerate(row.rows))
    return total <= row.capacity


def least_loss(knapsack: Knapsack) -> float | None:
    """The least loss within the capacity and all side rows, None when nothing fits."""
    fitting = (
        loss
        for picks, size, loss in choices(knapsack)
        if size <= knapsack.capacity and all(keeps(row, picks) for row in knapsack.side)
    )
    return min(fitting, default=None)
