"""Pictures of moves: what their bars hold, and that files come out, the same each time."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.recipes.diff import Exchange, Line, Stage
from raq_client.reports.plots import exchange_bars, plot_moves
from raq_solver.errors import InvalidInput

BEFORE = {"token_embd.weight": "Q4_K", "blk.0.attn_q.weight": "Q4_K", "blk.1.attn_q.weight": "Q6_K"}
AFTER = BEFORE | {"blk.1.attn_q.weight": "Q4_K", "blk.0.attn_q.weight": "Q5_K"}


def line(tensor: str, size: int) -> Line:
    return Line(Stage.FOUNDATION if size < 0 else Stage.BUILD_UP, tensor, "Q4_K", "Q5_K", size, 0.0, 0)


@given(
    st.lists(
        st.builds(
            line,
            st.sampled_from(["blk.0.attn_q.weight", "blk.7.attn_q.weight", "blk.3.ffn_up.weight", "output.weight"]),
            st.integers(-(10**9), 10**9).filter(bool),
        )
    )
)
def test_bars_hold_all_bytes(lines: list[Line]) -> None:
    bars = exchange_bars(Exchange(tuple(lines), 0))
    assert sum(bar.size for bar in bars) == sum(line.size for line in lines)
    assert sum(int(bar.label.split()[0]) for bar in bars) == len(lines)


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_pictures_are_the_same_each_time(tmp_path: Path, ending: str) -> None:
    bars = exchange_bars(Exchange((line("blk.1.attn_q.weight", -5000), line("blk.0.attn_q.weight", 4000)), 100))
    paths = [tmp_path / f"{number}{ending}" for number in range(2)]
    for path in paths:
        plot_moves(path, "a base", bars, 100, BEFORE, AFTER)
    assert paths[0].stat().st_size > 5000
    if ending == ".png":
        assert paths[0].read_bytes() == paths[1].read_bytes()
    else:
        text = paths[0].read_text()
        assert all(word in text for word in ("attn_q", "Q6_K (6.562)", "sink, kB", "+5", "-4"))


def test_many_kinds_of_moves_are_drawn_as_the_largest_and_a_rest(tmp_path: Path) -> None:
    lines = tuple(line(f"blk.0.role_{number}.weight", 1000 + number) for number in range(60))
    path = tmp_path / "many.svg"
    plot_moves(path, "many", exchange_bars(Exchange(lines, 70_000)), 70_000, BEFORE, AFTER)
    text = path.read_text()
    assert "21 smaller" in text
    assert "role_59" in text
    assert "role_20" not in text


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"ends in \.svg or \.png"):
        plot_moves(tmp_path / "x.pdf", "", (), 0, BEFORE, AFTER)
