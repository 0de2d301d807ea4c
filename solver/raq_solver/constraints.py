"""Constraints: what the user, the data or the architecture demands of an allocation.

Pin, Floor, Ceiling and Exclude clear cells of the table; Tie adds rows together. They compile away. The others are
side constraints, which stay beside the table: AtMost, DistinctTypes, Region, ActiveBytes, Monotone.
Every constraint carries its source and a reason, so that the report can say what each kind of knowledge costs.
"""

from dataclasses import dataclass
from enum import Enum, unique
from fractions import Fraction


@unique
class Source(Enum):
    """Whose knowledge a constraint is."""

    DATA = "data"
    """Measured: importance ratio, error or sensitivity."""
    ARCHITECTURE = "architecture"
    """Known of such tensors: recurrent pathway, router, embedding, output head."""
    USER = "user"
    """Asked for."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Each of the tensors is stored as this quant type."""

    tensors: tuple[str, ...]
    quant_type: str
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Floor:
    """Each of the tensors gets at least so many bits per weight."""

    tensors: tuple[str, ...]
    bits: Fraction
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Each of the tensors gets at most so many bits per weight."""

    tensors: tuple[str, ...]
    bits: Fraction
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exclude:
    """None of the tensors is stored as one of these quant types."""

    tensors: tuple[str, ...]
    quant_types: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Tie:
    """The tensors share one quant type, as fused kernels need (q/k/v, gate/up)."""

    tensors: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AtMost:
    """No more than `count` of the tensors get more than `bits` bits per weight."""

    tensors: tuple[str, ...]
    count: int
    bits: Fraction
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DistinctTypes:
    """The tensors are stored in no more than `count` different quant types."""

    tensors: tuple[str, ...]
    count: int
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Region:
    """The tensors together take at most so many bytes: one GPU of a split, the part that must stay in VRAM."""

    tensors: tuple[str, ...]
    capacity_bytes: int
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ActiveBytes:
    """At most so many bytes of the tensors are read per generated token.

    `shares` says, per tensor, which share of it a token reads: 1 for dense tensors, experts used / experts for the
    stacked experts of a mixture.
    """

    tensors: tuple[str, ...]
    shares: tuple[Fraction, ...]
    capacity_bytes: int
    source: Source = Source.USER
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Monotone:
    """Along the tensors in the order given, bits per weight never fall."""

    tensors: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""


CellConstraint = Pin | Floor | Ceiling | Exclude
"""Constraints on single tensors."""

SideConstraint = AtMost | DistinctTypes | Region | ActiveBytes | Monotone
"""Constraints that stay beside the table."""

Constraint = CellConstraint | Tie | SideConstraint
"""Any demand on an allocation."""
