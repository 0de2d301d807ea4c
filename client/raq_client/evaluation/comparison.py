"""Paired comparison of two quantizations on the same tokens, with a bootstrap over windows.

Both candidates are measured against one baseline on the same windows. The differences are taken window by window, so
that the difficulty of a window, which is common to all models, cancels out. Whole windows are resampled, because the
tokens of one window are not independent. The interval is the bootstrap-t (Efron & Tibshirani, An Introduction to the
Bootstrap, 12.5): its coverage is right for few windows and skewed differences, where plain percentiles are too narrow.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64

from raq_client.evaluation.perplexity import Measurement
from raq_client.evaluation.scores import TokenScores
from raq_solver.errors import Fault, InvalidInput, raise_faults

RESAMPLES = 5000
CONFIDENCE = 0.95
POWER_QUANTILE = 0.8416
"""Normal quantile of 0.8, the probability with which `windows_to_settle` windows would show the difference."""
BATCH = 1 << 20
"""Number of resampled windows in memory at once."""


class Verdict(Enum):
    """The second candidate compared with the first."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "no difference beyond noise"


@dataclass(frozen=True, slots=True)
class Difference:
    """Second minus first, as a mean over all tokens.

    `low` and `high` are the interval at the comparison's confidence, `error` is the standard error over windows.
    `windows_to_settle` is the number of windows with which a difference of this size would be significant with a
    probability of 80 %; None if the difference is 0.
    """

    value: float
    error: float
    low: float
    high: float
    verdict: Verdict
    windows_to_settle: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between two candidates on the same tokens.

    `kl` is the difference of mean KL divergence from the baseline, `loss` that of the mean negative log-likelihood
    (both nats per token, less is better), `top1_agreement` that of the share of agreeing tokens (more is better).
    The overall verdict is that of `kl`, which uses the whole distribution and has the least noise.
    """

    first: str
    second: str
    windows: int
    tokens: int
    confidence: float
    kl: Difference
    loss: Difference
    top1_agreement: Difference

    @property
    def verdict(self) -> Verdict:
        """Whether the second candidate is better or worse than the first, or not significantly different."""
        return self.kl.verdict


def compare(first: Measurement, second: Measurement, *, confidence: float = CONFIDENCE, seed: int = 0) -> Comparison:
    """Compare two candidates that were measured against one baseline on the same windows.

    Raises InvalidInput if the baselines or the windows differ, or if a prediction is not finite.
    """
    _require_same_tokens(first, second)
    raise_faults([fault for each in (first, second) for fault in _not_finite(each)])
    before, after = first.scores(), second.scores()

    def difference(values: Callable[[TokenScores], np.ndarray], *, less_is_better: bool) -> Difference:
        per_window = (values(after).astype(np.float64) - values(before)).mean(axis=1)
        return bootstrap_difference(per_window, confidence=confidence, less_is_better=less_is_better, seed=seed)

    return Comparison(
        first.candidate,
        second.candidate,
        before.windows,
        before.tokens,
        confidence,
        kl=difference(lambda scores: scores.kl, less_is_better=True),
        loss=difference(lambda scores: scores.candidate_nll, less_is_better=True),
        top1_agreement=difference(lambda scores: scores.same_top.astype(np.float64), less_is_better=False),
    )


def compare_all(measurements: Sequence[Measurement], *, confidence: float = CONFIDENCE) -> tuple[Comparison, ...]:
    """Compare every candidate with the one before it.

    All verdicts together hold with the given confidence; each alone has a higher one (Bonferroni).
    Raises InvalidInput if baselines or windows differ.
    """
    steps = list(pairwise(measurements))
    each = 1 - (1 - confidence) / max(1, len(steps))
    return tuple(compare(first, second, confidence=each) for first, second in steps)


def bootstrap_difference(
    per_window: Float64[np.ndarray, " windows"],
    *,
    confidence: float = CONFIDENCE,
    less_is_better: bool = True,
    seed: int = 0,
) -> Difference:
    """The mean of differences per window (second minus first), with its bootstrap-t interval and verdict.

    >>> bootstrap_difference(np.array([-0.1, -0.2, -0.15, -0.12])).verdict.name
    'BETTER'
    """
    count = len(per_window)
    mean, error = float(per_window.mean()), float(per_window.std(ddof=1)) / math.sqrt(count)
    if error == 0:
        low = high = mean
    else:
        # Bootstrap-t: the quantiles of the studentized mean are subtracted, so the upper one gives the lower end.
        lower, upper = np.quantile(_student_resamples(per_window, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
        low, high = mean - float(upper) * error, mean - float(lower) * error
    settle = _windows_to_settle(mean, error, count, confidence)
    if low <= 0 <= high:
        return Difference(mean, error, low, high, Verdict.SAME, settle)
    better = (mean < 0) == less_is_better
    return Difference(mean, error, low, high, Verdict.BETTER if better else Verdict.WORSE, settle)


def _student_resamples(values: Float64[np.ndarray, " windows"], seed: int) -> Float64[np.ndarray, " resamples"]:
    """(mean* - mean) / error* of resampled windows; resamples without variance are left out."""
    random, count, centred = np.random.default_rng(seed), len(values), values - values.mean()
    found = []
    rows = max(1, BATCH // count)
    for first in range(0, RESAMPLES, rows):
        drawn = centred[random.integers(0, count, (min(rows, RESAMPLES - first), count))]
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(count)
        spread = errors > 1e-9 * np.abs(centred).max()
        found.append(drawn.mean(axis=1)[spread] / errors[spread])
    return np.concatenate(found)


def _windows_to_settle(mean: float, error: float, count: int, confidence: float) -> int | None:
    if mean == 0:
        return None
    # Sample size for a two-sided test: the error must shrink to |mean| / (z of the confidence + z of the power).
    needed = NormalDist().inv_cdf((1 + confidence) / 2) + POWER_QUANTILE
    return max(2, math.ceil(count * (needed * error / mean) ** 2))


def _not_finite(measured: Measurement) -> list[Fault]:
    """A fault if the candidate or the baseline has no finite loss for some tokens."""
    scores = measured.scores()
    finite = np.isfinite(scores.kl) & np.isfinite(scores.candidate_nll)
    if finite.all():
        return []
    what = f"no finite loss or KL divergence for {int((~finite).sum())} of {scores.tokens} tokens; can't be compared"
    return [Fault(measured.candidate, what)]


def _require_same_tokens(first: Measurement, second: Measurement) -> None:
    if first.baseline != second.baseline:
        what = f"was measured against {second.baseline}, {first.candidate} against {first.baseline}"
    elif len(first.texts) != len(second.texts) or not all(
        np.array_equal(one.windows, other.windows) for one, other in zip(first.texts, second.texts, strict=True)
    ):
        what = f"was measured on other windows than {first.candidate}"
    else:
        return
    raise InvalidInput(Fault(second.candidate, f"{what}; only the same tokens can be compared"))
