"""Which tensors to perturb together, and which next; what a profile foresees of them without a run."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from raq_client.sensitivity.choices import Choices
from raq_client.sensitivity.fit import Fit
from raq_solver.loss_models.residual_stream import residual_sensitivities
from raq_solver.loss_models.role_prior import role_sensitivities
from raq_solver.profile import Profile
from raq_solver.tensor_names import role_of

Group = tuple[str, ...]
Design = Literal["adaptive", "single", "groups", "balanced"]
"""Where evaluations go: see `planned_groups`."""


def planned_groups(design: Design, names: Sequence[str], evaluations: int, *, foreseen: bool) -> list[Group]:
    """What to evaluate before anything is known; what is left of the evaluations goes where they tell most.

    `single`: one tensor after the other. `groups`: each role, or where that is too many, a random partition.
    `balanced`: two random partitions. `adaptive`: each its own where there are evaluations for all; else the roles
    where something is `foreseen` of the tensors in them and evaluations are for fewer than half of these; else nothing.
    (Regret on recorded evaluations of the project's models: docs/quality.md.)
    """
    if design == "single" or (design == "adaptive" and evaluations >= len(names)):
        return single_design(names)[:evaluations]
    if design == "balanced" and evaluations > 1:
        return balanced_design(names, evaluations, rounds=2)
    if design == "adaptive" and not (foreseen and 2 * evaluations < len(names)):
        return []
    roles = role_design(names)
    return roles if len(roles) <= evaluations else balanced_design(names, evaluations, rounds=1)


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


def most_telling(names: Sequence[str], fit: Fit, choices: Choices | None, done: frozenset[Group]) -> str | None:
    """The tensor whose own evaluation is likely to change an allocation most, or None if all have had one.

    That is the one whose sensitivity is worth most to know; where nothing is known of what may be chosen, or no
    choice is in doubt, the one with the largest standard error.
    """
    open_to = [index for index, name in enumerate(names) if (name,) not in done]
    if not open_to:
        return None
    worth = fit.errors if choices is None else choices.worth_of_knowing(names, fit)
    best = max(open_to, key=lambda index: (worth[index], fit.errors[index]))
    return names[best]


def expected_of(profile: Profile) -> dict[str, float]:
    """Sensitivities foreseen without a run, about nats: from the residual stream, else from role and place."""
    found = residual_sensitivities(profile)
    if isinstance(found, str):
        found = role_sensitivities(profile.tensors)
    return {tensor.name: float(value) for tensor, value in zip(profile.tensors, found, strict=True)}
