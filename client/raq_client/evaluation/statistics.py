"""Estimates with standard errors from values measured per token, in windows of text.

Tokens of one window are read in one pass and stand beside each other in the text, so their values are
correlated, and an error that takes them as independent is usually too small. Every estimate therefore carries
two errors: `token_error` treats each token as independent, which is what llama-perplexity prints; `window_error`
treats only whole windows as independent. `error` is the larger one, and the one to act on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard errors; an error is NaN where there are too few tokens or windows for one."""

    value: float
    token_error: float
    window_error: float

    @property
    def error(self) -> float:
        """The larger of the two standard errors that exist."""
        known = [error for error in (self.token_error, self.window_error) if not math.isnan(error)]
        return max(known, default=math.nan)

    def scaled(self, value: float, slope: float) -> "Estimate":
        """The estimate of a function with this `value` and this derivative at ours (the delta method)."""
        return Estimate(value, abs(slope) * self.token_error, abs(slope) * self.window_error)


def estimate_mean(values: Float64[np.ndarray, "windows positions"]) -> Estimate:
    """The mean over all tokens.

    The token error is sqrt((mean(x²) - mean(x)²) / (n - 1)), llama-perplexity's formula; the window error is the
    standard deviation of the window means over the square root of the number of windows.
    """
    windows = len(values)
    token_error = float(np.std(values)) / math.sqrt(values.size - 1) if values.size > 1 else math.nan
    window_error = float(np.std(values.mean(axis=1), ddof=1)) / math.sqrt(windows) if windows > 1 else math.nan
    return Estimate(float(values.mean()), token_error, window_error)


def estimate_exp_mean(values: Float64[np.ndarray, "windows positions"]) -> Estimate:
    """Exponential of the mean: a perplexity from negative log-likelihoods, a ratio of two from their differences."""
    mean = estimate_mean(values)
    value = float(np.exp(mean.value))
    return mean.scaled(value, value)


def estimate_root_mean_square(values: Float64[np.ndarray, "windows positions"]) -> Estimate:
    """Square root of the mean square; without an error where it is zero."""
    mean = estimate_mean(np.square(values))
    root = float(np.sqrt(mean.value))
    return mean.scaled(root, 0.5 / root if root > 0 else 0.0)


def correlation(
    left: Float64[np.ndarray, "windows positions"], right: Float64[np.ndarray, "windows positions"]
) -> float:
    """Pearson correlation over tokens; NaN where one side does not vary."""
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt(np.square(left).mean() * np.square(right).mean()))
    return float((left * right).mean()) / scale if scale > 0 else math.nan


def quantiles(values: Float64[np.ndarray, "windows positions"], fractions: Sequence[float]) -> dict[float, float]:
    """Values below which these fractions of all tokens lie, interpolated linearly."""
    return dict(zip(fractions, map(float, np.quantile(values, fractions)), strict=True))
