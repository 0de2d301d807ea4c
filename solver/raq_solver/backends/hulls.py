"""The linear relaxation of every capacity at once, from the rows' lower convex hulls.

Losses here are excesses over the least loss of their row.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.backends import _knapsack


@dataclass(frozen=True, eq=False)
class Hulls:
    """Least excess loss as a function of the bytes beyond the smallest choice: convex, piecewise linear.

    `start` is the column of each row's smallest cell. Step k, steepest first, takes `rows[k]` to `columns[k]`. After k
    steps `spent[k]` bytes are spent and `left[k]` of loss is left; one point more stands at the end of both, so that
    k + 1 always exists. `slopes` are loss per byte, 0 after the last step.
    """

    start: Int64[np.ndarray, " all_rows"]
    rows: Int64[np.ndarray, " steps"]
    columns: Int64[np.ndarray, " steps"]
    spent: Int64[np.ndarray, " steps+2"]
    left: Float64[np.ndarray, " steps+2"]
    slopes: Float64[np.ndarray, " steps+1"]

    def whole_steps(self, room: int) -> int:
        """How many steps fit into so many bytes, which must not be negative."""
        return int(np.searchsorted(self.spent[:-1], room, side="right")) - 1

    def bound(self, room: int) -> float:
        """Least excess loss within the room when a part of the next step may be taken."""
        steps = self.whole_steps(room)
        return float(self.left[steps + 1] + self.slopes[steps] * (self.spent[steps + 1] - room))


def hulls_of(sizes: Int64[np.ndarray, "rows types"], excess: Float64[np.ndarray, "rows types"]) -> Hulls:
    """The merged hulls of a table; infinite excess where there is no cell."""
    return Hulls(*_knapsack.merged_hulls(sizes, excess))
