"""The bootstrap against what is known of normal and skewed samples."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from raq_client.evaluation.comparison import Verdict, bootstrap_difference


@pytest.mark.parametrize(("windows", "skewed", "least"), [(8, False, 0.91), (30, False, 0.91), (30, True, 0.85)])
def test_intervals_cover_the_truth_as_often_as_they_promise(*, windows: int, skewed: bool, least: float) -> None:
    random = np.random.default_rng(7)
    covered = 0
    for seed in range(400):
        sample = random.normal(0.5, 1, windows)
        found = bootstrap_difference(np.exp(sample) if skewed else sample, seed=seed)
        covered += found.low <= (math.exp(0.5 + 0.5) if skewed else 0.5) <= found.high
    assert least <= covered / 400 < 0.995


@given(st.integers(0, 500), st.integers(20, 80))
def test_intervals_of_normal_samples_are_students(seed: int, windows: int) -> None:
    sample = np.random.default_rng(seed).normal(1, 3, windows)
    found = bootstrap_difference(sample, seed=seed)
    student = scipy.stats.t.interval(0.95, windows - 1, sample.mean(), scipy.stats.sem(sample))
    assert math.isclose(found.high - found.low, student[1] - student[0], rel_tol=0.35)
    assert found.low < found.value < found.high
    assert math.isclose(found.error, scipy.stats.sem(sample), rel_tol=1e-9)


@given(st.integers(0, 500))
def test_the_sign_decides_the_words_and_swapping_swaps_them(seed: int) -> None:
    sample = np.random.default_rng(seed).normal(0.4, 1, 25)
    forth, back = bootstrap_difference(sample, seed=seed), bootstrap_difference(-sample, seed=seed)
    opposite = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER, Verdict.SAME: Verdict.SAME}
    assert back.verdict is opposite[forth.verdict]
    assert math.isclose(back.low, -forth.high, rel_tol=1e-9)
    assert forth.windows_to_settle == back.windows_to_settle
    more_is_better = bootstrap_difference(sample, seed=seed, less_is_better=False)
    assert more_is_better.verdict is opposite[forth.verdict]


@given(st.integers(0, 500))
def test_a_tighter_confidence_has_a_wider_interval(seed: int) -> None:
    sample = np.random.default_rng(seed).normal(0, 1, 25)
    loose, tight = (bootstrap_difference(sample, confidence=c, seed=seed) for c in (0.9, 0.99))
    assert tight.low < loose.low < loose.high < tight.high


def test_as_many_windows_as_said_settle_it_four_times_in_five() -> None:
    random = np.random.default_rng(3)
    pilot = random.normal(0.2, 1, 4000)
    needed = bootstrap_difference(pilot).windows_to_settle
    assert needed == pytest.approx((2.8016 / 0.2) ** 2, rel=0.25)
    settled = [bootstrap_difference(random.normal(0.2, 1, 200)).verdict is Verdict.WORSE for _ in range(100)]
    assert 0.65 < np.mean(settled) < 0.93


def test_no_difference_at_all() -> None:
    found = bootstrap_difference(np.zeros(5))
    assert (found.low, found.high, found.verdict, found.windows_to_settle) == (0.0, 0.0, Verdict.SAME, None)
    constant = bootstrap_difference(np.full(5, -0.25))
    assert (constant.verdict, constant.low, constant.windows_to_settle) == (Verdict.BETTER, -0.25, 2)
