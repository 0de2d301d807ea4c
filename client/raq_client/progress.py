"""Progress of long work: a callback that gets steps. An exception raised in it ends the work, nothing half-written.

>>> steps = []
>>> report = stage(steps.append, "measuring errors")
>>> report(3, 12)
>>> steps[0].stage, steps[0].share
('measuring errors', 0.25)
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """How far a stage of the work has come: `done` of `total` units (tensors, windows or bytes)."""

    stage: str
    done: int
    total: int

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


def bytes_stage(progress: Progress | None, name: str, total: int) -> Callable[[str, int], None]:
    """The callback of a stage that reports (what, bytes just done) and has `total` bytes in all."""
    done = 0

    def advance(_what: str, size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(Step(name, done, total))

    return advance
