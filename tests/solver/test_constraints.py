"""Every kind of constraint: registered once, and equal in digests exactly when it means the same."""

import itertools
from dataclasses import fields, replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raq_solver.constraints
from raq_solver import LossTable, Problem
from raq_solver.constraints import (
    CONSTRAINT_KINDS,
    ActiveBytes,
    AtMost,
    Ceiling,
    Constraint,
    DistinctTypes,
    Exclude,
    Floor,
    Monotone,
    Pin,
    Region,
    SideConstraint,
    Source,
    Tie,
    tie_groups,
)

TABLE = LossTable(("a", "b"), ("Q8", "Q4"), [256, 256], [[272, 144]] * 2, [[0.0, 0.5]] * 2)
BOTH = ("a", "b")
EVERY: tuple[Constraint, ...] = (
    Pin(BOTH, "Q4"),
    Floor(BOTH, Fraction(4)),
    Ceiling(BOTH, Fraction(9)),
    Exclude(BOTH, ("Q8",)),
    Tie(BOTH),
    AtMost(BOTH, 1, Fraction(5)),
    DistinctTypes(BOTH, 2),
    Region(BOTH, 500),
    ActiveBytes(BOTH, (Fraction(1), Fraction(1, 2)), 500),
    Monotone(BOTH),
)


def test_every_kind_is_registered() -> None:
    assert [type(each) for each in EVERY] == list(CONSTRAINT_KINDS.values())
    defined = {each for each in vars(raq_solver.constraints).values() if isinstance(each, type)}
    kinds = {each for each in defined if issubclass(each, Constraint) and each not in (Constraint, SideConstraint)}
    assert kinds == set(CONSTRAINT_KINDS.values())


@pytest.mark.parametrize("constraint", EVERY, ids=list(CONSTRAINT_KINDS))
def test_kinds_have_tensors_source_and_reason_in_their_places(constraint: Constraint) -> None:
    names = [field.name for field in fields(constraint)]
    assert (names[0], *names[-2:]) == ("tensors", "source", "reason")
    assert isinstance(constraint, SideConstraint) == bool(constraint.side_rows(TABLE))
    assert not constraint.faults(TABLE, "")


def test_every_field_counts_in_the_digest() -> None:
    base = Problem(TABLE, 600).digest()
    changed = [replace(each, reason="another") for each in EVERY] + [replace(e, source=Source.DATA) for e in EVERY]
    changed += [
        Pin(BOTH, "Q8"),
        Floor(BOTH, Fraction(3)),
        Exclude(BOTH, ("Q4",)),
        AtMost(BOTH, 2, Fraction(5)),
        AtMost(BOTH, 1, Fraction(6)),
        ActiveBytes(BOTH, (Fraction(1), Fraction(1, 3)), 500),
        Tie(("a",)),
        Monotone(("b", "a")),
    ]
    digests = [Problem(TABLE, 600, (each,)).digest() for each in (*EVERY, *changed)]
    assert len({base, *digests}) == 1 + len(digests)


def test_the_digest_depends_on_what_a_constraint_means_not_on_how_it_was_written() -> None:
    written = [
        (Floor(BOTH, Fraction(4)), Floor(["a", "b"], 4)),
        (ActiveBytes(BOTH, (Fraction(1), Fraction(1, 2)), 500), ActiveBytes(BOTH, [1, Fraction(2, 4)], 500)),
    ]
    for one, other in written:
        assert Problem(TABLE, 600, (one,)).digest() == Problem(TABLE, 600, (other,)).digest()


def test_the_digest_does_not_change_by_accident() -> None:
    """Stored outcomes are found by it: a change of this value needs a new version in `Problem.digest`."""
    assert (
        Problem(TABLE, 600, (EVERY[0],)).digest() == "65c7558be31c86300807fc0ded7177d582113d8f85dafb014ec9cc90253c0b10"
    )


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True), max_size=8))
def test_ties_that_overlap_are_one_group(ties: list[list[int]]) -> None:
    groups = [set(map(str, tie)) for tie in ties]
    for _ in groups:  # plainly: join what overlaps, as often as there are ties
        for one, other in itertools.permutations(groups, 2):
            if one & other:
                one.update(other)
                other.update(one)
    expected = {frozenset(group) for group in groups}
    found = tie_groups([Tie(tuple(map(str, tie))) for tie in ties])
    assert {frozenset(group) for group in found} == expected
    assert sum(map(len, found)) == len({name for group in found for name in group})
