"""Facts about quant types for choosing among them: what a type needs, how it decodes, who is offered it."""

from dataclasses import dataclass
from typing import Final

import raq_native
from raq_client.models.quantizable import needs_importance
from raq_client.models.type_choice import FAMILIES, TypeChoice
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor

ARITHMETIC: Final = "arithmetic"
TABLE: Final = "table of 16 values"
LOOK_UP: Final = "look-up of 8 or 4 weights"
SPEEDS: Final = {ARITHMETIC: "fast", TABLE: "medium", LOOK_UP: "slow"}
"""Speed of inference on a processor, relative to types of the same size, by how a type is decoded."""

_TABLES: Final = frozenset({"IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4"})
_LOOK_UPS: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"})


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """What is known of a quant type; `decoding` is one of the keys of SPEEDS.

    `auto` says which rows are offered it without --types ("" if none), `families` names the groups that contain it.
    """

    quant_type: QuantType
    needs_importance: bool
    decoding: str
    auto: str
    families: tuple[str, ...]

    @property
    def speed(self) -> str:
        """The speed class: fast, medium or slow."""
        return SPEEDS[self.decoding]


def type_facts() -> tuple[TypeFacts, ...]:
    """The facts of all types that raq can write, most bits first.

    >>> [facts.quant_type.name for facts in type_facts() if facts.speed == "medium"]
    ['IQ4_NL', 'NVFP4', 'IQ4_XS', 'MXFP4']
    """
    written = {known.name for known in raq_native.QUANT_TYPES}
    known = sorted((each for each in CATALOGUE.values() if each.name in written), key=lambda one: -one.bits_per_weight)
    return tuple(_facts(each) for each in known)


def _facts(known: QuantType) -> TypeFacts:
    decoding = TABLE if known.name in _TABLES else LOOK_UP if known.name in _LOOK_UPS else ARITHMETIC
    families = tuple(name for name, members in FAMILIES.items() if known.name in members)
    return TypeFacts(known, needs_importance(known, ""), decoding, _auto(known), families)


def _auto(known: QuantType) -> str:
    auto = TypeChoice(auto=True)
    wide, narrow = (Tensor("any.weight", (length, 1), CATALOGUE["F32"]) for length in (256, 32))
    if known in auto.of(wide):
        return "all rows" if known in auto.of(narrow) else "rows of 256"
    return "other rows of 32" if known in auto.of(narrow) else ""
