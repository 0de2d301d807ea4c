"""The only module that uses OR-Tools: solves a core with its constraints by MathOpt's HiGHS.

Rules
- Gaps are 0: HiGHS otherwise stops at 1e-4 and reports "optimal". The objective is scaled so that HiGHS' absolute
  tolerance (1e-6) has no effect.
- The capacity of a constraint in whole numbers is raised by half a unit and the row scaled down, so that no tolerance
  of the solver reaches the next whole number. With numbers beyond some 1e8 units one does: then picks that exceed a
  capacity are cut off, and HiGHS is run again.
- On cores of 1,300 × 20 with two regions and three AtMost, HiGHS proves in 2 s what CP-SAT does not in 40 s
  (tests/bench/bench_solver.py); hence no CP-SAT here.
"""

import datetime as dt
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from itertools import pairwise
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float64, Int64

from raq_solver.errors import BackendFailure
from raq_solver.knapsack import Linear

_LARGEST_COEFFICIENT: Final = 1e3
_OBJECTIVE: Final = 1e6
_MOST_CUTS: Final = 200
"""Runs of HiGHS on one core, each with one more choice cut off; after them the search is stopped as by a limit."""
_SHARE: Final = 0.75
"""Share of the time that HiGHS is given: it looks at the time between steps, which take a second or, on a busy machine,
several."""


@unique
class CoreStatus(Enum):
    """How a core ended."""

    OPTIMAL = "the best choice within the core"
    FEASIBLE = "time was up; a choice, maybe not the best"
    INFEASIBLE = "no choice within the core keeps the constraints"
    UNKNOWN = "time was up before a choice was found"


@dataclass(frozen=True, eq=False)
class CoreResult:
    """The result for a core; `bound` holds for choices within it."""

    status: CoreStatus
    picks: Int64[np.ndarray, " rows"] | None
    bound: float


def settle(
    losses: Float64[np.ndarray, "rows types"],
    constraints: Sequence[Linear],
    kept: Bool[np.ndarray, "rows types"],
    hint: Int64[np.ndarray, " rows"] | None,
    deadline: float,
) -> CoreResult:
    """The choice of least loss among the kept cells that keeps all constraints; `hint` is a choice to start from.

    Every row must keep a cell. `deadline` is on `time.perf_counter`. Raises BackendFailure if the library fails.
    """
    if time.perf_counter() > deadline:
        return CoreResult(CoreStatus.UNKNOWN, None, -math.inf)
    core = _Core(losses, kept)
    for each in constraints:
        # Making a model takes a while too: 24,000 cells with 3,000 constraints some seconds.
        if time.perf_counter() > deadline:
            break
        core.add(each)
    bound = -math.inf
    for _ in range(_MOST_CUTS):
        seconds = _SHARE * (deadline - time.perf_counter())
        if seconds <= 0:
            break
        result = core.result(core.solve(hint, seconds))
        picks = result.picks
        broken = [] if picks is None else [each for each in constraints if each.excess(picks) > 0]
        if picks is None or not broken:
            return result
        bound = max(bound, result.bound)
        if not core.cut_off(broken[0], picks):
            return CoreResult(CoreStatus.INFEASIBLE, None, -math.inf)
    return CoreResult(CoreStatus.UNKNOWN, None, bound)


