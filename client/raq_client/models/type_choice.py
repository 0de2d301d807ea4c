"""The quant types that tensors may choose from, given by users as names, families or `auto`.

`auto` offers each tensor the types that fit its rows: the K and IQ types if the row length is a multiple of 256, else
the types with blocks of 32. Never included are types below two bits (IQ1), ternary types (for models trained for
them) and MX types (scales are powers of two); they must be named. docs/native.md lists every type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from raq_solver.errors import Fault, InvalidInput
from raq_solver.quant_types import CATALOGUE, QuantType, quant_type
from raq_solver.tensors import Tensor

_K: Final = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
_IQ: Final = ("IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")
_BLOCKS_OF_32: Final = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
FAMILIES: Final = MappingProxyType(
    {
        "k": _K,
        "iq": (*_IQ, "IQ1_M", "IQ1_S"),
        "legacy": ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"),
        "all": (*_K, *_IQ, "IQ1_M", "IQ1_S", "IQ4_NL", "Q5_1", "Q5_0", "Q4_1", "Q4_0"),
    }
)
"""Names for groups of quant types. Where a K or IQ type does not fit the rows, llama.cpp's substitute is offered."""
AUTO: Final = "auto"
_WIDE_BLOCK: Final = 256


@dataclass(frozen=True, slots=True)
class TypeChoice:
    """The types to choose from: the `named` ones for every tensor, and with `auto` those that fit its rows."""

    named: tuple[QuantType, ...] = ()
    auto: bool = False

    def of(self, tensor: Tensor) -> tuple[QuantType, ...]:
        """The types offered to a tensor, before llama.cpp's rules are applied (`quantizable.candidates`)."""
        names: tuple[str, ...] = ()
        if self.auto:
            names = (*_K, *_IQ) if tensor.row_length % _WIDE_BLOCK == 0 else _BLOCKS_OF_32
        return tuple(dict.fromkeys((*(CATALOGUE[name] for name in names), *self.named)))


def chosen_types(names: Sequence[str]) -> TypeChoice:
    """The choice for these names of types and families; `auto` if there are none.

    Raises InvalidInput with all unknown names at once.

    >>> [each.name for each in chosen_types(["q8_0", "k"]).named]
    ['Q8_0', 'Q6_K', 'Q5_K', 'Q4_K', 'Q3_K', 'Q2_K']
    >>> chosen_types([]).auto
    True
    """
    given = list(names) or [AUTO]
    faults: list[Fault] = []
    found: list[QuantType] = []
    for name in (each for word in given if word.lower() != AUTO for each in FAMILIES.get(word.lower(), (word,))):
        try:
            found.append(quant_type(name))
        except InvalidInput as error:
            faults += error.faults
    if faults:
        raise InvalidInput(faults)
    return TypeChoice(tuple(dict.fromkeys(found)), any(name.lower() == AUTO for name in given))
