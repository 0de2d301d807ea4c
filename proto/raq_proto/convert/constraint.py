"""Constraints ⇄ messages."""

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Final

from raq_proto.convert.numbers import ratio_from_proto, ratio_to_proto, whole
from raq_proto.v1 import problem_pb2
from raq_solver.constraints import (
    ActiveBytes,
    AtMost,
    Ceiling,
    CellConstraint,
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
)
from raq_solver.errors import Fault, InvalidInput

SOURCES: Final = {
    Source.DATA: problem_pb2.SOURCE_DATA,
    Source.ARCHITECTURE: problem_pb2.SOURCE_ARCHITECTURE,
    Source.USER: problem_pb2.SOURCE_USER,
}
SOURCE_OF: Final = {number: source for source, number in SOURCES.items()}
_WHERE: Final = "constraint"


def constraint_to_proto(constraint: Constraint) -> problem_pb2.Constraint:
    """Constraint to message. Raises InvalidInput for numbers that the wire can't carry."""
    message = problem_pb2.Constraint(
        tensors=constraint.tensors, source=SOURCES[constraint.source], reason=constraint.reason
    )
    if isinstance(constraint, SideConstraint):
        _side_to_proto(constraint, message)
    else:
        _plain_to_proto(constraint, message)
    return message


def constraint_from_proto(message: problem_pb2.Constraint) -> Constraint:
    """Message to constraint."""
    source = SOURCE_OF.get(message.source)
    if source is None:
        raise InvalidInput(Fault(_WHERE, "has no source (data, architecture or user)"))
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidInput(Fault(_WHERE, "has no kind that this server knows"))
    return _READERS[kind](message, tuple(message.tensors), source)


def _plain_to_proto(constraint: CellConstraint | Tie, message: problem_pb2.Constraint) -> None:
    match constraint:
        case Pin(quant_type=quant_type):
            message.pin.quant_type = quant_type
        case Floor(bits=bits):
            message.floor.bits.CopyFrom(ratio_to_proto(bits, _WHERE))
        case Ceiling(bits=bits):
            message.ceiling.bits.CopyFrom(ratio_to_proto(bits, _WHERE))
        case Exclude(quant_types=quant_types):
            message.exclude.quant_types.extend(quant_types)
        case Tie():
            message.tie.SetInParent()


def _side_to_proto(constraint: SideConstraint, message: problem_pb2.Constraint) -> None:
    match constraint:
        case AtMost(count=count, bits=bits):
            message.at_most.count = whole(count, _WHERE)
            message.at_most.bits.CopyFrom(ratio_to_proto(bits, _WHERE))
        case DistinctTypes(count=count):
            message.distinct_types.count = whole(count, _WHERE)
        case Region(capacity_bytes=capacity):
            message.region.capacity_bytes = whole(capacity, _WHERE)
        case ActiveBytes(shares=shares, capacity_bytes=capacity):
            message.active_bytes.shares.extend(ratio_to_proto(share, _WHERE) for share in shares)
            message.active_bytes.capacity_bytes = whole(capacity, _WHERE)
        case Monotone():
            message.monotone.SetInParent()


def _bits(message: problem_pb2.Ratio) -> Fraction:
    return ratio_from_proto(message, _WHERE)


_READERS: Final[Mapping[str, Callable[[problem_pb2.Constraint, tuple[str, ...], Source], Constraint]]] = {
    "pin": lambda m, tensors, source: Pin(tensors, m.pin.quant_type, source, m.reason),
    "floor": lambda m, tensors, source: Floor(tensors, _bits(m.floor.bits), source, m.reason),
    "ceiling": lambda m, tensors, source: Ceiling(tensors, _bits(m.ceiling.bits), source, m.reason),
    "exclude": lambda m, tensors, source: Exclude(tensors, tuple(m.exclude.quant_types), source, m.reason),
    "tie": lambda m, tensors, source: Tie(tensors, source, m.reason),
    "at_most": lambda m, tensors, source: AtMost(tensors, m.at_most.count, _bits(m.at_most.bits), source, m.reason),
    "distinct_types": lambda m, tensors, source: DistinctTypes(tensors, m.distinct_types.count, source, m.reason),
    "region": lambda m, tensors, source: Region(tensors, m.region.capacity_bytes, source, m.reason),
    "active_bytes": lambda m, tensors, source: ActiveBytes(
        tensors, tuple(map(_bits, m.active_bytes.shares)), m.active_bytes.capacity_bytes, source, m.reason
    ),
    "monotone": lambda m, tensors, source: Monotone(tensors, source, m.reason),
}
"""How each kind of the message is read."""


def constraints_from_proto(messages: Iterable[problem_pb2.Constraint], faults: list[Fault]) -> tuple[Constraint, ...]:
    """Messages to constraints; what is wrong goes to `faults`, numbered from 1."""
    constraints = []
    for number, each in enumerate(messages, start=1):
        try:
            constraints.append(constraint_from_proto(each))
        except InvalidInput as error:
            faults += [Fault(f"constraint {number}", fault.what) for fault in error.faults]
    return tuple(constraints)
