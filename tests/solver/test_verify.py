"""The check of outcomes finds what was tampered with, and says how much the certificate proves."""

from dataclasses import replace

import numpy as np
import pytest

from raq_solver import Allocation, LossTable, Outcome, Problem, Region, Termination, Tie, account, solve, verify

TABLE = LossTable(
    ("a", "b", "c"),
    ("big", "small"),
    np.array([8, 8, 8]),
    np.array([[20, 10], [20, 10], [30, 10]]),
    np.array([[0.0, 5.0], [0.0, 3.0], [0.0, 4.0]]),
)
PROBLEM = Problem(TABLE, 50)


def with_types(outcome: Outcome, **types: str) -> Outcome:
    allocation = Allocation(dict(outcome.allocation.types) | types)
    return replace(outcome, allocation=allocation, ledger=account(allocation, TABLE, outcome.ledger.capacity))


def test_an_honest_outcome_holds_and_here_the_multiplier_proves_it() -> None:
    checked = verify(PROBLEM, solve(PROBLEM))
    assert checked.holds
    assert (checked.size, checked.loss) == (50, 4.0)
    assert checked.certified_bound == pytest.approx(4.0)
    assert checked.proven_by_certificate


def test_what_the_multiplier_leaves_open_is_said() -> None:
    problem = replace(PROBLEM, capacity_bytes=49)
    checked = verify(problem, solve(problem))
    assert checked.holds
    assert 0 < checked.certified_gap < 1
    assert not checked.proven_by_certificate
    assert "rests on the search" in str(checked)


@pytest.mark.parametrize(
    ("tampered", "said"),
    [
        (with_types(solve(PROBLEM), c="big"), "capacity: 70 bytes; the capacity is 50"),
        (with_types(solve(PROBLEM), a="small"), "leaves a gap"),
        (replace(solve(PROBLEM), bound=5.0), "bound: 5.0"),
        (replace(solve(PROBLEM), bound=None), "bound: None"),
        (replace(solve(PROBLEM), multiplier=-1.0), "must be numbers of at least 0"),
        (replace(solve(PROBLEM), multiplier=float("nan")), "must be numbers of at least 0"),
        (replace(solve(PROBLEM), allocation=Allocation({"a": "big"})), "b: has no quant type"),
        (replace(solve(PROBLEM), ledger=account(solve(PROBLEM).allocation, TABLE, 70)), "capacity 70"),
        (replace(solve(PROBLEM), allocation=None, ledger=None), "OPTIMAL without an allocation"),
        (replace(solve(PROBLEM), termination=Termination.INFEASIBLE), "INFEASIBLE with an allocation"),
        (replace(solve(PROBLEM), termination=Termination.NO_SOLUTION_FOUND), "NO_SOLUTION_FOUND with an allocation"),
        (solve(replace(PROBLEM, capacity_bytes=1)), "30 bytes are possible"),
    ],
)
def test_tampering_is_found(tampered: Outcome, said: str) -> None:
    checked = verify(PROBLEM, tampered)
    assert not checked.holds
    assert said in str(checked)


@pytest.mark.parametrize("price", [1e300, 1e307, 1.7e308])
@pytest.mark.parametrize("capacity", [50, 49, 10])
def test_a_price_too_large_to_compute_with_proves_nothing(price: float, capacity: int) -> None:
    dear = replace(solve(PROBLEM), multiplier=price)
    checked = verify(replace(PROBLEM, capacity_bytes=capacity), dear)
    assert checked.certified_bound <= 4.0 or capacity == 10
    assert not checked.proven_by_certificate


def test_a_forged_ledger_is_found() -> None:
    honest = solve(PROBLEM)
    entries = (honest.ledger.entries[0]._replace(size=1), *honest.ledger.entries[1:])
    forged = replace(honest, ledger=replace(honest.ledger, entries=entries))
    assert "ledger: differs from the table: a" in str(verify(PROBLEM, forged))


def test_broken_constraints_are_found() -> None:
    outcome = solve(PROBLEM)
    tied = replace(PROBLEM, constraints=(Tie(("a", "c")),))
    assert "constraint 1 (Tie): a is big, c is small" in str(verify(tied, outcome))
    region = replace(PROBLEM, constraints=(Region(("a", "b"), 30),))
    assert "constraint 1 (Region): 40 where 30 are allowed" in str(verify(region, outcome))


def test_infeasible_is_proven_where_sizes_alone_do() -> None:
    too_small = replace(PROBLEM, capacity_bytes=29)
    checked = verify(too_small, solve(too_small))
    assert checked.certified_infeasible
    assert checked.proven_by_certificate
    region = replace(PROBLEM, constraints=(Region(("a",), 5),))
    outcome = solve(region)
    assert outcome.termination is Termination.INFEASIBLE
    assert verify(region, outcome).holds
    assert not verify(region, outcome).proven_by_certificate