class _Quiet:
    """Discards the process's standard output while HiGHS runs: it prints lines of its own that no option turns off.

    Lines that other threads print meanwhile are lost too, so nothing else may be printed there during a solve.
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
        from ortools.math_opt.python import mathopt  # noqa: PLC0415 - heavy, and only this path needs it

        self.library: Any = mathopt
        self.model = mathopt.Model()
        self.kept = kept
        self.rows, self.columns = np.nonzero(kept & (kept.sum(axis=1) > 1)[:, None])
        self.variables = [self.model.add_binary_variable() for _ in self.rows]
        self.numbers = np.full(kept.shape, -1)
        """The variable of each cell; -1 where it has none."""
        self.numbers[self.rows, self.columns] = np.arange(len(self.variables))
        least = np.where(kept, losses, np.inf).min(axis=1)
        self.least_loss = math.fsum(least.tolist())
        above = losses[self.rows, self.columns] - least[self.rows]
        self.scale = _OBJECTIVE / max(float(above.mean()) if above.size else 1.0, 1e-300)
        for first, last in self._spans():
            self.model.add_linear_constraint(mathopt.fast_sum(self.variables[first:last]) == 1)
        self.model.minimize(self._sum(range(len(self.variables)), (above * self.scale).tolist()))

    def add(self, constraint: Linear) -> None:
        """Add a constraint, in units of its common divisor and beyond each row's least: small numbers, few terms."""
        kept, numbers = self.kept[constraint.rows], self.numbers[constraint.rows]
        least = np.where(kept, constraint.coefficients, np.iinfo(np.int64).max).min(axis=1)
        free = numbers >= 0
        above = (constraint.coefficients - least[:, None])[free]
        unit = int(np.gcd.reduce(above)) or 1
        spare = (constraint.capacity - int(least.sum())) // unit
        used = np.flatnonzero(above)
        units = above[used] // unit
        factor = min(1.0, _LARGEST_COEFFICIENT / max(1, int(units.max(initial=1))))
        self.model.add_linear_constraint(
            self._sum(numbers[free][used].tolist(), (units * factor).tolist()) <= (spare + 0.5) * factor,
        )

    def cut_off(self, constraint: Linear, picks: Int64[np.ndarray, " rows"]) -> bool:
        """Forbid picks that exceed the constraint, and all that take no less of it in every row: a cover inequality.

        False if no row of the constraint has a choice: then nothing keeps it.
        """
        numbers = self.numbers[constraint.rows]
        free = (numbers >= 0).any(axis=1)
        if not free.any():
            return False
        taken = constraint.coefficients[np.arange(constraint.rows.size), picks[constraint.rows]]
        as_large = numbers[(numbers >= 0) & (constraint.coefficients >= taken[:, None])].tolist()
        self.model.add_linear_constraint(self._sum(as_large, [1.0] * len(as_large)) <= int(free.sum()) - 1)
        return True

    def result(self, found: Any) -> CoreResult:
        """What HiGHS found."""
        reasons = self.library.TerminationReason
        if not found.has_primal_feasible_solution():
            infeasible = found.termination.reason == reasons.INFEASIBLE
            return CoreResult(CoreStatus.INFEASIBLE if infeasible else CoreStatus.UNKNOWN, None, -math.inf)
        optimal = found.termination.reason == reasons.OPTIMAL
        bound = self.least_loss + found.termination.objective_bounds.dual_bound / self.scale
        picks = self.picks(np.array(found.variable_values(self.variables)))
        return CoreResult(CoreStatus.OPTIMAL if optimal else CoreStatus.FEASIBLE, picks, bound)

    def solve(self, hint: Int64[np.ndarray, " rows"] | None, seconds: float) -> Any:
        """Run HiGHS."""
        hints = []
        if hint is not None and self.kept[np.arange(len(self.kept)), hint].all():
            chosen = (self.columns == hint[self.rows]).astype(float).tolist()
            hints = [self.library.SolutionHint(variable_values=dict(zip(self.variables, chosen, strict=True)))]
        limit = dt.timedelta(seconds=seconds) if math.isfinite(seconds) else None
        parameters = self.library.SolveParameters(
            relative_gap_tolerance=0.0, absolute_gap_tolerance=0.0, time_limit=limit
        )
        with_hints = self.library.ModelSolveParameters(solution_hints=hints)
        try:
            with _QUIET:
                return self.library.solve(
                    self.model, self.library.SolverType.HIGHS, params=parameters, model_params=with_hints
                )
        except (RuntimeError, ValueError, AttributeError) as error:
            raise BackendFailure(f"MathOpt's HiGHS: {error}") from error

    def picks(self, values: Float64[np.ndarray, " variables"]) -> Int64[np.ndarray, " rows"]:
        """The column of every row."""
        picks: Int64[np.ndarray, " rows"] = self.kept.argmax(axis=1)
        for first, last in self._spans():
            picks[self.rows[first]] = self.columns[first + int(values[first:last].argmax())]
        return picks

    def _spans(self) -> list[tuple[int, int]]:
        edges = np.flatnonzero(np.diff(self.rows, prepend=-1, append=-1)).tolist()
        return list(pairwise(edges))

    def _sum(self, used: Iterable[int], factors: list[float]) -> Any:
        return self.library.fast_sum(
            [self.variables[index] * factor for index, factor in zip(used, factors, strict=True)]
        )
