"""Constraints as people write them: a pattern of tensor names and what is demanded of the tensors it matches.

A pattern is a shell glob over the whole name: `blk.*.attn_v.weight`, `output.weight`, `*ffn_down*`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction

from raq_solver.constraints import Ceiling, Constraint, Exclude, Floor, Pin, Tie
from raq_solver.errors import Fault, InvalidInput, near_misses, raise_faults
from raq_solver.quant_types import quant_type


@dataclass(frozen=True, slots=True)
class Demands:
    """What the user demands, each a list of texts as the flags of the same names take them."""

    pin: Sequence[str] = ()
    floor: Sequence[str] = ()
    ceiling: Sequence[str] = ()
    exclude: Sequence[str] = ()
    tie: Sequence[str] = ()

    def constraints(self, tensors: Sequence[str]) -> tuple[Constraint, ...]:
        """The constraints on a model with these tensors. Raises InvalidInput with the faults of all texts."""
        faults: list[Fault] = []
        found: list[Constraint] = []
        for kind, texts in (
            ("pin", self.pin),
            ("floor", self.floor),
            ("ceiling", self.ceiling),
            ("exclude", self.exclude),
            ("tie", self.tie),
        ):
            for text in texts:
                try:
                    found.append(_constraint(kind, text, tensors))
                except InvalidInput as error:
                    faults += [Fault(f"--{kind} {text}", str(fault)) for fault in error.faults]
        raise_faults(faults)
        return tuple(found)


def matching(pattern: str, tensors: Iterable[str]) -> tuple[str, ...]:
    """The tensors that a pattern matches. Raises InvalidInput when it matches none."""
    names = tuple(tensors)
    found = tuple(name for name in names if fnmatchcase(name, pattern))
    if not found:
        raise InvalidInput(Fault("", f"{pattern} matches no tensor{near_misses(pattern, names)}"))
    return found


def _constraint(kind: str, text: str, tensors: Sequence[str]) -> Constraint:
    pattern, separator, value = text.partition("=")
    reason = f"--{kind} {text}"
    if kind == "tie":
        return Tie(matching(text, tensors), reason=reason)
    if kind == "exclude" and not separator:
        return Exclude(tuple(tensors), (quant_type(text).name,), reason=reason)
    if not separator:
        wanted = "TYPE" if kind in {"pin", "exclude"} else "BITS"
        raise InvalidInput(Fault("", f"write PATTERN={wanted}"))
    names = matching(pattern, tensors)
    if kind == "pin":
        return Pin(names, quant_type(value).name, reason=reason)
    if kind == "exclude":
        return Exclude(names, (quant_type(value).name,), reason=reason)
    bits = _bits(value)
    return Floor(names, bits, reason=reason) if kind == "floor" else Ceiling(names, bits, reason=reason)


def _bits(text: str) -> Fraction:
    """Bits per weight, as a number or as the type that has so many."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return quant_type(text).bits_per_weight
