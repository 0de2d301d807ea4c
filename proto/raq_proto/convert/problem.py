"""Problems ⇄ messages: a loss table in full, or a profile that losses are predicted from."""

import numpy as np

from raq_proto.convert.constraint import constraint_to_proto, constraints_from_proto
from raq_proto.convert.numbers import budget_from_proto, budget_to_proto
from raq_proto.convert.profile import profile_from_proto, profile_to_proto
from raq_proto.errors import UnknownProfile
from raq_proto.question import ProfileProblem, Question, Stored, capacity_in, predicted
from raq_proto.v1 import problem_pb2
from raq_solver.budget import Budget, TotalBytes
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile


def table_to_proto(table: LossTable) -> problem_pb2.LossTable:
    """Loss table to message."""
    return problem_pb2.LossTable(
        tensors=table.tensors,
        quant_types=table.quant_types,
        weights=table.weights.tolist(),
        sizes=table.sizes.ravel().tolist(),
        losses=table.losses.ravel().tolist(),
        source=table.source,
    )


def table_from_proto(message: problem_pb2.LossTable) -> LossTable:
    """Message to loss table."""
    shape = len(message.tensors), len(message.quant_types)
    faults = [
        Fault(f"table.{name}", f"has {count} numbers; {shape[0]} tensors x {shape[1]} quant types need {needed}")
        for name, count, needed in (
            ("weights", len(message.weights), shape[0]),
            ("sizes", len(message.sizes), shape[0] * shape[1]),
            ("losses", len(message.losses), shape[0] * shape[1]),
        )
        if count != needed
    ]
    raise_faults(faults)
    return LossTable(
        tensors=tuple(message.tensors),
        quant_types=tuple(message.quant_types),
        weights=np.array(message.weights, dtype=np.int64),
        sizes=np.array(message.sizes, dtype=np.int64).reshape(shape),
        losses=np.array(message.losses, dtype=np.float64).reshape(shape),
        source=message.source,
    )


def problem_to_proto(question: Question) -> problem_pb2.Problem:
    """Problem, or a profile's problem, to message."""
    message = problem_pb2.Problem(constraints=[constraint_to_proto(each) for each in question.constraints])
    if isinstance(question, ProfileProblem):
        message.budget.CopyFrom(budget_to_proto(question.budget))
        message.profile.loss_model = question.loss_model or ""
        if isinstance(question.profile, str):
            message.profile.digest = question.profile
        else:
            message.profile.inline.CopyFrom(profile_to_proto(question.profile))
        return message
    message.budget.CopyFrom(budget_to_proto(TotalBytes(question.capacity_bytes)))
    message.table.CopyFrom(table_to_proto(question.table))
    return message


def nothing_stored(digest: str) -> Profile:
    """Where no profiles are stored."""
    raise UnknownProfile.of(digest)


def problem_from_proto(
    message: problem_pb2.Problem, stored: Stored = nothing_stored, budget: Budget | None = None
) -> Problem:
    """Message to problem. `budget` stands in for the message's own when that is missing."""
    faults: list[Fault] = []
    table: LossTable | None = None
    try:
        table = losses_from_proto(message, stored)
    except UnknownProfile:
        raise
    except InvalidInput as error:
        faults += error.faults
    try:
        budget = budget if budget and not message.HasField("budget") else budget_from_proto(message.budget)
    except InvalidInput as error:
        faults += error.faults
    constraints = constraints_from_proto(message.constraints, faults)
    raise_faults(faults)
    assert table is not None
    assert budget is not None
    return Problem(table, capacity_in(table, budget), constraints)


def losses_from_proto(message: problem_pb2.Problem | problem_pb2.Domain, stored: Stored) -> LossTable:
    """The losses of a message that has them, in full or predicted from a profile."""
    match message.WhichOneof("losses"):
        case "table":
            return table_from_proto(message.table)
        case "profile":
            asked = message.profile
            match asked.WhichOneof("profile"):
                case "digest":
                    profile = stored(asked.digest)
                case "inline":
                    profile = profile_from_proto(asked.inline)
                case _:
                    raise InvalidInput(Fault("profile", "is missing; give its digest or the profile itself"))
            return predicted(profile, asked.loss_model or None)
        case _:
            raise InvalidInput(Fault("losses", "are missing; give a table or a profile"))
