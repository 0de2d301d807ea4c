"""The exact test of McNemar, and the number of items that it would need."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from raq_client.benchmarks.paired import Paired, paired

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_p_value_is_the_sum_of_binomials(both: int, only_a: int, only_b: int, neither: int) -> None:
    found = Paired(both, only_a, only_b, neither)
    differing = only_a + only_b
    tail = sum(comb(differing, count) for count in range(min(only_a, only_b) + 1)) / 2**differing
    assert found.p_value() == pytest.approx(min(1.0, 2 * tail))
    assert found.p_value() == pytest.approx(Paired(both, only_b, only_a, neither).p_value())
    assert (found.items_needed() is None) == (only_a == only_b)


@pytest.mark.parametrize(("only_a", "only_b"), [(12, 8), (30, 10), (9, 1)])
def test_that_many_items_show_the_difference_in_four_of_five_attempts(only_a: int, only_b: int) -> None:
    observed = Paired(50, only_a, only_b, 100 - 50 - only_a - only_b)
    needed = observed.items_needed()
    assert needed is not None
    draws = np.random.default_rng(0).multinomial(
        needed, [only_a / 100, only_b / 100, 1 - (only_a + only_b) / 100], 4000
    )
    differing = draws[:, 0] + draws[:, 1]
    p_values = 2 * binom.cdf(np.minimum(draws[:, 0], draws[:, 1]), differing, 0.5)
    # The exact test is a little more careful than the approximation behind the number.
    assert 0.72 < (p_values < 0.05).mean() < 0.84


def test_counts_are_of_the_same_items() -> None:
    assert paired([True, True, False, False], [True, False, True, False]) == Paired(1, 1, 1, 1)
    with pytest.raises(ValueError, match="zip"):
        paired([True], [])
