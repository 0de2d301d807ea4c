"""Rows of figures in three forms: a table for people, CSV and JSON for programs."""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raq_client.cli.console import OUT, print_json
from raq_client.reports.plain import plain

if TYPE_CHECKING:
    from raq_client.reports.tables import Field


def print_rows(rows: Sequence[Any], columns: "Sequence[Field]", *, as_json: bool, as_csv: bool) -> None:
    """Print rows (dataclasses): every field as JSON or CSV, or the columns as a table."""
    if as_json:
        print_json(plain(list(rows)))
    elif as_csv:
        print_csv([plain(row) for row in rows])
    else:
        from raq_client.reports.tables import table_of

        OUT.print(table_of(rows, columns))


def print_csv(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as CSV, names in the first line; a list becomes its parts with spaces between."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: " ".join(map(str, v)) if isinstance(v, list) else v for key, v in row.items()})
    OUT.out(text.getvalue(), end="", highlight=False)
