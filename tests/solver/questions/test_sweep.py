"""Frontiers: spacing, changes, the knee."""

import numpy as np
import pytest

from raq_solver import Allocation, Change, InvalidInput, LossTable, Problem, changes_between, knee, spaced, sweep


def test_capacities_are_spaced_evenly_with_both_ends() -> None:
    assert spaced(10, 20, 5) == (10, 12, 15, 17, 20)
    assert spaced(10, 20, 1) == (10,)
    assert spaced(7, 7, 3) == (7, 7, 7)
    for points, last in ((0, 20), (3, 9)):
        with pytest.raises(InvalidInput, match="at least one point and a rising range"):
            spaced(10, last, points)


def test_changes_name_what_differs() -> None:
    before, after = Allocation({"a": "Q4", "b": "Q5"}), Allocation({"a": "Q4", "b": "Q6"})
    assert changes_between(before, after) == (Change("b", "Q5", "Q6"),)


def test_the_knee_is_where_bytes_stop_buying_much() -> None:
    sizes = np.array([[100, 50, 40, 30, 20, 10]])
    losses = np.array([[0.0, 0.05, 0.1, 0.2, 5.0, 10.0]])
    table = LossTable(("a",), tuple("abcdef"), np.array([80]), sizes, losses)
    points = list(sweep(Problem(table, 0), range(0, 110, 10)))
    assert [point.size for point in points[:3]] == [None, 10, 20]
    assert knee(points).size == 30
    assert knee(points[:2]) is None
    assert knee([points[5]] * 4) is None
