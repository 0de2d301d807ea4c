"""The rows that are still open, reckoned from the smallest and the best cell of each.

Rules
- `sizes` are bytes beyond the row's smallest cell, `excess` is loss beyond the row's least loss. What is subtracted
  goes into the totals of whoever holds the table, so that nothing is ever added and taken away again.
- A cell with infinite excess does not exist. Every row has a cell.
- Rows stand in the order in which a search takes them: the widest range of sizes first, as their choice decides how
  the others fill what is left.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends.hulls import Relaxation, Steps, lower_hulls


@dataclass(frozen=True, eq=False)
class Table:
    """Open rows: `rows` and `columns` say where a cell stands in the knapsack; `start` is each row's smallest cell."""

    rows: Int64[np.ndarray, " rows"]
    columns: Int64[np.ndarray, "rows cells"]
    sizes: Int64[np.ndarray, "rows cells"]
    excess: Float64[np.ndarray, "rows cells"]
    start: Int64[np.ndarray, " rows"]
    steps: Steps

    def steps_after(self, depth: int) -> Steps:
        """The steps of the rows from `depth` on."""
        return self.steps.select(self.steps.rows >= depth) if depth else self.steps

    def relaxation_after(self, depth: int) -> Relaxation:
        """The relaxation over the rows from `depth` on."""
        return self.steps_after(depth).relaxation()


@dataclass(frozen=True, eq=False)
class Kept:
    """A table cut down to some of its cells, and what was settled by that."""

    table: Table
    size: int
    loss: float
    rows: Int64[np.ndarray, " settled"]
    columns: Int64[np.ndarray, " settled"]


def keep(
    rows: Int64[np.ndarray, " rows"],
    columns: Int64[np.ndarray, "rows cells"],
    sizes: Int64[np.ndarray, "rows cells"],
    excess: Float64[np.ndarray, "rows cells"],
    kept: Bool[np.ndarray, "rows cells"],
) -> Kept:
    """The table of the kept cells. Rows with one cell left are settled."""
    many = kept.sum(axis=1)
    single = many == 1
    only = np.flatnonzero(single), kept[single].argmax(axis=1)
    open_rows = np.flatnonzero(~single)
    cells = np.argsort(~kept[open_rows], axis=1, kind="stable")[:, : int(many.max())]
    at = open_rows[:, None], cells
    open_excess = np.where(kept[at], excess[at], np.inf)
    open_sizes = np.where(kept[at], sizes[at], np.iinfo(np.int64).max)
    least_size = open_sizes.min(axis=1)
    least_loss = open_excess.min(axis=1)
    spread = np.where(kept[at], sizes[at], 0).max(axis=1) - least_size
    order = np.argsort(-spread, kind="stable")
    table = _table(
        rows[open_rows[order]],
        columns[at][order],
        (np.where(kept[at], sizes[at], least_size[:, None]) - least_size[:, None])[order],
        (open_excess - least_loss[:, None])[order],
    )
    return Kept(
        table,
        int(sizes[only].sum() + least_size.sum()),
        float(excess[only].sum() + least_loss.sum()),
        rows[only[0]],
        columns[only],
    )


def _table(rows: np.ndarray, columns: np.ndarray, sizes: np.ndarray, excess: np.ndarray) -> Table:
    smallest = np.where(sizes == 0, excess, np.inf)
    start = smallest.argmin(axis=1) if rows.size else np.zeros(0, dtype=np.int64)
    return Table(rows, columns, sizes, excess, start, lower_hulls(sizes, excess, start))
