"""Domain ⇄ message, a pair for each type. The only code that knows both.

Rules
- `x_from_proto(x_to_proto(x))` has the digest of x.
- Reading is the server's validation: it returns a domain value or raises InvalidInput with every fault.
- Unspecified enum values and absent parts are faults, never defaults.
"""

from fractions import Fraction
from typing import Final, assert_never

import numpy as np

from raq_proto.v1 import outcome_pb2, problem_pb2
from raq_solver.allocation import Allocation, Entry, Ledger
from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Source, Tie
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.knapsack import Termination
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem

_SOURCES: Final = {
    Source.DATA: problem_pb2.SOURCE_DATA,
    Source.ARCHITECTURE: problem_pb2.SOURCE_ARCHITECTURE,
    Source.USER: problem_pb2.SOURCE_USER,
}
_TERMINATIONS: Final = {
    Termination.OPTIMAL: outcome_pb2.TERMINATION_OPTIMAL,
    Termination.FEASIBLE: outcome_pb2.TERMINATION_FEASIBLE,
    Termination.INFEASIBLE: outcome_pb2.TERMINATION_INFEASIBLE,
    Termination.NO_SOLUTION_FOUND: outcome_pb2.TERMINATION_NO_SOLUTION_FOUND,
}
_SOURCE_OF: Final = {number: source for source, number in _SOURCES.items()}
_TERMINATION_OF: Final = {number: termination for termination, number in _TERMINATIONS.items()}


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


def constraint_to_proto(constraint: Constraint) -> problem_pb2.Constraint:
    """Constraint to message."""
    message = problem_pb2.Constraint(
        tensors=constraint.tensors, source=_SOURCES[constraint.source], reason=constraint.reason
    )
    match constraint:
        case Pin(quant_type=quant_type):
            message.pin.quant_type = quant_type
        case Floor(bits=bits):
            message.floor.bits.CopyFrom(_bits_to_proto(bits))
        case Ceiling(bits=bits):
            message.ceiling.bits.CopyFrom(_bits_to_proto(bits))
        case Exclude(quant_types=quant_types):
            message.exclude.quant_types.extend(quant_types)
        case Tie():
            message.tie.SetInParent()
        case _:
            assert_never(constraint)
    return message


def constraint_from_proto(message: problem_pb2.Constraint) -> Constraint:
    """Message to constraint."""
    tensors, reason = tuple(message.tensors), message.reason
    source = _SOURCE_OF.get(message.source)
    if source is None:
        raise InvalidInput(Fault("constraint", "has no source (data, architecture or user)"))
    match message.WhichOneof("kind"):
        case "pin":
            return Pin(tensors, message.pin.quant_type, source, reason)
        case "floor":
            return Floor(tensors, _bits_from_proto(message.floor.bits), source, reason)
        case "ceiling":
            return Ceiling(tensors, _bits_from_proto(message.ceiling.bits), source, reason)
        case "exclude":
            return Exclude(tensors, tuple(message.exclude.quant_types), source, reason)
        case "tie":
            return Tie(tensors, source, reason)
        case _:
            raise InvalidInput(Fault("constraint", "has no kind that this server knows"))


def _bits_to_proto(bits: Fraction) -> problem_pb2.Bits:
    return problem_pb2.Bits(numerator=bits.numerator, denominator=bits.denominator)


def _bits_from_proto(message: problem_pb2.Bits) -> Fraction:
    if message.denominator <= 0:
        raise InvalidInput(Fault("constraint", f"bits have the denominator {message.denominator}"))
    return Fraction(message.numerator, message.denominator)


def problem_to_proto(problem: Problem) -> problem_pb2.Problem:
    """Problem to message."""
    return problem_pb2.Problem(
        table=table_to_proto(problem.table),
        capacity_bytes=problem.capacity_bytes,
        constraints=[constraint_to_proto(constraint) for constraint in problem.constraints],
    )


def problem_from_proto(message: problem_pb2.Problem) -> Problem:
    """Message to problem."""
    faults: list[Fault] = []
    table: LossTable | None = None
    try:
        table = table_from_proto(message.table)
    except InvalidInput as error:
        faults += error.faults
    constraints = []
    for number, each in enumerate(message.constraints, start=1):
        try:
            constraints.append(constraint_from_proto(each))
        except InvalidInput as error:
            faults += [Fault(f"constraint {number}", fault.what) for fault in error.faults]
    raise_faults(faults)
    assert table is not None
    return Problem(table, message.capacity_bytes, tuple(constraints))


def outcome_to_proto(outcome: Outcome) -> outcome_pb2.Outcome:
    """Outcome to message."""
    message = outcome_pb2.Outcome(
        termination=_TERMINATIONS[outcome.termination],
        bound=outcome.bound,
        multiplier=outcome.multiplier,
        least_bytes=outcome.least_bytes,
        most_bytes=outcome.most_bytes,
        seconds=outcome.seconds,
    )
    if outcome.ledger is not None:
        message.ledger.capacity_bytes = outcome.ledger.capacity
        message.ledger.entries.extend(
            outcome_pb2.Entry(tensor=e.tensor, quant_type=e.quant_type, weights=e.weights, size=e.size, loss=e.loss)
            for e in outcome.ledger.entries
        )
    return message


def outcome_from_proto(message: outcome_pb2.Outcome) -> Outcome:
    """Message to outcome."""
    termination = _TERMINATION_OF.get(message.termination)
    if termination is None:
        raise InvalidInput(Fault("outcome", f"has termination {message.termination}, which this client does not know"))
    ledger = None
    if message.HasField("ledger"):
        entries = (Entry(e.tensor, e.quant_type, e.weights, e.size, e.loss) for e in message.ledger.entries)
        ledger = Ledger(tuple(entries), message.ledger.capacity_bytes)
    return Outcome(
        termination=termination,
        allocation=Allocation({e.tensor: e.quant_type for e in ledger.entries}) if ledger else None,
        ledger=ledger,
        bound=message.bound if message.HasField("bound") else None,
        multiplier=message.multiplier if message.HasField("multiplier") else None,
        least_bytes=message.least_bytes,
        most_bytes=message.most_bytes,
        seconds=message.seconds,
    )
