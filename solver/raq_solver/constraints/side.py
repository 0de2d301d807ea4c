"""Side constraints: they hold several tensors together and stay beside the table as side rows of the knapsack."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import ClassVar

import numpy as np
from jaxtyping import Int64

from raq_solver.arrays import LARGEST, whole_number_faults
from raq_solver.constraints.base import (
    Constraint,
    Source,
    above,
    bits_faults,
    share_faults,
    weights_faults,
)
from raq_solver.knapsack import Distinct, Linear, SideRow
from raq_solver.losses import LossTable


class SideConstraint(Constraint):
    """A constraint whose side rows stay beside the table.

    >>> isinstance(Region(("a", "b"), 10**6), SideConstraint)
    True
    """

    __slots__ = ()

    def violation(self, table: LossTable, columns: Int64[np.ndarray, " tensors"]) -> str:
        """The first sum that exceeds its capacity."""
        for row in self.side_rows(table):
            if isinstance(row, Linear) and (excess := row.excess(columns)) > 0:
                return f"{row.capacity + excess:,} where {row.capacity:,} are allowed"
        return ""


@dataclass(frozen=True, slots=True)
class AtMost(SideConstraint):
    """At most `count` of the tensors get more than `bits` bits per weight.

    >>> AtMost(("blk.0.ffn_down.weight", "blk.1.ffn_down.weight"), 1, Fraction(6)).count
    1
    """

    kind: ClassVar[str] = "at_most"

    tensors: tuple[str, ...]
    count: int
    bits: Fraction
    source: Source = Source.USER
    reason: str = ""

    def side_rows(self, table: LossTable) -> list[SideRow]:
        """One sum: a cell counts 1 when it has more bits."""
        rows = self.rows(table)
        return [Linear(np.array(rows), above(table, rows, self.bits).astype(np.int64), self.count)]

    def own_faults(self, table: LossTable) -> list[str]:
        """Bits must be positive, weights known, the count not negative."""
        return bits_faults(self.bits, table) + whole_number_faults(self.count, "tensors", 0)


@dataclass(frozen=True, slots=True)
class DistinctTypes(SideConstraint):
    """The tensors are stored in at most `count` different quant types.

    >>> DistinctTypes(("a", "b", "c"), 2).canonical()
    '{"count": "2", "kind": "distinct_types", "reason": "", "source": "user", "tensors": ["a", "b", "c"]}'
    """

    kind: ClassVar[str] = "distinct_types"

    tensors: tuple[str, ...]
    count: int
    source: Source = Source.USER
    reason: str = ""

    def side_rows(self, table: LossTable) -> list[SideRow]:
        """A limit on the columns in use."""
        return [Distinct(np.array(self.rows(table)), self.count)]

    def violation(self, table: LossTable, columns: Int64[np.ndarray, " tensors"]) -> str:
        """The quant types in use, when there are too many."""
        names = list(dict.fromkeys(table.quant_types[column] for column in columns[self.rows(table)].tolist()))
        return f"{len(names)} quant types: {', '.join(names)}" if len(names) > self.count else ""

    def own_faults(self, table: LossTable) -> list[str]:
        """The count must be at least 1."""
        del table
        return whole_number_faults(self.count, "quant types", 1)


@dataclass(frozen=True, slots=True)
class Region(SideConstraint):
    """The tensors together take at most `capacity_bytes`: one GPU of a split, the part that must stay in VRAM.

    >>> Region(("blk.0.ffn_up.weight", "blk.0.ffn_down.weight"), 2**20).capacity_bytes
    1048576
    """

    kind: ClassVar[str] = "region"

    tensors: tuple[str, ...]
    capacity_bytes: int
    source: Source = Source.USER
    reason: str = ""

    def side_rows(self, table: LossTable) -> list[SideRow]:
        """One sum: the sizes."""
        rows = self.rows(table)
        return [Linear(np.array(rows), table.sizes[rows], self.capacity_bytes)]

    def own_faults(self, table: LossTable) -> list[str]:
        """The capacity must not be negative."""
        del table
        return whole_number_faults(self.capacity_bytes, "bytes", 0)


@dataclass(frozen=True, slots=True)
class ActiveBytes(SideConstraint):
    """At most `capacity_bytes` of the tensors are read per generated token.

    `shares` holds, per tensor, the share of it that a token reads: 1 for dense tensors, experts used / experts for the
    stacked experts of a mixture.

    >>> experts = ActiveBytes(("blk.0.ffn_up_exps.weight",), (Fraction(8, 128),), 10**6)
    >>> experts.shares
    (Fraction(1, 16),)
    """

    kind: ClassVar[str] = "active_bytes"

    tensors: tuple[str, ...]
    shares: tuple[Fraction, ...]
    capacity_bytes: int
    source: Source = Source.USER
    reason: str = ""

    def side_rows(self, table: LossTable) -> list[SideRow]:
        """One sum: sizes times shares, in whole numbers by the shares' common denominator."""
        rows = self.rows(table)
        common = lcm(*(share.denominator for share in self.shares))
        factors = np.array([int(share * common) for share in self.shares], dtype=np.int64)
        return [Linear(np.array(rows), table.sizes[rows] * factors[:, None], self.capacity_bytes * common)]

    def own_faults(self, table: LossTable) -> list[str]:
        """The capacity must not be negative; shares lie between 0 and 1 and have a common denominator of usual size."""
        faults = whole_number_faults(self.capacity_bytes, "bytes", 0) + share_faults(self.tensors, self.shares)
        if faults:
            return faults
        largest = max(int(np.where(table.offered, table.sizes, 0).max(axis=1).sum()), self.capacity_bytes)
        common = 1
        for share in self.shares:
            common = lcm(common, share.denominator)
            if largest * common > LARGEST:
                what = "shares times sizes in bytes go beyond 2^53 with their common denominator"
                return [f"{what}; give shares of small denominators, as 8/128"]
        return []


@dataclass(frozen=True, slots=True)
class Monotone(SideConstraint):
    """Along the tensors in the order given, bits per weight never fall.

    >>> Monotone(("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")).kind
    'monotone'
    """

    kind: ClassVar[str] = "monotone"

    tensors: tuple[str, ...]
    source: Source = Source.USER
    reason: str = ""

    def side_rows(self, table: LossTable) -> list[SideRow]:
        """One row for each pair of neighbours: rank of the first - rank of the second <= 0.

        Bits per weight are fractions with as many denominators as there are shapes. Their ranks compare in the same
        way and are small whole numbers.
        """
        rows = np.array(self.rows(table))
        bits = [[Fraction(int(size), int(table.weights[row])) for size in table.sizes[row]] for row in rows]
        rank: Mapping[Fraction, int] = {
            value: index for index, value in enumerate(sorted({each for row in bits for each in row}))
        }
        ranks = np.array([[rank[value] for value in row] for row in bits], dtype=np.int64)
        return [
            Linear(rows[first : first + 2], ranks[first : first + 2] * np.array([[1], [-1]]), 0)
            for first in range(rows.size - 1)
        ]

    def violation(self, table: LossTable, columns: Int64[np.ndarray, " tensors"]) -> str:
        """That some bits per weight fall."""
        # Not super(): a dataclass with slots is another class than the one that super() would look at.
        return "bits per weight fall" if SideConstraint.violation(self, table, columns) else ""

    def own_faults(self, table: LossTable) -> list[str]:
        """Weights must be known."""
        return weights_faults(table)
