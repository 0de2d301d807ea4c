"""The base class of all constraints, and helpers for their methods."""

import json
from abc import ABC
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from enum import Enum, unique
from fractions import Fraction
from numbers import Rational
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Bool, Int64

from raq_solver.arrays import is_names
from raq_solver.errors import HINTS, Fault, near_misses
from raq_solver.knapsack import SideRow
from raq_solver.losses import LossTable


@unique
class Source(Enum):
    """The origin of a constraint; reports add up the costs of constraints by source.

    >>> Source("data")
    <Source.DATA: 'data'>
    """

    DATA = "data"
    """Measured: importance ratio, error or sensitivity."""
    ARCHITECTURE = "architecture"
    """Known of such tensors: recurrent pathway, router, embedding, output head."""
    USER = "user"
    """Requested by the user."""


class Constraint(ABC):
    """A condition on an allocation. `tensors` are the names it is about, `reason` is for reports.

    A kind overrides the methods that differ from the defaults here: the cells it permits, the side rows it adds, how an
    allocation breaks it, the faults of its fields. Methods other than `faults` need a constraint without faults.

    >>> from raq_solver import Pin
    >>> isinstance(Pin(("output.weight",), "Q8_0"), Constraint)
    True
    """

    __slots__ = ()

    kind: ClassVar[str]
    """The name of the kind in messages, problem files and digests."""

    tensors: tuple[str, ...]
    source: Source
    reason: str

    def rows(self, table: LossTable) -> list[int]:
        """The table rows of the constraint's tensors, in its order."""
        return [table.row_of[name] for name in self.tensors]

    def permitted(self, table: LossTable) -> Bool[np.ndarray, "members types"]:
        """The cells of its tensors that the constraint does not forbid; by default all."""
        return np.ones((len(self.tensors), len(table.quant_types)), dtype=bool)

    def side_rows(self, table: LossTable) -> list[SideRow]:
        """The side rows that hold several tensors together, by table rows; none for kinds that compile away."""
        del table
        return []

    def violation(self, table: LossTable, columns: Int64[np.ndarray, " tensors"]) -> str:
        """How an allocation (the column of every tensor of the table) breaks the constraint; empty when it is kept."""
        rows = self.rows(table)
        kept = self.permitted(table)[np.arange(len(rows)), columns[rows]]
        given = self.given(table, columns)
        return ", ".join(words for words, may in zip(given, kept, strict=True) if not may)

    def own_faults(self, table: LossTable) -> list[str]:
        """Faults of the fields of this kind; by default none."""
        del table
        return []

    def faults(self, table: LossTable, where: str, hints: int = HINTS) -> list[Fault]:
        """Every fault of the constraint, other constraints aside, with the like of at most `hints` unknown tensors."""
        if not is_names(self.tensors):
            return [Fault(where, f"tensors are {self.tensors!r}; write a tuple of names")]
        found = [
            f"no tensor named {name}{near_misses(name, table.tensors) if number < hints else ''}"
            for number, name in enumerate(unknown(self.tensors, table.row_of))
        ]
        found += [f"names {name} {count} times" for name, count in Counter(self.tensors).items() if count > 1]
        if not self.tensors:
            found.append("names no tensor")
        if not isinstance(self.source, Source):
            found.append(f"source is {self.source!r}; must be a Source")
        return [Fault(where, what) for what in (*found, *self.own_faults(table))]

    def given(self, table: LossTable, columns: Int64[np.ndarray, " tensors"]) -> list[str]:
        """For each tensor of the constraint what an allocation makes of it, in words."""
        rows = self.rows(table)
        names = [table.quant_types[column] for column in columns[rows].tolist()]
        return [f"{tensor} is {name}" for tensor, name in zip(self.tensors, names, strict=True)]

    def canonical(self) -> str:
        """Kind and fields as JSON in a fixed form, for digests: equal constraints have equal text."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(cast(Any, self))}
        return json.dumps({"kind": self.kind} | values, sort_keys=True, ensure_ascii=False)


def _plain(value: object) -> object:
    # Numbers become text, so that 4 and Fraction(4) are the same.
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, Enum) else str(value)


def below(table: LossTable, rows: list[int], bits: Fraction) -> Bool[np.ndarray, "members types"]:
    """Which cells have fewer bits per weight than `bits`, compared in whole numbers."""
    return (_scaled_bits(table, rows, bits) < _scaled_weights(table, rows, bits)).astype(bool)


def above(table: LossTable, rows: list[int], bits: Fraction) -> Bool[np.ndarray, "members types"]:
    """Which cells have more bits per weight than `bits`, compared in whole numbers."""
    return (_scaled_bits(table, rows, bits) > _scaled_weights(table, rows, bits)).astype(bool)


def _scaled_bits(table: LossTable, rows: list[int], bits: Fraction) -> np.ndarray:
    # Python's unbounded integers: a size times a denominator may exceed 2^63.
    return 8 * table.sizes[rows].astype(object) * int(bits.denominator)


def _scaled_weights(table: LossTable, rows: list[int], bits: Fraction) -> np.ndarray:
    return int(bits.numerator) * table.weights[rows, None].astype(object)


def unknown(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names that are not known, each once."""
    known = set(known)
    return [name for name in dict.fromkeys(names) if name not in known]


def type_faults(names: object, table: LossTable) -> list[str]:
    """Faults of quant types, which must be columns of the table."""
    if not is_names(names):
        return [f"{names!r} is no sequence of quant types; write a tuple of names"]
    columns = ", ".join(table.quant_types)
    return [f"{name} is not among the quant types {columns}" for name in unknown(names, table.column_of)]


def bits_faults(bits: object, table: LossTable) -> list[str]:
    """Faults of a number of bits per weight."""
    if not isinstance(bits, Rational):
        return [f"{bits!r} bits; write a Fraction, as in Fraction('4.5')"]
    return ([f"{bits} bits; must be more than 0"] if bits <= 0 else []) + weights_faults(table)


def weights_faults(table: LossTable) -> list[str]:
    """Faults of a table whose bits per weight are to be compared."""
    return [] if table.total_weights else ["needs the number of weights of every tensor"]


def share_faults(tensors: Sequence[str], shares: object) -> list[str]:
    """Faults of shares, which must be one number from 0 to 1 for each tensor."""
    if not isinstance(shares, list | tuple) or not all(isinstance(share, Rational) for share in shares):
        return [f"shares are {shares!r}; write a tuple of Fractions"]
    if len(shares) != len(tensors):
        return [f"{len(shares)} shares for {len(tensors)} tensors"]
    wrong = [f"{name} {share}" for name, share in zip(tensors, shares, strict=True) if not 0 <= share <= 1]
    return [f"a share lies between 0 and 1, not so {', '.join(wrong)}"] if wrong else []
