"""Consoles of Rich as raq uses them."""

import os
import sys
from typing import Final, NoReturn

from rich.console import Console

from raq_client.cli.streams import EXIT_NOBODY_READS

WIDTH_OF_PIPES: Final = 120
"""Columns of tables where there is neither a terminal to fit nor COLUMNS."""


class QuietConsole(Console):
    """A console on which texts are texts, never markup, and which ends the process quietly when nobody reads it."""

    def __init__(self, *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, width=width, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> NoReturn:
        """End the process where Rich finds that the reader of the output has gone."""
        self.quiet = True
        sys.exit(EXIT_NOBODY_READS)


def open_console(*, stderr: bool = False) -> QuietConsole:
    """The console of stdout, as wide as its terminal, COLUMNS or WIDTH_OF_PIPES; that of stderr does not wrap."""
    if stderr:
        return QuietConsole(stderr=True, soft_wrap=True)
    in_terminal = sys.stdout is not None and sys.stdout.isatty()
    has_columns = os.environ.get("COLUMNS", "").isdecimal()
    return QuietConsole(width=None if in_terminal or has_columns else WIDTH_OF_PIPES)
