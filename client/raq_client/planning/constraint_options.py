"""Constraints given as text: a pattern of tensor names and a limit for the matching tensors.

Patterns are those of raq_client.recipes.patterns: `blk.*.attn_v.weight`, `output.weight`,
`blk.{0..3}.ffn_{gate,up}.weight`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from raq_client.models.table import ModelTable
from raq_client.planning.memory_budget import parse_size
from raq_client.recipes.patterns import matching
from raq_solver.constraints import (
    ActiveBytes,
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
from raq_solver.tensor_names import TOKEN_EMBEDDING, is_expert, is_tied
from raq_solver.tensors import Tensor

FLAG: Final = "--active-bytes"
_VALUES: Final = {
    "pin": "TYPE",
    "exclude": "TYPE",
    "floor": "BITS",
    "ceiling": "BITS",
    "at-most": "COUNT:BITS",
    "region": "SIZE",
}


_OF_CHOICE: Final = ("pin", "ceiling")
_NAMED: Final = 3
_PATTERN_ONLY: Final[Mapping[str, type[Tie] | type[Monotone]]] = {"tie": Tie, "monotone": Monotone}


@dataclass(frozen=True, slots=True)
class ConstraintSpec:
    """The user's constraints, each a list of texts in the form of the flag of the same name."""

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

    @property
    def on_several(self) -> bool:
        """Whether one of them limits several tensors together."""
        return bool(self.at_most or self.region or self.monotone or self.distinct_types or self.active_bytes)

    def constraints(
        self, tensors: Sequence[str], table: ModelTable | None = None, fixed: Collection[str] = ()
    ) -> tuple[Constraint, ...]:
        """The constraints for a model with these tensors; `active_bytes` also needs its table.

        Patterns of pins and ceilings pass over tensors that are `fixed`, having one type only, such as norms; a pattern
        that is the name of a tensor, or matches no others, does not. Raises InvalidInput with the faults of all texts.
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
                    found.append(_constraint(kind, text, tensors, fixed))
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
                raise InvalidInput(Fault("--experts-used", f"is only used with {FLAG}; give that too"))
            return []
        if table is None:
            raise InvalidInput(Fault(FLAG, "unknown for a plain problem; write active_bytes into its file"))
        return [active_bytes(self.active_bytes, table, self.experts_used)]


def passed_over(spec: ConstraintSpec, tensors: Sequence[str], fixed: Collection[str]) -> str | None:
    """A note on the tensors that the patterns of pins and ceilings pass over; None if there are none."""
    found: dict[str, None] = {}
    for text in (*spec.pin, *spec.ceiling):
        names = matching([text.partition("=")[0]], tensors, "")
        found |= dict.fromkeys(set(names) - set(_with_choice(names, fixed)))
    if not found:
        return None
    named = sorted(found)
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"patterns pass over what is never quantized: {', '.join(named[:_NAMED])}{more}"


def _with_choice(names: tuple[str, ...], fixed: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in fixed) or names


def _constraint(kind: str, text: str, tensors: Sequence[str], fixed: Collection[str]) -> Constraint:
    reason = f"--{kind} {text}"
    if kind in _PATTERN_ONLY:
        return _PATTERN_ONLY[kind](matching([text], tensors, ""), reason=reason)
    pattern, separator, value = text.partition("=")
    if kind == "exclude" and not separator:
        return Exclude(tuple(tensors), (quant_type(text).name,), reason=reason)
    if not separator:
        raise InvalidInput(Fault("", f"write PATTERN={_VALUES[kind]}"))
    names = matching([pattern], tensors, "")
    return _valued(kind, _with_choice(names, fixed) if kind in _OF_CHOICE else names, value, reason)


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
    """Bits per weight, given as a number or as a quant type."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return quant_type(text).bits_per_weight


def active_bytes(text: str, table: ModelTable, experts_used: int | None = None) -> ActiveBytes:
    """The constraint that at most this size (such as 3GiB) is read per token.

    A token reads the used share of stacked experts, one row of the embedding unless it is also the output head, and
    all of everything else. `experts_used` replaces the metadata's expert_used_count.
    Raises InvalidInput if neither is known, or if the number is larger than that of the experts.
    """
    names = tuple(tensor.name for tensor in table.tensors)
    shares = tuple(_share(tensor, table, experts_used, tied=is_tied(names)) for tensor in table.tensors)
    reason = f"{FLAG} {text}" + ("" if experts_used is None else f" --experts-used {experts_used}")
    return ActiveBytes(names, shares, parse_size(text), reason=reason)


def _share(tensor: Tensor, table: ModelTable, experts_used: int | None, *, tied: bool) -> Fraction:
    if tensor.name == TOKEN_EMBEDDING and not tied:
        return Fraction(1, tensor.rows)
    if not is_expert(tensor.name):
        return Fraction(1)
    experts = table.number("expert_count") or tensor.shape[-1]
    used = experts_used or table.number("expert_used_count")
    if not used:
        what = f"the model does not state how many of its {experts} experts a token uses; give --experts-used"
        raise InvalidInput(Fault(FLAG, what))
    if used > experts:
        raise InvalidInput(Fault("--experts-used", f"{used}, but the model has only {experts} experts"))
    return Fraction(used, experts)
