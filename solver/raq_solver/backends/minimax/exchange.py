"""Local search for the min-max objective: one- and two-row swaps."""

from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

from raq_solver.backends.minimax.lagrangian import MinimaxTable, Multipliers

_MOST: Final = 1000
"""Changes of single rows, those of least reduced cost, that are tried in pairs."""


def exchanged(
    table: MinimaxTable, picks: Int64[np.ndarray, " rows"], at: Multipliers
) -> Int64[np.ndarray, " rows"] | None:
    """The picks after the change of one or two rows that lowers the largest sum most; None when none lowers it.

    Both the picks and the result keep the constraints. Changes of least reduced cost at the multipliers `at` are tried.
    """
    rows, columns = _candidates(table, picks, at)
    now = table.sums(picks)
    change = table.cells[:, rows, columns] - table.cells[:, rows, picks[rows]]
    # One more change, which changes nothing: a pair with it is a change of a single row.
    rows, columns = np.append(rows, -1), np.append(columns, -1)
    change = np.append(change, np.zeros((len(change), 1)), axis=1)
    # The largest domain's sum after each pair of changes, one sum at a time: all sums at once would not fit memory.
    worst = np.full((rows.size, rows.size), -np.inf)
    for number, (first, second) in enumerate(zip(now[:, None] + change, change, strict=True)):
        sums = first[:, None] + second
        if number < table.domains:
            np.maximum(worst, sums, out=worst)
        else:
            worst[sums > 0] = np.inf
    # Two changes of one row exclude each other.
    worst[rows[:, None] == rows] = np.inf
    pair = divmod(int(worst.argmin()), rows.size)
    if not worst[pair] < now[: table.domains].max():
        return None
    found = picks.copy()
    for each in pair:
        if rows[each] >= 0:
            found[rows[each]] = columns[each]
    return found


def _candidates(
    table: MinimaxTable, picks: Int64[np.ndarray, " rows"], at: Multipliers
) -> tuple[Int64[np.ndarray, " some"], Int64[np.ndarray, " some"]]:
    """Rows and columns of the offered cells that are not picked, at most 1000 of least reduced cost."""
    total: Float64[np.ndarray, "rows types"] = table.total(at)
    reduced = total - total.min(axis=1, keepdims=True)
    reduced[np.arange(picks.size), picks] = np.inf
    count = min(_MOST, int(np.isfinite(reduced).sum()))
    cheapest = np.argsort(reduced, axis=None, kind="stable")[:count]
    rows, columns = np.divmod(cheapest, reduced.shape[1])
    return rows, columns
