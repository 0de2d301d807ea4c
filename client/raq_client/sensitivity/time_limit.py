"""A limit on the time of measuring: how many more evaluations end within it, at the pace of those made."""

import math
import re
import time
from collections.abc import Callable
from typing import Final

from raq_solver.errors import Fault, InvalidInput

_UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-z]+)\s*", re.IGNORECASE)


def seconds_of(text: str) -> float:
    """The seconds of a time as users state it. Raises InvalidInput if it is none, or not above 0.

    >>> seconds_of("10min"), seconds_of("90 s"), seconds_of("1.5h")
    (600.0, 90.0, 5400.0)
    """
    found = _DURATION.fullmatch(text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    seconds = 0.0 if found is None or unit is None else float(found[1]) * unit
    if not 0 < seconds < math.inf:
        raise InvalidInput(Fault(text, "is no time: write a number above 0 with its unit, as 90s, 10min or 2h"))
    return seconds


class TimeLimit:
    """`seconds` from now on. The pace is that of the slowest evaluations, in the mean between two calls of `more`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._end, self._slowest = self._last + seconds, 0.0

    def more(self, made: int) -> int:
        """The number of evaluations that can still be made in time; `made` were made since the last call."""
        now = self._clock()
        if made:
            self._slowest = max(self._slowest, (now - self._last) / made)
        self._last = now
        left = self._end - now
        if left <= 0:
            return 0
        return int(min(left / self._slowest, 1e9)) if self._slowest > 0 else 10**9
