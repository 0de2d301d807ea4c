"""Where OR-Tools finds nothing in time, there is a choice that keeps the constraints all the same, with a bound."""

import math
from fractions import Fraction

import numpy as np
import pytest

from raq_solver.backends import linear
from raq_solver.backends.ortools import CoreResult, CoreStatus
from raq_solver.constraints import AtMost, Constraint, DistinctTypes, Monotone
from raq_solver.knapsack import Termination
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.solve import solve

NAMES = tuple(f"t{i}" for i in range(24))
RISING = tuple(Monotone(NAMES[4 * i : 4 * i + 4]) for i in range(6))
FEW = tuple(DistinctTypes(NAMES[6 * i : 6 * i + 6], 2) for i in range(2))
SHARED = (DistinctTypes(NAMES[:12], 2), DistinctTypes(NAMES[6:18], 2), DistinctTypes(NAMES[::2], 3))


def made(constraints: tuple[Constraint, ...], seed: int) -> Problem:
    random = np.random.default_rng(seed)
    weights = random.integers(1, 50, len(NAMES)) * 256
    sizes = weights[:, None] * np.arange(2, 7) // 8
    losses = np.sort(random.random((len(NAMES), 5)), axis=1)[:, ::-1] * 0.5 ** np.arange(5)
    table = LossTable(NAMES, tuple(f"Q{i}" for i in range(5)), weights, sizes, losses)
    return Problem(table, int(sizes.mean(axis=1).sum()), constraints)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "constraints",
    [RISING, FEW, SHARED, (*RISING, AtMost(NAMES, 5, Fraction(4)))],
    ids=["rising", "few", "shared", "both"],
)
def test_a_choice_with_its_bound(
    constraints: tuple[Constraint, ...], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = made(constraints, seed)
    best = solve(asked)
    assert best.ledger is not None
    monkeypatch.setattr(linear, "settle", lambda *_: CoreResult(CoreStatus.UNKNOWN, None, -math.inf))
    found = solve(asked)
    assert found.termination in {Termination.FEASIBLE, Termination.OPTIMAL}
    assert found.ledger is not None
    assert found.bound is not None
    assert found.bound <= best.ledger.loss * (1 + 1e-9)
    assert best.ledger.loss <= found.ledger.loss * (1 + 1e-9)
