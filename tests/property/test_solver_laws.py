"""Laws of whole problems: names, constraints, certificates, frontier, the other questions."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from raq_solver import (
    Limits,
    Problem,
    Termination,
    audit,
    constraint_costs,
    explain_conflict,
    explain_tensor,
    nested_ladder,
    smallest_size,
    solve,
    spaced,
    sweep,
    verify,
)
from raq_solver.allocation import Allocation
from support.examples import examples
from support.oracles.every_allocation import feasible
from support.strategies import problems

# HiGHS works to about nine digits; the fast path to twelve.
ALIKE = 1e-8


@examples(150)
@given(problems(most_tensors=5))
def test_solving_equals_trying_every_allocation(problem: Problem) -> None:
    check_against_every_allocation(problem)


@examples(80)
@given(problems(most_tensors=4, side=True))
def test_solving_with_side_constraints_equals_trying_every_allocation(problem: Problem) -> None:
    check_against_every_allocation(problem)


def check_against_every_allocation(problem: Problem) -> None:
    outcome = solve(problem)
    best = min((loss for _, _, loss in feasible(problem)), default=None)
    checked = verify(problem, outcome)
    assert checked.holds, str(checked)
    if best is None:
        assert outcome.termination is Termination.INFEASIBLE
        assert outcome.allocation is None
    else:
        assert outcome.termination is Termination.OPTIMAL
        assert outcome.ledger.loss == pytest.approx(best, rel=ALIKE, abs=ALIKE * problem.table.losses[0].min())
        assert outcome.ledger.size <= problem.capacity_bytes
        assert not problem.violations(outcome.allocation)
        assert checked.certified_bound <= best + 1e-9 * (best + 1)


@given(problems(most_tensors=8, most_types=5), st.integers(0, 60))
def test_a_larger_budget_is_never_worse(problem: Problem, more: int) -> None:
    smaller, larger = solve(problem), solve(replace(problem, capacity_bytes=problem.capacity_bytes + more))
    if smaller.ledger is not None:
        assert larger.ledger.loss <= smaller.ledger.loss * (1 + 1e-11)


@examples(40)
@given(problems(most_tensors=6))
def test_a_frontier_is_its_points_solved_alone(problem: Problem) -> None:
    first = solve(problem)
    capacities = spaced(max(0, first.least_bytes - 2), first.most_bytes + 2, 7)
    types: dict[str, str] = {}
    for capacity, point in zip(capacities, sweep(problem, capacities), strict=True):
        alone = solve(replace(problem, capacity_bytes=capacity))
        assert point.termination is alone.termination
        if alone.ledger is None:
            assert point.loss is None
            continue
        assert point.loss == pytest.approx(alone.ledger.loss, rel=1e-11, abs=0)
        assert point.size <= capacity
        if types:
            types.update({change.tensor: change.after for change in point.changes})
            assert types == dict(point.allocation.types)
        types = dict(point.allocation.types)


@examples(60)
@given(problems(most_tensors=5), st.floats(0.0, 2.0))
def test_the_smallest_size_equals_trying_every_allocation(problem: Problem, factor: float) -> None:
    losses = sorted(loss for _, _, loss in feasible(problem))
    assume(losses)
    most_loss = losses[len(losses) // 2] * factor
    found = smallest_size(problem, most_loss)
    best = min((size for _, size, loss in feasible(problem) if loss <= most_loss * (1 + 1e-12)), default=None)
    assert found.least_loss == pytest.approx(losses[0], rel=1e-11, abs=0)
    if best is None:
        assert found.termination is Termination.INFEASIBLE
    else:
        assert found.termination is Termination.OPTIMAL
        assert found.ledger.size == found.bound_bytes == best


@examples(40)
@given(problems(most_tensors=4, most_types=3), st.data())
def test_a_nested_ladder_equals_trying_every_pair(problem: Problem, data: st.DataObject) -> None:
    capacities = sorted(data.draw(st.lists(st.integers(5, 200), min_size=2, max_size=2, unique=True)))
    ladder = nested_ladder(problem, capacities)
    low = list(feasible(replace(problem, capacity_bytes=capacities[0])))
    high = list(feasible(replace(problem, capacity_bytes=capacities[1])))
    row, column = problem.table.row_of, problem.table.column_of

    def size(name: str, types: dict[str, str]) -> int:
        return int(problem.table.sizes[row[name], column[types[name]]])

    pairs = [
        lower[2] + upper[2]
        for lower in low
        for upper in high
        if all(size(name, lower[0]) <= size(name, upper[0]) for name in row)
    ]
    if not pairs:
        assert ladder.termination is Termination.INFEASIBLE
        return
    assert ladder.termination is Termination.OPTIMAL
    scale = max(loss for loss in problem.table.losses.ravel() if math.isfinite(loss))
    assert ladder.loss == pytest.approx(min(pairs), rel=ALIKE, abs=ALIKE * scale)
    assert ladder.price >= -ALIKE * scale
    below, above = (dict(rung.allocation.types) for rung in ladder.rungs)
    assert all(size(name, below) <= size(name, above) for name in row)


@examples(30)
@given(problems(most_tensors=4))
def test_an_audit_never_finds_a_worse_map_of_the_same_bytes(problem: Problem) -> None:
    for types, size, loss in list(feasible(problem))[:3]:
        found = audit(problem, Allocation(types))
        assert found.ledger.size == size
        assert not found.broken
        assert found.best.ledger.size <= size
        assert found.best.ledger.loss <= loss * (1 + 1e-11)
        changed = types | {change.tensor: change.after for change in found.changes}
        assert changed == dict(found.best.allocation.types)


@examples(30)
@given(problems(most_tensors=4, most_types=3))
def test_a_tensors_alternatives_are_the_forced_optima(problem: Problem) -> None:
    everything = list(feasible(problem))
    assume(everything)
    tensor = problem.table.tensors[0]
    reasons = explain_tensor(problem, tensor)
    for other in reasons.alternatives:
        forced = [loss for types, _, loss in everything if types[tensor] == other.quant_type]
        assert other.loss == (pytest.approx(min(forced), rel=1e-11, abs=0) if forced else None)
    rises = [other.rise for other in reasons.alternatives if other.rise is not None]
    assert rises == sorted(rises)
    assert all(rise >= -1e-12 * (1 + reasons.runner_up.loss) for rise in rises)


@examples(30)
@given(problems(most_tensors=4, most_types=3, side=True))
def test_dropping_a_constraint_never_costs(problem: Problem) -> None:
    assume(solve(problem).allocation is not None)
    costs = constraint_costs(problem)
    loss = solve(problem).ledger.loss
    assert all(cost.cost >= -ALIKE * (1 + loss) for cost in costs.constraints)
    assert costs.total >= max([0.0, *costs.by_source.values()]) - ALIKE * (1 + loss)


@examples(40)
@given(problems(most_tensors=4, most_types=3, side=True))
def test_a_conflict_is_minimal_and_the_nearest_capacity_is_the_least(problem: Problem) -> None:
    conflict = explain_conflict(problem)
    if any(True for _ in feasible(problem)):
        assert conflict is None
        return
    members = tuple(constraint for _, constraint in conflict.constraints)
    assert not any(True for _ in feasible(replace(problem, constraints=members)))
    for left_out in range(len(members)):
        rest = members[:left_out] + members[left_out + 1 :]
        assert any(True for _ in feasible(replace(problem, constraints=rest)))
    everything = replace(problem, capacity_bytes=10**6)
    sizes = [size for _, size, _ in feasible(everything)]
    assert conflict.nearest_capacity_bytes == min(sizes, default=None)


@examples(60)
@given(problems(most_tensors=5, side=True), st.sampled_from([-(2**63), -1, 0, 2**62, 2**63 - 1]))
def test_sizes_of_cells_that_are_not_offered_do_not_matter(problem: Problem, size: int) -> None:
    table = problem.table
    other = replace(problem, table=replace(table, sizes=np.where(table.offered, table.sizes, size)))
    before, after = solve(problem), solve(other)
    assert verify(other, after).holds
    assert (after.termination, after.allocation, after.least_bytes) == (
        before.termination,
        before.allocation,
        before.least_bytes,
    )
    if before.ledger is not None and not problem.has_side_constraints:
        most_loss = before.ledger.loss * 2
        assert smallest_size(other, most_loss).bound_bytes == smallest_size(problem, most_loss).bound_bytes


@examples(60)
@given(problems(most_tensors=5, side=True), st.sampled_from([2.0**-600, 2.0**600, 2.0**760]))
def test_the_unit_of_losses_does_not_matter(problem: Problem, factor: float) -> None:
    other = replace(problem, table=replace(problem.table, losses=factor * problem.table.losses))
    before, after = solve(problem), solve(other)
    assert verify(other, after).holds
    assert after.termination is before.termination
    if before.ledger is not None:
        scale = np.where(problem.table.offered, problem.table.losses, 0.0).max()
        assert after.ledger.loss / factor == pytest.approx(before.ledger.loss, rel=ALIKE, abs=ALIKE * scale)


@given(problems(most_tensors=8))
def test_solving_keeps_to_its_time(problem: Problem) -> None:
    outcome = solve(problem, Limits(seconds=0.0))
    assert outcome.termination is not Termination.NO_SOLUTION_FOUND
    assert verify(problem, outcome).holds
