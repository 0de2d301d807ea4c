"""Experts under a token count, against the counts one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.importance.imatrix import Entry, Importance
from raq_client.importance.rare_experts import rare_experts
from raq_solver.errors import InvalidInput

COLUMNS = 4


def _entry(counts: list[int], value: float = 0.5) -> Entry:
    known = np.array(counts, np.float32)
    return Entry(np.repeat(known * value, COLUMNS).astype(np.float32), known)


@given(
    counts=st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=1, max_size=3),
    least=st.integers(1, 31),
)
def test_those_below_the_count_and_no_others(counts: list[list[int]], least: int) -> None:
    entries = {
        f"blk.{block}.ffn_{role}_exps.weight": _entry(of_block)
        for block, of_block in enumerate(counts)
        for role in ("gate", "down")
    }
    entries["blk.0.attn_q.weight"] = Entry(np.ones(COLUMNS, np.float32), np.ones(1, np.float32))
    found = rare_experts(Importance(entries, ("text",), 1, 512), least)
    assert {(each.block, each.expert): each.tokens or 0 for each in found} == {
        (block, expert): count
        for block, of_block in enumerate(counts)
        for expert, count in enumerate(of_block)
        if count < least
    }
    assert all(each.roles == ("ffn_down_exps", "ffn_gate_exps") for each in found)
    assert all(each.tokens != 0 for each in found)  # no data is not a count


def test_ones_that_stand_for_nothing_are_no_data() -> None:
    entry = _entry([20, 20], value=1.0)
    (first, second) = rare_experts(Importance({"blk.0.ffn_up_exps.weight": entry}, ("text",), 1, 512), 5)
    assert (first.tokens, second.tokens) == (None, None)


def test_a_file_without_counts_by_expert_has_no_such_list() -> None:
    entries = {"blk.0.ffn_up_exps.weight": Entry(np.ones(2 * COLUMNS, np.float32), np.ones(1, np.float32))}
    with pytest.raises(InvalidInput, match="no counts for single experts"):
        rare_experts(Importance(entries, ("text",), 1, 512), 5)
