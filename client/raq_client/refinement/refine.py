"""Refinement: try an allocation in memory, correct the loss table with all measurements, solve again.

First the optimum of every applicable loss model is tried, and refinement starts from the best of them. After that each
round takes one run of the model.

Theory. A loss table adds up losses that were predicted one tensor at a time. Let every group of tensors (one role in
one third of the model's depth) have an unknown factor on its losses. Each tried allocation, from whichever table, gives
an equation: the sum of factor × predicted loss over the groups is the measured divergence. The factors are estimated
from all equations by least squares, regularized towards one common factor; the strength of the regularization is the
trust region. The optimum of the corrected table is tried next. If it was tried before, factors are drawn from their
posterior distribution (Thompson, Biometrika 1933), so that the search continues where losses are uncertain.

An allocation is accepted if its divergence is significantly lower than that of the one accepted before: by twice the
standard error of the difference, paired by window. So the result is never worse than the start on the refinement text,
and the luckiest of many trials is not mistaken for a better one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.evaluation.in_memory import Trial
from raq_client.refinement.candidates import with_other_losses
from raq_client.refinement.tried import Candidate, Tried, try_candidate
from raq_solver.allocation import Allocation
from raq_solver.knapsack import Limits
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.solve import Solver
from raq_solver.tensor_names import block_of, role_of

DEPTHS: Final = 3
TRUST: Final = 0.3
"""Prior standard deviation of a group's factor around the common one."""
MODEL_ERROR: Final = 0.03
"""Assumed relative error of the sum: randomness of quantization errors, interactions between tensors."""
LARGEST_FACTOR: Final = 4.0
"""Upper bound of a group's factor; the lower bound is its inverse."""
DRAWS: Final = 8
"""Number of draws of the factors in a round; refinement ends if none gives a new allocation."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Round:
    """One trial: mean KL divergence in nats per token on the refinement text, and whether it was accepted.

    `predicted` is the loss in the unit of its `source`.
    """

    kl: float
    predicted: float
    source: str
    accepted: bool


@dataclass(frozen=True, eq=False)
class Refined:
    """The last accepted problem, and all rounds; the first round is the original allocation."""

    problem: Problem
    rounds: tuple[Round, ...]


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

    Each loss model and each round takes one run of the model. The random generator is seeded: equal arguments give
    equal results.
    """
    groups = tensor_groups(profile)
    starts = [problem, *with_other_losses(problem, profile).values()]
    found: list[Round] = []
    tried: list[Tried] = []
    taken: list[Tried] = []

    def optimum(candidate: Problem) -> Candidate:
        return Candidate(candidate.table.source, candidate, solve(candidate, limits))

    def attempt(candidate: Candidate) -> None:
        one = try_candidate(candidate, profile, trial)
        accepted = not taken or one.beats(taken[-1])
        table = candidate.problem.table
        predicted = float(_by_group(table, [table.tensors], candidate.allocation).sum())
        found.append(Round(one.kl, predicted, table.source, accepted))
        tried.append(one)
        taken.extend([one] * accepted)
        if progress is not None:
            progress(len(tried), len(starts) + rounds)

    # Other loss models compete with the problem's own only here; later rounds correct the best one's table.
    for start in starts:
        attempt(optimum(start))
    # Not necessarily the accepted one: a start that is better only within the noise is still the better guess.
    base = min(tried, key=lambda one: one.kl).candidate.problem
    random = np.random.default_rng(0)
    for _ in range(rounds):
        following = _next(base, groups, tried, optimum, random)
        if following is None:
            break
        attempt(following)
    return Refined(taken[-1].candidate.problem, tuple(found))


def tensor_groups(profile: Profile) -> tuple[tuple[str, ...], ...]:
    """Groups of the tensors that may change type, by role and third of the depth."""
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
    tried: Sequence[Tried],
    optimum: Callable[[Problem], Candidate],
    random: np.random.Generator,
) -> Candidate | None:
    """The optimum of the problem with corrected losses; None if no draw gives a new allocation."""
    # The base table's prediction for every trial, also for allocations that were solved with another table.
    predicted = np.array([_by_group(base.table, groups, one.candidate.allocation) for one in tried])
    means, root = _factors(predicted, np.array([one.kl for one in tried]))
    for draw in range(1 + DRAWS):
        factors = means if draw == 0 else means + root @ random.normal(size=len(means))
        candidate = optimum(replace(base, table=_corrected(base.table, groups, factors)))
        if all(candidate.allocation != one.candidate.allocation for one in tried):
            return candidate
    return None


def _factors(
    predicted: Float64[np.ndarray, "trials groups"], measured: Float64[np.ndarray, " trials"]
) -> tuple[Float64[np.ndarray, " groups"], Float64[np.ndarray, "groups groups"]]:
    """Posterior mean of the groups' factors, relative to the common one, and a square root of their covariance."""
    sums = predicted.sum(axis=1)
    if not (sums > 0).all() or not (measured > 0).all():
        count = predicted.shape[1]
        return np.ones(count), TRUST * np.eye(count)
    # The common factor changes no optimum, so it is fixed first; the median resists a single bad trial.
    common = float(np.median(measured / sums))
    # Bayesian linear regression of the residuals, in units of the noise: prior N(1, TRUST²), noise MODEL_ERROR.
    rows = predicted * (common / (MODEL_ERROR * measured))[:, None]
    surprise = (measured - common * sums) / (MODEL_ERROR * measured)
    precision = np.eye(predicted.shape[1]) / TRUST**2 + rows.T @ rows
    means = 1 + np.linalg.solve(precision, rows.T @ surprise)
    # With precision = L Lᵀ, L⁻ᵀ times a standard normal vector has covariance precision⁻¹.
    return means, np.linalg.inv(np.linalg.cholesky(precision)).T


def _corrected(table: LossTable, groups: Sequence[Sequence[str]], factors: Float64[np.ndarray, " groups"]) -> LossTable:
    rows = {name: row for row, name in enumerate(table.tensors)}
    losses = table.losses.copy()
    for group, factor in zip(groups, np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR), strict=True):
        losses[[rows[name] for name in group]] *= factor
    return replace(table, losses=losses, source=f"{table.source}, refined")


def _by_group(
    table: LossTable, groups: Sequence[Sequence[str]], allocation: Allocation
) -> Float64[np.ndarray, " groups"]:
    """The predicted loss of each group in the allocation."""
    rows = {name: row for row, name in enumerate(table.tensors)}
    column = {name: index for index, name in enumerate(table.quant_types)}
    return np.array([sum(table.losses[rows[name], column[allocation.types[name]]] for name in g) for g in groups])
