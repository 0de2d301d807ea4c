"""Questions about profiles by digest, and the store's description of a profile."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from raq_solver.budget import Budget
from raq_solver.constraints import Constraint
from raq_solver.make_problem import make_problem
from raq_solver.problem import Problem
from raq_solver.profile import Profile

Stored = Callable[[str], Profile]
"""A function that returns the profile of a digest, or raises UnknownProfile."""


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
        return make_problem(profile, self.budget, self.constraints, loss=self.loss_model)


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
"""A problem with its losses, or with a profile that they are predicted from."""
