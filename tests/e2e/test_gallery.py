"""The gallery shows what was measured: its figures stand in the pages it names, its picture is of its table."""

import re

from support.gallery import PAGE, PICTURE, draw, marks
from support.paths import ROOT

SOURCES = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("quality.md", "compensation.md"))


def _cells(text: str) -> set[str]:
    return {cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line.split("|")[1:-1]}


def test_every_measured_figure_is_that_of_its_source() -> None:
    shown = {cell for cell in _cells(PAGE.read_text(encoding="utf-8")) if re.match(r"\**0\.\d", cell)}
    known = _cells(SOURCES)
    assert len(shown) > 30
    # The table of six models has shares that the sources print in bold.
    assert {cell for cell in shown if cell not in known and f"**{cell}**" not in known} == set()


def test_readme_shows_the_shares_of_the_gallery() -> None:
    readme = _cells((ROOT / "README.md").read_text(encoding="utf-8"))
    shares = {cell for cell in readme if re.fullmatch(r"0\.\d\d", cell)}
    assert shares
    page = PAGE.read_text(encoding="utf-8")
    assert shares <= _cells(page) | set(re.findall(r"\((0\.\d\d)\)", page))


def test_the_picture_is_drawn_from_the_table() -> None:
    assert len(marks()) == 8
    assert PICTURE.read_text(encoding="utf-8") == draw(marks())
