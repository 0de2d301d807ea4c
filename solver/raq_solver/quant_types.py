"""The catalogue of quant types: every ggml block format that a GGUF file may store weights in.

A quant type stores a row of weights in whole blocks, so a row's length must be a multiple of the block.
`bindings_native/src/quant_types.def` has the same facts; tests prove both equal to gguf-py's table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Final

from raq_solver.errors import Fault, UnknownQuantType, near_misses

INPUT_BLOCKS: Final = (32, 256)
"""How many inputs share a scale where ggml's kernels for processors round them to 8 bits: Q8_0 and Q8_1, and Q8_K."""


@dataclass(frozen=True, slots=True)
class QuantType:
    """A ggml block format: `weights_per_block` weights are stored in `bytes_per_block` bytes.

    >>> q4_k = CATALOGUE["Q4_K"]
    >>> q4_k.bits_per_weight, q4_k.size(1024), q4_k.fits(100)
    (Fraction(9, 2), 576, False)
    """

    name: str
    ggml_id: int
    weights_per_block: int
    bytes_per_block: int

    @property
    def bits_per_weight(self) -> Fraction:
        """Bits per weight, exactly."""
        return Fraction(8 * self.bytes_per_block, self.weights_per_block)

    @property
    def input_block(self) -> int:
        """How many inputs share a scale when they are rounded to be multiplied with such weights; 0: not rounded.

        Source: `vec_dot_type` in ggml-cpu.c of llama.cpp 0c1e57098.
        """
        narrow, wide = INPUT_BLOCKS
        return 0 if self.weights_per_block == 1 else narrow if self.weights_per_block < wide else wide

    def fits(self, row_length: int) -> bool:
        """Whether rows of this many weights divide into whole blocks."""
        return row_length % self.weights_per_block == 0

    def size(self, weights: int) -> int:
        """Bytes of this many weights, which must be whole blocks."""
        blocks, rest = divmod(weights, self.weights_per_block)
        assert rest == 0, f"{weights} weights are not whole blocks of {self.name}"
        return blocks * self.bytes_per_block


# name, ggml id, weights per block, bytes per block. Source: ggml.h (enum ggml_type) and ggml-common.h of ggml 0.25.
_ROWS: Final = (
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("BF16", 30, 1, 2),
    ("Q8_0", 8, 32, 34),
    ("Q6_K", 14, 256, 210),
    ("Q5_1", 7, 32, 24),
    ("Q5_K", 13, 256, 176),
    ("Q5_0", 6, 32, 22),
    ("Q4_1", 3, 32, 20),
    ("Q4_K", 12, 256, 144),
    ("Q4_0", 2, 32, 18),
    ("IQ4_NL", 20, 32, 18),
    ("IQ4_XS", 23, 256, 136),
    ("MXFP4", 39, 32, 17),
    ("NVFP4", 40, 64, 36),
    ("Q3_K", 11, 256, 110),
    ("IQ3_S", 21, 256, 110),
    ("IQ3_XXS", 18, 256, 98),
    ("Q2_K", 10, 256, 84),
    ("IQ2_S", 22, 256, 82),
    ("IQ2_XS", 17, 256, 74),
    ("Q2_0", 42, 64, 18),
    ("IQ2_XXS", 16, 256, 66),
    ("TQ2_0", 35, 256, 66),
    ("IQ1_M", 29, 256, 56),
    ("TQ1_0", 34, 256, 54),
    ("IQ1_S", 19, 256, 50),
    ("Q1_0", 41, 128, 18),
)

CATALOGUE: Final[Mapping[str, QuantType]] = MappingProxyType({row[0]: QuantType(*row) for row in _ROWS})
"""All known quant types by name, as ggml spells them."""

UNQUANTIZED: Final = frozenset(name for name, known in CATALOGUE.items() if known.weights_per_block == 1)
"""The floating-point types: every weight has a number of its own, so none is quantized."""

PLAIN_TYPES: Final[Mapping[str, QuantType]] = MappingProxyType(
    {
        name: QuantType(name, ggml_id, 1, size)
        for name, ggml_id, size in (("I8", 24, 1), ("I16", 25, 2), ("I32", 26, 4), ("I64", 27, 8), ("F64", 28, 8))
    }
)
"""Integer and double types, which a file may hold (routing tables) but no tensor is ever quantized to."""

_BY_FOLDED_NAME: Final = {name.casefold(): quant_type for name, quant_type in CATALOGUE.items()}
_PLAIN_BY_FOLDED_NAME: Final = {name.casefold(): quant_type for name, quant_type in PLAIN_TYPES.items()}
_BY_GGML_ID: Final = {known.ggml_id: known for known in (*CATALOGUE.values(), *PLAIN_TYPES.values())}


def quant_type(name: str) -> QuantType:
    """The quant type of that name, in upper or lower case, as in llama.cpp.

    Raises UnknownQuantType with the nearest known names.

    >>> quant_type("q6_k").bytes_per_block
    210
    """
    found = _BY_FOLDED_NAME.get(name.strip().casefold())
    if found is None:
        hint = near_misses(name, CATALOGUE) or f"; known types: {', '.join(CATALOGUE)}"
        raise UnknownQuantType(Fault(name, f"no such quant type{hint}"))
    return found


def stored_type(name: str) -> QuantType:
    """The type of that name that a tensor of a file may have: one of the catalogue or a plain type.

    Raises UnknownQuantType with the nearest names of the catalogue.
    """
    return _PLAIN_BY_FOLDED_NAME.get(name.strip().casefold()) or quant_type(name)


def stored_type_by_ggml_id(ggml_id: int) -> QuantType | None:
    """The type with that number in GGUF files, plain types included, or None when there is none."""
    return _BY_GGML_ID.get(ggml_id)
