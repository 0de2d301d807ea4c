"""Tables at every width: figures are whole, lines fit, and what is left out is named."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group

from raq_client.reports.tables import Column, Field, Table, facts_table, table_of
from raq_client.reports.words import dim


def shown(renderable: object, width: int) -> list[str]:
    """The lines that a terminal of this width shows."""
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False, highlight=False).print(renderable)
    return stream.getvalue().splitlines()


TITLES = st.sampled_from(
    ["bytes", "bpw", "KL divergence", "same top token, %", "best without nesting", "price", "tokens"]
)
FIGURES = st.one_of(
    st.integers(-(10**15), 10**15).map(lambda number: f"{number:,}"),
    st.floats(-1e9, 1e9, allow_nan=False).map(lambda number: f"{number:.6g}"),
    st.tuples(st.floats(0, 10), st.floats(0, 1)).map(lambda pair: f"{pair[0]:.6f} ± {pair[1]:.6f}"),
)
NAMES = st.sampled_from(["blk.0.attn_q.weight", "blk.11.ffn_down_exps.weight", "output", "Q4_K", "token_embd 0-3,7"])


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """A table of a name, some columns of figures and a text."""
    columns = [Column("tensor")]
    columns += [
        Column(title, figures=True, spare=draw(st.integers(0, 3)))
        for title in draw(st.lists(TITLES, min_size=1, max_size=7, unique=True))
    ]
    columns.append(Column("which"))
    rows = draw(
        st.lists(
            st.builds(
                lambda name, figures, text: [name, *figures, text],
                NAMES,
                st.lists(FIGURES, min_size=len(columns) - 2, max_size=len(columns) - 2),
                st.lists(NAMES, max_size=12).map(" ".join),
            ),
            min_size=1,
            max_size=5,
        )
    )
    return Table(columns, rows)


@given(tables(), st.integers(40, 160))
def test_every_figure_is_whole_and_no_line_is_too_wide(table: Table, width: int) -> None:
    lines = shown(table, width)
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "…" not in text
    left_out = text.partition("not shown for want of width: ")[2]
    for number, column in enumerate(table.columns[:-1]):
        if column.spare and column.title in left_out:
            continue
        for row in table.rows:
            assert all(word in text.split() for word in str(row[number]).split())


@given(tables(), st.integers(40, 160))
def test_no_word_of_a_text_is_lost(table: Table, width: int) -> None:
    words = " ".join(shown(table, width)).split()
    for row in table.rows:
        for cell in (row[0], row[-1]):
            assert all(word in words for word in str(cell).split())


def test_a_wide_terminal_shows_one_line_for_each_row() -> None:
    table = Table([Column("tensor"), Column("bytes", figures=True)], [["output", "1,024"], ["token_embd", "96"]])
    assert shown(table, 80) == ["tensor      bytes", "output      1,024", "token_embd     96"]


def test_titles_wrap_before_anything_is_left_out() -> None:
    columns = [Column("step"), Column("best without nesting", figures=True, spare=1)]
    assert shown(Table(columns, [["a", "1.5"]]), 20) == [
        "step  best without",
        "           nesting",
        "a              1.5",
    ]


def test_what_can_be_spared_is_left_out_and_named() -> None:
    columns = [Column("tensor"), Column("bytes", figures=True), Column("entropy", figures=True, spare=2)]
    columns.append(Column("dev.", figures=True, spare=1))
    lines = shown(Table(columns, [["blk.0.attn_q.weight", "1,234,567", "12.345678", "0.98765"]]), 40)
    assert lines == [
        "tensor                   bytes     dev.",
        "blk.0.attn_q.weight  1,234,567  0.98765",
        "not shown for want of width: entropy",
    ]


def test_where_nothing_can_be_spared_rows_become_blocks() -> None:
    columns = [Column("step"), *(Column(title, figures=True) for title in ("bytes", "KL divergence"))]
    table = Table(columns, [["a-long-name-of-a-step", "75,661,056", "0.003284 ± 0.000123"], ["b", "1", ""]])
    assert shown(table, 40) == [
        "a-long-name-of-a-step",
        "  bytes          75,661,056",
        "  KL divergence  0.003284 ± 0.000123",
        "b",
        "  bytes          1",
    ]


def test_empty_columns_are_not_shown() -> None:
    columns = [Column("a"), Column("b", figures=True), Column("c")]
    assert shown(Table(columns, [["x", "", "y"]]), 80) == ["a  c", "x  y"]
    assert shown(Table(columns, []), 80) == ["a  b  c"]


def test_columns_that_read_their_cells() -> None:
    fields = [Field("power", read=lambda n: f"2^{n}"), Field("value", figures=True, read=lambda n: f"{2**n:,}")]
    assert shown(table_of([4, 10], fields), 80) == ["power  value", "2^4       16", "2^10   1,024"]


def test_facts_have_no_titles_and_long_ones_wrap_beside_their_name() -> None:
    facts = facts_table([("size", "1,024 bytes"), ("budget", "4.5 bpw = 75,664,692 bytes and some more words")])
    assert shown(facts, 40) == [
        "size    1,024 bytes",
        "budget  4.5 bpw = 75,664,692 bytes and",
        "        some more words",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_texts_are_texts_and_styles_take_no_room(width: int) -> None:
    table = Table([Column("why"), Column("n", figures=True)], [[dim("blk.0.ffn_[gu]*"), "1"]])
    assert shown(Group("before", table), width) == ["before", "why              n", "blk.0.ffn_[gu]*  1"]
