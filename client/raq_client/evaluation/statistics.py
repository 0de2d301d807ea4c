"""Estimates with standard errors from values measured per token, in windows of text.

Tokens of one window are neighbours in the text, so their values are correlated, and an error that takes them as
independent is usually too small. Every estimate therefore has two errors: `token_error` treats each token as
independent, as llama-perplexity does; `window_error` treats only whole windows as independent. `error` is the larger
one, and the one to use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard errors; an error is NaN if there are too few tokens or windows."""

    value: float
    token_error: float
    window_error: float

    @property
    def error(self) -> float:
        """The larger of the two standard errors, ignoring NaN."""
        known = [error for error in (self.token_error, self.window_error) if not math.isnan(error)]
        return max(known, default=math.nan)

    def scaled(self, value: float, slope: float) -> "Estimate":
        """The estimate of a function with this `value` and this derivative at our value (delta method).

        >>> Estimate(2.0, 0.1, 0.3).scaled(4.0, slope=4.0)  # the square
        Estimate(value=4.0, token_error=0.4, window_error=1.2)
        """
        return Estimate(value, abs(slope) * self.token_error, abs(slope) * self.window_error)


def estimate_mean(values: Float64[np.ndarray, "windows positions"]) -> Estimate:
    """The mean over all tokens.

    The token error is sqrt((mean(x²) - mean(x)²) / (n - 1)), llama-perplexity's formula; the window error is the
    standard deviation of the window means over the square root of the number of windows.
    """
    windows = len(values)
    # std of the sample over sqrt(n - 1) equals the corrected std (ddof=1) over sqrt(n).
    token_error = float(np.std(values)) / math.sqrt(values.size - 1) if values.size > 1 else math.nan
    window_error = float(np.std(values.mean(axis=1), ddof=1)) / math.sqrt(windows) if windows > 1 else math.nan
    return Estimate(float(values.mean()), token_error, window_error)


def estimate_exp_mean(values: Float64[np.ndarray, "windows positions"]) -> Estimate:
    """Exponential of the mean: a perplexity from negative log-likelihoods, a ratio of two from their differences."""
    mean = estimate_mean(values)
    value = float(np.exp(mean.value))  # exp is its own derivative, hence also the slope
    return mean.scaled(value, value)


def estimate_root_mean_square(values: Float64[np.ndarray, "windows positions"]) -> Estimate:
    """Square root of the mean square; its error is 0 if it is 0."""
    mean = estimate_mean(np.square(values))
    root = float(np.sqrt(mean.value))  # with derivative 1 / (2 root)
    return mean.scaled(root, 0.5 / root if root > 0 else 0.0)


def correlation(
    left: Float64[np.ndarray, "windows positions"], right: Float64[np.ndarray, "windows positions"]
) -> float:
    """Pearson correlation over tokens; NaN if one side is constant."""
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt(np.square(left).mean() * np.square(right).mean()))
    return float((left * right).mean()) / scale if scale > 0 else math.nan


def quantiles(values: Float64[np.ndarray, "windows positions"], fractions: Sequence[float]) -> dict[float, float]:
    """Quantiles over all tokens for these fractions, interpolated linearly.

    >>> quantiles(np.array([[1.0, 2.0], [3.0, 4.0]]), [0.5])
    {0.5: 2.5}
    """
    return dict(zip(fractions, map(float, np.quantile(values, fractions)), strict=True))


def student_quantile(freedom: int, probability: float) -> float:
    """The quantile of Student's t with `freedom` >= 1 degrees of freedom; SciPy would be a large part of an install.

    Exact for 1 and 2 degrees of freedom. For probabilities up to 0.975 within 0.13 % for 3, and closer for more.

    >>> round(student_quantile(10, 0.95), 3)
    1.812

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    if freedom == 2:
        return (2 * probability - 1) * math.sqrt(1 / (2 * probability * (1 - probability)))
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
