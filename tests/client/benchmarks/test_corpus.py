"""Mixtures of rows: every beginning has the mix, and nothing is left out without being counted."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.benchmarks.corpus import mixed
from raq_client.benchmarks.rows import Row
from raq_solver.errors import InvalidInput

LENGTHS = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(1, 50), min_size=1, max_size=30), min_size=1)


def _rows(lengths: Mapping[str, list[int]]) -> dict[str, list[Row]]:
    return {name: [Row(str(n), "x" * size, "") for n, size in enumerate(sizes)] for name, sizes in lengths.items()}


def _size(row: Row) -> int:
    return len(row.question)


@given(LENGTHS, st.data(), st.none() | st.integers(1, 10))
def test_every_beginning_has_the_stated_mix(
    lengths: dict[str, list[int]], data: st.DataObject, cap: int | None
) -> None:
    """No benchmark is ever ahead of another by more than one row, in bytes for its weight."""
    weights = {name: data.draw(st.floats(0.1, 10)) for name in lengths}
    mix = mixed(_rows(lengths), weights, cap, _size)
    sizes = dict.fromkeys(lengths, 0)
    for name, row in mix.rows:
        sizes[name] += _size(row)
        ahead = {each: sizes[each] / weights[each] for each in sizes}
        most = {each: max(lengths[each]) / weights[each] for each in sizes}
        assert all(ahead[one] - ahead[other] <= most[one] * (1 + 1e-9) for one in ahead for other in ahead)
    assert sizes == mix.sizes
    assert any(mix.used[name] == len(lengths[name][:cap]) for name in lengths)


@given(LENGTHS, st.none() | st.integers(1, 10))
def test_without_weights_every_row_is_used_once_in_its_order(lengths: dict[str, list[int]], cap: int | None) -> None:
    rows = _rows(lengths)
    mix = mixed(rows, None, cap, _size)
    for name, each in rows.items():
        assert [row for of, row in mix.rows if of == name] == each[:cap]
        assert mix.used[name] + mix.left_out[name] == len(each)


def test_weights_are_above_zero() -> None:
    with pytest.raises(InvalidInput, match="must be above 0"):
        mixed(_rows({"a": [1]}), {"a": 0.0}, None, _size)
