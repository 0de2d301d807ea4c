"""Budgets and ratios ⇄ messages, exactly, within the range of the wire's whole numbers."""

from fractions import Fraction

from raq_proto.v1 import problem_pb2
from raq_solver.arrays import LARGEST
from raq_solver.budget import BitsPerWeight, Budget, TotalBytes
from raq_solver.errors import Fault, InvalidInput


def whole(number: int, where: str) -> int:
    """The number itself. Raises InvalidInput if it is beyond what the solver takes, though int64 would hold it."""
    if abs(number) > LARGEST:
        raise InvalidInput(Fault(where, f"{number} is too large; at most 2^53"))
    return number


def ratio_to_proto(ratio: Fraction, where: str) -> problem_pb2.Ratio:
    """Fraction to message."""
    return problem_pb2.Ratio(numerator=whole(ratio.numerator, where), denominator=whole(ratio.denominator, where))


def ratio_from_proto(message: problem_pb2.Ratio, where: str) -> Fraction:
    """Message to fraction. Raises InvalidInput when the denominator is not positive, or a number is too large."""
    whole(max(abs(message.numerator), abs(message.denominator)), where)
    if message.denominator <= 0:
        raise InvalidInput(Fault(where, f"has the denominator {message.denominator}; it must be positive"))
    return Fraction(message.numerator, message.denominator)


def budget_to_proto(budget: Budget) -> problem_pb2.Budget:
    """Budget to message."""
    match budget:
        case TotalBytes(count):
            return problem_pb2.Budget(capacity_bytes=whole(count, "budget"))
        case BitsPerWeight(bits):
            return problem_pb2.Budget(bits_per_weight=ratio_to_proto(bits, "budget"))


def budget_from_proto(message: problem_pb2.Budget, where: str = "budget") -> Budget:
    """Message to budget. Raises InvalidInput when it is missing or out of range."""
    match message.WhichOneof("amount"):
        case "capacity_bytes":
            if message.capacity_bytes < 0:
                raise InvalidInput(Fault(where, f"{message.capacity_bytes} bytes; must be at least 0"))
            return TotalBytes(whole(message.capacity_bytes, where))
        case "bits_per_weight":
            bits = ratio_from_proto(message.bits_per_weight, where)
            if bits <= 0:
                raise InvalidInput(Fault(where, f"{bits} bits per weight; must be more than 0"))
            return BitsPerWeight(bits)
        case _:
            raise InvalidInput(Fault(where, "is missing; say capacity_bytes or bits_per_weight"))
