"""Laws of the fast path: it equals brute force and dynamic programming, and its bound is a bound."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_solver.backends import mckp
from raq_solver.knapsack import Knapsack, KnapsackSolution, Limits, Termination, lagrangian
from support.examples import examples
from support.oracles.brute_force import least_loss
from support.oracles.dynamic import least_losses
from support.strategies import knapsacks

# Sums of a handful of floats in another order; the search itself stops at 1e-12.
ALIKE = 1e-11


def size_of(knapsack: Knapsack, solution: KnapsackSolution) -> int:
    return int(knapsack.sizes[np.arange(len(solution.picks)), solution.picks].sum())


def loss_of(knapsack: Knapsack, solution: KnapsackSolution) -> float:
    return math.fsum(knapsack.losses[np.arange(len(solution.picks)), solution.picks])


@examples(400)
@given(knapsacks())
def test_equals_brute_force(knapsack: Knapsack) -> None:
    solution = mckp.solve(knapsack, Limits())
    best = least_loss(knapsack)
    if best is None:
        assert solution.termination is Termination.INFEASIBLE
        assert solution.picks is None
    else:
        assert solution.termination is Termination.OPTIMAL
        assert size_of(knapsack, solution) <= knapsack.capacity
        assert loss_of(knapsack, solution) == pytest.approx(best, rel=ALIKE, abs=0)
        assert solution.bound == pytest.approx(best, rel=ALIKE, abs=0)


@examples(100)
@given(knapsacks(most_rows=40, most_types=12))
def test_equals_dynamic_programming(knapsack: Knapsack) -> None:
    solution = mckp.solve(knapsack, Limits())
    best = float(least_losses(knapsack).min())
    if math.isinf(best):
        assert solution.termination is Termination.INFEASIBLE
    else:
        assert loss_of(knapsack, solution) == pytest.approx(best, rel=ALIKE, abs=0)
        assert size_of(knapsack, solution) <= knapsack.capacity


@examples(50)
@given(knapsacks(most_rows=30, most_types=8, feasible=True), st.data())
def test_capacities_of_one_table_do_not_touch_each_other(knapsack: Knapsack, data: st.DataObject) -> None:
    least = knapsack.least_size()
    capacities = data.draw(st.lists(st.integers(max(0, least - 5), knapsack.capacity + 50), min_size=1, max_size=8))
    relaxed = mckp.Relaxed(knapsack.sizes, knapsack.losses)
    for capacity in capacities:
        solution = relaxed.solve(capacity, Limits())
        alone = mckp.solve(Knapsack(knapsack.sizes, knapsack.losses, capacity), Limits())
        assert solution.termination is alone.termination
        assert solution.bound == alone.bound
        assert np.array_equal(solution.picks, alone.picks)


@given(knapsacks(feasible=True))
def test_the_multiplier_proves_a_bound(knapsack: Knapsack) -> None:
    solution = mckp.solve(knapsack, Limits())
    magnitude = solution.bound + solution.multiplier * knapsack.capacity
    assert lagrangian(knapsack, solution.multiplier) <= solution.bound + 1e-12 * magnitude


@examples(60)
@given(knapsacks(most_rows=12, most_types=8, feasible=True))  # in parts of 3 states a search is exponential in the rows
def test_splitting_layers_changes_nothing(knapsack: Knapsack) -> None:
    whole = mckp.solve(knapsack, Limits())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mckp, "LARGEST_LAYER", 3)
        split = mckp.solve(knapsack, Limits())
    assert split.termination is Termination.OPTIMAL
    assert split.bound == pytest.approx(whole.bound, rel=ALIKE, abs=0)
    assert size_of(knapsack, split) <= knapsack.capacity


@examples(60)
@given(knapsacks(most_rows=30, most_types=8, feasible=True))
def test_without_time_there_is_a_solution_and_a_bound(knapsack: Knapsack) -> None:
    stopped = mckp.solve(knapsack, Limits(seconds=0.0))
    proven = mckp.solve(knapsack, Limits())
    assert stopped.termination in (Termination.FEASIBLE, Termination.OPTIMAL)
    assert size_of(knapsack, stopped) <= knapsack.capacity
    assert stopped.bound <= proven.bound * (1 + ALIKE)
    assert loss_of(knapsack, stopped) >= proven.bound * (1 - ALIKE)


@given(knapsacks(feasible=True), st.integers(0, 2**32 - 1), st.sampled_from([0.25, 4.0, 1024.0]))
def test_order_of_rows_and_scale_of_losses_do_not_matter(knapsack: Knapsack, seed: int, factor: float) -> None:
    order = np.random.default_rng(seed).permutation(len(knapsack.sizes))
    other = Knapsack(knapsack.sizes[order], factor * knapsack.losses[order], knapsack.capacity)
    expected = factor * mckp.solve(knapsack, Limits()).bound
    assert mckp.solve(other, Limits()).bound == pytest.approx(expected, rel=ALIKE, abs=0)


@given(knapsacks(most_rows=20, feasible=True))
def test_solving_twice_gives_the_same_picks(knapsack: Knapsack) -> None:
    first, second = (mckp.solve(knapsack, Limits()).picks for _ in range(2))
    assert np.array_equal(first, second)


def test_steps_along_a_line_stay_in_their_order() -> None:
    """By rounding the second step of the second row is the steeper one, (0.3 - 0.1) / 14 > (0.4 - 0.3) / 7."""
    sizes = np.tile([7, 14, 21, 28], (2, 1))
    losses = np.array([[0.4, np.inf, np.inf, 0.1], [0.4, 0.3, np.inf, 0.1]])
    hulls = mckp.Hulls.of(sizes, losses - losses.min(axis=1, keepdims=True))
    assert hulls.columns[hulls.rows == 1].tolist() in ([1, 3], [3])
    for capacity in range(14, 60):
        solution = mckp.solve(Knapsack(sizes, losses, capacity), Limits())
        assert solution.picks is not None
        assert sizes[[0, 1], solution.picks].sum() <= capacity
