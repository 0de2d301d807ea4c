"""Dynamic programming over every size up to the capacity: an independent witness for somewhat larger knapsacks."""

import numpy as np

from raq_solver.knapsack import Knapsack


def least_losses(knapsack: Knapsack) -> np.ndarray:
    """The least loss at each size of 0..capacity exactly, infinite where a size can't be reached.

    Needs sizes that are small whole numbers: O(rows × types × capacity).
    """
    reached = np.full(knapsack.capacity + 1, np.inf)
    reached[0] = 0.0
    for sizes, losses in zip(knapsack.sizes, knapsack.losses, strict=True):
        after = np.full_like(reached, np.inf)
        for size, loss in zip(sizes, losses, strict=True):
            if np.isfinite(loss) and size <= knapsack.capacity:
                np.minimum(after[size:], reached[: reached.size - size] + loss, out=after[size:])
        reached = after
    return reached
