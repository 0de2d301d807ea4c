"""Answers ⇄ messages: outcomes, verifications, smallest sizes."""

from collections.abc import Sequence
from typing import Final

from raq_proto.v1 import outcome_pb2
from raq_solver.allocation import Allocation, Ledger, LedgerEntry
from raq_solver.errors import Fault, InvalidInput
from raq_solver.knapsack import Termination
from raq_solver.outcome import Outcome
from raq_solver.questions.smallest_size import Smallest
from raq_solver.verify import Verification

_TERMINATIONS: Final = {
    Termination.OPTIMAL: outcome_pb2.TERMINATION_OPTIMAL,
    Termination.FEASIBLE: outcome_pb2.TERMINATION_FEASIBLE,
    Termination.INFEASIBLE: outcome_pb2.TERMINATION_INFEASIBLE,
    Termination.NO_SOLUTION_FOUND: outcome_pb2.TERMINATION_NO_SOLUTION_FOUND,
}
_TERMINATION_OF: Final[dict[int, Termination]] = {number: termination for termination, number in _TERMINATIONS.items()}


def termination_to_proto(termination: Termination) -> outcome_pb2.Termination.ValueType:
    """Termination to enum value."""
    return _TERMINATIONS[termination]


def termination_from_proto(number: int, where: str) -> Termination:
    """Enum value to termination. Raises InvalidInput for unspecified and unknown ones."""
    termination = _TERMINATION_OF.get(number)
    if termination is None:
        raise InvalidInput(Fault(where, f"has termination {number}, which is not known here"))
    return termination


def outcome_to_proto(outcome: Outcome, message: outcome_pb2.Outcome | None = None) -> outcome_pb2.Outcome:
    """Outcome to message: the given one, or a new one."""
    message = outcome_pb2.Outcome() if message is None else message
    if outcome.ledger is not None:
        ledger_to_proto(outcome.ledger, message.ledger)
    message.MergeFrom(
        outcome_pb2.Outcome(
            termination=_TERMINATIONS[outcome.termination],
            bound=outcome.bound,
            multiplier=outcome.multiplier,
            least_bytes=outcome.least_bytes,
            most_bytes=outcome.most_bytes,
            seconds=outcome.seconds,
            constraint_multipliers=outcome.constraint_multipliers,
        )
    )
    return message


def outcome_from_proto(message: outcome_pb2.Outcome) -> Outcome:
    """Message to outcome."""
    ledger = ledger_from_proto(message.ledger) if message.HasField("ledger") else None
    return Outcome(
        termination=termination_from_proto(message.termination, "outcome"),
        allocation=_allocation(ledger),
        ledger=ledger,
        bound=message.bound if message.HasField("bound") else None,
        multiplier=message.multiplier if message.HasField("multiplier") else None,
        least_bytes=message.least_bytes,
        most_bytes=message.most_bytes,
        seconds=message.seconds,
        constraint_multipliers=tuple(message.constraint_multipliers),
    )


def verification_to_proto(verification: Verification) -> outcome_pb2.Verification:
    """Verification to message."""
    return outcome_pb2.Verification(
        termination=_TERMINATIONS[verification.termination],
        faults=faults_to_proto(verification.faults),
        size=verification.size,
        loss=verification.loss,
        certified_bound=verification.certified_bound,
        certified_infeasible=verification.certified_infeasible,
    )


def verification_from_proto(message: outcome_pb2.Verification) -> Verification:
    """Message to verification."""
    return Verification(
        termination=termination_from_proto(message.termination, "verification"),
        faults=tuple(Fault(each.where, each.what) for each in message.faults),
        size=message.size if message.HasField("size") else None,
        loss=message.loss if message.HasField("loss") else None,
        certified_bound=message.certified_bound if message.HasField("certified_bound") else None,
        certified_infeasible=message.certified_infeasible,
    )


def smallest_to_proto(smallest: Smallest) -> outcome_pb2.Smallest:
    """Smallest size to message."""
    return outcome_pb2.Smallest(
        termination=_TERMINATIONS[smallest.termination],
        most_loss=smallest.most_loss,
        ledger=ledger_to_proto(smallest.ledger),
        bound_bytes=smallest.bound_bytes,
        least_loss=smallest.least_loss,
        seconds=smallest.seconds,
    )


def smallest_from_proto(message: outcome_pb2.Smallest) -> Smallest:
    """Message to smallest size."""
    ledger = ledger_from_proto(message.ledger) if message.HasField("ledger") else None
    return Smallest(
        termination=termination_from_proto(message.termination, "smallest"),
        most_loss=message.most_loss,
        allocation=_allocation(ledger),
        ledger=ledger,
        bound_bytes=message.bound_bytes,
        least_loss=message.least_loss if message.HasField("least_loss") else None,
        seconds=message.seconds,
    )


def ledger_to_proto(ledger: Ledger | None, message: outcome_pb2.Ledger | None = None) -> outcome_pb2.Ledger | None:
    """Ledger to message: the given one, or a new one; None to None."""
    if ledger is None:
        return None
    message = outcome_pb2.Ledger() if message is None else message
    message.capacity_bytes = ledger.capacity
    # Entries made in place, field by field: the fastest of the ways there are, as a ledger is most of an answer.
    add = message.entries.add
    for tensor, quant_type, weights, size, loss in ledger.entries:
        entry = add()
        entry.tensor = tensor
        entry.quant_type = quant_type
        entry.weights = weights
        entry.size = size
        entry.loss = loss
    return message


def ledger_from_proto(message: outcome_pb2.Ledger) -> Ledger:
    """Message to ledger."""
    made = LedgerEntry._make
    entries = [made((e.tensor, e.quant_type, e.weights, e.size, e.loss)) for e in message.entries]
    return Ledger(tuple(entries), message.capacity_bytes)


def _allocation(ledger: Ledger | None) -> Allocation | None:
    return Allocation({entry.tensor: entry.quant_type for entry in ledger.entries}) if ledger else None


def faults_to_proto(faults: Sequence[Fault]) -> list[outcome_pb2.Fault]:
    """Faults to messages."""
    return [outcome_pb2.Fault(where=fault.where, what=fault.what) for fault in faults]
