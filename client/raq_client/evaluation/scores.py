"""Scores of two models on the same tokens: one number of each kind per scored token."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

BLOCK_LOGITS = 1 << 18
"""Number of logits per block: a block of rows and its scratch array should fit in a core's cache."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores per window and scored position; logarithms are natural.

    `baseline_nll`, `candidate_nll`: negative log-likelihood of the next token.
    `kl`: KL divergence of the candidate's distribution from the baseline's, nats.
    `probability_change`: the candidate's probability of the next token minus the baseline's.
    `same_top`: whether both find the same token most likely.
    """

    baseline_nll: Float64[np.ndarray, "windows positions"]
    candidate_nll: Float64[np.ndarray, "windows positions"]
    kl: Float64[np.ndarray, "windows positions"]
    probability_change: Float64[np.ndarray, "windows positions"]
    same_top: Bool[np.ndarray, "windows positions"]

    def __post_init__(self) -> None:
        for array in vars(self).values():
            array.setflags(write=False)

    @property
    def windows(self) -> int:
        """Number of windows."""
        return len(self.kl)

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return self.kl.size

    def broken_tokens(self) -> int:
        """Number of tokens for which one of the models gave no usable distribution (NaN or infinity)."""
        usable = np.isfinite(self.candidate_nll) & np.isfinite(self.baseline_nll) & ~np.isnan(self.kl)
        return int(np.count_nonzero(~usable))


def join_scores(parts: "list[TokenScores]") -> TokenScores:
    """The scores of all windows of `parts`, concatenated."""
    names = TokenScores.__dataclass_fields__
    return TokenScores(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def score_window(
    baseline: Float32[np.ndarray, "positions vocabulary"],
    candidate: Float32[np.ndarray, "positions vocabulary"],
    targets: Int32[np.ndarray, " positions"],
) -> TokenScores:
    """Compare the logits of two models over one window; `targets` are the true next tokens.

    Nothing is rounded or clamped: logits stay float32, sums are float64. (llama-perplexity stores the baseline
    in 16 bits and ignores values 16 nats below the top, which limits how small a divergence it can measure.)
    """
    rows = max(1, BLOCK_LOGITS // baseline.shape[1])
    parts = [
        _score_rows(baseline[first : first + rows], candidate[first : first + rows], targets[first : first + rows])
        for first in range(0, len(targets), rows)
    ]
    columns = [np.concatenate(column)[None, :] for column in zip(*parts, strict=True)]
    return TokenScores(*columns)


def _score_rows(
    baseline: Float32[np.ndarray, "rows vocabulary"],
    candidate: Float32[np.ndarray, "rows vocabulary"],
    targets: Int32[np.ndarray, " rows"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    row = np.arange(len(targets))
    with np.errstate(all="ignore"):  # NaN and infinities of a broken model are counted later
        scratch = np.empty_like(baseline)
        baseline_sum = _log_sum_exp(baseline, scratch)
        kl = _mean_difference(baseline, candidate, scratch)
        candidate_sum = _log_sum_exp(candidate, scratch)
        # sum p (log p - log q), where log p = baseline - baseline_sum and log q = candidate - candidate_sum
        kl += candidate_sum - baseline_sum
        baseline_nll = baseline_sum - baseline[row, targets]
        candidate_nll = candidate_sum - candidate[row, targets]
        change = np.exp(-candidate_nll) - np.exp(-baseline_nll)
    return baseline_nll, candidate_nll, kl, change, baseline.argmax(axis=1) == candidate.argmax(axis=1)


def _log_sum_exp(
    logits: Float32[np.ndarray, "rows vocabulary"], exponentials: Float32[np.ndarray, "rows vocabulary"]
) -> Float64[np.ndarray, " rows"]:
    """The logarithm of the sum of exp of each row; exp(logit - largest of the row) is written to `exponentials`."""
    top = logits.max(axis=1, keepdims=True)
    np.subtract(logits, top, out=exponentials)
    np.exp(exponentials, out=exponentials)
    sums: np.ndarray = top[:, 0] + np.log(exponentials.sum(axis=1, dtype=np.float64))
    return sums


def _mean_difference(
    baseline: Float32[np.ndarray, "rows vocabulary"],
    candidate: Float32[np.ndarray, "rows vocabulary"],
    exponentials: Float32[np.ndarray, "rows vocabulary"],
) -> Float64[np.ndarray, " rows"]:
    """The mean over each row of baseline - candidate, weighted by the baseline's `exponentials`.

    A token with probability 0 in the baseline (a logit of minus infinity) has no weight, whatever the candidate's is.
    """
    difference = baseline - candidate
    if not np.isfinite(baseline.min()):
        difference[np.isneginf(baseline)] = 0.0
    difference *= exponentials
    means: np.ndarray = difference.sum(axis=1, dtype=np.float64) / exponentials.sum(axis=1, dtype=np.float64)
    return means
