"""raq_solver: which quant type for which tensor, proven optimal. Pure domain and mathematics: no files, no wire."""

from raq_solver.allocation import Allocation, Entry, Ledger, account
from raq_solver.budget import BitsPerWeight, Budget, TotalBytes, bits_per_weight, capacity_bytes, parse_budget
from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Source, Tie
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
from raq_solver.losses import LossTable
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import CATALOGUE, QuantType, quant_type
from raq_solver.solve import Solver, solve
from raq_solver.tensors import Tensor
from raq_solver.verify import Verification, verify

__all__ = [
    "CATALOGUE",
    "LOSS_MODELS",
    "Allocation",
    "BackendFailure",
    "BitsPerWeight",
    "Budget",
    "Ceiling",
    "Constraint",
    "DeadlineExceeded",
    "Entry",
    "Exclude",
    "Fault",
    "Floor",
    "InvalidInput",
    "Ledger",
    "LedgerMismatch",
    "Limits",
    "LossTable",
    "Outcome",
    "Pin",
    "Problem",
    "Profile",
    "QuantType",
    "RaqError",
    "ServiceError",
    "ServiceUnavailable",
    "Solver",
    "Source",
    "Tensor",
    "Termination",
    "Tie",
    "TotalBytes",
    "UnknownQuantType",
    "UnknownTensor",
    "Verification",
    "account",
    "bits_per_weight",
    "capacity_bytes",
    "loss_model",
    "parse_budget",
    "quant_type",
    "solve",
    "verify",
]
