"""The report of a check: summaries of many scored tokens, with standard errors."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from raq_client.evaluation.scores import TokenScores, join_scores
from raq_client.evaluation.statistics import (
    Estimate,
    correlation,
    estimate_exp_mean,
    estimate_mean,
    estimate_root_mean_square,
    quantiles,
)

KL_FRACTIONS = (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)
"""Fractions whose quantiles are reported; 0 is the smallest value and 1 the largest."""
POSITION_BINS = 8
"""Number of parts of a window's scored half for which KL divergence is reported, to show drift."""


@dataclass(frozen=True, slots=True)
class PositionRange:
    """Mean KL divergence over the window positions `first` to `last`, inclusive."""

    first: int
    last: int
    kl: Estimate


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures over some windows, defined as in llama-perplexity, in nats.

    `log_ratio` is ln(perplexity / baseline_perplexity), its error that of paired tokens. `top1_agreement` is the
    share of tokens for which both models find the same next token likeliest. `probability_change` is the candidate's
    probability of the true next token minus the baseline's: its mean, and its root mean square.
    """

    windows: int
    tokens: int
    baseline_perplexity: Estimate
    perplexity: Estimate
    log_ratio: Estimate
    ratio: Estimate
    difference: Estimate
    nll_correlation: float
    kl: Estimate
    kl_quantiles: dict[float, float]
    top1_agreement: Estimate
    probability_change: Estimate
    probability_change_rms: Estimate
    kl_by_position: tuple[PositionRange, ...]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a check: all texts together, each text, and each named domain."""

    baseline: str
    candidate: str
    context: int
    overall: Summary
    texts: dict[str, Summary]
    domains: dict[str, Summary]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists and numbers, ready for JSON (NaN marks an unknown error)."""
        return asdict(self)


def make_report(
    baseline: str,
    candidate: str,
    context: int,
    parts: Sequence[tuple[str, str, TokenScores]],
    warnings: Sequence[str] = (),
) -> CheckReport:
    """The report for the scores of some texts, each given as (name, domain, scores)."""
    overall = join_scores([scores for _, _, scores in parts])
    broken = overall.broken_tokens()
    if broken:
        warnings = (
            *warnings,
            f"{broken} of {overall.tokens} tokens have probability 0 for a model, which makes its perplexity infinite",
        )
    by_domain: dict[str, list[TokenScores]] = {}
    for _, domain, scores in parts:
        if domain:
            by_domain.setdefault(domain, []).append(scores)
    return CheckReport(
        baseline,
        candidate,
        context,
        summarize(overall, context),
        {name: summarize(scores, context) for name, _, scores in parts},
        {domain: summarize(join_scores(scores), context) for domain, scores in by_domain.items()},
        tuple(warnings),
    )


def summarize(scores: TokenScores, context: int) -> Summary:
    """All figures over the given windows of `context` tokens."""
    with np.errstate(all="ignore"):  # a token with probability 0 has an infinite loss: make_report adds a warning
        baseline_perplexity = estimate_exp_mean(scores.baseline_nll)
        perplexity = estimate_exp_mean(scores.candidate_nll)
        # Delta method: the derivative of exp(mean nll) with respect to each token's nll is that side's perplexity.
        slopes = perplexity.value * scores.candidate_nll - baseline_perplexity.value * scores.baseline_nll
        rise = scores.candidate_nll - scores.baseline_nll
        return Summary(
            windows=scores.windows,
            tokens=scores.tokens,
            baseline_perplexity=baseline_perplexity,
            perplexity=perplexity,
            log_ratio=estimate_mean(rise),
            ratio=estimate_exp_mean(rise),
            difference=estimate_mean(slopes).scaled(perplexity.value - baseline_perplexity.value, 1.0),
            nll_correlation=correlation(scores.candidate_nll, scores.baseline_nll),
            kl=estimate_mean(scores.kl),
            kl_quantiles=quantiles(scores.kl, KL_FRACTIONS),
            top1_agreement=estimate_mean(scores.same_top.astype(np.float64)),
            probability_change=estimate_mean(scores.probability_change),
            probability_change_rms=estimate_root_mean_square(scores.probability_change),
            kl_by_position=_by_position(scores, context),
        )


def _by_position(scores: TokenScores, context: int) -> tuple[PositionRange, ...]:
    positions = scores.kl.shape[1]
    edges = np.linspace(0, positions, min(POSITION_BINS, positions) + 1).round().astype(int).tolist()
    first = context // 2
    return tuple(
        PositionRange(first + low, first + high - 1, estimate_mean(scores.kl[:, low:high]))
        for low, high in pairwise(edges)
    )
