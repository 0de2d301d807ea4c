"""Converters between domain objects and messages: the only code that uses both.

Each type has a pair of functions; each message file, or part of one, has a module.

Rules
- `x_from_proto(x_to_proto(x))` has the digest of x.
- Reading is the server's validation: it returns a domain object or raises InvalidInput with every fault.
- Unspecified enum values and absent parts are faults, never defaults. The one exception is the unit of losses, which
  older clients do not send: without it the unit is unknown.
"""

from raq_proto.convert.analysis import (
    audit_from_proto,
    audit_to_proto,
    conflict_from_proto,
    conflict_to_proto,
    costs_from_proto,
    costs_to_proto,
    ladder_from_proto,
    ladder_to_proto,
    reasons_from_proto,
    reasons_to_proto,
)
from raq_proto.convert.constraint import constraint_from_proto, constraint_to_proto
from raq_proto.convert.outcome import (
    outcome_from_proto,
    outcome_to_proto,
    smallest_from_proto,
    smallest_to_proto,
    verification_from_proto,
    verification_to_proto,
)
from raq_proto.convert.problem import problem_from_proto, problem_to_proto, table_from_proto, table_to_proto
from raq_proto.convert.profile import profile_from_proto, profile_to_proto, stored_from_proto, stored_to_proto
from raq_proto.convert.requests import (
    BudgetRange,
    Variant,
    allocation_from_proto,
    allocation_to_proto,
    batch_from_proto,
    batch_to_proto,
    ladder_request_from_proto,
    ladder_request_to_proto,
    sweep_from_proto,
    sweep_to_proto,
)
from raq_proto.convert.sweep import PointReader, points_to_proto
from raq_proto.convert.worst_case import (
    domains_from_proto,
    domains_to_proto,
    worst_case_from_proto,
    worst_case_to_proto,
)

__all__ = [
    "BudgetRange",
    "PointReader",
    "Variant",
    "allocation_from_proto",
    "allocation_to_proto",
    "audit_from_proto",
    "audit_to_proto",
    "batch_from_proto",
    "batch_to_proto",
    "conflict_from_proto",
    "conflict_to_proto",
    "constraint_from_proto",
    "constraint_to_proto",
    "costs_from_proto",
    "costs_to_proto",
    "domains_from_proto",
    "domains_to_proto",
    "ladder_from_proto",
    "ladder_request_from_proto",
    "ladder_request_to_proto",
    "ladder_to_proto",
    "outcome_from_proto",
    "outcome_to_proto",
    "points_to_proto",
    "problem_from_proto",
    "problem_to_proto",
    "profile_from_proto",
    "profile_to_proto",
    "reasons_from_proto",
    "reasons_to_proto",
    "smallest_from_proto",
    "smallest_to_proto",
    "stored_from_proto",
    "stored_to_proto",
    "sweep_from_proto",
    "sweep_to_proto",
    "table_from_proto",
    "table_to_proto",
    "verification_from_proto",
    "verification_to_proto",
    "worst_case_from_proto",
    "worst_case_to_proto",
]
