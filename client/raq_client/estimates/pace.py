"""The pace of work, measured by doing a moment of it."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

MOMENT: Final = 2.0
"""Seconds of work between the first and the last report that are enough."""
LEAST_REPORTS: Final = 3
"""Reports that are needed whatever the time: the first unit is slower than the others (memory is still untouched)."""
Clock = Callable[[], float]
"""Returns seconds since some moment."""
Report = Callable[[int, int], None]
"""Called with the units done and the units in all."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds before the first unit of work, seconds of each unit, and the number of units in all.

    >>> Pace(before=4.0, each=0.5, units=100).seconds
    54.0
    """

    before: float
    each: float
    units: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole work."""
        return self.before + self.each * self.units


def pace_of(work: Callable[[Report], object], *, moment: float = MOMENT, clock: Clock = time.perf_counter) -> Pace:
    """Begin the work, and end it by an exception in its progress callback as soon as the pace is known.

    `work` is called with that callback; it must write nothing that an interruption would leave behind. Raises what it
    raises.

    >>> def work(report):
    ...     for done in range(1, 1001):
    ...         report(done, 1000)
    >>> pace_of(work, moment=0, clock=iter(range(99)).__next__)
    Pace(before=0.0, each=1.0, units=1000)
    """
    began = clock()
    reports: list[tuple[float, int]] = []
    units = 0

    def report(done: int, total: int) -> None:
        nonlocal units
        units = total
        if not reports or done > reports[-1][1]:
            reports.append((clock() - began, done))
        if len(reports) >= LEAST_REPORTS and reports[-1][0] - reports[0][0] >= moment:
            raise _EnoughError

    with suppress(_EnoughError):
        work(report)
    if not reports:  # there was nothing to do
        return Pace(clock() - began, 0.0, 0)
    (first, done_first), (last, done_last) = reports[0], reports[-1]
    each = (last - first) / (done_last - done_first) if done_last > done_first else last / done_last
    return Pace(max(0.0, first - each * done_first), each, units)


class _EnoughError(Exception):
    """The pace is known."""
