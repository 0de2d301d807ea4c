"""raq_solver chooses a quant type for every tensor of a model, proven optimal. It uses neither files nor network."""

from raq_solver.allocation import Allocation, Ledger, LedgerEntry, account
from raq_solver.budget import BitsPerWeight, Budget, TotalBytes, bits_per_weight, capacity_bytes, parse_budget
from raq_solver.constraints import (
    ActiveBytes,
    AtMost,
    Ceiling,
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
from raq_solver.errors import (
    BackendFailure,
    DeadlineExceeded,
    Fault,
    InvalidInput,
    LedgerMismatch,
    RaqError,
    ServiceError,
    ServiceUnavailable,
    UnknownQuantType,
    UnknownTensor,
)
from raq_solver.knapsack import Limits, Termination
from raq_solver.loss_models import LOSS_MODELS, loss_model
from raq_solver.losses import LossTable, LossUnit
from raq_solver.make_problem import make_problem
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType, quant_type
from raq_solver.questions.audit import Audit, audit
from raq_solver.questions.explain import (
    Alternative,
    Conflict,
    ConstraintCost,
    Costs,
    TensorReasons,
    constraint_costs,
    explain_conflict,
    explain_tensor,
    nearest_capacity,
)
from raq_solver.questions.ladder import Ladder, LadderRung, nested_ladder
from raq_solver.questions.smallest_size import Smallest, smallest_size
from raq_solver.questions.sweep import Change, Point, changes_between, knee, spaced, sweep
from raq_solver.questions.verify_worst_case import verify_worst_case
from raq_solver.questions.worst_case import DomainOutcome, Domains, WorstCase, WorstCaseMeasure, solve_worst_case
from raq_solver.solve import Solver, solve
from raq_solver.tensors import Tensor
from raq_solver.verify import Verification, verify

__all__ = [
    "CATALOGUE",
    "LOSS_MODELS",
    "ActiveBytes",
    "Allocation",
    "Alternative",
    "AtMost",
    "Audit",
    "BackendFailure",
    "BitsPerWeight",
    "Budget",
    "Ceiling",
    "Change",
    "Conflict",
    "Constraint",
    "ConstraintCost",
    "Costs",
    "DeadlineExceeded",
    "DistinctTypes",
    "DomainOutcome",
    "Domains",
    "Exclude",
    "Fault",
    "Floor",
    "InvalidInput",
    "Ladder",
    "LadderRung",
    "Ledger",
    "LedgerEntry",
    "LedgerMismatch",
    "Limits",
    "LossTable",
    "LossUnit",
    "Monotone",
    "Outcome",
    "Pin",
    "Point",
    "Problem",
    "Profile",
    "QuantType",
    "RaqError",
    "Region",
    "ServiceError",
    "ServiceUnavailable",
    "SideConstraint",
    "Smallest",
    "Solver",
    "Source",
    "Tensor",
    "TensorReasons",
    "Termination",
    "Tie",
    "TotalBytes",
    "UnknownQuantType",
    "UnknownTensor",
    "Verification",
    "WorstCase",
    "WorstCaseMeasure",
    "account",
    "audit",
    "bits_per_weight",
    "capacity_bytes",
    "changes_between",
    "constraint_costs",
    "explain_conflict",
    "explain_tensor",
    "knee",
    "loss_model",
    "make_problem",
    "nearest_capacity",
    "nested_ladder",
    "parse_budget",
    "quant_type",
    "smallest_size",
    "solve",
    "solve_worst_case",
    "spaced",
    "sweep",
    "verify",
    "verify_worst_case",
]
