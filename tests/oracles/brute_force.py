"""Every choice tried: slow, plain, independent."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from raq_solver.knapsack import Knapsack


def choices(knapsack: Knapsack) -> Iterator[tuple[tuple[int, ...], int, float]]:
    """All choices with their size and loss, whether they fit or not."""
    rows = [np.flatnonzero(np.isfinite(row)) for row in knapsack.losses]
    for picks in itertools.product(*rows):
        size = sum(int(knapsack.sizes[row, column]) for row, column in enumerate(picks))
        loss = math.fsum(float(knapsack.losses[row, column]) for row, column in enumerate(picks))
        yield tuple(int(column) for column in picks), size, loss


def least_loss(knapsack: Knapsack) -> float | None:
    """The least loss within the capacity, None when nothing fits."""
    return min((loss for _, size, loss in choices(knapsack) if size <= knapsack.capacity), default=None)
