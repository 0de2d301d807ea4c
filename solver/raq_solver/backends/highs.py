"""The one place that knows HiGHS (SciPy's): a core with its demands, settled by branch and cut.

Rules
- The relative gap is 0: HiGHS otherwise stops at 1e-4 and says "optimal". The objective is scaled so that its absolute
  gap (1e-6) means nothing.
- A demand in whole numbers keeps half a unit of room and is scaled down, so that no tolerance of the solver can
  reach the next whole number. Whoever calls checks the picks in whole numbers all the same.
- On cores of 1,300 × 20 with two regions and three AtMost, HiGHS proves in 2 s what CP-SAT does not in 40 s
  (tests/bench/bench_solver.py); hence no CP-SAT here.
"""

import math
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.errors import BackendFailure
from raq_solver.knapsack import Linear

_LARGEST_COEFFICIENT: Final = 1e3
_OBJECTIVE: Final = 1e6
_OPTIMAL, _LIMIT, _INFEASIBLE = range(3)
"""How SciPy's milp says that it ended."""


@unique
class CoreStatus(Enum):
    """How a core ended."""

    OPTIMAL = "the best choice within the core"
    FEASIBLE = "time was up; a choice, maybe not the best"
    INFEASIBLE = "no choice within the core keeps the demands"
    UNKNOWN = "time was up before a choice was found"


@dataclass(frozen=True, eq=False)
class CoreResult:
    """What came of a core; `bound` holds for choices within it."""

    status: CoreStatus
    picks: Int64[np.ndarray, " rows"] | None
    bound: float


def settle(
    losses: Float64[np.ndarray, "rows types"],
    demands: Sequence[Linear],
    kept: Bool[np.ndarray, "rows types"],
    seconds: float,
) -> CoreResult:
    """The choice of least loss among the kept cells that keeps all demands.

    Every row keeps a cell. Raises BackendFailure if the library fails.
    """
    core = _Core(losses, kept)
    found = core.solve([core.row_of(demand) for demand in demands], seconds)
    if found.status not in (_OPTIMAL, _LIMIT, _INFEASIBLE):
        raise BackendFailure(f"HiGHS: {found.message}")
    if found.x is None:
        ended = CoreStatus.INFEASIBLE if found.status == _INFEASIBLE else CoreStatus.UNKNOWN
        return CoreResult(ended, None, -math.inf)
    ended = CoreStatus.OPTIMAL if found.status == _OPTIMAL else CoreStatus.FEASIBLE
    return CoreResult(ended, core.picks(found.x), core.least_loss + found.mip_dual_bound / core.scale)


class _Quiet:
    """Keeps the process's standard output clean while HiGHS runs: it prints lines of its own, whatever it is told.

    What other threads print meanwhile is lost too, so nothing else may be printed there during a solve.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.kept = -1

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            if self.inside == 1:
                sys.stdout.flush()
                self.kept = os.dup(1)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                os.close(nowhere)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                os.dup2(self.kept, 1)
                os.close(self.kept)


_QUIET: Final = _Quiet()


class _Core:
    """A model with one binary variable for each kept cell of the rows that keep a choice."""

    def __init__(self, losses: Float64[np.ndarray, "rows types"], kept: Bool[np.ndarray, "rows types"]) -> None:
        self.kept = kept
        self.rows, self.columns = np.nonzero(kept & (kept.sum(axis=1) > 1)[:, None])
        least = np.where(kept, losses, np.inf).min(axis=1)
        self.least_loss = math.fsum(least.tolist())
        above = losses[self.rows, self.columns] - least[self.rows]
        self.scale = _OBJECTIVE / max(float(above.mean()) if above.size else 1.0, 1e-300)
        self.objective = above * self.scale

    def row_of(self, demand: Linear) -> tuple[np.ndarray, float]:
        """That a sum stays within its capacity: in units of its common divisor, beyond each row's least."""
        coefficients = np.zeros(self.kept.shape, dtype=np.int64)
        coefficients[demand.rows] = demand.coefficients
        least = np.where(self.kept, coefficients, np.iinfo(np.int64).max).min(axis=1)
        above = coefficients[self.rows, self.columns] - least[self.rows]
        unit = int(np.gcd.reduce(above)) or 1
        room = (demand.capacity - int(least.sum())) // unit
        units = above // unit
        factor = min(1.0, _LARGEST_COEFFICIENT / max(1, int(units.max(initial=1))))
        return units * factor, (room + 0.5) * factor

    def solve(self, demands: Sequence[tuple[np.ndarray, float]], seconds: float) -> Any:
        """Run HiGHS."""
        from scipy.optimize import Bounds, LinearConstraint, milp  # noqa: PLC0415 - heavy, and only this path needs it
        from scipy.sparse import csr_array, vstack  # noqa: PLC0415

        if not self.rows.size:
            return self._settled(demands)
        choosing, group = np.unique(self.rows, return_inverse=True)
        one = csr_array((np.ones(group.size), (group, np.arange(group.size))))
        matrix = vstack([one, *(csr_array(coefficients[None]) for coefficients, _ in demands)])
        lowest = np.append(np.ones(choosing.size), np.full(len(demands), -np.inf))
        highest = np.append(np.ones(choosing.size), [room for _, room in demands])
        with _QUIET:
            return milp(
                self.objective,
                integrality=np.ones(group.size, dtype=np.int64),
                bounds=Bounds(0, 1),
                constraints=LinearConstraint(matrix, lowest, highest),
                options={"mip_rel_gap": 0.0, "time_limit": seconds},
            )

    def _settled(self, demands: Sequence[tuple[np.ndarray, float]]) -> Any:
        """What HiGHS would say where there is nothing to choose."""
        if all(room >= 0 for _, room in demands):
            return SimpleNamespace(status=_OPTIMAL, x=np.zeros(0), mip_dual_bound=0.0)
        return SimpleNamespace(status=_INFEASIBLE, x=None)

    def picks(self, values: Float64[np.ndarray, " variables"]) -> Int64[np.ndarray, " rows"]:
        """The column of every row."""
        chosen = np.full(self.kept.shape, -1.0)
        chosen[self.kept] = 0.0
        chosen[self.rows, self.columns] = values
        picks: Int64[np.ndarray, " rows"] = chosen.argmax(axis=1)
        return picks
