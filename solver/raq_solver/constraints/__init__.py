"""Constraints: conditions that the user, the data or the architecture puts on an allocation.

Pin, Floor, Ceiling and Exclude clear cells of the table; Tie merges rows. They compile away. The others are side
constraints, which stay beside the table: AtMost, DistinctTypes, Region, ActiveBytes, Monotone.
Every constraint carries its source and a reason, so that reports can show the cost of each kind of knowledge.

A new kind is a class in `cells` or `side`, and an entry in `CONSTRAINT_KINDS`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from raq_solver.constraints.base import Constraint, Source
from raq_solver.constraints.cells import Ceiling, Exclude, Floor, Pin, Tie, tie_groups
from raq_solver.constraints.side import ActiveBytes, AtMost, DistinctTypes, Monotone, Region, SideConstraint

CONSTRAINT_KINDS: Final[Mapping[str, type[Constraint]]] = MappingProxyType(
    {
        each.kind: each
        for each in (Pin, Floor, Ceiling, Exclude, Tie, AtMost, DistinctTypes, Region, ActiveBytes, Monotone)
    }
)
"""Every kind of constraint, by the name that messages, problem files and digests use."""

__all__ = [
    "CONSTRAINT_KINDS",
    "ActiveBytes",
    "AtMost",
    "Ceiling",
    "Constraint",
    "DistinctTypes",
    "Exclude",
    "Floor",
    "Monotone",
    "Pin",
    "Region",
    "SideConstraint",
    "Source",
    "Tie",
    "tie_groups",
]
