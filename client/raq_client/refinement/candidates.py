"""Compare candidate allocations in memory before a file is written: other loss models, and llama.cpp's mixture.

An optimum is only as good as its loss table. Therefore the optimum of every applicable loss model is tried on a few
windows of text, and also the largest of llama.cpp's mixtures that the problem allows. The plan's own allocation is
kept unless another one is significantly better in a comparison window by window.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from raq_client.evaluation.in_memory import BrokenByTrialError, Trial
from raq_client.models.file_types import FILE_TYPES
from raq_client.models.table import ModelTable
from raq_client.recipes.mixtures import MIXTURES, mixture, tensor_bytes
from raq_client.refinement.tried import Candidate, Tried, standard_error, try_candidate
from raq_solver.constraints import Pin
from raq_solver.errors import InvalidInput
from raq_solver.knapsack import Limits
from raq_solver.loss_models import LOSS_MODELS
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.solve import Solver


@dataclass(frozen=True, eq=False)
class Comparison:
    """The tried candidates, beginning with the plan's own.

    `left_out` are the names of candidates not tried for lack of time, `broken` of those with which the model predicts
    NaN or infinity. With Gram statistics, `plain` is the best one rounded without error feedback.
    """

    tried: tuple[Tried, ...]
    left_out: tuple[str, ...]
    broken: tuple[str, ...] = ()
    plain: Tried | None = None

    @property
    def best(self) -> Tried:
        """The lowest divergence among the candidates that beat the plan's own beyond noise; else the plan's own."""
        own = self.tried[0]
        return min((one for one in self.tried[1:] if one.beats(own)), key=lambda one: one.kl, default=own)

    @property
    def feedback_gain(self) -> tuple[float, float] | None:
        """KL divergence with error feedback relative to plain rounding, and its standard error; None without both.

        The error is that of a ratio of means over the same windows (delta method).
        """
        if self.plain is None or self.plain.kl <= 0:
            return None
        ratio = self.best.kl / self.plain.kl
        left = self.best.per_window - ratio * self.plain.per_window
        return ratio, standard_error(left) / self.plain.kl


def candidates(
    problem: Problem, outcome: Outcome, profile: Profile, table: ModelTable, solve: Solver, limits: Limits
) -> list[Candidate]:
    """The plan's own allocation, llama.cpp's mixture, and the optima of the other loss models, without duplicates."""
    found = [Candidate("the plan", problem, outcome)]
    for each in (*_mixtures(problem, profile, table, solve, limits), *_other_losses(problem, profile, solve, limits)):
        if all(each.allocation != other.allocation for other in found):
            found.append(each)
    return found


def _other_losses(problem: Problem, profile: Profile, solve: Solver, limits: Limits) -> Iterator[Candidate]:
    for name, other in with_other_losses(problem, profile).items():
        yield from _solved(f"losses {name}", other, solve, limits)


def with_other_losses(problem: Problem, profile: Profile) -> dict[str, Problem]:
    """The same problem with the losses of every other applicable loss model, by the model's name."""
    found = {}
    for name, loss_model in LOSS_MODELS.items():
        try:
            losses = loss_model(profile)
        except InvalidInput:
            continue  # this model does not apply
        if losses.source != problem.table.source:
            found[name] = replace(problem, table=losses)
    return found


def _mixtures(
    problem: Problem, profile: Profile, table: ModelTable, solve: Solver, limits: Limits
) -> Iterator[Candidate]:
    """The largest mixture that fits, with the user's constraints: other tensors are pinned to the mixture's types."""
    fitting: list[tuple[int, str, dict[str, str]]] = []
    for name in MIXTURES:
        try:
            types = mixture(table, FILE_TYPES[name], has_importance=profile.has_importance)
        except InvalidInput:
            continue  # llama.cpp could not write it either
        if tensor_bytes(types) <= problem.capacity_bytes:
            fitting.append((tensor_bytes(types), name, {tensor.name: chosen.name for tensor, chosen in types.items()}))
    for _, name, names in sorted(fitting, key=lambda one: one[:2], reverse=True):
        if all(_has(problem, problem.table.offered, *cell) for cell in names.items()):
            allowed = problem.allowed()
            pins = tuple(
                Pin((tensor,), chosen, reason=f"mixture {name}")
                for tensor, chosen in names.items()
                if _has(problem, allowed, tensor, chosen)
            )
            pinned = replace(problem, constraints=(*problem.constraints, *pins))
            found = list(_solved(f"mixture {name}", pinned, solve, limits))
            if found:  # else the user's pins make it too large: try a smaller one
                yield from found
                return


def _has(problem: Problem, cells: Bool[np.ndarray, "tensors types"], tensor: str, chosen: str) -> bool:
    column = problem.table.column_of.get(chosen)
    return column is not None and bool(cells[problem.table.row_of[tensor], column])


def _solved(name: str, problem: Problem, solve: Solver, limits: Limits) -> Iterator[Candidate]:
    outcome = solve(problem, limits)
    if outcome.allocation is not None:
        yield Candidate(name, problem, outcome)


def compare_candidates(
    found: Sequence[Candidate],
    profile: Profile,
    trial: Trial,
    *,
    seconds: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Try the candidates in order, as long as the total time stays within `seconds`; the first two are always tried.

    Raises InvalidInput if the predictions are not finite for the unchanged model or the first candidate.
    """
    tried: list[Tried] = []
    broken: list[str] = []
    started = time.monotonic()
    for number, candidate in enumerate(found):
        used = time.monotonic() - started
        if number > 1 and used + max(one.seconds for one in tried) > seconds:
            return Comparison(tuple(tried), tuple(each.name for each in found[number:]), tuple(broken))
        try:
            one = try_candidate(candidate, profile, trial)
        except BrokenByTrialError:
            if not tried:
                raise
            broken.append(candidate.name)
            continue
        tried.append(one)
        if progress is not None:
            progress(number + 1, len(found))
    return Comparison(tuple(tried), (), tuple(broken))


def with_plain_rounding(compared: Comparison, profile: Profile, trial: Trial) -> Comparison:
    """The comparison with its best allocation tried without error feedback; unchanged without Gram statistics.

    Raises InvalidInput if the model's predictions are not finite then.
    """
    if not trial.compensates:
        return compared
    best = compared.best.candidate
    plain = replace(best, name=f"{best.name}, without error feedback")
    return replace(compared, plain=try_candidate(plain, profile, trial, compensated=False))
