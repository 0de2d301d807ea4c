"""An estimate: the stages of a command with their time, memory and disk."""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage: seconds, most bytes of memory while it runs, bytes that it leaves on the disk, and where they are from.

    `at_most`: the time is a bound, not what is expected.
    """

    name: str
    seconds: float
    memory: int
    disk: int = 0
    by: str = ""
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """The stages of a command, one after the other, and what is left out of them.

    >>> both = Estimate((Stage("collecting", 60, 10**9), Stage("quantizing", 30, 10**8, disk=10**7)))
    >>> both.seconds, both.memory, both.disk
    (90, 1000000000, 10000000)
    """

    stages: tuple[Stage, ...]
    left_out: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return sum(each.seconds for each in self.stages)

    @property
    def memory(self) -> int:
        """Bytes of memory of the stage that takes most."""
        return max((each.memory for each in self.stages), default=0)

    @property
    def disk(self) -> int:
        """Bytes of all files that are written."""
        return sum(each.disk for each in self.stages)


def peak_memory() -> int:
    """Bytes of memory that this process has had at most, mapped files included; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
