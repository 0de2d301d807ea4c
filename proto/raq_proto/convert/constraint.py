"""Constraints ⇄ messages.

A kind's message has the fields of its class besides `tensors`, `source` and `reason`, under the same names. So a new
kind needs a message and an entry in the oneof of problem.proto, and code here only for fields of a new name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from raq_proto.convert.numbers import ratio_from_proto, ratio_to_proto, whole
from raq_proto.v1 import problem_pb2
from raq_solver.constraints import CONSTRAINT_KINDS, Constraint, Source
from raq_solver.errors import Fault, InvalidInput

SOURCES: Final = {
    Source.DATA: problem_pb2.SOURCE_DATA,
    Source.ARCHITECTURE: problem_pb2.SOURCE_ARCHITECTURE,
    Source.USER: problem_pb2.SOURCE_USER,
}
SOURCE_OF: Final = {number: source for source, number in SOURCES.items()}
_WHERE: Final = "constraint"
_COMMON: Final = ("tensors", "source", "reason")

_FIELDS: Final[Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "quant_type": (str, str),
    "quant_types": (tuple, tuple),
    "bits": (lambda bits: ratio_to_proto(bits, _WHERE), lambda ratio: ratio_from_proto(ratio, _WHERE)),
    "count": (lambda count: whole(count, _WHERE), lambda count: whole(count, _WHERE)),
    "capacity_bytes": (lambda count: whole(count, _WHERE), lambda count: whole(count, _WHERE)),
    "shares": (
        lambda shares: [ratio_to_proto(each, _WHERE) for each in shares],
        lambda ratios: tuple(ratio_from_proto(each, _WHERE) for each in ratios),
    ),
}
"""How each field is written and read, by its name."""


def constraint_to_proto(constraint: Constraint) -> problem_pb2.Constraint:
    """Constraint to message. Raises InvalidInput for numbers that the wire can't carry."""
    message = problem_pb2.Constraint(
        tensors=constraint.tensors, source=SOURCES[constraint.source], reason=constraint.reason
    )
    own = {name: _FIELDS[name][0](getattr(constraint, name)) for name in _own_fields(type(constraint))}
    part = getattr(message, constraint.kind)
    part.SetInParent()  # kinds without fields of their own would otherwise not be in the message
    part.MergeFrom(type(part)(**own))
    return message


def constraint_from_proto(message: problem_pb2.Constraint) -> Constraint:
    """Message to constraint. Raises InvalidInput for a missing or unknown source or kind, and for invalid ratios."""
    source = SOURCE_OF.get(message.source)
    if source is None:
        raise InvalidInput(Fault(_WHERE, "has no source (data, architecture or user)"))
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidInput(Fault(_WHERE, "has no kind that this server knows"))
    made: Callable[..., Constraint] = CONSTRAINT_KINDS[kind]
    part = getattr(message, kind)
    own = {name: _FIELDS[name][1](getattr(part, name)) for name in _own_fields(CONSTRAINT_KINDS[kind])}
    return made(tensors=tuple(message.tensors), source=source, reason=message.reason, **own)


def constraints_from_proto(messages: Iterable[problem_pb2.Constraint], faults: list[Fault]) -> tuple[Constraint, ...]:
    """Messages to constraints; faults are added to `faults`, with the constraint's number counted from 1."""
    constraints = []
    for number, each in enumerate(messages, start=1):
        try:
            constraints.append(constraint_from_proto(each))
        except InvalidInput as error:
            faults += [Fault(f"constraint {number}", fault.what) for fault in error.faults]
    return tuple(constraints)


def _own_fields(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in _COMMON]
