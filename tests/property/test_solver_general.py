"""Laws of the general path: it equals brute force with every kind of side row, and its prices prove a bound."""

import math
import time

import numpy as np
import pytest
from hypothesis import given

from raq_solver.backends import general
from raq_solver.knapsack import Knapsack, Limits, Linear, Termination, lagrangian
from support.examples import examples
from support.oracles.brute_force import keeps, least_loss
from support.strategies import knapsacks_with_side_rows

# HiGHS works to about nine digits.
ALIKE = 1e-8


def _require_best(knapsack: Knapsack) -> None:
    """The solution keeps everything and has the loss that brute force finds, or both find none."""
    solution = general.solve(knapsack, Limits())
    best = least_loss(knapsack)
    if best is None:
        assert solution.termination is Termination.INFEASIBLE
        return
    assert solution.termination is Termination.OPTIMAL
    index = np.arange(len(solution.picks))
    assert knapsack.sizes[index, solution.picks].sum() <= knapsack.capacity
    assert all(keeps(row, tuple(solution.picks.tolist())) for row in knapsack.side)
    scale = np.where(np.isfinite(knapsack.losses), knapsack.losses, 0.0).max()
    assert math.fsum(knapsack.losses[index, solution.picks]) == pytest.approx(best, rel=ALIKE, abs=ALIKE * scale)


@examples(80)
@given(knapsacks_with_side_rows())
def test_equals_brute_force(knapsack: Knapsack) -> None:
    _require_best(knapsack)


@pytest.mark.parametrize("largest", [10**9, 10**12, 10**14])
@pytest.mark.parametrize("seed", range(5))
def test_a_byte_too_much_is_too_much_for_any_size(seed: int, largest: int) -> None:
    """Capacities that a choice misses by a byte or two, with sizes of which that is less than HiGHS' tolerance."""
    rng = np.random.default_rng(seed)
    sizes = np.sort(rng.integers(1, largest, (6, 3)), axis=1)
    losses = (sizes.max(axis=1, keepdims=True) - sizes) / largest + 1e-3 * rng.random((6, 3))
    near = sizes[np.arange(6), rng.integers(0, 3, 6)]
    first, second = np.arange(3), np.arange(3, 6)
    side = (
        Linear(first, sizes[first], int(near[first].sum()) - seed % 3),
        Linear(second, sizes[second], int(near[second].sum()) - 1),
    )
    _require_best(Knapsack(sizes, losses, int(near.sum()) + 10**6, side))


@examples(30)
@given(knapsacks_with_side_rows(most_rows=12, most_types=6))
def test_the_prices_prove_a_bound(knapsack: Knapsack) -> None:
    solution = general.solve(knapsack, Limits())
    if solution.picks is None:
        return
    assert all(price >= 0 for price in (solution.multiplier, *solution.side_multipliers))
    bound = lagrangian(knapsack, solution.multiplier, solution.side_multipliers)
    magnitude = solution.bound + solution.multiplier * knapsack.capacity
    assert bound <= solution.bound * (1 + ALIKE) + 1e-9 * magnitude


@examples(20)
@given(knapsacks_with_side_rows(most_rows=12, most_types=6))
def test_without_time_it_answers_at_once_and_claims_nothing_false(knapsack: Knapsack) -> None:
    start = time.perf_counter()
    stopped = general.solve(knapsack, Limits(seconds=0.0))
    assert time.perf_counter() - start < 30
    proven = general.solve(knapsack, Limits())
    if proven.picks is None:
        assert stopped.picks is None
    else:
        assert stopped.termination is not Termination.INFEASIBLE
        assert stopped.picks is None or stopped.bound <= proven.bound * (1 + ALIKE) + 1e-300
