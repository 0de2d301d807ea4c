"""Messages carry the domain without loss, and reading them is validation."""

from dataclasses import replace
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from raq_proto import convert
from raq_proto.convert import BudgetRange, Variant
from raq_proto.errors import UnknownProfile
from raq_proto.question import ProfileProblem
from raq_proto.v1 import outcome_pb2, problem_pb2, profile_pb2, solver_service_pb2
from raq_solver.budget import BitsPerWeight, Budget, TotalBytes, capacity_bytes
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
    Source,
    Tie,
)
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.losses import LossTable, LossUnit
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import FisherLosses, Profile
from raq_solver.quant_types import quant_type
from raq_solver.questions.smallest_size import smallest_size
from raq_solver.questions.sweep import spaced, sweep
from raq_solver.solve import solve
from raq_solver.tensors import Tensor
from raq_solver.verify import verify
from support.strategies import knapsacks

TYPES = ("Q8_0", "Q6_K", "Q4_K", "F16", "IQ4_XS")
BITS = st.fractions(Fraction(1, 1000), 10**6, max_denominator=10**9)


def shares(count: int) -> st.SearchStrategy[tuple[Fraction, ...]]:
    return st.tuples(*[st.fractions(0, 1, max_denominator=1000)] * count)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    rows, types = draw(st.integers(1, 4)), draw(st.lists(st.sampled_from(TYPES), min_size=1, unique=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors = [Tensor(f"t{row}", (256, int(random.integers(1, 9))), quant_type("F16")) for row in range(rows)]
    errors = random.random((rows, len(types)))
    errors[:, 1:][random.random((rows, len(types) - 1)) < 0.3] = np.inf
    sensitivities = np.where(random.random(rows) < 0.5, np.nan, random.random(rows))
    provenance = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
    columns = tuple(map(quant_type, types))
    losses, energies = random.random((rows, len(types))), random.random(rows)
    losses[random.random(losses.shape) < 0.3] = energies[random.random(rows) < 0.3] = np.nan
    inputs = np.where(random.random((rows, 2)) < 0.3, np.nan, random.random((rows, 2))) if draw(st.booleans()) else None
    fisher = FisherLosses(losses, energies, inputs) if draw(st.booleans()) else None
    found = sensitivities, sensitivities / 2, provenance
    return Profile(tuple(tensors), columns, errors, random.random(rows), *found, fisher=fisher)


BUDGETS: st.SearchStrategy[Budget] = st.builds(TotalBytes, st.integers(0, 2**53)) | st.builds(BitsPerWeight, BITS)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    knapsack = draw(knapsacks())
    rows, types = knapsack.sizes.shape
    table = LossTable(
        tuple(f"blk.{row}.weight" for row in range(rows)),
        tuple(f"Q{column}" for column in range(types)),
        np.arange(1, rows + 1, dtype=np.int64) * 32,
        knapsack.sizes,
        knapsack.losses,
        draw(st.text(max_size=20)),
    )
    source, reason = draw(st.sampled_from(Source)), draw(st.text(max_size=9))
    names = draw(st.lists(st.sampled_from(table.tensors), min_size=1, unique=True).map(tuple))
    kinds: list[Constraint] = [
        Pin(names, table.quant_types[0], source, reason),
        Floor(names, draw(BITS), source, reason),
        Ceiling(names, draw(BITS), source, reason),
        Exclude(names, table.quant_types[:1], source, reason),
        Tie(names, source, reason),
        AtMost(names, draw(st.integers(0, 9)), draw(BITS), source, reason),
        DistinctTypes(names, draw(st.integers(1, 9)), source, reason),
        Region(names, draw(st.integers(0, 2**53)), source, reason),
        ActiveBytes(names, draw(shares(len(names))), draw(st.integers(0, 2**53)), source, reason),
        Monotone(names, source, reason),
    ]
    chosen = draw(st.lists(st.sampled_from(kinds), max_size=3, unique_by=id).map(tuple))
    try:
        return Problem(table, knapsack.capacity, chosen)
    except InvalidInput:  # the constraints contradict each other
        return Problem(table, knapsack.capacity)


@given(problems())
def test_problem_there_and_back(problem: Problem) -> None:
    wire = convert.problem_to_proto(problem).SerializeToString()
    again = convert.problem_from_proto(problem_pb2.Problem.FromString(wire))
    assert again.digest() == problem.digest()
    assert again.constraints == problem.constraints
    assert again.table.source == problem.table.source


@given(profiles())
def test_profile_there_and_back(profile: Profile) -> None:
    wire = convert.profile_to_proto(profile).SerializeToString()
    assert convert.profile_from_proto(profile_pb2.Profile.FromString(wire)).digest() == profile.digest()


@given(profiles(), BUDGETS, st.sampled_from(["digest", "inline"]))
def test_a_profiles_problem_is_the_same_at_both_ends(profile: Profile, budget: Budget, way: str) -> None:
    asked = ProfileProblem(profile.digest() if way == "digest" else profile, budget, loss_model="relative")
    wire = convert.problem_to_proto(asked).SerializeToString()
    there = convert.problem_from_proto(problem_pb2.Problem.FromString(wire), {profile.digest(): profile}.__getitem__)
    assert there.digest() == asked.problem({profile.digest(): profile}.__getitem__).digest()


def test_a_digest_where_nothing_is_stored() -> None:
    asked = ProfileProblem("0" * 64, TotalBytes(5))
    with pytest.raises(UnknownProfile, match="put it first"):
        convert.problem_from_proto(convert.problem_to_proto(asked))


@given(problems(), st.lists(BUDGETS, min_size=1, max_size=4))
def test_budgets_of_a_sweep_there_and_back(problem: Problem, budgets: list[Budget]) -> None:
    again, capacities = convert.sweep_from_proto(convert.sweep_to_proto(problem, budgets))
    assert again.digest() == problem.digest()
    weights = problem.table.total_weights
    assert capacities == tuple(capacity_bytes(budget, weights) for budget in budgets)


@given(problems(), st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 20))
def test_a_range_is_spaced_by_the_server(problem: Problem, first: int, more: int, points: int) -> None:
    asked = BudgetRange(TotalBytes(first), TotalBytes(first + more), points)
    _, capacities = convert.sweep_from_proto(convert.sweep_to_proto(problem, asked))
    assert capacities == spaced(first, first + more, points)


@given(problems(), BUDGETS)
def test_variants_replace_the_budget_and_add_constraints(problem: Problem, budget: Budget) -> None:
    tie = Tie(problem.table.tensors[:1])
    request = convert.batch_to_proto(problem, [Variant(), Variant(budget), Variant(None, (tie,))])
    same, other, tied = convert.batch_from_proto(
        solver_service_pb2.SolveBatchRequest.FromString(request.SerializeToString())
    )
    assert same.digest() == problem.digest()
    assert other.capacity_bytes == capacity_bytes(budget, problem.table.total_weights)
    assert tied.constraints == (*problem.constraints, tie)


@given(problems())
def test_points_verification_and_smallest_there_and_back(problem: Problem) -> None:
    pure = Problem(problem.table, problem.capacity_bytes)
    points = list(sweep(pure, [0, pure.capacity_bytes, 2 * pure.capacity_bytes, 10**6]))
    assert list(map(convert.PointReader().read, convert.points_to_proto(points))) == points
    outcome = solve(pure)
    found = verify(pure, outcome)
    assert convert.verification_from_proto(convert.verification_to_proto(found)) == found
    smallest = smallest_size(pure, 1.0)
    assert convert.smallest_from_proto(convert.smallest_to_proto(smallest)) == smallest


@given(problems())
def test_outcome_there_and_back(problem: Problem) -> None:
    outcome = solve(Problem(problem.table, problem.capacity_bytes))
    wire = convert.outcome_to_proto(outcome).SerializeToString()
    assert convert.outcome_from_proto(outcome_pb2.Outcome.FromString(wire)) == outcome


@given(st.sampled_from(Termination))
def test_every_termination_there_and_back(termination: Termination) -> None:
    outcome = Outcome(termination, None, None, None, None, 1, 2, 0.5, (0.0, 1.5))
    assert convert.outcome_from_proto(convert.outcome_to_proto(outcome)) == outcome


def test_unspecified_enums_are_refused() -> None:
    with pytest.raises(InvalidInput, match="termination 0"):
        convert.outcome_from_proto(outcome_pb2.Outcome())
    with pytest.raises(InvalidInput, match="source"):
        convert.constraint_from_proto(problem_pb2.Constraint(tensors=["a"], tie=problem_pb2.Tie()))
    with pytest.raises(InvalidInput, match="kind"):
        convert.constraint_from_proto(problem_pb2.Constraint(tensors=["a"], source=problem_pb2.SOURCE_USER))


def test_all_faults_of_a_message_at_once() -> None:
    message = problem_pb2.Problem(
        table=problem_pb2.LossTable(tensors=["a"], quant_types=["Q"], sizes=[1, 2], losses=[], weights=[]),
        constraints=[problem_pb2.Constraint(), problem_pb2.Constraint(source=problem_pb2.SOURCE_USER)],
    )
    with pytest.raises(InvalidInput) as caught:
        convert.problem_from_proto(message)
    where = [fault.where for fault in caught.value.faults]
    assert where == ["table.weights", "table.sizes", "table.losses", "budget", "constraint 1", "constraint 2"]


@given(problems(), st.sampled_from(LossUnit))
def test_the_unit_of_losses_there_and_back(problem: Problem, unit: LossUnit) -> None:
    table = replace(problem.table, unit=unit)
    assert convert.table_from_proto(convert.table_to_proto(table)).unit is unit


def test_a_table_of_an_older_client_has_an_unknown_unit() -> None:
    table = LossTable(("a",), ("Q",), [1], [[1]], [[0.5]], "by hand", LossUnit.NATS)
    message = convert.table_to_proto(table)
    message.ClearField("unit")
    again = convert.table_from_proto(problem_pb2.LossTable.FromString(message.SerializeToString()))
    assert (again.digest(), again.source, again.unit) == (table.digest(), table.source, LossUnit.UNKNOWN)


def test_a_unit_of_a_newer_client_is_refused() -> None:
    message = convert.table_to_proto(LossTable(("a",), ("Q",), [1], [[1]], [[0.5]]))
    newer = problem_pb2.LossTable.FromString(message.SerializeToString() + b"\x38\x63")  # field 7, number 99
    with pytest.raises(InvalidInput, match=r"table\.unit: is 99, which is not known here"):
        convert.table_from_proto(newer)


def test_every_kind_of_constraint_has_a_message() -> None:
    kinds = problem_pb2.Constraint.DESCRIPTOR.oneofs_by_name["kind"].fields
    assert [field.name for field in kinds] == list(CONSTRAINT_KINDS)


def test_numbers_that_the_wire_cannot_carry_are_refused() -> None:
    with pytest.raises(InvalidInput, match="is too large; at most 2\\^53"):
        convert.constraint_to_proto(Floor(("a",), Fraction(1, 2**70)))


@given(st.binary(max_size=300))
def test_random_bytes_never_crash(data: bytes) -> None:
    message = problem_pb2.Problem()
    try:
        message.ParseFromString(data)
    except Exception as error:  # noqa: BLE001  # protobuf's own error type differs between its implementations
        assert "DecodeError" in type(error).__name__  # noqa: PT017
        return
    try:
        convert.problem_from_proto(message)
    except InvalidInput as error:
        assert error.faults  # noqa: PT017


def test_a_profile_of_odd_tensors_is_refused_at_once() -> None:
    """The product of 100,000 large numbers and the search for known names like 100,000 others take minutes."""
    deep = profile_pb2.Tensor(name="deep", shape=[2**62] * 100_000, source_type="F16")
    message = profile_pb2.Profile(tensors=[deep], quant_types=["Q8_0"], energies=[1])
    message.tensors.extend(profile_pb2.Tensor(name=f"t{i}", shape=[1], source_type=f"F{i}x") for i in range(10_000))
    with pytest.raises(InvalidInput) as caught:
        convert.profile_from_proto(message)
    assert "deep: has 100000 dimensions; at most 4 are supported" in map(str, caught.value.faults)
    assert sum("no such quant type" in fault.what for fault in caught.value.faults) == 20
