"""The smallest plan whose measured KL divergence keeps a limit: try a plan in memory, rescale the limit, plan again.

A predicted loss is that of text like the calibration text. On other text the KL divergence is larger or smaller by a
factor that hardly depends on the size (docs/quality.md), so the limit on the prediction is divided by that factor,
which each trial measures again. Two trials on either side of the limit bracket the answer; then the next limit comes
from interpolation between their logarithms.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from raq_client.evaluation.in_memory import Trial
from raq_client.planning.plan import LossNotReached, Plan, solve_plan
from raq_client.refinement.tried import Candidate, Tried, try_candidate
from raq_client.solver_client.protocol import SolverClient
from raq_solver.knapsack import Limits, Termination

CLOSE: Final = 0.9
"""A measured KL divergence between this share of the limit and the limit itself is close enough."""
AIM: Final = 0.95
"""The share of the limit that the next plan aims at: the middle of what is close enough."""
MOST_TRIALS: Final = 8
_NOTHING_BETWEEN: Final = "no allocation lies between those tried"
_STEPS: Final = 8
"""How often a limit is halved or doubled to get a plan that was not tried."""
_LARGEST_STEP: Final = 16.0
"""Largest change of the predicted limit from one trial to the next, while only one side of the limit is known."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """A plan of the smallest size for a limit on the predicted loss, and what was measured of it."""

    plan: Plan
    tried: Tried

    @property
    def kl(self) -> float:
        """KL divergence of its file, nats per token."""
        return self.tried.of_file(self.plan.profile).value

    @property
    def limit(self) -> float:
        """The limit on its predicted loss, in the unit of the losses."""
        most = self.plan.spec.request.max_loss
        assert most is not None, "a plan for a limit"
        return most


@dataclass(frozen=True, eq=False)
class Limited:
    """The smallest plan that was measured within `most` nats per token, and all attempts in order.

    `reason` tells why the search ended although its KL divergence is below `CLOSE` of the limit; None if it is not.
    """

    most: float
    best: Attempt
    attempts: tuple[Attempt, ...]
    reason: str | None = None


class MeasuredTooLarge(LossNotReached):
    """No plan that was tried has a measured KL divergence within the limit."""

    def __init__(self, most: float, least: Attempt, *, certain: bool) -> None:
        termination = Termination.INFEASIBLE if certain else Termination.NO_SOLUTION_FOUND
        what = f"no allocation that was tried has a measured KL divergence of at most {most:g}"
        way_out = "" if certain else "; a longer --trial-minutes may find one"
        super().__init__(
            most, None, termination, f"{what}: the least was {least.kl:.6g} ± {least.tried.error:.2g}{way_out}"
        )


def smallest_within(
    found: Plan,
    solver: SolverClient,
    trial: Trial,
    *,
    limits: Limits,
    seconds: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> Limited:
    """The smallest plan whose KL divergence on the trial's text keeps the `max_loss` of `found`'s request.

    At most `MOST_TRIALS` plans are tried, and after the first none that would end after `seconds`. Raises
    MeasuredTooLarge if none keeps the limit, BrokenByTrialError if predictions are not finite.
    """
    most = found.spec.request.max_loss
    assert most is not None, "a plan for a limit"
    attempts: list[Attempt] = []
    started, plan, reason = time.monotonic(), found, None
    while True:
        attempts.append(_attempt(plan, trial))
        if progress is not None:
            progress(len(attempts), MOST_TRIALS)
        if CLOSE * most <= attempts[-1].kl <= most:
            break
        left = seconds - (time.monotonic() - started)
        reason = _end(attempts, left)
        if reason is not None:
            break
        further = _untried(attempts, most, solver, limits)
        if further is None:
            reason = _NOTHING_BETWEEN
            break
        plan = further
    within = [each for each in attempts if each.kl <= most]
    if not within:
        least = min(attempts, key=lambda one: one.kl)
        raise MeasuredTooLarge(most, least, certain=reason == _NOTHING_BETWEEN)
    best = min(within, key=lambda each: each.tried.candidate.size)
    return Limited(most, best, tuple(attempts), None if best.kl >= CLOSE * most else reason)


def _attempt(plan: Plan, trial: Trial) -> Attempt:
    candidate = Candidate(f"loss at most {plan.spec.request.max_loss:.6g}", plan.problem, plan.outcome)
    return Attempt(plan, try_candidate(candidate, plan.profile, trial))


def _end(attempts: Sequence[Attempt], left: float) -> str | None:
    """Why no further plan is tried, with `left` seconds; None if one is."""
    if len(attempts) == MOST_TRIALS:
        return f"{MOST_TRIALS} plans were tried"
    if max(each.tried.seconds for each in attempts) > left:
        return "the time for trials (--trial-minutes) was over"
    return None


def _untried(attempts: Sequence[Attempt], most: float, solver: SolverClient, limits: Limits) -> Plan | None:
    """The next plan; None if all that are left were tried."""
    for limit in next_limits(most, attempts):
        plan = _planned(attempts[0].plan, limit, solver, limits)
        if all(plan.outcome.allocation != each.plan.outcome.allocation for each in attempts):
            return plan
    return None


def _planned(before: Plan, limit: float, solver: SolverClient, limits: Limits) -> Plan:
    """The plan of the smallest size for another limit on the predicted loss, or the one of least loss."""
    spec = replace(before.spec, request=replace(before.spec.request, max_loss=limit))
    try:
        return solve_plan(spec, solver, limits)
    except LossNotReached as error:
        if error.least is None:
            raise
        return solve_plan(replace(spec, request=replace(spec.request, max_loss=error.least)), solver, limits)


def next_limits(most: float, attempts: Sequence[Attempt]) -> Iterator[float]:
    """Limits on the predicted loss of the next plan, the best one first.

    The others are for plans that were tried already, because sizes come in steps.
    """
    below = max((each for each in attempts if each.kl <= most), key=lambda one: one.limit, default=None)
    above = min((each for each in attempts if each.kl > most), key=lambda one: one.limit, default=None)
    if below is not None and above is not None and below.kl > 0 and below.limit > 0:
        share = math.log(AIM * most / below.kl) / math.log(above.kl / below.kl)
        # Away from the ends, where the plan would be one of these two.
        for each in (min(max(share, 0.1), 0.9), 0.5, 0.25, 0.75):
            yield float(below.limit ** (1 - each) * above.limit**each)
        return
    known = above if above is not None else below
    assert known is not None, "something was tried"
    step = AIM * most / known.kl if known.kl > 0 else _LARGEST_STEP
    limit = known.limit * min(max(step, 1 / _LARGEST_STEP), _LARGEST_STEP)
    for _ in range(_STEPS):
        yield limit
        limit *= 2.0 if above is None else 0.5
