"""Worst cases over domains ⇄ messages."""

from typing import Final

from raq_proto.convert.constraint import constraint_to_proto, constraints_from_proto
from raq_proto.convert.numbers import budget_from_proto, budget_to_proto
from raq_proto.convert.outcome import (
    ledger_from_proto,
    ledger_to_proto,
    outcome_from_proto,
    outcome_to_proto,
    termination_from_proto,
    termination_to_proto,
)
from raq_proto.convert.problem import losses_from_proto, nothing_stored, table_to_proto
from raq_proto.errors import UnknownProfile
from raq_proto.question import Stored
from raq_proto.v1 import analysis_pb2, problem_pb2, solver_service_pb2
from raq_solver.allocation import Allocation
from raq_solver.budget import Budget, TotalBytes
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.losses import LossTable
from raq_solver.make_problem import capacity_in
from raq_solver.questions.worst_case import DomainOutcome, Domains, WorstCase, WorstCaseMeasure

_MEASURES: Final = {
    WorstCaseMeasure.RATIO: problem_pb2.MEASURE_RATIO,
    WorstCaseMeasure.NATS: problem_pb2.MEASURE_NATS,
}
_MEASURE_OF: Final[dict[int, WorstCaseMeasure]] = {number: measure for measure, number in _MEASURES.items()}


def domains_to_proto(question: Domains) -> solver_service_pb2.WorstCaseRequest:
    """Domains to message."""
    return solver_service_pb2.WorstCaseRequest(
        domains=[problem_pb2.Domain(name=name, table=table_to_proto(table)) for name, table in question.tables],
        budget=budget_to_proto(TotalBytes(question.capacity_bytes)),
        constraints=[constraint_to_proto(each) for each in question.constraints],
        measure=_MEASURES[question.measure],
    )


def domains_from_proto(message: solver_service_pb2.WorstCaseRequest, stored: Stored = nothing_stored) -> Domains:
    """Message to domains. Raises InvalidInput with every fault, UnknownProfile when nothing has a digest."""
    faults: list[Fault] = []
    tables: list[tuple[str, LossTable]] = []
    budget: Budget | None = None
    for number, each in enumerate(message.domains, start=1):
        try:
            tables.append((each.name, losses_from_proto(each, stored)))
        except UnknownProfile:
            raise
        except InvalidInput as error:
            faults += [Fault(f"domain {number}: {fault.where}", fault.what) for fault in error.faults]
    try:
        budget = budget_from_proto(message.budget)
    except InvalidInput as error:
        faults += error.faults
    if message.measure not in _MEASURE_OF:
        faults.append(Fault("measure", f"is {message.measure}; say ratio or nats"))
    if not message.domains:
        faults.append(Fault("domains", "there are none; give a loss table for each"))
    constraints = constraints_from_proto(message.constraints, faults)
    raise_faults(faults)
    assert budget is not None, "its absence is a fault"
    capacity = capacity_in(tables[0][1], budget)
    return Domains(tuple(tables), capacity, constraints, _MEASURE_OF[message.measure])


def worst_case_to_proto(found: WorstCase) -> analysis_pb2.WorstCase:
    """Worst case to message."""
    return analysis_pb2.WorstCase(
        termination=termination_to_proto(found.termination),
        domains=[
            analysis_pb2.DomainOutcome(
                name=each.name,
                ledger=ledger_to_proto(each.ledger),
                best=outcome_to_proto(each.best),
                reference=each.reference,
                weight=each.weight,
            )
            for each in found.domains
        ],
        bound=found.bound,
        multiplier=found.multiplier,
        least_bytes=found.least_bytes,
        most_bytes=found.most_bytes,
        seconds=found.seconds,
        constraint_multipliers=found.constraint_multipliers,
    )


def worst_case_from_proto(message: analysis_pb2.WorstCase) -> WorstCase:
    """Message to worst case."""
    domains = []
    for each in message.domains:
        ledger = ledger_from_proto(each.ledger) if each.HasField("ledger") else None
        domains.append(DomainOutcome(each.name, ledger, outcome_from_proto(each.best), each.reference, each.weight))
    common = domains[0].ledger if domains else None
    return WorstCase(
        termination_from_proto(message.termination, "worst case"),
        None if common is None else Allocation({entry.tensor: entry.quant_type for entry in common.entries}),
        tuple(domains),
        message.bound if message.HasField("bound") else None,
        message.multiplier if message.HasField("multiplier") else None,
        message.least_bytes,
        message.most_bytes,
        message.seconds,
        tuple(message.constraint_multipliers),
    )
