"""The closed loop: try an allocation in memory, correct the loss table by all that was measured, solve again.

First the optimum of every loss model that applies is tried, and the best of them is where refining begins. From then
on a round costs one run of the model.

Theory. A loss table adds up losses that were predicted one tensor at a time. Let every group of tensors (one role in
one third of the model's depth) have a factor that its losses should be multiplied by. Each allocation tried, whichever
table it came from, is an equation: the sum of factor × predicted loss over the groups is the divergence that was
measured. The factors are estimated from all of them by least squares that lean on one common factor; how far they may
lean away is the trust region. The optimum of the corrected table is tried next. Where it was tried before, factors are
drawn from what they may be (Thompson, Biometrika 1933), so that the search goes on where losses are in doubt.

An allocation is taken if its divergence is lower than that of the one taken before by more than noise: twice the
standard error of the difference, window by window. So it never ends worse than it began on the text it was refined on,
and the best of many trials is not mistaken for a better one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.evaluation.in_memory import Trial
from raq_client.refinement.candidates import changed_types, lower_beyond_noise, with_other_losses
from raq_solver.allocation import Allocation
from raq_solver.knapsack import Limits
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.solve import Solver
from raq_solver.tensor_names import block_of, role_of

DEPTHS: Final = 3
TRUST: Final = 0.3
"""Standard deviation that a group's factor is given around the common one."""
MODEL_ERROR: Final = 0.03
"""Relative error granted to the sum: quantization errors of one draw, interactions between tensors."""
LARGEST_FACTOR: Final = 4.0
"""A group's losses are multiplied by at most this, or its inverse."""
DRAWS: Final = 8
"""Sets of factors that are drawn in a round before it is given up that any leads to another allocation."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One trial: mean KL divergence in nats per token on the refining text, and whether it was taken.

    `predicted` is the loss in the unit of its `source`.
    """

    kl: float
    predicted: float
    source: str
    accepted: bool


@dataclass(frozen=True, eq=False)
class Refined:
    """The best problem found, and the way there; the first round is the allocation asked for."""

    problem: Problem
    rounds: tuple[Round, ...]


@dataclass(frozen=True, eq=False)
class _Tried:
    problem: Problem
    allocation: Allocation
    per_window: Float64[np.ndarray, " windows"]

    @property
    def kl(self) -> float:
        return float(self.per_window.mean())

    def beats(self, other: "_Tried") -> bool:
        """Whether it is better beyond noise."""
        return lower_beyond_noise(self.per_window, other.per_window)


def refine(
    problem: Problem,
    profile: Profile,
    solve: Solver,
    trial: Trial,
    *,
    rounds: int,
    limits: Limits,
    progress: Progress | None = None,
) -> Refined:
    """Improve the problem's loss table in at most `rounds` rounds; the problem must be feasible.

    Trying the loss models costs a run of the model each, and so does a round. Chance is seeded: equal questions get
    equal answers.
    """
    groups = tensor_groups(profile)
    starts = [problem, *with_other_losses(problem, profile).values()]
    found: list[Round] = []
    tried: list[_Tried] = []
    taken: list[_Tried] = []

    def attempt(candidate: Problem, allocation: Allocation) -> None:
        one = _Tried(candidate, allocation, _divergence(trial, allocation, profile))
        accepted = not taken or one.beats(taken[-1])
        table = candidate.table
        predicted = float(_by_group(table, [table.tensors], allocation).sum())
        found.append(Round(one.kl, predicted, table.source, accepted))
        tried.append(one)
        taken.extend([one] * accepted)
        if progress is not None:
            progress(len(tried), len(starts) + rounds)

    for start in starts:
        attempt(start, solve(start, limits).unwrap()[0])
    base = min(tried, key=lambda one: one.kl).problem
    random = np.random.default_rng(0)
    for _ in range(rounds):
        following = _next(base, groups, tried, lambda candidate: solve(candidate, limits).unwrap()[0], random)
        if following is None:
            break
        attempt(*following)
    return Refined(taken[-1].problem, tuple(found))


def tensor_groups(profile: Profile) -> tuple[tuple[str, ...], ...]:
    """Tensors that may change type, by role and third of the depth."""
    blocks = 1 + max((block_of(tensor.name) for tensor in profile.tensors), default=-1)
    groups: dict[tuple[str, int], list[str]] = {}
    for row, tensor in enumerate(profile.tensors):
        if np.isfinite(profile.relative_errors[row]).sum() > 1:
            depth = DEPTHS * max(0, block_of(tensor.name)) // max(1, blocks)
            groups.setdefault((role_of(tensor.name), depth), []).append(tensor.name)
    return tuple(tuple(names) for names in groups.values())


def _next(
    base: Problem,
    groups: Sequence[Sequence[str]],
    tried: Sequence[_Tried],
    optimum: Callable[[Problem], Allocation],
    random: np.random.Generator,
) -> tuple[Problem, Allocation] | None:
    """The problem with the factors as they are known, and its optimum; None if that leads nowhere new."""
    predicted = np.array([_by_group(base.table, groups, one.allocation) for one in tried])
    means, root = _factors(predicted, np.array([one.kl for one in tried]))
    for draw in range(1 + DRAWS):
        factors = means if draw == 0 else means + root @ random.normal(size=len(means))
        candidate = replace(base, table=_corrected(base.table, groups, factors))
        allocation = optimum(candidate)
        if all(allocation != one.allocation for one in tried):
            return candidate, allocation
    return None


def _factors(
    predicted: Float64[np.ndarray, "trials groups"], measured: Float64[np.ndarray, " trials"]
) -> tuple[Float64[np.ndarray, " groups"], Float64[np.ndarray, "groups groups"]]:
    """Posterior mean of the groups' factors, relative to the common one, and a root of their covariance."""
    sums = predicted.sum(axis=1)
    if not (sums > 0).all() or not (measured > 0).all():
        count = predicted.shape[1]
        return np.ones(count), TRUST * np.eye(count)
    common = float(np.median(measured / sums))
    rows = predicted * (common / (MODEL_ERROR * measured))[:, None]
    surprise = (measured - common * sums) / (MODEL_ERROR * measured)
    precision = np.eye(predicted.shape[1]) / TRUST**2 + rows.T @ rows
    means = 1 + np.linalg.solve(precision, rows.T @ surprise)
    return means, np.linalg.inv(np.linalg.cholesky(precision)).T


def _corrected(table: LossTable, groups: Sequence[Sequence[str]], factors: Float64[np.ndarray, " groups"]) -> LossTable:
    rows = {name: row for row, name in enumerate(table.tensors)}
    losses = table.losses.copy()
    for group, factor in zip(groups, np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR), strict=True):
        losses[[rows[name] for name in group]] *= factor
    return replace(table, losses=losses, source=f"{table.source}, refined")


def _divergence(trial: Trial, allocation: Allocation, profile: Profile) -> Float64[np.ndarray, " windows"]:
    """Mean KL divergence of the allocation in each window."""
    means: np.ndarray = trial.run(changed_types(allocation, profile)).scores.kl.mean(axis=1)
    return means


def _by_group(
    table: LossTable, groups: Sequence[Sequence[str]], allocation: Allocation
) -> Float64[np.ndarray, " groups"]:
    """Predicted loss of each group's tensors at the types they are given."""
    rows = {name: row for row, name in enumerate(table.tensors)}
    column = {name: index for index, name in enumerate(table.quant_types)}
    return np.array([sum(table.losses[rows[name], column[allocation.types[name]]] for name in g) for g in groups])
