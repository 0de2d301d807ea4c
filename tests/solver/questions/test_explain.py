"""Explanations where limits stop searches: what is not known is not claimed."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from raq_solver import (
    AtMost,
    InvalidInput,
    Limits,
    LossTable,
    Outcome,
    Pin,
    Problem,
    Region,
    Source,
    Termination,
    constraint_costs,
    explain_conflict,
    solve,
)
from raq_solver.questions.explain import nearest_capacity

NAMES = ("a", "b", "c")
TABLE = LossTable(NAMES, ("Q8", "Q4"), [256] * 3, [[272, 144]] * 3, [[0.0, 0.1], [0.0, 0.3], [0.0, 0.2]])
CONSTRAINTS = (AtMost(NAMES, 2, Fraction(5)), Region(("a", "b"), 288))


def stopped(when: Callable[[Problem], bool]) -> Callable[[Problem, Limits], Outcome]:
    """A solver that finds nothing in time where `when` says so."""

    def solver(problem: Problem, limits: Limits) -> Outcome:
        outcome = solve(problem, limits)
        if not when(problem):
            return outcome
        none = Termination.NO_SOLUTION_FOUND
        return replace(outcome, termination=none, allocation=None, ledger=None, bound=None, multiplier=None)

    return solver


def test_a_search_that_found_nothing_is_no_proof_that_something_fits() -> None:
    infeasible = Problem(TABLE, 400, (*CONSTRAINTS, Pin(("c",), "Q8")))
    with pytest.raises(InvalidInput, match="allow more time"):
        explain_conflict(infeasible, solver=stopped(lambda _problem: True))
    assert nearest_capacity(infeasible) == 560
    assert nearest_capacity(infeasible, solver=stopped(lambda problem: problem.capacity_bytes < 700)) == 560


def test_a_cost_that_is_not_known_is_none() -> None:
    problem = Problem(TABLE, 800, (*CONSTRAINTS, Pin(("c",), "Q4", Source.DATA)))
    known = constraint_costs(problem)
    assert [each.cost for each in known.constraints] == pytest.approx([0.0, 0.4, 0.2])
    found = constraint_costs(problem, solver=stopped(lambda tried: not any(map(is_region, tried.constraints))))
    assert [each.cost for each in found.constraints] == pytest.approx([0.0, None, 0.2])
    assert dict(found.by_source) == pytest.approx({Source.DATA: 0.2})
    assert found.total == 0


def is_region(constraint: object) -> bool:
    return isinstance(constraint, Region)


def test_cells_that_are_not_offered_may_have_any_size() -> None:
    sizes = np.array([[272, 144, 2**63 - 1]] * 3)
    table = LossTable(NAMES, ("Q8", "Q4", "Q2"), [256] * 3, sizes, [[0.0, 0.1, np.inf]] * 3)
    assert nearest_capacity(Problem(table, 1, CONSTRAINTS)) == 432
