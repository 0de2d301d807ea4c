"""Progress on stderr: a bar in a terminal, elsewhere a line every 30 seconds, both with the time that is left.

The time left is estimated from all that this run has done, so that it is right for steps of minutes; what an earlier,
interrupted run had done counts as done but not as work.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from raq_client.cli import events
from raq_client.cli.console import ERR, is_quiet, say
from raq_client.progress import Work, duration, share_worked

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

SECONDS_BETWEEN_LINES: Final = 30.0
"""Seconds between two lines of progress where there is no terminal."""
MOST_COUNTED: Final = 100_000
"""Totals up to which units are shown beside the percentage; larger ones are bytes or weights."""

Clock = Callable[[], float]
"""Seconds since some moment."""


class WorkReport(Protocol):
    """Called now and then with the units done, the units in all, and the share of the time that has passed.

    The last is None where units take equal time.
    """

    def __call__(self, done: int, total: int, worked: float | None = None, /) -> None:
        """Take note of it."""


class Pace:
    """How far a work of `total` equal units has come, and when it will be done.

    The first report is taken for the state at its start, as of work that goes on where an earlier run ended, unless it
    says that a single unit is done: then the work began when the pace was made.

    >>> now = 0.0
    >>> pace = Pace(lambda: now)
    >>> now = 40.0
    >>> pace.report(1, 4)
    >>> pace.left()
    120.0
    >>> pace.line("trying")
    'trying 25 % (1/4), 2 min left'
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._began = self._opened = self._reported = clock()
        self._first = self._at = 0.0
        self._is_begun = False
        self.done = 0
        self.total = 0

    def report(self, done: int, total: int, worked: float | None = None, /) -> None:
        """Take note of `done` of `total` units. Fewer than before begin the work again.

        `worked` is the share of the time that they take in all, if units take unequal time.
        """
        now = self._clock()
        self._at = done if worked is None else worked * total
        if done < self.done or not (self._is_begun or done == 1):
            self._began, self._first = now, self._at
        if done != self.done or not self._is_begun:
            self._reported = now
        self._is_begun = True
        self.done, self.total = done, total

    def left(self) -> float | None:
        """Seconds until all is done; None where this run has not finished a unit yet."""
        worked = self._at - self._first
        if worked <= 0 or not self.total:
            return None
        per_unit = (self._reported - self._began) / worked
        since = min(self._clock() - self._reported, per_unit)  # of the unit in progress, which is not done yet
        return max(0.0, per_unit * (self.total - self._at) - since)

    def line(self, title: str) -> str:
        """Title, percentage, units and time left, as one line of text."""
        if not self.total:
            return f"{title}, {duration(self._clock() - self._opened)} so far"
        units = f" ({self.done}/{self.total})" if self.total <= MOST_COUNTED else ""
        left = self.left_text()
        return f"{title} {100 * self.done // self.total} %{units}{f', {left}' if left else ''}"

    def left_text(self) -> str:
        """The time left in words; until it is known, the time that has passed; nothing once all units are done.

        What the next work does before its first unit is not known.
        """
        if self.total and self.done >= self.total:
            return ""
        left = self.left()
        if left is None:
            return f"{duration(self._clock() - self._opened)} so far"
        return f"{duration(left)} left"

    def end_line(self, title: str) -> str:
        """Title and the time that all of it took."""
        return f"{title}: done in {duration(self._clock() - self._opened)}"


class LogLines:
    """Lines of progress for a log, written while a work goes on."""

    def __init__(self, pace: Pace, title: str, write: Callable[[str], None]) -> None:
        self._pace, self._title, self._write = pace, title, write
        self._written = 0
        self._last = ""

    def run(self, is_over: Callable[[float], bool]) -> None:
        """Write a line every SECONDS_BETWEEN_LINES, none twice; `is_over(seconds)` waits until the work ends."""
        while not is_over(SECONDS_BETWEEN_LINES):
            line = self._pace.line(self._title)
            if line != self._last:
                self._write(line)
                self._last = line
                self._written += 1

    def end(self) -> None:
        """Write that all is done, if any line was written before."""
        if self._written:
            self._write(self._pace.end_line(self._title))


@contextmanager
def progress_bar(title: str) -> Iterator[WorkReport]:
    """Show what the block reports; nothing where --quiet."""
    pace = Pace()
    if is_quiet():
        yield pace.report
    elif events.are_on():
        yield _both(pace.report, events.reporter(title, pace.left))
    elif ERR.console.is_terminal:
        with _bar(title, pace) as report:
            yield report
    else:
        over, lines = threading.Event(), LogLines(pace, title, say)
        thread = threading.Thread(target=lines.run, args=(over.wait,), daemon=True)
        thread.start()
        try:
            yield pace.report
        finally:
            over.set()
            thread.join()
        lines.end()


def _both(first: WorkReport, second: Callable[[int, int], None]) -> WorkReport:
    def report(done: int, total: int, worked: float | None = None, /) -> None:
        first(done, total, worked)
        second(done, total)

    return report


@contextmanager
def _bar(title: str, pace: Pace) -> Iterator[WorkReport]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description:<22}", markup=False), BarColumn(), TaskProgressColumn(), _state(pace))
    with Progress(*columns, console=ERR.console) as progress:
        task = progress.add_task(title, total=None)

        def report(done: int, total: int, worked: float | None = None, /) -> None:
            pace.report(done, total, worked)
            progress.update(task, completed=done, total=total)

        yield report


def _state(pace: Pace) -> "ProgressColumn":
    """A column with units and the time left."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class State(ProgressColumn):
        def render(self, task: Task) -> Text:
            counted = 0 < pace.total <= MOST_COUNTED
            units = f"{pace.done}/{pace.total} " if counted else ""
            return Text("" if task.finished else units + pace.left_text(), no_wrap=True)

    return State()


@contextmanager
def size_bar(title: str, total: int, work: Work | None = None) -> Iterator[Callable[[str, int], None]]:
    """Show the progress of work that reports (what, size of a part) and has `total` bytes in all.

    `work` tells how long the parts take, where that is not by their bytes.
    """
    done, worked = 0, share_worked(work)
    with progress_bar(title) as report:

        def advance(what: str, size: int) -> None:
            nonlocal done
            done += size
            report(done, total, worked(what, size))

        yield advance
