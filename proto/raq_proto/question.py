"""What the services exchange besides problems and outcomes: profiles by digest, and what the store knows of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from raq_solver.budget import BitsPerWeight, Budget, capacity_bytes
from raq_solver.constraints import Constraint
from raq_solver.errors import Fault, InvalidInput
from raq_solver.loss_models import default_loss_model, loss_model
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile

Stored = Callable[[str], Profile]
"""Finds a profile by its digest; raises UnknownProfile."""


@dataclass(frozen=True, eq=False)
class ProfileProblem:
    """A problem whose losses are predicted from a profile: the profile itself, or the digest of a stored one.

    `loss_model` is a name of `raq_solver.LOSS_MODELS`, None the default for what the profile holds.
    """

    profile: Profile | str
    budget: Budget
    constraints: tuple[Constraint, ...] = ()
    loss_model: str | None = None

    def problem(self, stored: Stored) -> Problem:
        """The problem itself. Raises InvalidInput with every fault, UnknownProfile when nothing has that digest."""
        profile = self.profile if isinstance(self.profile, Profile) else stored(self.profile)
        table = predicted(profile, self.loss_model)
        return Problem(table, capacity_in(table, self.budget), self.constraints)


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """A stored profile. `digest` is its name, `weights` what budgets in bits per weight refer to, `size_bytes` that of
    its message; `used` is when it was last put, got or solved for, to the hour.
    """

    digest: str
    tensors: int
    weights: int
    quant_types: tuple[str, ...]
    provenance: Mapping[str, str]
    size_bytes: int
    created: datetime
    used: datetime


Question = Problem | ProfileProblem
"""What can be solved."""


def predicted(profile: Profile, name: str | None) -> LossTable:
    """The profile's losses by the loss model of that name, or by its default one."""
    return (loss_model(name) if name else default_loss_model(profile))(profile)


def capacity_in(table: LossTable, budget: Budget) -> int:
    """The budget in bytes. Raises InvalidInput when it is per weight and the table does not know its weights."""
    if isinstance(budget, BitsPerWeight) and not table.total_weights:
        raise InvalidInput(Fault("budget", "is per weight, but the table lacks numbers of weights; say it in bytes"))
    return capacity_bytes(budget, table.total_weights)
