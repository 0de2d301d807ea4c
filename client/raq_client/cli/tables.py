"""Rows of figures in three forms: a table for people, CSV and JSON for programs."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from raq_client.cli.console import OUT, print_json
from raq_client.cli.options import plain


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and the text of a row in it. Figures stand to the right."""

    title: str
    text: Callable[[Any], str]
    figures: bool = True


def table_of(rows: Sequence[Any], columns: Sequence[Column]) -> Table:
    """A table for people, without the columns that say nothing of any row."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    texts = {column: [column.text(row) for row in rows] for column in columns}
    shown = [column for column in columns if any(texts[column]) or not rows]
    for column in shown:
        table.add_column(column.title, justify="right" if column.figures else "left", no_wrap=not column.figures)
    for cells in zip(*(texts[column] for column in shown), strict=True):
        table.add_row(*cells)
    return table


def print_rows(rows: Sequence[Any], columns: Sequence[Column], *, as_json: bool, as_csv: bool) -> None:
    """Print rows (dataclasses). Programs get every field, people the columns."""
    if as_json:
        print_json(plain(list(rows)))
    elif as_csv:
        print_csv([plain(row) for row in rows])
    else:
        OUT.print(table_of(rows, columns))


def print_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Rows as CSV with a line of names; lists as their parts with spaces between."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()})
    OUT.out(text.getvalue(), end="", highlight=False)
