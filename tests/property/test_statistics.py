"""Estimates against SciPy and against llama-perplexity's formulas, written out."""

import math

import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from raq_client.evaluation.statistics import (
    Estimate,
    correlation,
    estimate_exp_mean,
    estimate_mean,
    estimate_root_mean_square,
    quantiles,
    student_quantile,
)

windows = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 6), st.integers(2, 9)),
    elements=st.floats(0, 8).map(lambda x: round(x, 4)),
)


def _covariance(a: np.ndarray, b: np.ndarray) -> float:
    """llama-perplexity: (mean(ab) - mean(a) mean(b)) / (n - 1), the covariance of two means."""
    return float(((a * b).mean() - a.mean() * b.mean()) / (a.size - 1))


@given(windows)
def test_a_mean_has_the_error_of_llama_perplexity_and_of_scipy(values: np.ndarray) -> None:
    mean = estimate_mean(values)
    assert math.isclose(mean.value, values.mean(), abs_tol=1e-12)
    by_hand = math.sqrt(max(0.0, _covariance(values, values)))
    assert math.isclose(mean.token_error, by_hand, rel_tol=1e-6, abs_tol=1e-7)
    assert math.isclose(mean.window_error, scipy.stats.sem(values.mean(axis=1)), rel_tol=1e-9, abs_tol=1e-12)
    assert mean.error == max(mean.token_error, mean.window_error)


@given(windows)
def test_paired_errors_equal_the_covariance_formulas(values: np.ndarray) -> None:
    base, other = values, values[::-1, ::-1] + np.square(values) / 8
    error_base, error_other = _covariance(base, base), _covariance(other, other)
    covariance = _covariance(other, base)
    log_ratio = estimate_mean(other - base)
    expected = max(0.0, error_other + error_base - 2 * covariance)
    assert math.isclose(log_ratio.token_error**2, expected, rel_tol=1e-6, abs_tol=1e-9)
    ratio = estimate_exp_mean(other - base)
    assert math.isclose(ratio.value, np.exp(other.mean()) / np.exp(base.mean()), rel_tol=1e-9)
    assert math.isclose(ratio.token_error, ratio.value * log_ratio.token_error, rel_tol=1e-9, abs_tol=1e-12)
    if min(error_base, error_other) > 1e-9:
        found = correlation(other, base)
        assert math.isclose(found, covariance / math.sqrt(error_base * error_other), rel_tol=1e-6, abs_tol=1e-6)


@given(windows)
def test_a_perplexity_is_exp_of_the_mean(values: np.ndarray) -> None:
    perplexity = estimate_exp_mean(values)
    assert math.isclose(perplexity.value, math.exp(values.mean()), rel_tol=1e-12)
    assert math.isclose(perplexity.error, perplexity.value * estimate_mean(values).error, rel_tol=1e-12)


@given(windows)
def test_a_root_mean_square_has_half_the_relative_error_of_its_square(values: np.ndarray) -> None:
    root, square = estimate_root_mean_square(values), estimate_mean(values**2)
    assert math.isclose(root.value**2, square.value, rel_tol=1e-9, abs_tol=1e-12)
    if root.value > 1e-3:
        assert math.isclose(root.error / root.value, 0.5 * square.error / square.value, rel_tol=1e-9, abs_tol=1e-12)


@given(windows)
def test_repeating_every_token_halves_only_the_token_error(values: np.ndarray) -> None:
    """Copies of a token bring no knowledge; the token error does not know that, the window error does."""
    once, often = estimate_mean(values), estimate_mean(np.tile(values, (1, 4)))
    assert math.isclose(often.window_error, once.window_error, rel_tol=1e-9, abs_tol=1e-12)
    n = values.size
    shrunk = once.token_error * math.sqrt((n - 1) / (4 * n - 1))
    assert math.isclose(often.token_error, shrunk, rel_tol=1e-9, abs_tol=1e-12)


@given(windows, st.lists(st.floats(0, 1), min_size=1, max_size=5, unique=True))
def test_quantiles_interpolate_the_sorted_values(values: np.ndarray, fractions: list[float]) -> None:
    ordered = np.sort(values, axis=None)
    for fraction, found in quantiles(values, fractions).items():
        place = fraction * (ordered.size - 1)
        low = min(int(place), ordered.size - 2)
        expected = ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)


def test_what_cannot_be_known_is_nan() -> None:
    one_window = estimate_mean(np.array([[1.0, 2.0]]))
    assert math.isnan(one_window.window_error)
    assert one_window.error == one_window.token_error
    assert math.isnan(Estimate(1.0, math.nan, math.nan).error)
    assert math.isnan(correlation(np.zeros((2, 2)), np.ones((2, 2))))
    assert estimate_root_mean_square(np.zeros((2, 2))) == Estimate(0.0, 0.0, 0.0)


@given(st.integers(1, 1000), st.floats(0.5, 0.975))
def test_quantiles_of_students_t_are_scipys(freedom: int, probability: float) -> None:
    close = 1e-9 if freedom < 3 else 0.0013
    assert math.isclose(
        student_quantile(freedom, probability), scipy.stats.t.ppf(probability, freedom), rel_tol=close, abs_tol=1e-9
    )
