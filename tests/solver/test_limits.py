"""Limits: of each search, and of several together."""

import time

import numpy as np

from raq_solver import Limits, LossTable, Problem, Termination, nested_ladder, spaced, sweep
from raq_solver.backends.minimax.search import least_worst
from raq_solver.knapsack import Linear
from raq_solver.questions.worst_case import Domains, WorstCaseMeasure, solve_worst_case
from support.services import hard_problem


def test_seconds_are_of_each_search_and_the_deadline_of_all() -> None:
    assert Limits().together() == Limits().now() == Limits()
    now = time.monotonic()
    both = Limits(1000.0, deadline=now + 10)
    assert both.together() == Limits(deadline=now + 10)
    assert 9 < both.now().seconds <= 10
    assert both.now(0.5).seconds <= 5
    assert Limits(1.0, deadline=now + 10).now(0.5) == Limits(1.0)
    assert now + 999 < Limits(1000.0).together().deadline < now + 1010
    past = Limits(deadline=now - 1)
    assert past.over
    assert past.now() == Limits(0.0)
    assert not both.over


def test_a_deadline_ends_all_points_of_a_frontier() -> None:
    hard = hard_problem()
    capacities = [hard.capacity_bytes + step for step in range(5)]
    start = time.monotonic()
    points = list(sweep(hard, capacities, Limits(100.0, deadline=start + 2)))
    assert time.monotonic() - start < 30
    assert all(point.allocation is not None and point.gap > 0 for point in points)


def test_a_ladder_and_a_worst_case_keep_to_their_time() -> None:
    hard = hard_problem()
    start = time.monotonic()
    rungs = nested_ladder(hard, [hard.capacity_bytes, hard.capacity_bytes + 10**7], Limits(2.0))
    assert rungs.termination is Termination.FEASIBLE
    assert [rung.ledger.size <= rung.capacity_bytes for rung in rungs.rungs] == [True, True]
    assert 0 < rungs.bound < rungs.loss
    tables = tuple((str(seed), hard_problem(0).table) for seed in range(3))
    found = solve_worst_case(Domains(tables, hard.capacity_bytes, (), WorstCaseMeasure.NATS), Limits(2.0))
    assert found.allocation is not None
    assert time.monotonic() - start < 60


def test_a_worst_case_without_time_is_the_best_choice_known() -> None:
    """That of one domain alone keeps the capacity and all constraints, so there is always one."""
    table = hard_problem().table
    losses = np.stack([table.losses, table.losses[::-1]])
    capacity = Linear(np.arange(400), table.sizes, int(table.sizes.mean(axis=1).sum()))
    smallest, largest = np.zeros(400, dtype=np.int64), np.full(400, 11)
    found = least_worst(losses, [capacity], Limits(0.0), [largest, smallest])
    assert found.termination is Termination.FEASIBLE
    assert np.array_equal(found.picks, smallest)
    assert 0 < found.bound < found.value
    assert least_worst(losses, [capacity], Limits(0.0)).termination is Termination.NO_SOLUTION_FOUND


def test_a_ladder_of_very_many_chains_is_answered_with_a_bound() -> None:
    """70 rungs of 40 types: more chains than there are atoms. The joint search is left out."""
    rng = np.random.default_rng(1)
    sizes = np.cumsum(rng.integers(1, 9, (12, 40)), axis=1)
    losses = np.cumsum(rng.random((12, 40)), axis=1)[:, ::-1]
    names, types = tuple(f"t{i}" for i in range(12)), tuple(f"Q{i}" for i in range(40))
    table = LossTable(names, types, sizes[:, -1], sizes, losses)
    least, most = int(sizes.min(axis=1).sum()), int(sizes.max(axis=1).sum())
    found = nested_ladder(Problem(table, 0), spaced(least, most, 70))
    assert found.termination is Termination.FEASIBLE
    assert 0 < found.bound < found.loss
    assert all(rung.ledger.size <= rung.capacity_bytes for rung in found.rungs)
