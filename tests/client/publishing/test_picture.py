"""Pictures: well-formed, every mark in the frame, and no label over another or over a point."""

import math
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from raq_client.publishing.picture import FRAME, Box, Mark, draw, place
from raq_client.publishing.picture import _linear as linear
from raq_client.publishing.picture import _logarithmic as logarithmic
from support.examples import examples

MARKS = st.lists(
    st.builds(
        Mark,
        name=st.text('abQ4_<&"-.', min_size=1, max_size=30),
        bits=st.floats(1.5, 16),
        kl=st.floats(1e-7, 20),
        error=st.just(math.nan) | st.floats(0, 5),
        is_mixture=st.booleans(),
    ),
    min_size=1,
    max_size=10,
)


@examples(25)
@given(MARKS)
def test_labels_never_overlap(marks: list[Mark]) -> None:
    across = linear([mark.bits for mark in marks])
    up = logarithmic([mark.kl for mark in marks])
    placed = place(marks, across, up)
    labels = [one.label for one in placed if one.label is not None]
    points = [Box(one.x - 4, one.y - 4, 8, 8) for one in placed]
    for index, label in enumerate(labels):
        assert label.within(FRAME)
        assert not any(label.meets(other) for other in (*labels[:index], *points))


@examples(25)
@given(MARKS)
def test_every_mark_is_drawn_in_the_frame(marks: list[Mark]) -> None:
    root = ET.fromstring(draw(marks))
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f".//{space}circle")
    assert len(circles) == sum(not mark.is_mixture for mark in marks)
    assert len(root.findall(f".//{space}path")) == sum(mark.is_mixture for mark in marks)
    for circle in circles:
        assert FRAME.x <= float(circle.attrib["cx"]) <= FRAME.x + FRAME.width
        assert FRAME.y <= float(circle.attrib["cy"]) <= FRAME.y + FRAME.height


@examples(25)
@given(MARKS)
def test_axes_have_ticks_and_keep_the_order(marks: list[Mark]) -> None:
    for axis, values in (
        (linear([mark.bits for mark in marks]), [mark.bits for mark in marks]),
        (logarithmic([mark.kl for mark in marks]), [mark.kl for mark in marks]),
    ):
        assert 2 <= len(axis.ticks) <= 9
        assert list(axis.ticks) == sorted(set(axis.ticks))
        pixels = [axis.pixel(value) for value in sorted(values)]
        assert pixels == sorted(pixels, reverse=axis.end < axis.start)
        assert all(min(axis.start, axis.end) <= axis.pixel(tick) <= max(axis.start, axis.end) for tick in axis.ticks)


def test_few_marks_all_have_labels() -> None:
    marks = [Mark(f"model-Q4_K_M-{number}", 4 + number / 10, 0.1 / (number + 1), 0.01) for number in range(6)]
    across, up = linear([mark.bits for mark in marks]), logarithmic([mark.kl for mark in marks])
    assert all(one.label is not None for one in place(marks, across, up))
