"""Tables that fit their terminal: a figure is always shown whole, whatever the width.

Where a table is wider than the terminal, titles and texts wrap at spaces first; then columns that may be spared are
left out, and named below; if it still does not fit, every row becomes a block of lines, `title  value`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP: Final = 2
"""Blanks between columns, and before the lines of a block."""
NARROWEST_TEXT: Final = 20
"""Characters that a column of texts keeps, however narrow the terminal; longer words widen it."""

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `figures` are aligned to the right and never broken; other texts may wrap at spaces. Columns with `spare` above 0
    may be left out of a narrow table, those with the highest first.
    """

    title: str = ""
    figures: bool = False
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Field(Column):
    """A column that reads its own cell from a row (any object): `read(row)`."""

    read: Callable[[Any], Cell] = field(kw_only=True)


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns, as a renderable of Rich; every row has one cell for each column.

    Columns that are empty in every row are not shown.

    >>> from rich.console import Console
    >>> table = Table([Column("tensor"), Column("bytes", figures=True)], [["output", "1,024"], ["token_embd", "96"]])
    >>> Console(width=40, no_color=True).print(table)
    tensor      bytes
    output      1,024
    token_embd     96
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lay the table out for the width at hand."""
        width = options.max_width
        cells = [[_text(cell) for cell in row] for row in self.rows]
        columns = [
            _Laid(column, [row[number] for row in cells])
            for number, column in enumerate(self.columns)
            if not cells or any(row[number] for row in cells)
        ]
        left_out: list[_Laid] = []
        while (widths := _fitted(columns, width)) is None:
            spared = max(columns, key=lambda laid: laid.column.spare, default=None)
            if spared is None or not spared.column.spare:
                yield from _blocks(console, columns, width)
                break
            columns.remove(spared)
            left_out.append(spared)
        else:
            yield from _lines(console, columns, widths)
        if left_out:
            names = ", ".join(laid.column.title for laid in reversed(left_out))
            yield from _wrapped(console, Text(f"not shown for want of width: {names}", style="dim"), width)


def table_of(rows: Sequence[Any], columns: Sequence[Field]) -> Table:
    """A table of rows that are any objects, each column reading its own cell."""
    return Table(columns, [[column.read(row) for column in columns] for row in rows])


def facts_table(rows: Iterable[tuple[str, Cell]]) -> Table:
    """Names, and what there is to say of each; without a line of titles."""
    return Table([Column(), Column()], [[Text(name, style="dim"), text] for name, text in rows])


@dataclass(frozen=True, eq=False)
class _Laid:
    """A column with its cells, and the widths that it can have."""

    column: Column
    cells: Sequence[Text]

    @property
    def natural(self) -> int:
        """Characters that show the title and every cell on one line."""
        return max((cell_len(text) for text in (self.column.title, *map(str, self.cells))), default=0)

    @property
    def least(self) -> int:
        """Characters that it can't do without."""
        words = self.column.title.split()
        if self.column.figures:
            words += map(str, self.cells)
            return max(map(cell_len, words), default=0)
        words += [word for cell in self.cells for word in str(cell).split()]
        longest = max(map(cell_len, words), default=0)
        return max(longest, min(self.natural, NARROWEST_TEXT))


def _fitted(columns: Sequence[_Laid], width: int) -> list[int] | None:
    """Widths of columns side by side; None if they don't fit. Small wants are met first, so that long texts wrap."""
    widths = [laid.least for laid in columns]
    left = width - sum(widths) - GAP * max(0, len(columns) - 1)
    if left < 0:
        return None
    wants = [laid.natural - least for laid, least in zip(columns, widths, strict=True)]
    for number in sorted(range(len(columns)), key=wants.__getitem__):
        more = min(wants[number], left)
        widths[number] += more
        left -= more
    return widths


def _lines(console: Console, columns: Sequence[_Laid], widths: Sequence[int]) -> Iterator[Text]:
    titles = [Text(laid.column.title, style="dim") for laid in columns]
    rows = [list(row) for row in zip(*(laid.cells for laid in columns), strict=True)]
    if any(titles):
        rows.insert(0, titles)
    wrapped = [[_wrapped(console, cell, width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    used = [max(piece.cell_len for cell in column for piece in cell) for column in zip(*wrapped, strict=True)]
    for row_of_pieces in wrapped:
        for pieces in zip_longest(*row_of_pieces, fillvalue=Text()):
            yield _line(columns, used, pieces)


def _line(columns: Sequence[_Laid], widths: Sequence[int], pieces: Sequence[Text]) -> Text:
    line, written = Text(no_wrap=True, overflow="ignore"), 0
    place = 0
    for laid, width, piece in zip(columns, widths, pieces, strict=True):
        if piece:
            start = place + (width - piece.cell_len if laid.column.figures else 0)
            line.append(" " * (start - written)).append_text(piece)
            written = start + piece.cell_len
        place += width + GAP
    return line


def _blocks(console: Console, columns: Sequence[_Laid], width: int) -> Iterator[Text]:
    """Every row as a block: its first cell, then a line for each other cell that is not empty."""
    if not columns:
        return
    first, *others = columns
    title_width = max((cell_len(laid.column.title) for laid in others), default=0)
    for number, head in enumerate(first.cells):
        yield from _wrapped(console, head, width)
        for laid in others:
            if laid.cells[number]:
                yield from _entry(console, laid.column.title, laid.cells[number], title_width, width)


def _entry(console: Console, title: str, cell: Text, title_width: int, width: int) -> Iterator[Text]:
    """A title and its cell beside it; below it where a word of the cell is too long for that."""
    indent = GAP + title_width + GAP if title_width else GAP
    longest = max(map(cell_len, str(cell).split()), default=0)
    beside = title and indent + longest <= width
    if not beside:
        if title:
            yield _indented(Text(title, style="dim"), GAP)
        indent = 2 * GAP if title else GAP
    for number, piece in enumerate(_wrapped(console, cell, max(1, width - indent))):
        if beside and number == 0:
            line = _indented(Text(title, style="dim"), GAP)
            line.append(" " * (indent - line.cell_len)).append_text(piece)
        else:
            line = _indented(piece, indent)
        yield line


def _wrapped(console: Console, text: Text, width: int) -> list[Text]:
    """Lines of a text, broken at spaces; a word that is longer than a line is folded."""
    lines = list(text.wrap(console, width, overflow="fold"))
    for line in lines:
        line.rstrip()
    return lines


def _indented(text: Text, indent: int) -> Text:
    return Text(" " * indent, no_wrap=True, overflow="ignore").append_text(text)


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
