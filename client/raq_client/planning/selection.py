"""Constraints as people write them: a pattern of tensor names and what is demanded of the tensors it matches.

Patterns are those of raq_client.recipes.patterns: `blk.*.attn_v.weight`, `output.weight`,
`blk.{0..3}.ffn_{gate,up}.weight`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from raq_client.models.table import ModelTable
from raq_client.planning.active import FLAG, active_bytes
from raq_client.planning.vram import parse_size
from raq_client.recipes.patterns import matching
from raq_solver.constraints import (
    AtMost,
    Ceiling,
    Constraint,
    DistinctTypes,
    Exclude,
    Floor,
    Monotone,
    Pin,
    Region,
    Tie,
)
from raq_solver.errors import Fault, InvalidInput, raise_faults
from raq_solver.quant_types import quant_type

_VALUES: Final = {
    "pin": "TYPE",
    "exclude": "TYPE",
    "floor": "BITS",
    "ceiling": "BITS",
    "at-most": "COUNT:BITS",
    "region": "SIZE",
}


_PATTERN_ONLY: Final[Mapping[str, type[Tie] | type[Monotone]]] = {"tie": Tie, "monotone": Monotone}


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """What the user demands, each a list of texts as the flags of the same names take them."""

    pin: Sequence[str] = ()
    floor: Sequence[str] = ()
    ceiling: Sequence[str] = ()
    exclude: Sequence[str] = ()
    tie: Sequence[str] = ()
    at_most: Sequence[str] = ()
    region: Sequence[str] = ()
    monotone: Sequence[str] = ()
    distinct_types: int | None = None
    active_bytes: str | None = None
    experts_used: int | None = None

    def constraints(self, tensors: Sequence[str], table: ModelTable | None = None) -> tuple[Constraint, ...]:
        """The constraints on a model with these tensors; active bytes need its table too.

        Raises InvalidInput with the faults of all texts.
        """
        faults: list[Fault] = []
        found: list[Constraint] = []
        for kind, texts in (
            ("pin", self.pin),
            ("floor", self.floor),
            ("ceiling", self.ceiling),
            ("exclude", self.exclude),
            ("tie", self.tie),
            ("at-most", self.at_most),
            ("region", self.region),
            ("monotone", self.monotone),
        ):
            for text in texts:
                try:
                    found.append(_constraint(kind, text, tensors))
                except InvalidInput as error:
                    faults += [Fault(f"--{kind} {text}", str(fault)) for fault in error.faults]
        try:
            found += self._active(table)
        except InvalidInput as error:
            faults += error.faults
        raise_faults(faults)
        if self.distinct_types is not None:
            found.append(DistinctTypes(tuple(tensors), self.distinct_types, reason="--distinct-types"))
        return tuple(found)

    def _active(self, table: ModelTable | None) -> list[Constraint]:
        if self.active_bytes is None:
            if self.experts_used is not None:
                raise InvalidInput(Fault("--experts-used", f"says how {FLAG} are counted: give those too"))
            return []
        if table is None:
            raise InvalidInput(Fault(FLAG, "a plain problem does not say what a token reads; write active_bytes in it"))
        return [active_bytes(self.active_bytes, table, self.experts_used)]


def _constraint(kind: str, text: str, tensors: Sequence[str]) -> Constraint:
    reason = f"--{kind} {text}"
    if kind in _PATTERN_ONLY:
        return _PATTERN_ONLY[kind](matching([text], tensors, ""), reason=reason)
    pattern, separator, value = text.partition("=")
    if kind == "exclude" and not separator:
        return Exclude(tuple(tensors), (quant_type(text).name,), reason=reason)
    if not separator:
        raise InvalidInput(Fault("", f"write PATTERN={_VALUES[kind]}"))
    return _valued(kind, matching([pattern], tensors, ""), value, reason)


def _valued(kind: str, names: tuple[str, ...], value: str, reason: str) -> Constraint:
    match kind:
        case "pin":
            return Pin(names, quant_type(value).name, reason=reason)
        case "exclude":
            return Exclude(names, (quant_type(value).name,), reason=reason)
        case "at-most":
            count, colon, limit = value.partition(":")
            if not colon or not count.isdigit():
                raise InvalidInput(Fault("", f"write PATTERN={_VALUES[kind]}"))
            return AtMost(names, int(count), _bits(limit), reason=reason)
        case "region":
            return Region(names, parse_size(value), reason=reason)
        case _:
            return (Floor if kind == "floor" else Ceiling)(names, _bits(value), reason=reason)


def _bits(text: str) -> Fraction:
    """Bits per weight, as a number or as the type that has so many."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return quant_type(text).bits_per_weight
