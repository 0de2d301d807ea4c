"""Whole numbers at the ends of the wire's range: refused or solved, never wrapped round, never a foreign error."""

import random
from fractions import Fraction

import numpy as np
import pytest

from raq_proto import convert
from raq_proto.convert.numbers import budget_to_proto
from raq_proto.v1 import problem_pb2
from raq_solver.budget import BitsPerWeight
from raq_solver.constraints import ActiveBytes, AtMost, Ceiling, Constraint, DistinctTypes, Floor, Monotone, Region, Tie
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import quant_type
from raq_solver.solve import solve
from raq_solver.tensors import Tensor
from raq_solver.verify import verify

EDGES = [sign * (2**power + step) for power in (0, 31, 32, 52, 53, 62, 63) for step in (-1, 0, 1) for sign in (1, -1)]
INT64 = [number for number in EDGES if -(2**63) <= number < 2**63]
NAMES = ("a", "b", "c")
CONSTRAINTS = (
    Floor(NAMES, Fraction(3, 2)),
    Ceiling(NAMES[:2], Fraction(99)),
    Tie(NAMES[1:]),
    AtMost(NAMES, 2, Fraction(7)),
    DistinctTypes(NAMES, 2),
    Region(NAMES, 10**6),
    ActiveBytes(NAMES, (Fraction(1, 8), Fraction(3, 8), Fraction(1)), 10**6),
    Monotone(NAMES),
)
TABLE = LossTable(NAMES, ("Q4", "Q8"), [64, 64, 64], [[40, 80]] * 3, [[0.3, 0.1]] * 3)


def spoiled(message: problem_pb2.Problem, rng: random.Random) -> problem_pb2.Problem:  # noqa: C901
    """The problem with some of its whole numbers replaced by numbers at the edges."""
    made = problem_pb2.Problem()
    made.CopyFrom(message)
    for numbers in (made.table.weights, made.table.sizes):
        for place in range(len(numbers)):
            if rng.random() < 0.05:
                numbers[place] = rng.choice(INT64)
    for part in (made.budget.bits_per_weight, *_ratios(made)):
        if rng.random() < 0.3:
            part.numerator = rng.choice(INT64)
        if rng.random() < 0.3:
            part.denominator = rng.choice(INT64)
    if made.budget.WhichOneof("amount") == "capacity_bytes" and rng.random() < 0.5:
        made.budget.capacity_bytes = rng.choice(INT64)
    for constraint in made.constraints:
        kind = getattr(constraint, constraint.WhichOneof("kind"))
        for name in ("count", "capacity_bytes"):
            if name in kind.DESCRIPTOR.fields_by_name and rng.random() < 0.3:
                setattr(kind, name, rng.choice(INT64))
    return made


def _ratios(message: problem_pb2.Problem) -> list[problem_pb2.Ratio]:
    found = []
    for constraint in message.constraints:
        kind = getattr(constraint, constraint.WhichOneof("kind"))
        found += [kind.bits] if "bits" in kind.DESCRIPTOR.fields_by_name else []
        found += list(kind.shares) if "shares" in kind.DESCRIPTOR.fields_by_name else []
    return found


@pytest.mark.parametrize("seed", range(4))
def test_numbers_at_the_edges_are_refused_or_solved_exactly(seed: int) -> None:
    rng = random.Random(seed)
    solved = 0
    for _ in range(250):
        chosen = tuple(each for each in CONSTRAINTS if rng.random() < 0.25)
        message = convert.problem_to_proto(Problem(TABLE, 200, chosen))
        if rng.random() < 0.5:
            message.budget.CopyFrom(budget_to_proto(BitsPerWeight(Fraction(6))))
        message = spoiled(message, rng)
        try:
            problem = convert.problem_from_proto(message)
            outcome = solve(problem, Limits(5.0))
        except InvalidInput:
            continue
        solved += 1
        if outcome.ledger is not None:
            sizes = [
                problem.table.sizes[problem.table.row_of[name], problem.table.column_of[one]]
                for name, one in outcome.allocation.types.items()
            ]
            assert sum(map(int, sizes)) == outcome.ledger.size <= problem.capacity_bytes < 2**63
    assert 10 < solved < 240, "both ways are taken"


@pytest.mark.parametrize("weights", [[2**63 - 1] * 3, [2**53, 1, 0], [2**52, 2**52, 1]])
def test_sums_of_weights_do_not_wrap_round(weights: list[int]) -> None:
    with pytest.raises(InvalidInput, match="weights; at most 2\\^53 are supported"):
        LossTable(NAMES, ("Q",), weights, [[1]] * 3, [[0.1]] * 3)


def test_a_profile_of_impossible_shapes_is_refused() -> None:
    unknown = np.full(1, np.nan)
    for shape in ((2**40, 2**40), (32, 2**62), (2**48, 2**6), (2**600, 2**600)):
        with pytest.raises(InvalidInput, match="more than 2\\^53 weights; at most 2\\^53 are supported"):
            Profile((Tensor("a", shape, quant_type("F16")),), (quant_type("Q8_0"),), [[0.1]], [1.0], unknown, unknown)


def test_shares_without_a_usual_denominator_are_refused() -> None:
    for denominators in ((2**31 - 1, 2**19 - 1, 2**17 - 1), (10**400, 1, 1)):
        shares = tuple(Fraction(1, each) for each in denominators)
        with pytest.raises(InvalidInput, match="common denominator"):
            Problem(TABLE, 200, (ActiveBytes(NAMES, shares, 10**6),))


@pytest.mark.parametrize("chosen", [(), *((each,) for each in CONSTRAINTS)])
def test_the_largest_capacity_is_solved(chosen: tuple[Constraint, ...]) -> None:
    problem = Problem(TABLE, 2**53, chosen)
    assert verify(problem, solve(problem)).holds
