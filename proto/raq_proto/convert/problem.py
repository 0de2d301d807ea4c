"""Problems ⇄ messages: a loss table in full, or a profile that losses are predicted from."""

from typing import Final

import numpy as np

from raq_proto.convert.constraint import constraint_to_proto, constraints_from_proto
from raq_proto.convert.numbers import budget_from_proto, budget_to_proto
from raq_proto.convert.packed import Doubles, put_doubles
from raq_proto.convert.profile import profile_from_proto, profile_to_proto
from raq_proto.errors import UnknownProfile
from raq_proto.question import ProfileProblem, Question, Stored
from raq_proto.v1 import problem_pb2
from raq_solver.budget import Budget, TotalBytes
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.losses import LossTable, LossUnit
from raq_solver.make_problem import make_problem, predicted_losses
from raq_solver.problem import Problem
from raq_solver.profile import Profile

_UNITS: Final = {
    LossUnit.UNKNOWN: problem_pb2.LOSS_UNIT_UNSPECIFIED,
    LossUnit.NATS: problem_pb2.LOSS_UNIT_NATS,
    LossUnit.NOMINAL_NATS: problem_pb2.LOSS_UNIT_NOMINAL_NATS,
    LossUnit.RELATIVE_ERROR: problem_pb2.LOSS_UNIT_RELATIVE_ERROR,
    LossUnit.ACTIVATION_CHANGE: problem_pb2.LOSS_UNIT_ACTIVATION_CHANGE,
    LossUnit.WEIGHTED_DOMAINS: problem_pb2.LOSS_UNIT_WEIGHTED_DOMAINS,
}
_UNIT_OF: Final[dict[int, LossUnit]] = {number: unit for unit, number in _UNITS.items()}


def table_to_proto(table: LossTable, message: problem_pb2.LossTable | None = None) -> problem_pb2.LossTable:
    """Loss table to message: the given one, or a new one."""
    message = problem_pb2.LossTable() if message is None else message
    message.tensors.extend(table.tensors)
    message.quant_types.extend(table.quant_types)
    message.weights.extend(table.weights.tolist())
    message.sizes.extend(table.sizes.ravel().tolist())
    message.source = table.source
    message.unit = _UNITS[table.unit]
    put_doubles(message, losses=table.losses)
    return message


def table_from_proto(message: problem_pb2.LossTable) -> LossTable:
    """Message to loss table. A message without a unit, as older clients send, has the unit UNKNOWN."""
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
    if message.unit not in _UNIT_OF:
        faults.append(Fault("table.unit", f"is {message.unit}, which is not known here"))
    raise_faults(faults)
    return LossTable(
        tensors=tuple(message.tensors),
        quant_types=tuple(message.quant_types),
        weights=np.array(message.weights[:], dtype=np.int64),
        sizes=np.fromiter(message.sizes[:], np.int64, len(message.sizes)).reshape(shape),
        losses=Doubles(message)["losses"].reshape(shape),
        source=message.source,
        unit=_UNIT_OF[message.unit],
    )


def problem_to_proto(question: Question, message: problem_pb2.Problem | None = None) -> problem_pb2.Problem:
    """Problem, or a profile's problem, to message: the given one, or a new one.

    A message made apart is copied into the one that it becomes part of, which takes as long as making it.
    """
    message = problem_pb2.Problem() if message is None else message
    message.constraints.extend(map(constraint_to_proto, question.constraints))
    if isinstance(question, ProfileProblem):
        message.budget.CopyFrom(budget_to_proto(question.budget))
        message.profile.loss_model = question.loss_model or ""
        if isinstance(question.profile, str):
            message.profile.digest = question.profile
        else:
            profile_to_proto(question.profile, message.profile.inline)
        return message
    message.budget.CopyFrom(budget_to_proto(TotalBytes(question.capacity_bytes)))
    table_to_proto(question.table, message.table)
    return message


def nothing_stored(digest: str) -> Profile:
    """The `Stored` of a place that stores no profiles. Raises UnknownProfile."""
    raise UnknownProfile.of(digest)


def problem_from_proto(
    message: problem_pb2.Problem, stored: Stored = nothing_stored, budget: Budget | None = None
) -> Problem:
    """Message to problem. `budget` is used when the message has none."""
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
    return make_problem(table, budget, constraints)


def losses_from_proto(message: problem_pb2.Problem | problem_pb2.Domain, stored: Stored) -> LossTable:
    """The losses of a message that has them, in full or predicted from a profile."""
    match message.WhichOneof("losses"):
        case "table":
            return table_from_proto(message.table)
        case "profile":
            losses = message.profile
            match losses.WhichOneof("profile"):
                case "digest":
                    profile = stored(losses.digest)
                case "inline":
                    profile = profile_from_proto(losses.inline)
                case _:
                    raise InvalidInput(Fault("profile", "is missing; give its digest or the profile itself"))
            return predicted_losses(profile, losses.loss_model or None)
        case _:
            raise InvalidInput(Fault("losses", "are missing; give a table or a profile"))
