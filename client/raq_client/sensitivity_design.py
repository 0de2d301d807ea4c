"""Which tensors to perturb together, and which next; what a profile foresees of them without a run."""

from collections.abc import Mapping, Sequence

import numpy as np

from raq_client.model_tables import role_of
from raq_client.sensitivity_fit import Fit
from raq_solver.profile import Profile
from raq_solver.residual import residual_sensitivities
from raq_solver.role_prior import role_sensitivities

Group = tuple[str, ...]


def single_design(names: Sequence[str]) -> list[Group]:
    """One tensor at a time: the most precise per evaluation, as noise grows with the loss that is measured."""
    return [(name,) for name in names]


def role_design(names: Sequence[str]) -> list[Group]:
    """All tensors of a role at once, one group for each role, in the order of first appearance."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(role_of(name), []).append(name)
    return [tuple(group) for group in groups.values()]


def balanced_design(names: Sequence[str], evaluations: int, rounds: int, seed: int = 0) -> list[Group]:
    """About `evaluations` random groups in which every tensor takes part `rounds` times.

    Each round is a random partition of all tensors into groups whose sizes differ by at most one.
    """
    random = np.random.default_rng(seed)
    per_round = max(1, min(len(names), evaluations // rounds))
    groups: list[Group] = []
    for _ in range(rounds):
        shuffled = random.permutation(len(names))
        parts = np.array_split(shuffled, per_round)
        groups += [tuple(names[index] for index in sorted(part)) for part in parts]
    return groups


def most_telling(names: Sequence[str], fit: Fit, leverage: Mapping[str, float], done: frozenset[Group]) -> str | None:
    """The tensor whose own evaluation is likely to change an allocation most, or None if all have had one.

    That is the one with the largest uncertain loss: standard error of its sensitivity times `leverage`, the range of
    relative errors that an allocation may choose from (1 where none is given).
    """
    open_to = [index for index, name in enumerate(names) if (name,) not in done]
    if not open_to:
        return None
    best = max(open_to, key=lambda index: fit.errors[index] * leverage.get(names[index], 1.0))
    return names[best]


def expected_of(profile: Profile) -> dict[str, float]:
    """Sensitivities foreseen without a run, about nats: from the residual stream, else from role and place."""
    found = residual_sensitivities(profile)
    if isinstance(found, str):
        found = role_sensitivities(profile.tensors)
    return {tensor.name: float(value) for tensor, value in zip(profile.tensors, found, strict=True)}


def leverage_of(profile: Profile) -> dict[str, float]:
    """For each tensor the range of relative errors that an allocation may choose from; 0 where there is no choice."""
    ranges = {}
    for tensor, errors in zip(profile.tensors, profile.relative_errors, strict=True):
        possible = errors[np.isfinite(errors)]
        ranges[tensor.name] = float(possible.max() - possible.min())
    return ranges
