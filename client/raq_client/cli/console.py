"""Where output goes: results to stdout, progress and remarks to stderr; no bars where nobody looks."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

WIDTH_OF_PIPES = 120
"""Columns of tables where there is no terminal to fit."""
EXIT_NOBODY_READS: Final = 141
"""Exit code where whoever read the output has gone: 128 and the number of SIGPIPE, as of a program killed by it."""


class QuietConsole(Console):
    """A console on which texts are texts, never markup, and which ends the process quietly when nobody reads it."""

    def __init__(self, *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, width=width, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> NoReturn:
        """What Rich calls when whoever read the output has gone."""
        self.quiet = True
        sys.exit(EXIT_NOBODY_READS)


OUT = QuietConsole(width=None if sys.stdout is not None and sys.stdout.isatty() else WIDTH_OF_PIPES)
ERR = QuietConsole(stderr=True, soft_wrap=True)

Report = Callable[[int, int], None]
"""Told now and then: units done, units in all."""


def say(text: str) -> None:
    """A remark for people, on stderr."""
    ERR.print(text, soft_wrap=True)


def print_json(value: Any) -> None:
    """A result for programs, on stdout."""
    OUT.out(json.dumps(value, indent=2, allow_nan=False), highlight=False)


@contextmanager
def progress_bar(title: str) -> Iterator[Report]:
    """A bar on stderr while the block runs; nothing when stderr is not a terminal."""
    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=ERR, disable=not ERR.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def size_bar(title: str, total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar for work that reports (what, size of a part) and has `total` bytes in all."""
    done = 0
    with progress_bar(title) as report:

        def advance(_what: str, size: int) -> None:
            nonlocal done
            done += size
            report(done, total)

        yield advance
