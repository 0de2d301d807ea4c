"""The closed loop: try an allocation in memory, correct the loss table by what was measured, solve again.

First the optimum of every loss model that applies is tried, and the best of them is where refining begins.

Theory. A loss table adds up losses that were predicted one tensor at a time. Around an allocation, the share of each
group of tensors (one role in one third of the model's depth) is measured directly: the KL divergence with the
allocation, less that with the group left as it was. The ratio of measured to predicted share, damped, scales the
group's rows; the corrected table is solved again. An allocation is taken only if its measured divergence is lower on
the same tokens; else the correction is halved (a trust region). So it never ends worse than it began, on the text
it was refined on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.model_tables import block_of, role_of
from raq_client.trial import Trial
from raq_solver.allocation import Allocation
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.loss_models import LOSS_MODELS
from raq_solver.losses import LossTable
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType, stored_type
from raq_solver.solve import Solver

DEPTHS: Final = 3
LARGEST_FACTOR: Final = 4.0
"""One round scales a group's losses by at most this, or its inverse."""

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

    Trying the loss models costs a run of the model each, a round one for every group and one for what came of it.
    """
    groups = tensor_groups(profile)
    starts = [problem, *_other_starts(problem, profile)]
    report = _counted(progress, len(starts) + rounds * (len(groups) + 1))
    found: list[Round] = []
    best, allocation, lowest = problem, solve(problem, limits).unwrap()[0], np.inf
    for start in starts:
        tried = solve(start, limits).unwrap()[0]
        kl = _divergence(trial, tried, profile, ())
        report()
        found.append(Round(kl, _predicted(start.table, tried), start.table.source, accepted=kl < lowest))
        if kl < lowest:
            best, allocation, lowest = start, tried, kl
    trust = 1.0
    shares: Float64[np.ndarray, " groups"] | None = None
    for _ in range(rounds):
        if shares is None:
            shares = _shares(trial, allocation, profile, groups, lowest, report)
        candidate = replace(best, table=_corrected(best.table, allocation, groups, shares, trust))
        tried = solve(candidate, limits).unwrap()[0]
        if tried == allocation:
            break
        kl = _divergence(trial, tried, profile, ())
        report()
        accepted = kl < lowest
        found.append(Round(kl, _predicted(candidate.table, tried), candidate.table.source, accepted))
        if accepted:
            best, allocation, lowest, shares = candidate, tried, kl, None
        else:
            trust /= 2
    return Refined(best, tuple(found))


def _other_starts(problem: Problem, profile: Profile) -> list[Problem]:
    """The same problem with the losses of every other loss model that applies to the profile."""
    found = []
    for loss_model in LOSS_MODELS.values():
        try:
            table = loss_model(profile)
        except InvalidInput:
            continue  # this model does not apply
        if table.source != problem.table.source:
            found.append(replace(problem, table=table))
    return found


def tensor_groups(profile: Profile) -> tuple[tuple[str, ...], ...]:
    """Tensors that may change type, by role and third of the depth."""
    blocks = 1 + max((block_of(tensor.name) for tensor in profile.tensors), default=-1)
    groups: dict[tuple[str, int], list[str]] = {}
    for row, tensor in enumerate(profile.tensors):
        if np.isfinite(profile.relative_errors[row]).sum() > 1:
            depth = DEPTHS * max(0, block_of(tensor.name)) // max(1, blocks)
            groups.setdefault((role_of(tensor.name), depth), []).append(tensor.name)
    return tuple(tuple(names) for names in groups.values())


def _shares(
    trial: Trial,
    allocation: Allocation,
    profile: Profile,
    groups: Sequence[tuple[str, ...]],
    whole: float,
    report: Callable[[], None],
) -> Float64[np.ndarray, " groups"]:
    """Measured divergence that each group is to blame for, at this allocation."""
    shares = np.empty(len(groups))
    for index, group in enumerate(groups):
        shares[index] = whole - _divergence(trial, allocation, profile, group)
        report()
    return shares


def _corrected(
    table: LossTable,
    allocation: Allocation,
    groups: Sequence[tuple[str, ...]],
    shares: Float64[np.ndarray, " groups"],
    trust: float,
) -> LossTable:
    rows = {name: row for row, name in enumerate(table.tensors)}
    columns = {name: column for column, name in enumerate(table.quant_types)}
    losses = table.losses.copy()
    for group, share in zip(groups, shares, strict=True):
        predicted = sum(table.losses[rows[name], columns[allocation.types[name]]] for name in group)
        if predicted > 0 and share > 0:
            factor = float(np.clip(share / predicted, 1 / LARGEST_FACTOR, LARGEST_FACTOR)) ** trust
            losses[[rows[name] for name in group]] *= factor
    source = table.source if table.source.endswith("refined") else f"{table.source}, refined"
    return replace(table, losses=losses, source=source)


def _divergence(trial: Trial, allocation: Allocation, profile: Profile, untouched: Sequence[str]) -> float:
    """Mean KL divergence of the allocation, the tensors of one group left as they are."""
    changed: dict[str, QuantType] = {
        tensor.name: stored_type(allocation.types[tensor.name])
        for tensor in profile.tensors
        if tensor.name not in untouched and allocation.types[tensor.name] != tensor.source_type.name
    }
    return float(trial.run(changed).scores.kl.mean())


def _predicted(table: LossTable, allocation: Allocation) -> float:
    column = {name: index for index, name in enumerate(table.quant_types)}
    return float(sum(table.losses[row, column[allocation.types[name]]] for row, name in enumerate(table.tensors)))


def _counted(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return advance
