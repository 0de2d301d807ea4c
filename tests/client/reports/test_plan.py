"""How figures are put into words: budgets, sizes, runs of blocks, many faults."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.cli.app import FAULTS_SHOWN, complain
from raq_client.reports.plan import RUNS_SHOWN, ranges_text, roles_text


def numbers_of(text: str) -> set[int]:
    found: set[int] = set()
    for run in text.split(","):
        first, _, last = run.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


@given(st.sets(st.integers(0, 99), min_size=1))
def test_runs_name_every_block_or_say_how_many(blocks: set[int]) -> None:
    text = ranges_text(blocks)
    if " of " in text:
        count, extent = text.split(" of ")
        first, last = map(int, extent.split("-"))
        assert (int(count), first, last) == (len(blocks), min(blocks), max(blocks))
        assert sum(number - 1 not in blocks for number in blocks) > RUNS_SHOWN
    else:
        assert numbers_of(text) == blocks


def test_roles_in_the_order_of_the_file() -> None:
    names = ["token_embd.weight", "blk.0.attn_v.weight", "blk.1.attn_v.weight", "blk.3.attn_v.weight", "output.weight"]
    assert roles_text(names) == "token_embd, attn_v 0-1,3, output"


@pytest.mark.parametrize("count", [1, FAULTS_SHOWN, FAULTS_SHOWN + 1, FAULTS_SHOWN + 2, 500])
def test_many_faults_are_counted_not_listed(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    complain([f"fault {number}" for number in range(count)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == min(count, FAULTS_SHOWN + 1)
    if count > FAULTS_SHOWN + 1:
        assert lines[-1] == f"raq-client: and {count - FAULTS_SHOWN} more faults like these"
