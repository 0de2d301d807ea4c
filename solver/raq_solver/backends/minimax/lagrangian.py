"""The Lagrangian of the min-max knapsack: sums over several tables, and multipliers that bound the worst from below.

Rules
- A sum belongs to a domain (its loss) or to a constraint (bytes, counts). Every sum is counted beyond the least of each
  row, constraints in units of their common divisor: numbers that are not negative, and small.
- Multipliers are weights of the domains, which add up to 1, and prices of the constraints, at least 0. At any of them
  the weighted sum, less the constraints' capacities, is a lower bound on the worst loss of every choice that keeps the
  constraints.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.backends.dual import highest_point
from raq_solver.knapsack import Linear

Multipliers = Float64[np.ndarray, " sums"]

_CLOSE: Final = 1e-9
_ROUNDS: Final = 300
"""Most cutting planes for the multipliers of the whole table."""
_WIDENINGS: Final = 30


@dataclass(frozen=True, eq=False)
class MinimaxTable:
    """The cells of all sums: `cells` [sums, rows, types], the domains first; 0 where a cell is not offered.

    `least` is the part of each sum that every choice has: least losses of the domains; for constraints minus the
    capacity that the least of every row leaves, so that a sum of at most 0 keeps the constraint. `units` is the common
    divisor that each sum was divided by; 1 for domains.
    """

    cells: Float64[np.ndarray, "sums rows types"]
    offered: Bool[np.ndarray, "rows types"]
    domains: int
    least: Float64[np.ndarray, " sums"]
    units: Float64[np.ndarray, " sums"]

    def total(self, at: Multipliers, rows: Int64[np.ndarray, " some"] | slice = slice(None)) -> np.ndarray:
        """Each cell of the rows at these multipliers; infinite where it is not offered."""
        return np.where(self.offered[rows], np.tensordot(at, self.cells[:, rows], 1), np.inf)

    def sums(self, picks: Int64[np.ndarray, " rows"]) -> Float64[np.ndarray, " sums"]:
        """The sums of the picks; that of a constraint is at most 0 when they keep it."""
        sums: np.ndarray = self.least + self.cells[:, np.arange(picks.size), picks].sum(axis=1)
        return sums

    def within(self, kept: Bool[np.ndarray, "rows types"]) -> "MinimaxTable":
        """The table with only these cells offered."""
        return MinimaxTable(self.cells, self.offered & kept, self.domains, self.least, self.units)


def minimax_table(losses: Float64[np.ndarray, "domains rows types"], constraints: Sequence[Linear]) -> MinimaxTable:
    """The table of several loss tables, which offer the same cells, and the constraints."""
    offered = np.isfinite(losses).all(axis=0)
    cells, least, units = [], [], []
    for table in losses:
        lowest = np.where(offered, table, np.inf).min(axis=1)
        cells.append(np.where(offered, table - lowest[:, None], 0.0))
        least.append(float(lowest.sum()))
        units.append(1.0)
    for each in constraints:
        counted = np.zeros(offered.shape, dtype=np.int64)
        counted[each.rows] = each.coefficients
        smallest = np.where(offered, counted, np.iinfo(np.int64).max).min(axis=1)
        above = np.where(offered, counted - smallest[:, None], 0)
        unit = int(np.gcd.reduce(above, axis=None)) or 1
        cells.append((above // unit).astype(np.float64))
        # Rounded down: sums come in whole units, so a part of a unit of capacity can't be used.
        least.append(float(-((each.capacity - int(smallest.sum())) // unit)))
        units.append(float(unit))
    return MinimaxTable(np.array(cells), offered, len(losses), np.array(least), np.array(units))


def best_multipliers(table: MinimaxTable, start: Multipliers, deadline: float) -> tuple[Multipliers, float]:
    """Multipliers whose bound on the worst sum is nearly the highest, and that bound.

    Cutting planes over the simplex of the weights and a box of the prices, which widens when they reach its edge.
    (`dual.best_prices` moves its box instead: without weights there is no simplex that keeps the cuts bounded.) Any
    multipliers give a bound, so this may stop at the deadline, on `time.perf_counter`.
    """
    places = np.arange(len(table.offered))
    scale = _scale(table, slice(None))
    largest = max(float(table.least[: table.domains].max()), 1e-300)
    box = np.maximum(8 * start[table.domains :] * scale, 1e-3 * largest)
    cuts: list[np.ndarray] = []
    at, best, highest = start, start, -np.inf
    widened = 0
    for _ in range(_ROUNDS):
        picks = table.total(at).argmin(axis=1)
        cuts.append(table.least + table.cells[:, places, picks].sum(axis=1))
        value = float(at @ cuts[-1])
        if value > highest:
            best, highest = at, value
        if time.perf_counter() > deadline:
            break
        # The cuts lie above the bound everywhere, so their highest value is how far it could still rise in the box.
        at, ceiling = _highest(np.array(cuts), scale, box)
        if ceiling - highest <= _CLOSE * abs(highest):
            edge = at[table.domains :] * scale >= box * (1 - 1e-6)
            if not edge.any() or widened == _WIDENINGS:
                break
            box, widened = np.where(edge, 8 * box, box), widened + 1
            at, _ = _highest(np.array(cuts), scale, box)
    return best, highest


def raised_multipliers(
    table: MinimaxTable,
    rows: Int64[np.ndarray, " some"],
    so_far: Float64[np.ndarray, " sums"],
    start: Multipliers,
    target: float,
    rounds: int,
) -> Multipliers:
    """Multipliers whose bound on the worst sum, given the sums so far, is higher than at `start`, up to `target`.

    Subgradient steps of the length that would be right if the target were the highest bound (Polyak 1969): a few of
    them come nearly as far as cutting planes, at a hundredth of the time.
    """
    scale = np.append(np.ones(table.domains), _scale(table, rows))
    of_domains = np.arange(scale.size) < table.domains
    places = np.arange(rows.size)
    cells = table.cells[:, rows]
    offered = table.offered[rows]
    at = best = start
    highest = -np.inf
    for _ in range(rounds):
        picks = np.where(offered, np.tensordot(at, cells, 1), np.inf).argmin(axis=1)
        sums = so_far + cells[:, places, picks].sum(axis=1)
        value = float(at @ sums)
        if value > highest:
            best, highest = at, value
        slope = sums / scale
        # Weights add up to 1: only the part of the step that keeps their sum counts.
        slope[of_domains] -= slope[of_domains].mean()
        # A price of 0 can't fall.
        slope[~of_domains & (at <= 0) & (slope < 0)] = 0.0
        length = float(slope @ slope)
        if highest >= target or length <= 0:
            break
        moved = np.maximum(at * scale + (target - value) / length * slope, 0.0)
        moved[of_domains] /= moved[of_domains].sum()
        at = moved / scale
    return best


def _scale(table: MinimaxTable, rows: Int64[np.ndarray, " some"] | slice) -> np.ndarray:
    """The range of each constraint's sum, at least 1: prices times it are losses."""
    ranges = table.cells[table.domains :, rows].max(axis=2).sum(axis=1)
    scale: np.ndarray = np.maximum(ranges, 1.0)
    return scale


def _highest(cuts: Float64[np.ndarray, "cuts sums"], scale: np.ndarray, box: np.ndarray) -> tuple[Multipliers, float]:
    """The multipliers at which the cuts allow the highest value, and that value."""
    domains = cuts.shape[1] - scale.size
    # Losses in units of the largest, prices in units of their box: the numbers of the linear program stay near one.
    size = max(float(np.abs(cuts[:, :domains]).max()), 1e-300)
    scaled = np.concatenate([cuts[:, :domains] / size, cuts[:, domains:] / scale * (box / size)], axis=1)
    found = highest_point(scaled, np.zeros(len(cuts)), np.ones(cuts.shape[1]), shares=domains)
    if found is None:
        return np.append(np.full(domains, 1 / domains), np.zeros(scale.size)), -np.inf
    # The library may leave the bounds by its tolerance; weights and prices must not, for the bound to be a proof.
    weights = np.maximum(found[0][:domains], 0.0)
    prices = np.maximum(found[0][domains:], 0.0) * box / scale
    return np.append(weights / weights.sum(), prices), found[1] * size
