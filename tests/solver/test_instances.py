"""Real models' tables: every one proven, and where hull methods fail, too."""

from pathlib import Path

import numpy as np
import pytest

from raq_solver.backends import mckp
from raq_solver.knapsack import Knapsack, Limits, Termination, lagrangian
from support.instances import BUDGETS, real, real_instances
from support.oracles.peers import by_bisection, by_highs


def loss_of(knapsack: Knapsack, picks: np.ndarray) -> float:
    index = np.arange(picks.size)
    assert knapsack.sizes[index, picks].sum() <= knapsack.capacity
    return float(knapsack.losses[index, picks].sum())


def test_every_real_instance_is_proven(data: Path) -> None:
    for instance in real_instances(data / "instances"):
        for per_cent in BUDGETS:
            knapsack = instance.at(per_cent)
            solution = mckp.solve(knapsack, Limits())
            assert solution.termination is Termination.OPTIMAL, (instance.name, per_cent)
            loss = loss_of(knapsack, solution.picks)
            assert lagrangian(knapsack, solution.multiplier) <= solution.bound * (1 + 1e-12)
            assert loss == pytest.approx(solution.bound, rel=1e-12)
            assert loss <= by_bisection(knapsack) * (1 + 1e-12)


@pytest.mark.slow
def test_a_tied_embedding_that_owns_a_third_of_the_bytes(data: Path) -> None:
    knapsack = real(data / "instances" / "Qwen3.5-0.8B.npz").at(15)
    loss = loss_of(knapsack, mckp.solve(knapsack, Limits()).picks)
    found, proven = by_highs(knapsack, 120)
    assert proven
    assert loss == pytest.approx(found, rel=1e-7)
    assert by_bisection(knapsack) > loss * 1.01
