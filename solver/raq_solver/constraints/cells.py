"""Constraints that compile away: they clear cells of the table or merge rows, and leave a pure knapsack."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Int64

from raq_solver.constraints.base import Constraint, Source, above, below, bits_faults, type_faults
from raq_solver.losses import LossTable


@dataclass(frozen=True, slots=True)
class Pin(Constraint):
    """Each of the tensors is stored as this quant type.

    >>> Pin(("output.weight",), "Q8_0", reason="output head").canonical()
    '{"kind": "pin", "quant_type": "Q8_0", "reason": "output head", "source": "user", "tensors": ["output.weight"]}'
    """

    kind: ClassVar[str] = "pin"

    tensors: tuple[str, ...]
    quant_type: str
    source: Source = Source.USER
    reason: str = ""

    def permitted(self, table: LossTable) -> Bool[np.ndarray, "members types"]:
        """The column of the quant type."""
        cells = np.zeros((len(self.tensors), len(table.quant_types)), dtype=bool)
        cells[:, table.column_of[self.quant_type]] = True
        return cells

    def own_faults(self, table: LossTable) -> list[str]:
        """The quant type must be a column of the table."""
        return type_faults((self.quant_type,), table)


@dataclass(frozen=True, slots=True)
class Floor(Constraint):
    """Each of the tensors gets at least `bits` bits per weight.

    >>> Floor(("blk.0.attn_v.weight",), Fraction("4.5"), Source.ARCHITECTURE).bits
    Fraction(9, 2)
    """

    kind: ClassVar[str] = "floor"

    tensors: tuple[str, ...]
    bits: Fraction
    source: Source = Source.USER
    reason: str = ""

    def permitted(self, table: LossTable) -> Bool[np.ndarray, "members types"]:
        """The cells with no fewer bits per weight."""
        return ~below(table, self.rows(table), self.bits)

    def own_faults(self, table: LossTable) -> list[str]:
        """Bits must be positive, weights known."""
        return bits_faults(self.bits, table)


@dataclass(frozen=True, slots=True)
class Ceiling(Constraint):
    """Each of the tensors gets at most `bits` bits per weight.

    >>> Ceiling(("blk.0.ffn_up.weight",), Fraction(5)).bits
    Fraction(5, 1)
    """

    kind: ClassVar[str] = "ceiling"

    tensors: tuple[str, ...]
    bits: Fraction
    source: Source = Source.USER
    reason: str = ""

    def permitted(self, table: LossTable) -> Bool[np.ndarray, "members types"]:
        """The cells with no more bits per weight."""
        return ~above(table, self.rows(table), self.bits)

    def own_faults(self, table: LossTable) -> list[str]:
        """Bits must be positive, weights known."""
        return bits_faults(self.bits, table)


@dataclass(frozen=True, slots=True)
class Exclude(Constraint):
    """None of the tensors is stored as one of these quant types.

    >>> Exclude(("output.weight",), ("IQ1_S", "IQ1_M")).quant_types
    ('IQ1_S', 'IQ1_M')
    """

    kind: ClassVar[str] = "exclude"

    tensors: tuple[str, ...]
    quant_types: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""

    def permitted(self, table: LossTable) -> Bool[np.ndarray, "members types"]:
        """All columns but those of the quant types."""
        cells = np.ones((len(self.tensors), len(table.quant_types)), dtype=bool)
        cells[:, [table.column_of[name] for name in self.quant_types]] = False
        return cells

    def own_faults(self, table: LossTable) -> list[str]:
        """Quant types must be columns of the table; there must be one."""
        return type_faults(self.quant_types, table) if self.quant_types else ["names no quant type"]


@dataclass(frozen=True, slots=True)
class Tie(Constraint):
    """The tensors share one quant type, as fused kernels need (q/k/v, gate/up).

    >>> Tie(("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")).source
    <Source.USER: 'user'>
    """

    kind: ClassVar[str] = "tie"

    tensors: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""

    def violation(self, table: LossTable, columns: Int64[np.ndarray, " tensors"]) -> str:
        """The types of all tensors, when they differ."""
        return ", ".join(self.given(table, columns)) if np.unique(columns[self.rows(table)]).size > 1 else ""


def tie_groups(constraints: Iterable[Constraint]) -> list[tuple[str, ...]]:
    """The groups of tensors that share one quant type; ties that overlap are one group.

    >>> tie_groups([Tie(("a", "b")), Tie(("c", "d")), Tie(("b", "e"))])
    [('a', 'b', 'e'), ('c', 'd')]
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for constraint in constraints:
        for name in constraint.tensors if isinstance(constraint, Tie) else ():
            parent.setdefault(name, name)
            parent[root(name)] = root(constraint.tensors[0])
    groups: dict[str, list[str]] = {}
    for name in parent:
        groups.setdefault(root(name), []).append(name)
    return list(map(tuple, groups.values()))
