"""A unit of work, and the job that it is a part of.

>>> found = [Unit("long", 5), Unit("short", 1), Unit("middle", 3), Unit("other", 2)]
>>> [[unit.name for unit in part(found, Part(index, 2))] for index in (0, 1)]
[['long', 'short'], ['middle', 'other']]
"""

import hashlib
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from raq_solver.errors import Fault, InvalidInput

Line = Mapping[str, Any]
"""The result of a unit, as a JSON object."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a job. `name` is unique in it; `cost` is its expected time in any unit, at least 0."""

    name: str
    cost: float


@dataclass(frozen=True, slots=True)
class Part:
    """One of `of` equal parts of a job, numbered from 0. Raises InvalidInput for a number outside."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise InvalidInput(Fault("--index", f"must be from 0 to {self.of - 1} with --of {self.of}"))


class Work(Protocol):
    """Independent units.

    It opens files when a unit needs them, and keeps them open until it is closed.
    """

    @property
    def key(self) -> str:
        """A digest of everything that the lines depend on, in hexadecimal."""

    @property
    def loads_model(self) -> bool:
        """Whether units need the whole model in memory, so that processes are few and live long."""

    def run(self, unit: Unit) -> Line:
        """Make a unit, and return its line. Made twice, also at the same time, it comes to the same."""

    def again(self, unit: Unit) -> Line:
        """The line of a unit computed again, without writing anything."""

    def unopened(self, threads: int) -> "Work":
        """The same work with nothing opened, to be sent to another process, where it has this number of threads."""

    def close(self) -> None:
        """Close what was opened."""


class Job(Work, Protocol):
    """Work whose units are all known before it begins."""

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units; the same on every machine."""


def longest_first(units: Iterable[Unit]) -> list[Unit]:
    """The units by cost, largest first; equal ones by name."""
    return sorted(units, key=lambda unit: (-unit.cost, unit.name))


def part(units: Iterable[Unit], wanted: Part) -> list[Unit]:
    """The units of one part, longest first.

    The longest unit that is left always goes to the part with the least work (Graham's rule): no part has more than 4/3
    of the shortest possible time.
    """
    loads = [(0.0, index) for index in range(wanted.of)]
    found = []
    for unit in longest_first(units):
        load, index = heapq.heappop(loads)
        heapq.heappush(loads, (load + unit.cost, index))
        if index == wanted.index:
            found.append(unit)
    return found


def sample(job_key: str, units: Sequence[Unit], share: Fraction) -> list[Unit]:
    """Units that make up at least this share of the cost, at least one; the same ones each time, spread by a hash."""
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{job_key} {unit.name}".encode()).digest())
    # Added in the order of the hashes, so that rounding does not depend on the order in which the units are given.
    wanted, cost = float(share) * sum(unit.cost for unit in order), 0.0
    found: list[Unit] = []
    for unit in order:
        if found and cost >= wanted:
            break
        found.append(unit)
        cost += unit.cost
    return found
