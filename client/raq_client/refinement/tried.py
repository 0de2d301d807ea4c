"""Candidates and what came of trying them in memory: the one comparison of all that decides by measurements."""

import math
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from raq_client.evaluation.in_memory import Trial
from raq_client.evaluation.statistics import Estimate
from raq_solver.allocation import Allocation
from raq_solver.loss_models import rounded_inputs_share
from raq_solver.outcome import Outcome
from raq_solver.problem import Problem
from raq_solver.profile import Profile
from raq_solver.quant_types import QuantType, stored_type

BEYOND_NOISE: Final = 2.0
"""A candidate must be better by this many standard errors of the difference, paired by window."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An allocation to try, with a name and the problem of which it is the optimum."""

    name: str
    problem: Problem
    outcome: Outcome

    @property
    def allocation(self) -> Allocation:
        """The types of all tensors."""
        return self.outcome.unwrap()[0]

    @property
    def size(self) -> int:
        """Bytes of tensor data."""
        return self.outcome.unwrap()[1].size


@dataclass(frozen=True, eq=False)
class Tried:
    """A candidate and its KL divergence from the unchanged model, nats per token, in each window."""

    candidate: Candidate
    per_window: Float64[np.ndarray, " windows"]
    seconds: float

    @property
    def kl(self) -> float:
        """The mean over the windows."""
        return float(self.per_window.mean())

    @property
    def error(self) -> float:
        """The standard error of the mean, with independent windows."""
        return standard_error(self.per_window)

    def of_file(self, profile: Profile) -> Estimate:
        """The KL divergence of the candidate's file: measured with whole inputs, plus what rounding them adds."""
        added = 1 + rounded_inputs_share(profile, self.candidate.allocation.types)
        return Estimate(self.kl * added, math.nan, self.error * added)

    def beats(self, other: "Tried") -> bool:
        """Whether it is significantly better than the other on the same windows."""
        if not (math.isfinite(self.kl) and math.isfinite(other.kl)):
            return math.isfinite(self.kl)
        gains = other.per_window - self.per_window
        return bool(gains.mean() > BEYOND_NOISE * standard_error(gains))


def try_candidate(candidate: Candidate, profile: Profile, trial: Trial, *, compensated: bool = True) -> Tried:
    """Try an allocation, without `compensated` rounded plainly. Raises as `Trial.run` does."""
    before = time.monotonic()
    scores = trial.run(changed_types(candidate.allocation, profile), compensated=compensated).scores
    means = np.asarray(scores.kl.mean(axis=1), np.float64)
    return Tried(candidate, means, time.monotonic() - before)


def changed_types(allocation: Allocation, profile: Profile) -> dict[str, QuantType]:
    """The tensors whose type in the allocation differs from their present one, with the new type."""
    return {
        tensor.name: stored_type(allocation.types[tensor.name])
        for tensor in profile.tensors
        if allocation.types[tensor.name] != tensor.source_type.name
    }


def standard_error(values: Float64[np.ndarray, " windows"]) -> float:
    """The standard error of the mean of independent values; 0 for a single one."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
