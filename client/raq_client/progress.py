"""Progress of long work: a callback that gets steps. An exception raised in it ends the work, nothing half-written.

>>> steps = []
>>> report = stage(steps.append, "measuring errors")
>>> report(3, 12)
>>> steps[0].stage, steps[0].share
('measuring errors', 0.25)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Step:
    """How far a stage of the work has come: `done` of `total` units (tensors, windows or bytes).

    `worked` is the share of its time that has passed, 0 to 1, where units take unequal time; None where all are alike.
    """

    stage: str
    done: int
    total: int
    worked: float | None = None

    @property
    def share(self) -> float:
        """Done over total, 0 to 1; 1 where there is nothing to do."""
        return self.done / self.total if self.total else 1.0


Progress = Callable[[Step], None]
"""Called with every step, now and then many times a second."""
Notes = Callable[[str], None]
"""Called with remarks for people, a sentence each."""


def silent(_note: str) -> None:
    """Drop a remark."""


def stage(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    """The callback (done, total) of one stage; None if nobody follows."""
    return None if progress is None else lambda done, total: progress(Step(name, done, total))


Work = Mapping[str, tuple[int, float]]
"""Bytes of each part of a work, and the time that it takes, in any unit."""


def share_worked(work: Work | None) -> Callable[[str, int], float | None]:
    """A function that is called with (part, bytes just done) and returns the share of the time that has passed.

    Without `work` it knows nothing: None.
    """
    worked, whole = 0.0, sum(effort for _, effort in work.values()) if work else 0.0

    def after(part: str, size: int) -> float | None:
        nonlocal worked
        if not work or not whole:
            return None
        of_part, effort = work[part]
        worked += effort * size / of_part
        return min(1.0, worked / whole)

    return after


def bytes_stage(
    progress: Progress | None, name: str, total: int, work: Work | None = None
) -> Callable[[str, int], None]:
    """The callback of a stage that reports (what, bytes just done) and has `total` bytes in all.

    `work` tells how long the parts take, where that is not by their bytes.

    >>> steps = []
    >>> report = bytes_stage(steps.append, "quantizing", 300, {"quick": (200, 1.0), "slow": (100, 3.0)})
    >>> report("quick", 200)
    >>> round(steps[0].share, 3), steps[0].worked
    (0.667, 0.25)
    """
    done, worked = 0, share_worked(work)

    def advance(what: str, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(Step(name, done, total, worked(what, size)))

    return advance


def added_up(progress: Callable[[int, int], None] | None, total: int) -> Callable[[str, int], None]:
    """A callback (what, bytes just done) that reports (bytes done, `total`); it does nothing if nobody follows.

    >>> report = added_up(print, 300)
    >>> report("one", 100), report("another", 50)
    100 300
    150 300
    (None, None)
    """
    done = 0

    def advance(_what: str, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return advance


def duration(seconds: float) -> str:
    """Seconds in words, to the precision that one plans by.

    >>> [duration(value) for value in (0.3, 59.4, 125, 5000, 200000)]
    ['1 s', '59 s', '2 min', '1 h 23 min', '2 d 7 h']
    """
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < _HOUR:
        return f"{round(seconds / _MINUTE)} min"
    if seconds < _DAY:
        hours, minutes = divmod(round(seconds / _MINUTE), 60)
        return f"{hours} h {minutes} min"
    days, hours = divmod(int(seconds // _HOUR), 24)
    return f"{days} d {hours} h"
