"""Experimental design: which tensors to perturb together, and which one next."""

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
"""Which evaluations are made: see `planned_groups`."""


def planned_groups(design: Design, names: Sequence[str], evaluations: int, *, foreseen: bool) -> list[Group]:
    """The groups to evaluate first; the remaining evaluations go to the tensors chosen by `most_telling`.

    `single`: one tensor after the other. `groups`: one group per role, or a random partition if there are more roles
    than evaluations. `balanced`: two random partitions. `adaptive`: single tensors if there are evaluations for all;
    else roles if expectations exist (`foreseen`) and evaluations suffice for fewer than half of the tensors; else none.
    (Regret on recorded evaluations of the project's models: docs/quality.md.)

    >>> planned_groups("groups", ["blk.0.attn_q.weight", "blk.1.attn_q.weight"], 5, foreseen=False)
    [('blk.0.attn_q.weight', 'blk.1.attn_q.weight')]
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
    """One group per tensor: the most precise design, as the noise of an evaluation grows with its loss."""
    return [(name,) for name in names]


def role_design(names: Sequence[str]) -> list[Group]:
    """One group per role with all its tensors, in the order of first appearance."""
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
    """The tensor whose evaluation is likely to improve allocations most, or None if all have been evaluated alone.

    This is the tensor with the highest value of information; without `choices`, or if no choice is in doubt, the one
    with the largest standard error.
    """
    open_to = [index for index, name in enumerate(names) if (name,) not in done]
    if not open_to:
        return None
    worth = fit.errors if choices is None else choices.worth_of_knowing(names, fit)
    best = max(open_to, key=lambda index: (worth[index], fit.errors[index]))
    return names[best]


def expected_of(profile: Profile) -> dict[str, float]:
    """Sensitivities expected without a run, roughly in nats: from the residual stream, else from role and depth."""
    found = residual_sensitivities(profile)
    if isinstance(found, str):
        found = role_sensitivities(profile.tensors)
    return {tensor.name: float(value) for tensor, value in zip(profile.tensors, found, strict=True)}
