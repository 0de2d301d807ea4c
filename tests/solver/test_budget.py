"""Budgets: text to exact numbers to whole bytes."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_solver import BitsPerWeight, InvalidInput, TotalBytes, bits_per_weight, capacity_bytes, parse_budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5.7", BitsPerWeight(Fraction(57, 10))),
        (" .5 bpw ", BitsPerWeight(Fraction(1, 2))),
        ("23.5GiB", TotalBytes(25232932864)),
        ("24GB", TotalBytes(24 * 10**9)),
        ("900mb", TotalBytes(900 * 10**6)),
        ("123456B", TotalBytes(123456)),
        ("1.9999B", TotalBytes(1)),
    ],
)
def test_what_is_read(text: str, budget: BitsPerWeight | TotalBytes) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "five", "5.7 bits", "-1", "0", "0GB", "1e9", "65", "5,7", "GiB", "9000TiB", "9" * 5000]
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_budget(text)


@given(st.integers(1, 64 * 10**6), st.integers(1, 10**13))
def test_a_budget_is_kept_and_no_byte_of_it_lost(millionths: int, weights: int) -> None:
    bits = Fraction(millionths, 10**6)
    capacity = capacity_bytes(BitsPerWeight(bits), weights)
    assert bits_per_weight(capacity, weights) <= bits < bits_per_weight(capacity + 1, weights)
