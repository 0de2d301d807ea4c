"""Explanations, audits and ladders ⇄ messages."""

from raq_proto.convert.constraint import SOURCE_OF, SOURCES, constraint_from_proto, constraint_to_proto
from raq_proto.convert.outcome import (
    faults_to_proto,
    ledger_from_proto,
    ledger_to_proto,
    outcome_from_proto,
    outcome_to_proto,
    termination_from_proto,
    termination_to_proto,
)
from raq_proto.v1 import analysis_pb2, outcome_pb2
from raq_solver.allocation import Allocation
from raq_solver.errors import Fault, InvalidInput
from raq_solver.questions.audit import Audit
from raq_solver.questions.explain import Alternative, Conflict, ConstraintCost, Costs, TensorReasons
from raq_solver.questions.ladder import Ladder, LadderRung
from raq_solver.questions.sweep import Change


def reasons_to_proto(reasons: TensorReasons) -> analysis_pb2.TensorReasons:
    """Reasons for a tensor's type to message."""
    return analysis_pb2.TensorReasons(
        tensor=reasons.tensor,
        chosen=reasons.chosen,
        alternatives=[
            analysis_pb2.Alternative(quant_type=a.quant_type, loss=a.loss, rise=a.rise) for a in reasons.alternatives
        ],
        flips=[
            analysis_pb2.Flip(capacity_bytes=f.capacity_bytes or 0, before=f.before, after=f.after)
            for f in reasons.flips
        ],
    )


def reasons_from_proto(message: analysis_pb2.TensorReasons) -> TensorReasons:
    """Message to reasons for a tensor's type."""
    return TensorReasons(
        message.tensor,
        message.chosen,
        tuple(
            Alternative(a.quant_type, a.loss if a.HasField("loss") else None, a.rise if a.HasField("rise") else None)
            for a in message.alternatives
        ),
        tuple(Change(message.tensor, f.before, f.after, f.capacity_bytes) for f in message.flips),
    )


def costs_to_proto(costs: Costs) -> analysis_pb2.Costs:
    """Costs of constraints to message."""
    return analysis_pb2.Costs(
        constraints=[
            analysis_pb2.ConstraintCost(number=c.number, constraint=constraint_to_proto(c.constraint), cost=c.cost)
            for c in costs.constraints
        ],
        by_source=[analysis_pb2.SourceCost(source=SOURCES[s], cost=cost) for s, cost in costs.by_source.items()],
        total=costs.total,
        byte_price=costs.byte_price,
    )


def costs_from_proto(message: analysis_pb2.Costs) -> Costs:
    """Message to costs of constraints."""
    unknown = [each.source for each in message.by_source if each.source not in SOURCE_OF]
    if unknown:
        raise InvalidInput(Fault("costs", f"have the source {unknown[0]}, which is not known here"))
    return Costs(
        tuple(
            ConstraintCost(c.number, constraint_from_proto(c.constraint), c.cost if c.HasField("cost") else None)
            for c in message.constraints
        ),
        {SOURCE_OF[each.source]: each.cost for each in message.by_source},
        message.total,
        message.byte_price,
    )


def conflict_to_proto(conflict: Conflict) -> analysis_pb2.Conflict:
    """Conflict to message."""
    return analysis_pb2.Conflict(
        constraints=[
            analysis_pb2.NumberedConstraint(number=number, constraint=constraint_to_proto(constraint))
            for number, constraint in conflict.constraints
        ],
        nearest_capacity_bytes=conflict.nearest_capacity_bytes,
    )


def conflict_from_proto(message: analysis_pb2.Conflict) -> Conflict:
    """Message to conflict."""
    return Conflict(
        tuple((each.number, constraint_from_proto(each.constraint)) for each in message.constraints),
        message.nearest_capacity_bytes if message.HasField("nearest_capacity_bytes") else None,
    )


def audit_to_proto(audit: Audit) -> analysis_pb2.Audit:
    """Audit to message."""
    return analysis_pb2.Audit(
        ledger=ledger_to_proto(audit.ledger),
        broken=faults_to_proto(audit.broken),
        best=outcome_to_proto(audit.best),
        changes=[outcome_pb2.Change(tensor=c.tensor, before=c.before, after=c.after) for c in audit.changes],
    )


def audit_from_proto(message: analysis_pb2.Audit) -> Audit:
    """Message to audit."""
    return Audit(
        ledger_from_proto(message.ledger),
        tuple(Fault(each.where, each.what) for each in message.broken),
        outcome_from_proto(message.best),
        tuple(Change(each.tensor, each.before, each.after) for each in message.changes),
    )


def ladder_to_proto(ladder: Ladder) -> analysis_pb2.Ladder:
    """Ladder to message."""
    return analysis_pb2.Ladder(
        termination=termination_to_proto(ladder.termination),
        rungs=[
            analysis_pb2.Rung(ledger=ledger_to_proto(rung.ledger), free_loss=rung.free_loss) for rung in ladder.rungs
        ],
        bound=ladder.bound,
        seconds=ladder.seconds,
    )


def ladder_from_proto(message: analysis_pb2.Ladder) -> Ladder:
    """Message to ladder."""
    rungs = []
    for each in message.rungs:
        ledger = ledger_from_proto(each.ledger)
        allocation = Allocation({entry.tensor: entry.quant_type for entry in ledger.entries})
        rungs.append(LadderRung(ledger.capacity, allocation, ledger, each.free_loss))
    return Ladder(
        termination_from_proto(message.termination, "ladder"),
        tuple(rungs),
        message.bound if message.HasField("bound") else None,
        message.seconds,
    )
