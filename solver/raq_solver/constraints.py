"""Constraints: what the user, the data or the architecture demands of an allocation.

Pin, Floor, Ceiling and Exclude clear cells of the table; Tie adds rows together. After that the problem is pure.
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


Constraint = Pin | Floor | Ceiling | Exclude | Tie
"""Any demand on an allocation."""
