"""File types: llama.cpp's names and numbers for whole files, as stored in `general.file_type`.

A file type is not a quant type, which is a property of a tensor: the file type Q4_K_M mixes Q4_K and Q6_K.
Source: enum llama_ftype in include/llama.h and the table in tools/quantize of llama.cpp 0c1e57098.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from raq_solver.errors import Fault, UnknownQuantType, near_misses
from raq_solver.quant_types import CATALOGUE, QuantType
from raq_solver.tensors import Tensor


@dataclass(frozen=True, slots=True)
class FileType:
    """A kind of file: its number and the quant type of most of its tensors."""

    name: str
    number: int
    base: QuantType


# name, number, base quant type
_ROWS: Final = (
    ("F32", 0, "F32"),
    ("F16", 1, "F16"),
    ("BF16", 32, "BF16"),
    ("Q4_0", 2, "Q4_0"),
    ("Q4_1", 3, "Q4_1"),
    ("Q5_0", 8, "Q5_0"),
    ("Q5_1", 9, "Q5_1"),
    ("Q8_0", 7, "Q8_0"),
    ("Q2_K", 10, "Q2_K"),
    ("Q2_K_S", 21, "Q2_K"),
    ("Q3_K_S", 11, "Q3_K"),
    ("Q3_K_M", 12, "Q3_K"),
    ("Q3_K_L", 13, "Q3_K"),
    ("Q4_K_S", 14, "Q4_K"),
    ("Q4_K_M", 15, "Q4_K"),
    ("Q5_K_S", 16, "Q5_K"),
    ("Q5_K_M", 17, "Q5_K"),
    ("Q6_K", 18, "Q6_K"),
    ("IQ1_S", 24, "IQ1_S"),
    ("IQ1_M", 31, "IQ1_M"),
    ("IQ2_XXS", 19, "IQ2_XXS"),
    ("IQ2_XS", 20, "IQ2_XS"),
    ("IQ2_S", 28, "IQ2_XS"),
    ("IQ2_M", 29, "IQ2_S"),
    ("IQ3_XXS", 23, "IQ3_XXS"),
    ("IQ3_XS", 22, "IQ3_S"),
    ("IQ3_S", 26, "IQ3_S"),
    ("IQ3_M", 27, "IQ3_S"),
    ("IQ4_NL", 25, "IQ4_NL"),
    ("IQ4_XS", 30, "IQ4_XS"),
    ("TQ1_0", 36, "TQ1_0"),
    ("TQ2_0", 37, "TQ2_0"),
    ("MXFP4_MOE", 38, "MXFP4"),
    ("NVFP4", 39, "NVFP4"),
    ("Q1_0", 40, "Q1_0"),
    ("Q2_0", 41, "Q2_0"),
)
_ALIASES: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

FILE_TYPES: Final[Mapping[str, FileType]] = MappingProxyType(
    {name: FileType(name, number, CATALOGUE[base]) for name, number, base in _ROWS}
)
"""All file types by name."""

# The file type for a commonest quant type, as llama.cpp's loader guesses it.
_OF_QUANT_TYPE: Final = {
    file_type.base: FILE_TYPES[_ALIASES.get(file_type.base.name, file_type.base.name)]
    for file_type in FILE_TYPES.values()
    if file_type.base.name in _ALIASES or file_type.base.name in FILE_TYPES
} | {CATALOGUE["MXFP4"]: FILE_TYPES["MXFP4_MOE"]}


def file_type(name: str) -> FileType:
    """The file type of that name, case ignored; Q4_K is short for Q4_K_M, as in llama-quantize.

    Raises UnknownQuantType with the nearest names.

    >>> file_type("q4_k").name, file_type("Q4_K_M").number
    ('Q4_K_M', 15)
    """
    upper = name.strip().upper()
    found = FILE_TYPES.get(_ALIASES.get(upper, upper))
    if found is None:
        hint = near_misses(name, FILE_TYPES) or f"; known: {', '.join(FILE_TYPES)}"
        raise UnknownQuantType(Fault(name, f"no such mixture of llama.cpp{hint}"))
    return found


def commonest_type(types: Mapping[Tensor, QuantType]) -> QuantType:
    """The quant type of the largest number of weights."""
    weights: Counter[QuantType] = Counter()
    for tensor, quant_type in types.items():
        weights[quant_type] += tensor.weights
    return weights.most_common(1)[0][0]


def file_type_of(types: Mapping[Tensor, QuantType]) -> FileType:
    """The file type to write into a file with these tensors: the one of the commonest quant type by weights."""
    return _OF_QUANT_TYPE.get(commonest_type(types), FILE_TYPES["F16"])
