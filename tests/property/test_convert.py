"""Messages carry the domain without loss, and reading them is validation."""

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from raq_proto import convert
from raq_proto.v1 import outcome_pb2, problem_pb2
from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Source, Tie
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.solve import solve
from strategies import knapsacks

BITS = st.fractions(min_value=Fraction(1, 1000), max_value=10**6)


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


@given(problems())
def test_outcome_there_and_back(problem: Problem) -> None:
    outcome = solve(problem)
    wire = convert.outcome_to_proto(outcome).SerializeToString()
    assert convert.outcome_from_proto(outcome_pb2.Outcome.FromString(wire)) == outcome


@given(st.sampled_from(Termination))
def test_every_termination_there_and_back(termination: Termination) -> None:
    outcome = Outcome(termination, None, None, None, None, 1, 2, 0.5)
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
    assert where == ["table.weights", "table.sizes", "table.losses", "constraint 1", "constraint 2"]


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
