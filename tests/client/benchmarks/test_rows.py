"""Rows in one form, and the digest that pins them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raq_client.benchmarks.rows import Row, canonical_text, content_digest, normalised, read_canonical
from raq_solver.errors import InvalidInput

ROWS = st.lists(
    st.builds(Row, id=st.text(), question=st.text(), answer=st.text(), tests=st.text(), entry_point=st.text())
)


@given(ROWS, ROWS)
def test_the_canonical_text_has_all_of_the_rows_and_nothing_else(rows: list[Row], others: list[Row]) -> None:
    text = canonical_text(rows)
    assert read_canonical(text) == rows
    assert (content_digest(text) == content_digest(canonical_text(others))) == (rows == others)


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1), st.booleans())
def test_it_does_not_depend_on_how_the_source_writes_its_file(
    pairs: list[tuple[str, str]],
    ascii_only: bool,  # noqa: FBT001
) -> None:
    def written(keys: tuple[str, str], gap: str) -> str:
        rows = [dict(zip(keys, pair if keys[0] == "question" else pair[::-1], strict=True)) for pair in pairs]
        return gap.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows)

    one = normalised(written(("question", "answer"), "\n"), "question-answer", "x")
    other = normalised(written(("answer", "question"), "\n\n") + "\n", "question-answer", "x")
    assert canonical_text(one) == canonical_text(other)


def test_the_marks_of_the_calculator_are_left_out() -> None:
    line = json.dumps({"question": "?", "answer": "He has 4*3=<<4*3=12>>12.\n#### 12"})
    assert normalised(line, "gsm8k", "x")[0].answer == "He has 4*3=12.\n#### 12"


def test_every_bad_line_is_named() -> None:
    lines = '{"question": "a", "answer": "b"}\n{"question": "a"}\n[]\nx\n{"question": "a", "answer": 3}'
    with pytest.raises(InvalidInput) as caught:
        normalised(lines, "question-answer", "f")
    assert [fault.where for fault in caught.value.faults] == [f"f, line {number}" for number in (2, 3, 4, 5)]
    with pytest.raises(InvalidInput, match="has no rows"):
        normalised("\n", "gsm8k", "f")
